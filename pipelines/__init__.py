"""The Beam side of clip-beam: one file per stage, one per entry point.

    Units > Reshuffle > Read > Prepare > RunInference > Score > Write

What passes is a chunk (`pipelines.records.Chunk`): some dozens of rows of one unit, rejects among
them. A unit is read, encoded and written by one worker, and nothing is shuffled behind the reader.
Stages never import each other; only the entry points see all of them.

Importing this package imports `clip_core`, which bounds how long OpenMP's threads spin, and nothing
else.
"""

import clip_core  # noqa: F401
