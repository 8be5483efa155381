"""Embeds chunks of rows: images and captions in, vectors and similarity out, or rejects.

The part of the main job that people with pipelines of their own want: it needs no manifest and
writes no files. `ToChunks` and `ToRows` stand at its ends for rows of their own.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import apache_beam as beam
import pyarrow as pa
from apache_beam.ml.inference.base import RunInference
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.timestamp import MIN_TIMESTAMP
from apache_beam.utils.windowed_value import WindowedValue

from clip_core.preprocess import RESAMPLINGS
from pipelines.encoding.handler import ClipHandler
from pipelines.encoding.image_work import ImageWork
from pipelines.encoding.model_inputs import ModelInputs
from pipelines.encoding.models import BATCH_SIZE, ModelSpec, RunModels
from pipelines.encoding.prepare import Prepare
from pipelines.encoding.score import ScorePairs
from pipelines.engine.chunks import CHUNK_ROWS, make_chunk
from pipelines.images.decode import DecodeLimits
from pipelines.images.fetch import FetchPolicy
from pipelines.output.arrow_rows import embeddings_batch
from pipelines.records import Chunk, Row
from schemas.embeddings import embeddings_schema
from schemas.pairs import BOTH

if TYPE_CHECKING:
    from pipelines.probes.head import Head

_NEAR_THE_MANIFEST, _LIMITS = FetchPolicy(), DecodeLimits()


class EmbedRows(beam.PTransform):
    """Fetches, decodes, encodes and scores the rows of chunks.

    All of it stays in one fused stage: pixels never travel, and images are decoded in threads ahead
    of the encoder.

    Consumes: `Chunk`, as `ReadManifest` and `ToChunks` make them.
    Produces: the same chunks with vectors and similarities; rows that failed are their rejects.
    Counters: those of `Prepare`, `ScorePairs` and Beam's `RunInference`.

    Args:
        model: a name, file or directory, as `clip_core.load` takes it; several by the names that
            their columns get; or models that are loaded already.
        device, precision: of the workers; `auto` is what this process would take.
        batch_size: rows that are encoded at once; None for 64 on a processor and 512 on a GPU.
        fetch_policy: which images are read, beside those that lie with their manifest.
        decode_limits: which images are decoded.
        resampling: `exact`, `near` or `fast`.
        isolate_decoding: whether images are decoded in processes of their own.
        run: whose failure ends the stages; "" for none.
        heads: small models over image embeddings, which add columns to the rows.
        pairs: `both`, or `images` or `texts` to embed these alone.

    Raises:
        ValueError, OSError: if a model cannot be loaded.
    """

    def __init__(
        self,
        model: str | Mapping[str, str] | RunModels,
        *,
        device: str = "auto",
        precision: str = "auto",
        batch_size: int | None = None,
        fetch_policy: FetchPolicy = _NEAR_THE_MANIFEST,
        decode_limits: DecodeLimits = _LIMITS,
        resampling: str = RESAMPLINGS[0],
        isolate_decoding: bool = False,
        run: str = "",
        heads: Sequence[Head] = (),
        pairs: str = BOTH,
    ) -> None:
        super().__init__()
        if not isinstance(model, RunModels):
            model = RunModels.load(model, ModelSpec("", device, precision))
        inputs = ModelInputs.of(
            [replace(m.preprocessing, resampling=resampling) for m in model.loaded],
            [m.tokenizer for m in model.loaded],
            pairs,
        )
        rows = batch_size or BATCH_SIZE.get(model.specs[0].device, BATCH_SIZE["cuda"])
        checkpoints = [m.fingerprint["checkpoint_sha256"] for m in model.loaded]
        self.handler = ClipHandler(model.specs, checkpoints, rows, inputs.of_model, run)
        self.work = ImageWork(inputs, fetch_policy, decode_limits, isolate_decoding)
        self.fingerprint = model.fingerprint(resampling)
        self.models, self.pairs = model.names, pairs
        # By all models; it bounds how far chunks of a unit may overtake each other.
        self._row_bytes = sum(2 * 4 * m.config.embed_dim for m in model.loaded)
        self._run = run
        self._heads = [(self.models.index(head.model), head) for head in heads]

    def isolated(self) -> EmbedRows:
        """Returns the same transform with images decoded in processes of their own."""
        other = copy.copy(self)
        other.work = replace(self.work, isolate_decoding=True)
        return other

    def expand(self, chunks: beam.PCollection[Chunk]) -> beam.PCollection[Chunk]:
        prepare = Prepare(self.work, self.handler.batch_size, self._row_bytes, run=self._run)
        encode = RunInference(self.handler).with_output_types(Chunk)
        return chunks | prepare | "Encode" >> encode | ScorePairs(self._run, self._heads)


class ToChunks(beam.PTransform):
    """Gathers rows of one's own into chunks, which belong to no unit.

    Consumes: `Row`.
    Produces: `Chunk`.
    Counters: none.

    Args:
        kept: the columns in `Row.kept` that go along, with their types.
        rows: of a chunk.
    """

    def __init__(self, kept: Sequence[pa.Field] = (), rows: int = CHUNK_ROWS) -> None:
        super().__init__()
        self._kept, self._chunk_rows = tuple(kept), rows

    def expand(self, rows: beam.PCollection[Row]) -> beam.PCollection[Chunk]:
        gather = beam.ParDo(_Gather(self._kept, self._chunk_rows)).with_output_types(Chunk)
        return rows | "Gather" >> gather


class ToRows(beam.PTransform):
    """Takes embedded chunks apart, for what handles a row at a time.

    Consumes: `Chunk`, as `EmbedRows` returns it.
    Produces: a dict for each row: the columns of the embeddings table, or for a row that failed
        those of the rejects table, which have a `reason`.
    Counters: none.

    Args:
        models: names of the models, in the handler's order; None for the one without a name.
    """

    def __init__(self, models: Sequence[str | None] = (None,)) -> None:
        super().__init__()
        self._models = tuple(models)

    def expand(self, chunks: beam.PCollection[Chunk]) -> beam.PCollection[dict[str, Any]]:
        rows = beam.FlatMap(_rows_of, models=self._models).with_output_types(dict[str, Any])
        return chunks | "Rows" >> rows


def _rows_of(chunk: Chunk, models: tuple[str | None, ...]) -> Iterator[dict[str, Any]]:
    dims = {n: v.halves[0].shape[1] for n, v in zip(models, chunk.vectors, strict=True)}
    about_images = None if chunk.known is None else list(chunk.known.schema)
    schema = embeddings_schema(
        dims,
        kept=chunk.kept,
        image_fields=about_images,
        pairs=chunk.vectors[0].pairs,
    )
    yield from embeddings_batch(chunk, schema, models).to_pylist()
    yield from chunk.rejects.to_pylist()


class _Gather(beam.DoFn):
    def __init__(self, kept: tuple[pa.Field, ...], rows: int) -> None:
        self._kept, self._chunk_rows = kept, rows

    def start_bundle(self) -> None:
        self._taken: list[Row] = []

    def process(self, row: Row) -> Iterator[Chunk]:
        self._taken.append(row)
        if len(self._taken) == self._chunk_rows:
            yield self._chunk()

    def finish_bundle(self) -> Iterator[WindowedValue]:
        if self._taken:
            yield WindowedValue(self._chunk(), MIN_TIMESTAMP, (GlobalWindow(),))

    def _chunk(self) -> Chunk:
        taken, self._taken = self._taken, []
        return make_chunk(taken, self._kept)
