"""Names in an output directory and in the metadata of its files, and what its tables look like."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from pipelines.records import Chunk
from pipelines.storage import uris
from schemas.embeddings import embeddings_schema

EMBEDDINGS = "embeddings"
REJECTS = "rejects"
KEPT = "kept"  # where `filter` left its rows before they were a run
RUN_JSON = "run.json"
ATTEMPTS_JSON = "_attempts.json"
PLAN_JSON = "_plan.json"
SUCCESS = "_SUCCESS"
# Of `embed`.
OUTPUTS = (EMBEDDINGS, REJECTS, RUN_JSON, ATTEMPTS_JSON, PLAN_JSON, SUCCESS)

FINGERPRINT_KEY = b"clip_beam.fingerprint"
RESULT_KEY = b"clip_beam.unit"
VERSIONS_KEY = b"clip_beam.versions"


def unit_file(output: str, table: str, unit_id: str) -> str:
    """Names the file of a unit in one of the two tables."""
    return uris.join(output, table, f"{unit_id}.parquet")


def is_of_tables(uri: str, output: str) -> bool:
    """Tells whether a file or directory is one of the two tables of an output, or in one."""
    root = uris.normalize(output)
    own = tuple(uris.join(root, table, "") for table in (EMBEDDINGS, REJECTS))
    return uris.join(uris.normalize(uri), "").startswith(own)


@dataclass(frozen=True)
class OutputLayout:
    """Where a run writes and what its tables look like.

    Attributes:
        root: output directory URI.
        embeddings, rejects: schemas of the two tables.
        fingerprint: what decided the values, kept in every file's metadata.
        models: names of the run's models, in the order of the rows' vectors.
        run: id of the run; "" for one that holds no lock.
        output_id: of the output, which lasts until it is overwritten.
        there: files of its units that the run has found; None where it has not looked.
    """

    root: str
    embeddings: pa.Schema
    rejects: pa.Schema
    fingerprint: Mapping[str, Any]
    models: tuple[str | None, ...] = (None,)
    run: str = ""
    output_id: str = ""
    there: frozenset[str] | None = None

    def is_new(self, table: str, unit_id: str) -> bool:
        """Tells of a file of a unit that it was not there when the run looked."""
        return self.there is not None and self.uri(table, unit_id) not in self.there

    def uri(self, table: str, unit_id: str) -> str:
        """Names the file of a unit in one of the two tables."""
        return unit_file(self.root, table, unit_id)

    def schema(self, table: str) -> pa.Schema:
        """Returns the schema of one of the two tables."""
        return self.embeddings if table == EMBEDDINGS else self.rejects

    @classmethod
    def of_chunk(cls, chunk: Chunk, about: Output) -> OutputLayout:
        """Returns the layout of an output that chunks like this one are written to.

        Raises:
            ValueError: if the chunk's vectors have other names than `about` says.
        """
        if len(chunk.vectors) != len(about.models):
            raise ValueError(
                f"expected chunks with vectors of {len(about.models)} models, got "
                f"{len(chunk.vectors)}; hand `WriteUnits` the `models` of `EmbedRows`"
            )
        found = dict(zip(about.models, chunk.vectors, strict=True))
        embeddings = embeddings_schema(
            {name: vectors.halves[0].shape[1] for name, vectors in found.items()},
            about.embedding_dtype,
            scores_only=about.scores_only,
            kept=chunk.kept,
            image_fields=list(chunk.known.schema) if chunk.known is not None else None,
            pairs=chunk.vectors[0].pairs,
        )
        # Columns of heads are there of scored rows alone.
        rejects = chunk.rejects.schema
        return cls(about.root, embeddings, rejects, about.fingerprint, about.models)


@dataclass(frozen=True)
class Output:
    """Where chunks are written, of which they themselves tell what the tables look like.

    Attributes:
        root: output directory URI.
        fingerprint, models: as `OutputLayout` has them.
        embedding_dtype: `float32` or `float16`.
        scores_only: whether the embedding columns are left out.
    """

    root: str
    fingerprint: Mapping[str, Any] = field(default_factory=dict)
    models: tuple[str | None, ...] = (None,)
    embedding_dtype: str = "float32"
    scores_only: bool = False
