"""Reads heads from safetensors and from the state dicts of torch, without running any pickle."""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.probes.head import BETWEEN, END, Head, HeadError, Layer, merged
from pipelines.probes.published import PublishedHead, published_like
from pipelines.storage import reading
from pipelines.storage.redaction import redact

MAX_HEAD_BYTES = 512 << 20
HEAD_KEY = "clip_beam.head"  # in the metadata of a safetensors file
_KERAS = (".h5", ".hdf5", ".keras")
_NUMBER = re.compile(r"(?:^|\.)([0-9]+)\.weight$")


def read_head(
    name: str, uri: str, head_activation: str | None = None, model: str | None = None
) -> Head:
    """Reads a head.

    What stands between its layers and at the end comes from the metadata of the file, else from
    `head_activation`, else from the published head of the same shapes.

    Args:
        name: of the column.
        head_activation: `BETWEEN,END`, each `none`, `relu` or `sigmoid`.
        model: of the run, as `Head` has it.

    Raises:
        HeadError: if it is no head, or nothing says what stands between its layers.
    """
    data = _read(uri)
    tensors, told = _tensors(uri, data)
    layers, positions = _layers(uri, tensors)
    dim, outputs = layers[0].weight.shape[1], [len(layer.bias) for layer in layers]
    known = None if told or head_activation else published_like(dim, outputs, positions)
    between, end = _activations(uri, head_activation, told, known, len(layers))
    labels = tuple(map(str, told.get("labels") or ()))
    if labels and len(labels) != outputs[-1]:
        raise HeadError(f"{redact(uri)} names {len(labels)} labels for {outputs[-1]} outputs")
    kept, left = merged(layers, between)
    made_for: Mapping[str, Any] = told.get("model") or {}
    if known is not None:
        made_for = {"architecture": list(known.architectures)}
    digest = hashlib.sha256(data).hexdigest()
    return Head(name, tuple(kept), tuple(left), end, digest, labels, made_for, model)


def _read(uri: str) -> bytes:
    if uri.lower().endswith(_KERAS):
        raise _keras(uri)
    try:
        data = reading.read_retried(uri, MAX_HEAD_BYTES)
    except (FileNotFoundError, IsADirectoryError) as error:
        told = f"expected a file as `head`, got {redact(uri)!r}, which is none"
        raise HeadError(told) from error
    if data.startswith(b"\x89HDF") or _is_saved_model(data):
        raise _keras(uri)
    return data


def _is_saved_model(data: bytes) -> bool:
    if not data.startswith(b"PK"):
        return False
    try:
        with zipfile.ZipFile(BytesIO(data)) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile:
        return False
    return any(name.endswith(("saved_model.pb", "model.weights.h5")) for name in names)


def _keras(uri: str) -> HeadError:
    return HeadError(
        f"{redact(uri)} is a Keras model, which is not read; save its layers as safetensors: "
        "`0.weight`, `0.bias`, `1.weight` and so on, each weight as [outputs, inputs]"
    )


def _tensors(uri: str, data: bytes) -> tuple[dict[str, np.ndarray], Mapping[str, Any]]:
    """Returns the tensors by name, and what a safetensors file says of the head."""
    if data.startswith(b"PK"):
        return _torch_tensors(data), {}
    if data.startswith(b"\x80") and data[8:9] != b"{":
        raise HeadError(
            f"{redact(uri)} is a bare pickle of torch before 1.6, which is not read; load it where "
            "you trust it and save it again with `torch.save`, or as safetensors"
        )
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        tensors = {name: np.asarray(t, np.float32) for name, t in load(data).items()}
        length = int.from_bytes(data[:8], "little")
        about = json.loads(data[8 : 8 + length]).get("__metadata__", {})
        told = json.loads(about.get(HEAD_KEY, "{}"))
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise HeadError(
            f"expected safetensors or a state dict of torch as `head`, got {redact(uri)!r} "
            f"({str(error) or type(error).__name__})"
        ) from error
    return tensors, told if isinstance(told, dict) else {}


def _torch_tensors(data: bytes) -> dict[str, np.ndarray]:
    from clip_core.checkpoints.torch_archive import read_archive

    with tempfile.NamedTemporaryFile(suffix=".pth") as file:
        file.write(data)
        file.flush()
        found = read_archive(Path(file.name))
        return {name: tensor.load().float().numpy().copy() for name, tensor in found.items()}


def _layers(uri: str, tensors: Mapping[str, np.ndarray]) -> tuple[list[Layer], tuple[int, ...]]:
    """Returns the layers in order, and the numbers in their names."""
    weights = [name for name in tensors if name == "weight" or name.endswith(".weight")]
    biases = {name: f"{name.removesuffix('weight')}bias" for name in weights}
    others = sorted(set(tensors) - set(weights) - set(biases.values()))
    if not weights or others:
        got = ", ".join(others[:3]) or "no weight"
        raise HeadError(
            f"expected linear layers alone in {redact(uri)}, `weight` and `bias` of each, got {got}"
        )
    matches = {name: _NUMBER.search(name) for name in weights}
    numbers = {name: int(found[1]) if found else None for name, found in matches.items()}
    if len(weights) > 1 and None in numbers.values():
        raise HeadError(
            f"expected numbers in the names of the layers of {redact(uri)}, got {weights}"
        )
    ordered = sorted(weights, key=lambda name: numbers[name] or 0)
    layers: list[Layer] = []
    for name in ordered:
        weight = tensors[name]
        bias = tensors.get(biases[name], np.zeros(len(weight), np.float32))
        before = len(layers[-1].bias) if layers else weight.shape[-1]
        if weight.ndim != 2 or bias.shape != weight.shape[:1] or weight.shape[1] != before:
            raise HeadError(
                f"{name} of {redact(uri)} has shape {list(weight.shape)} and a bias of "
                f"{list(bias.shape)}, expected [outputs, {before}]"
            )
        if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
            raise HeadError(f"{name} of {redact(uri)} holds NaN or infinity; download it again")
        layers.append(Layer(np.ascontiguousarray(weight), bias))
    return layers, tuple(numbers[name] or 0 for name in ordered if numbers[name] is not None)


def _activations(
    uri: str,
    given: str | None,
    told: Mapping[str, Any],
    known: PublishedHead | None,
    layers: int,
) -> tuple[Sequence[str], str]:
    if told:
        between, end = told.get("between"), told.get("end")
        named = isinstance(between, list) and len(between) == layers - 1 and end in END
        if not named or not set(between or ()) <= set(BETWEEN):
            raise HeadError(f"what {redact(uri)} says of its activations makes no sense")
        if given:
            raise HeadError(f"{redact(uri)} says what stands between its layers; leave out "
                            "`head_activation`")  # fmt: skip
        return list(between or ()), str(end)
    if given:
        inner, _, last = given.partition(",")
        if inner not in BETWEEN or last not in END:
            raise HeadError(
                f"expected BETWEEN,END as `head_activation`, each of {', '.join(BETWEEN)}, got "
                f"{given!r}"
            )
        return [inner] * (layers - 1), last
    if known is not None:
        return known.between, known.end
    raise HeadError(
        f"nothing says what stands between the layers of {redact(uri)} and at its end, and no "
        "published head has its shapes; pass `head_activation`, such as `relu,sigmoid`, with NAME= "
        "in front where heads have names"
    )
