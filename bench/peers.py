"""The loops that people write with other libraries: images and captions in, similarities out."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from clip_core.loading import ClipModel, load
from pipelines.engine.cores import usable_cores

Loop = Callable[[], object]
Pairs = list[tuple[bytes, str]]


class PeerMissing(Exception):
    """A peer that is not installed."""


@dataclass(frozen=True)
class Work:
    """What every peer is given: the same model, and the same pairs in memory and on the disk."""

    model: Path
    pairs: Pairs
    tars: Path
    batch: int

    @property
    def pieces(self) -> list[Pairs]:
        """The pairs in batches."""
        return [self.pairs[n : n + self.batch] for n in range(0, len(self.pairs), self.batch)]


def hugging_face(work: Work) -> Loop:
    """Returns transformers' documented loop: processor, then the model, padded to 77."""
    try:
        from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizer
    except ImportError as error:
        raise PeerMissing("not installed; `pip install transformers`") from error
    if not (work.model / "config.json").exists():
        raise PeerMissing("it has no ResNets")
    clip = CLIPModel.from_pretrained(work.model).eval()
    images = CLIPImageProcessorPil.from_pretrained(work.model)
    texts = CLIPTokenizer.from_pretrained(work.model)

    @torch.no_grad()
    def loop() -> list[Tensor]:
        scores = []
        for piece in work.pieces:
            pictures = [Image.open(io.BytesIO(data)) for data, _ in piece]
            inputs = images(pictures, return_tensors="pt")
            captions = [text for _, text in piece]
            inputs |= texts(captions, padding="max_length", truncation=True, max_length=77,
                            return_tensors="pt")  # fmt: skip
            found = clip(**inputs)
            scores.append((found.image_embeds * found.text_embeds).sum(dim=-1))
        return scores

    return loop


def open_clip(work: Work) -> Loop:
    """Returns open_clip's documented loop."""
    try:
        import open_clip as library
    except (ImportError, RuntimeError) as error:
        raise PeerMissing("not installed; `pip install open_clip_torch`") from error
    clip, _, preprocess = library.create_model_and_transforms(f"local-dir:{work.model}")
    tokenize = library.get_tokenizer("ViT-B-32")
    clip.eval()

    @torch.no_grad()
    def loop() -> list[Tensor]:
        scores = []
        for piece in work.pieces:
            pixels = torch.stack([preprocess(Image.open(io.BytesIO(data))) for data, _ in piece])
            image = clip.encode_image(pixels, normalize=True)
            text = clip.encode_text(tokenize([text for _, text in piece]), normalize=True)
            scores.append((image * text).sum(dim=-1))
        return scores

    return loop


def onnx_runtime(work: Work) -> Loop:
    """Returns a loop over both encoders as ONNX graphs, texts padded to 77."""
    model, batch_of = load(str(work.model)), _onnx_images(work)
    texts = _PaddedText(model)
    tokens = torch.from_numpy(model.tokenizer.tokenize(["a"] * work.batch))
    text_session = _session(texts, tokens, work.tars.parent / "text.onnx")

    def loop() -> list[np.ndarray]:
        scores = []
        for piece in work.pieces:
            # The graphs are of one batch size; what the last batch lacks is not worth counting.
            batch, rows = prepared(model, (piece * work.batch)[: work.batch])
            image = batch_of(batch)
            (text,) = text_session.run(None, {"x": rows})
            norms = np.linalg.norm(image, axis=1) * np.linalg.norm(text, axis=1)
            scores.append(((image * text).sum(axis=1) / norms)[: len(piece)])
        return scores

    return loop


