"""The Beam side of clip-beam: a file for each command, a room for each matter.

    Units > Reshuffle > Read > Prepare > RunInference > Score > Write

What passes is a chunk (`pipelines.records.Chunk`): some dozens of rows of one unit, rejects among
them. A unit is read, encoded and written by one worker, and nothing is shuffled behind the reader.
docs/architecture.md says which room holds what, and which may import which.

Importing this package imports `clip_core`, which bounds how long OpenMP's threads spin, and nothing
else.
"""

import clip_core  # noqa: F401
