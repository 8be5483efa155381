"""The heads that a command line names: read, and held to the models of a run."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from pipelines.command_line.places import place
from pipelines.probes.head import Head, HeadError
from pipelines.probes.head_files import read_head

_NAME = "[A-Za-z][A-Za-z0-9_]*"
_HEAD = re.compile(f"(?:(?P<model>{_NAME}):)?(?P<name>{_NAME})=(?P<uri>.+)")
# What decides whether embeddings are those that a head was trained on; as for comparing two.
_COMPARED = ("checkpoint_sha256", "architecture", "activation", "preprocessing")


def add_head_flags(flags: argparse._ActionsContainer, *, required: bool = False) -> None:
    """Adds the flags that `heads_of` reads."""
    flags.add_argument(
        "--head",
        action="append",
        default=None if required else [],
        required=required,
        type=place,
        metavar="[MODEL:]NAME=URI",
        help="head over image embeddings, whose output is the column NAME: safetensors, or a state "
        "dict of torch; MODEL names one of several models; repeatable",
    )
    flags.add_argument(
        "--head_activation",
        action="append",
        default=[],
        metavar="NAME=BETWEEN,END",
        help="what stands between the layers of a head and at its end, where neither its file nor "
        "its shapes tell: none, relu or sigmoid; repeatable",
    )


def heads_of(
    head: Sequence[str],
    head_activation: Sequence[str],
    dims: Mapping[str | None, int],
    fingerprint: Mapping[str, Any],
    taken: Sequence[str],
) -> tuple[Head, ...]:
    """Reads heads.

    Args:
        head: `[MODEL:]NAME=URI` of each.
        head_activation: `NAME=BETWEEN,END` of those that do not tell it.
        dims: length of an image embedding, by the run's models; None for the one without a name.
        fingerprint: of the run.
        taken: columns that there are already.

    Raises:
        HeadError, OSError: if one cannot be read or does not fit, or two columns have one name.
    """
    given = dict(_split(text) for text in head_activation)
    heads = [_head(text, given, dims, fingerprint) for text in head]
    unknown = set(given) - {head.name for head in heads}
    if unknown:
        raise HeadError(f"`head_activation` names {min(unknown)!r}, which is no `head`")
    seen = {name.lower() for name in taken}
    for field in (field for head in heads for field in head.fields):
        if field.name.lower() in seen:
            raise HeadError(f"there is a column {field.name!r} already; give the head another name")
        seen.add(field.name.lower())
    return tuple(heads)


def head_fields(heads: Sequence[Head]) -> list[pa.Field]:
    """Returns the columns of heads."""
    return [field for head in heads for field in head.fields]


def _head(
    text: str,
    activations: Mapping[str, str],
    dims: Mapping[str | None, int],
    fingerprint: Mapping[str, Any],
) -> Head:
    found = _HEAD.fullmatch(text)
    if found is None:
        raise HeadError(f"expected `head` NAME=URI, such as aesthetic=FILE, got {text!r}")
    model = _model(found["model"], dims)
    head = read_head(found["name"], found["uri"], activations.get(found["name"]), model)
    if head.dim != dims[model]:
        raise HeadError(
            f"the head {head.name!r} takes embeddings of {head.dim} numbers, and those of the "
            f"model have {dims[model]}; it was made for another model"
        )
    _check_model(head, fingerprint)
    return head


def _model(name: str | None, dims: Mapping[str | None, int]) -> str | None:
    if name is None and len(dims) == 1:
        return next(iter(dims))
    if name is None or name not in dims:
        there = ", ".join(str(n) for n in dims if n) or "one without a name"
        raise HeadError(
            f"expected `head` MODEL:NAME=URI with one of the run's models, {there}"
            if len(dims) > 1 or name is None
            else f"`head` names the model {name!r}, the run has {there}; leave it out"
        )
    return name


def _check_model(head: Head, fingerprint: Mapping[str, Any]) -> None:
    """Refuses a head that says of which model it is, if the run has another."""
    prefix = "" if head.model is None else f"{head.model}."
    for name in _COMPARED:
        expected, got = head.made_for.get(name), fingerprint.get(prefix + name)
        fits = got in expected if isinstance(expected, list) else got == expected
        if expected is not None and got is not None and not fits:
            wanted = " or ".join(expected) if isinstance(expected, list) else repr(expected)
            raise HeadError(
                f"the head {head.name!r} was made for embeddings with {name} {wanted}, the run "
                f"has {got!r}"
            )


def _split(text: str) -> tuple[str, str]:
    name, mark, value = text.partition("=")
    if not mark:
        raise HeadError(f"expected `head_activation` NAME=BETWEEN,END, got {text!r}")
    return name, value
