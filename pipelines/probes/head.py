"""A head: a small model over image embeddings, linear or of some layers, computed with NumPy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.output.arrow_rows import plain_array

NONE, RELU, SIGMOID, SOFTMAX = "none", "relu", "sigmoid", "softmax"
BETWEEN = (NONE, RELU, SIGMOID)
END = (*BETWEEN, SOFTMAX)


class HeadError(ValueError):
    """A head that cannot be read or does not fit: says why, and what to do."""


@dataclass(frozen=True, eq=False)
class Layer:
    """A linear layer: [out, in] float32 weights, [out] float32 biases."""

    weight: np.ndarray
    bias: np.ndarray


@dataclass(frozen=True, eq=False)
class Head:
    """A head, and what its columns are called.

    Attributes:
        name: of its column.
        layers: one or more.
        between: what stands behind each layer but the last: `none`, `relu` or `sigmoid`.
        end: what stands behind the last: one of these, or `softmax`.
        labels: names of the outputs of a classifier; empty for numbers.
        sha256: of its file.
        made_for: what is known of the model whose embeddings it was trained on.
        model: name of the run's model whose embeddings it takes; None for that of the run.
    """

    name: str
    layers: tuple[Layer, ...]
    between: tuple[str, ...]
    end: str
    sha256: str
    labels: tuple[str, ...] = ()
    made_for: Mapping[str, Any] = field(default_factory=dict)
    model: str | None = None

    @property
    def dim(self) -> int:
        """Numbers of an embedding that it takes."""
        return int(self.layers[0].weight.shape[1])

    @property
    def fields(self) -> list[pa.Field]:
        """The columns: a number, or several as a list, or a label and its probability."""
        if self.labels:
            return [
                pa.field(self.name, pa.string()),
                pa.field(f"{self.name}_probability", pa.float32()),
            ]
        count = len(self.layers[-1].bias)
        kind = pa.float32() if count == 1 else pa.list_(pa.float32(), count)
        return [pa.field(self.name, kind)]

    def outputs(self, embeddings: np.ndarray) -> np.ndarray:
        """Returns [rows, outputs] float32.

        Args:
            embeddings: [rows, dim] float32, L2-normalised.
        """
        values = np.asarray(embeddings, np.float32)
        for layer, activation in zip(self.layers, (*self.between, self.end), strict=True):
            values = _activated(values @ layer.weight.T + layer.bias, activation)
        return values

    def columns(self, embeddings: np.ndarray) -> list[pa.Array]:
        """Returns the values of `fields` for [rows, dim] embeddings."""
        outputs = self.outputs(embeddings)
        if self.labels:
            best = outputs.argmax(axis=1)
            found = np.array(self.labels, object)[best]
            likeliest = outputs[np.arange(len(best)), best].astype(np.float32)
            return [pa.array(found, pa.string()), plain_array(likeliest)]
        if outputs.shape[1] == 1:
            return [plain_array(outputs[:, 0].astype(np.float32))]
        return [pa.FixedSizeListArray.from_arrays(outputs.reshape(-1), outputs.shape[1])]


def merged(layers: Sequence[Layer], between: Sequence[str]) -> tuple[list[Layer], list[str]]:
    """Multiplies layers out between which nothing stands: the same function, in fewer products."""
    found, left = [layers[0]], []
    for layer, activation in zip(layers[1:], between, strict=True):
        if activation == NONE:
            first, weight = found[-1], layer.weight.astype(np.float64)
            bias = weight @ first.bias + layer.bias
            product = (weight @ first.weight).astype(np.float32)
            found[-1] = Layer(product, bias.astype(np.float32))
        else:
            found.append(layer)
            left.append(activation)
    return found, left


def _activated(values: np.ndarray, activation: str) -> np.ndarray:
    if activation == RELU:
        return np.maximum(values, 0)
    if activation == SIGMOID:
        # By the half that does not overflow.
        small = np.exp(-np.abs(values))
        return np.where(values >= 0, 1 / (1 + small), small / (1 + small)).astype(np.float32)
    if activation == SOFTMAX:
        powers = np.exp(values - values.max(axis=1, keepdims=True))
        return np.asarray(powers / powers.sum(axis=1, keepdims=True))
    return values
