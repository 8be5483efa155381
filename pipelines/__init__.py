r"""The Beam side of clip-beam: one file per stage, one per entry point.

    manifest -> units -> rows -> fetch -> decode + tokenize -> RunInference -> score -> Parquet
                          \________________ rejects ________________/

Stages exchange the records of `pipelines.records` and never import each other; only the
entry points see all of them. Importing this package imports `clip_core`, which bounds how long
OpenMP's threads spin, and nothing else.
"""

import clip_core  # noqa: F401
