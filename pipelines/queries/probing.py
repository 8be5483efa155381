"""Trains a head on labels of the images of a run, and says how well it does on images it never saw.

Rows of one image are on one side of a split: they are told apart by a hash of the image.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipelines.engine.per_file import begun, side_by_side
from pipelines.output.scored_tables import COMPARED, ScoredTables, embedding_matrix
from pipelines.output.unit_record import package_versions
from pipelines.queries.true_classes import classes_of
from pipelines.storage import writing
from pipelines.storage.redaction import redact

LOGISTIC, RIDGE = KINDS = ("logistic", "ridge")
TEST, VALIDATION = 0.2, 0.2  # shares of the images, and of those that are left
LEAST_ROWS = 10  # of each part
MAX_CLASSES = 100_000
Progress = Callable[[int], object]


class ProbeError(ValueError):
    """Labels that no head can be trained on: says why, and what to do."""


@dataclass(frozen=True)
class Labelled:
    """Images with their labels.

    Attributes:
        features: [rows, dim] float32.
        targets: [rows] class numbers as int64, or numbers as float64.
        labels: names of the classes; empty for numbers.
        parts: [rows] 0 to train on, 1 to choose the regulariser by, 2 to test on.
        without_label: rows that were left out.
    """

    features: np.ndarray
    targets: np.ndarray
    labels: tuple[str, ...]
    parts: np.ndarray
    without_label: int


@dataclass(frozen=True)
class Probe:
    """A trained head and what is known of it.

    Attributes:
        score: on the rows that were held out: the accuracy, or R2.
    """

    weight: np.ndarray
    bias: np.ndarray
    c: float
    score: float


def gather(
    tables: ScoredTables,
    column: str,
    truth: Mapping[str, str] | None,
    kind: str,
    seed: int,
    progress: Progress = lambda rows: None,
) -> Labelled:
    """Reads embeddings and labels; the embeddings of labelled rows are held in memory.

    Args:
        column: of the label, in the run.
        truth: the label by uid, if it is in a file of its own.

    Raises:
        ProbeError: if the labels are too few, or no numbers where these are wanted.
    """
    columns = [
        "uid",
        "caption_index",
        "sha256",
        "image_embedding",
        *([column] if truth is None else []),
    ]
    vectors, values, parts, left_out = [], [], [], 0
    opened = side_by_side(lambda uri: begun(tables.batches(uri, columns)), tables.embeddings)
    for uri, batches in zip(tables.embeddings, opened, strict=True):
        for batch in batches:
            uids = batch.column("uid").to_pylist()
            found = batch.column(column).to_pylist() if truth is None else classes_of(truth, batch)
            has = np.array([value is not None and value == value for value in found], bool)
            left_out += int((~has).sum())
            values += [value for value, is_there in zip(found, has, strict=True) if is_there]
            vectors.append(embedding_matrix(batch.column("image_embedding"))[has])
            images = zip(batch.column("sha256").to_pylist(), uids, has, strict=True)
            parts += [_part(image or uid, seed) for image, uid, is_there in images if is_there]
        progress(tables.rows_of([uri]))
    targets, labels = _classes(values) if kind == LOGISTIC else (_numbers(values), ())
    labelled = Labelled(
        np.concatenate(vectors) if vectors else np.zeros((0, 0), np.float32),
        targets,
        labels,
        np.array(parts, np.int8),
        left_out,
    )
    _check(labelled, kind)
    return labelled


def _part(image: str, seed: int) -> int:
    digest = hashlib.blake2b(f"{seed}:{image}".encode(), digest_size=8).digest()
    place = int.from_bytes(digest, "big") / 2**64
    return 2 if place < TEST else 1 if place < TEST + (1 - TEST) * VALIDATION else 0


def _classes(values: Sequence[Any]) -> tuple[np.ndarray, tuple[str, ...]]:
    names = [str(value) for value in values]
    labels = sorted(set(names))
    if not 2 <= len(labels) <= MAX_CLASSES:
        raise ProbeError(f"expected labels of 2 to {MAX_CLASSES:,} classes, got {len(labels)}")
    number = {name: n for n, name in enumerate(labels)}
    return np.array([number[name] for name in names], np.int64), tuple(labels)


def _numbers(values: Sequence[Any]) -> np.ndarray:
    try:
        found = np.array([float(value) for value in values], np.float64)
    except (TypeError, ValueError) as error:
        raise ProbeError(f"expected numbers for `kind={RIDGE!r}`: {error}") from error
    if not np.isfinite(found).all():
        raise ProbeError(f"expected finite numbers for `kind={RIDGE!r}`")
    return found


def _check(labelled: Labelled, kind: str) -> None:
    rows = np.bincount(labelled.parts, minlength=3)
    if rows.min() < LEAST_ROWS:
        raise ProbeError(
            f"expected {LEAST_ROWS} rows or more to train, to validate and to test on, got "
            f"{rows[0]}, {rows[1]} and {rows[2]}; label more rows"
        )
    if kind == LOGISTIC and len(set(labelled.targets[labelled.parts == 0])) < 2:
        raise ProbeError("expected two classes or more among the rows to train on, got one")


def train(labelled: Labelled, progress: Progress = lambda tries: None) -> Probe:
    """Chooses the regulariser by the validation rows, trains on these too, and tests.

    Args:
        progress: called with 1 for each regulariser that was tried.
    """
    from clip_core.training.linear_probe import best_c, fit_logistic, fit_ridge

    def fit(parts: Sequence[int], c: float) -> tuple[np.ndarray, np.ndarray]:
        among = np.isin(labelled.parts, parts)
        x, y = labelled.features[among], labelled.targets[among]
        if not labelled.labels:
            return fit_ridge(x, y, c)
        return fit_logistic(x, y, len(labelled.labels), c)

    def validated(c: float) -> float:
        score = _score(labelled, 1, *fit([0], c))
        progress(1)
        return score

    c = best_c(validated)
    weight, bias = fit([0, 1], c)
    return Probe(weight, bias, c, _score(labelled, 2, weight, bias))


def _score(labelled: Labelled, part: int, weight: np.ndarray, bias: np.ndarray) -> float:
    """Returns the accuracy, or R2, on one part."""
    among = labelled.parts == part
    outputs, targets = labelled.features[among] @ weight.T + bias, labelled.targets[among]
    if labelled.labels:
        return float((outputs.argmax(axis=1) == targets).mean())
    spread = np.square(targets - targets.mean()).sum()
    return float(1 - np.square(outputs[:, 0] - targets).sum() / spread) if spread else 0.0


def write_probe(
    uri: str, probe: Probe, labelled: Labelled, tables: ScoredTables, about: Mapping[str, Any]
) -> None:
    """Writes a head as safetensors, with what it was trained on."""
    from safetensors.numpy import save

    rows = np.bincount(labelled.parts, minlength=3).tolist()
    told = {
        "between": [],
        "end": "softmax" if labelled.labels else "none",
        "labels": list(labelled.labels),
        "model": {n: v for n, v in tables.model_fingerprint.items() if n in COMPARED},
        "trained_on": {
            "run": redact(tables.root),
            "rows": dict(zip(("train", "validation", "test"), rows, strict=True)),
            "c": probe.c,
            "accuracy" if labelled.labels else "r2": probe.score,
            "versions": package_versions(),
            **about,
        },
    }
    tensors = {"weight": probe.weight, "bias": probe.bias}
    writing.write_atomically(uri, save(tensors, {"clip_beam.head": json.dumps(told)}))