def onnx_images(work: Work, pixels: np.ndarray) -> Loop:
    """Returns a loop over the image encoder alone, as an ONNX graph.

    Args:
        pixels: [pairs, 3, size, size] float32, standardised.
    """
    batch_of = _onnx_images(work)
    count = -(-len(pixels) // work.batch)  # the graph is of one batch size: the last one is filled
    batches = np.resize(pixels, (count, work.batch, *pixels.shape[1:]))
    return lambda: [batch_of(batch) for batch in batches]


def _onnx_images(work: Work) -> Callable[[np.ndarray], np.ndarray]:
    model = load(str(work.model))
    size = model.preprocessing.size
    example = torch.zeros(work.batch, 3, size, size)
    session = _session(_PlainImage(model), example, work.tars.parent / "image.onnx")
    return lambda batch: session.run(None, {"x": batch})[0]


def _session(module: nn.Module, example: Tensor, path: Path) -> Any:
    try:
        import onnx  # noqa: F401  # what torch exports with
        import onnxruntime
    except ImportError as error:
        raise PeerMissing("not installed; `pip install onnx onnxruntime`") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = usable_cores()
    graph = _exported(module, example, path)
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def clip_retrieval(work: Work) -> Loop:
    """Returns clip-retrieval's flow: a DataLoader over tars, texts padded to 77, npy and Parquet.

    As its `clip_inference` with one output partition: worker processes decode, normalise and
    tokenise; the encoders are the plain ones; embeddings are normalised and written as float16.
    """
    model = load(str(work.model))
    text = _PaddedText(model)
    workers = min(usable_cores(), len(list(work.tars.iterdir())))

    @torch.no_grad()
    def loop() -> None:
        found: list[tuple[np.ndarray, np.ndarray]] = []
        keys: list[str] = []
        loader = DataLoader(_Tars(work.tars, model), work.batch, num_workers=workers)
        for key, pixels, tokens in loader:
            vectors = (model.encode_image(pixels), text(tokens))
            unit = [v / v.norm(dim=-1, keepdim=True) for v in vectors]
            found.append((unit[0].half().numpy(), unit[1].half().numpy()))
            keys.extend(key)
        for index, name in enumerate(("img_emb", "text_emb")):
            np.save(work.tars.parent / name, np.concatenate([pair[index] for pair in found]))
        pq.write_table(pa.table({"image_path": keys}), work.tars.parent / "metadata.parquet")

    return loop


class _Tars(IterableDataset):
    """Pairs of tars, each tar read by one worker."""

    def __init__(self, folder: Path, model: ClipModel) -> None:
        self._tars = sorted(folder.iterdir())
        self._preprocessing, self._tokenizer = model.preprocessing, model.tokenizer

    def __iter__(self) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
        worker = get_worker_info()
        first, step = (worker.id, worker.num_workers) if worker else (0, 1)
        for path in self._tars[first::step]:
            with tarfile.open(path) as tar:
                members = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
            for name in sorted(name for name in members if name.endswith(".jpg")):
                key = name.removesuffix(".jpg")
                pixels = self._preprocessing.to_pixels(Image.open(io.BytesIO(members[name])))
                tokens, _ = self._tokenizer.tokenize_row(members[f"{key}.txt"].decode())
                yield key, self._preprocessing.normalize(pixels), tokens


class _PlainImage(nn.Module):
    """The image tower over all tokens in all blocks, as everybody exports it."""

    def __init__(self, model: ClipModel) -> None:
        super().__init__()
        self.visual = model.clip.visual

    def forward(self, pixels: Tensor) -> Tensor:
        visual = self.visual
        if not hasattr(visual, "transformer"):
            return visual(pixels)
        patches = visual.conv1(pixels).flatten(2).transpose(1, 2)
        first = visual.class_embedding.expand(len(patches), 1, -1)
        x = visual.ln_pre(torch.cat([first, patches], 1) + visual.positional_embedding)
        for block in visual.transformer.blocks:
            x = block(x, causal=False)
        return visual.ln_post(x[:, 0]) @ visual.proj


class _PaddedText(nn.Module):
    """The text tower over all 77 positions of every row, as the usual loop does."""

    def __init__(self, model: ClipModel) -> None:
        super().__init__()
        self.clip = model.clip

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.clip.token_embedding(tokens) + self.clip.positional_embedding
        for block in self.clip.transformer.blocks:
            x = block(x, causal=True)
        end = tokens.argmax(dim=-1)
        return self.clip.ln_final(x)[torch.arange(len(x)), end] @ self.clip.text_projection


def padded_text(model: ClipModel) -> Callable[[Tensor], Tensor]:
    """Returns the text encoder that computes all 77 positions."""
    return _PaddedText(model)


def _exported(module: nn.Module, example: Tensor, path: Path) -> str:
    with torch.no_grad():
        torch.onnx.export(
            module,
            (example,),
            str(path),
            input_names=["x"],
            opset_version=17,
            dynamo=False,
        )
    return str(path)


def prepared(model: ClipModel, pairs: Pairs) -> tuple[np.ndarray, np.ndarray]:
    """Returns what the encoders take of encoded images and captions, as the usual loop does."""
    pictures = [Image.open(io.BytesIO(data)) for data, _ in pairs]
    pixels = np.stack([model.preprocessing.to_pixels(picture) for picture in pictures])
    tokens = model.tokenizer.tokenize([text for _, text in pairs], truncate=True)
    return model.preprocessing.normalize(pixels), tokens


PEERS = {
    "Hugging Face": hugging_face,
    "open_clip": open_clip,
    "ONNX Runtime": onnx_runtime,
    "clip-retrieval's flow": clip_retrieval,
}
