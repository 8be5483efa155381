"""Takes a state dict out of what training programs wrap around it: containers and prefixes."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from clip_core.checkpoints.lazy_tensor import CheckpointError, LazyTensor, LazyTensors

_MARK = "logit_scale"  # that every CLIP has once
# Integers the original stores beside its weights; they follow from the shapes.
_SIZES = ("input_resolution", "context_length", "vocab_size")
_CUSTOM_TEXT = re.compile(
    r"^text\.(?=positional_embedding|text_projection|token_embedding|transformer\.|ln_final\.)"
)
_MAX_DEPTH = 20  # containers in each other; more is no checkpoint


def innermost(content: Any, origin: str) -> Iterator[tuple[str, LazyTensor]]:
    """Yields the tensors of the one state dict that nested dicts hold, whatever is beside it.

    Args:
        content: dicts of dicts and lazy tensors; what is neither, is no weight.

    Raises:
        CheckpointError: if several of them hold a model.
    """
    found = dict(_state_dicts(content, ""))
    if len(found) > 1:
        raise _several(origin, found)
    yield from flat(next(iter(found.values()), content))


def flat(content: Any, prefix: str = "", depth: int = 0) -> Iterator[tuple[str, LazyTensor]]:
    """Yields the tensors of nested dicts by dotted names."""
    if isinstance(content, LazyTensor):
        yield prefix.removesuffix("."), content
    elif isinstance(content, Mapping) and depth < _MAX_DEPTH:
        for name, value in content.items():
            yield from flat(value, f"{prefix}{name}.", depth + 1)


def without_prefix(tensors: LazyTensors, origin: str) -> LazyTensors:
    """Takes off what stands before the name of the temperature, from all names.

    A name that does not begin so is kept, and found unexpected later.

    Raises:
        CheckpointError: if there are several temperatures, or two weights of one name.
    """
    marks = [name for name in tensors if _is_mark(name)]
    prefixes = [name.removesuffix(_MARK) for name in marks]
    if len(marks) > 1:
        raise _several(origin, prefixes)
    prefix = prefixes[0] if prefixes else ""
    found = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    if len(found) < len(tensors):
        raise _several(origin, [prefix, ""])
    return found


def with_original_names(tensors: LazyTensors) -> LazyTensors:
    """Takes off open_clip's `text.`, and drops the sizes that OpenAI stores beside weights."""
    renamed = {_CUSTOM_TEXT.sub("", name): tensor for name, tensor in tensors.items()}
    return {name: tensor for name, tensor in renamed.items() if name not in _SIZES}


def _state_dicts(content: Any, place: str, depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Yields the dicts that hold a temperature themselves, by their place."""
    if not isinstance(content, Mapping) or depth >= _MAX_DEPTH:
        return
    if any(isinstance(v, LazyTensor) and _is_mark(str(name)) for name, v in content.items()):
        yield place, content
        return
    for name, value in content.items():
        yield from _state_dicts(value, f"{place}{name}.", depth + 1)


def _several(origin: str, places: Collection[str]) -> CheckpointError:
    named = ", ".join(repr(place.removesuffix(".")) for place in places)
    return CheckpointError(
        f"{origin} holds {len(places)} models, as {named}; save the one you mean alone"
    )


def _is_mark(name: str) -> bool:
    return name == _MARK or name.endswith("." + _MARK)
