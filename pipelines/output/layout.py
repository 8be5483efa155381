"""Names in an output directory and in the metadata of its files; nothing heavy is imported here."""

from __future__ import annotations

from pipelines.storage import uris

EMBEDDINGS = "embeddings"
REJECTS = "rejects"
RUN_JSON = "run.json"
ATTEMPTS_JSON = "_attempts.json"
SUCCESS = "_SUCCESS"
OUTPUTS = (EMBEDDINGS, REJECTS, RUN_JSON, ATTEMPTS_JSON, SUCCESS)  # of `embed`

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
