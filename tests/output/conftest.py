import pytest

from pipelines.output.layout import OutputLayout
from schemas.embeddings import embeddings_schema
from schemas.rejects import rejects_schema
from written_units import FINGERPRINT


@pytest.fixture
def layout(tmp_path):
    return OutputLayout(str(tmp_path), embeddings_schema(4), rejects_schema(), FINGERPRINT)
