"""Names in an output directory and in the metadata of its files; nothing heavy is imported here."""

EMBEDDINGS = "embeddings"
REJECTS = "rejects"
RUN_JSON = "run.json"
ATTEMPTS_JSON = "_attempts.json"
SUCCESS = "_SUCCESS"
OUTPUTS = (EMBEDDINGS, REJECTS, RUN_JSON, ATTEMPTS_JSON, SUCCESS)  # of `embed`

FINGERPRINT_KEY = b"clip_beam.fingerprint"
RESULT_KEY = b"clip_beam.unit"
VERSIONS_KEY = b"clip_beam.versions"
