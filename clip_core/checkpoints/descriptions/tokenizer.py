"""Hugging Face's description of a tokenizer, which must say what the merges say."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from clip_core.checkpoints.descriptions.settings import (
    Json,
    check_settings,
    described_in,
    read_json,
    words,
)
from clip_core.checkpoints.lazy_tensor import CheckpointError
from clip_core.checkpoints.vocabulary import read_merges
from clip_core.tokenizer import END, START, WORD_END, Tokenizer

SETTINGS, IDS, WHOLE = "tokenizer_config.json", "vocab.json", "tokenizer.json"
SPECIAL, ADDED = "special_tokens_map.json", "added_tokens.json"  # of older releases
FILES = (SETTINGS, IDS, WHOLE, SPECIAL, ADDED)
_REMEDY = "name the right vocabulary with `vocab`, which leaves these files out"

_SETTINGS = {
    "add_bos_token": (True,),
    "add_eos_token": (True,),
    "add_prefix_space": (False,),
    "add_special_tokens": (True,),
    "additional_special_tokens": (None, [START, END], [END]),
    "bos_token": (START,),
    "do_lower_case": (True,),
    "eos_token": (END,),
    "extra_special_tokens": (None,),
    "padding_side": ("right",),
    "split_special_tokens": (False,),
    "tokenizer_class": ("CLIPTokenizer", "CLIPTokenizerFast"),
    "truncation_side": ("right",),
}
_SETTINGS_WITHOUT_EFFECT = words(
    """
    __type _commit_hash added_tokens_decoder backend cache_dir clean_up_tokenization_spaces errors
    is_local local_files_only max_length merges_file model_input_names model_max_length
    name_or_path pad_to_multiple_of pad_token pad_token_id pad_token_type_id padding
    processor_class return_tensors revision special_tokens_map_file stride subfolder token
    tokenizer_file truncation truncation_strategy trust_remote_code unk_token use_auth_token
    use_fast vocab_file
    """
)
_MODEL = {
    "type": ("BPE",),
    "dropout": (None, 0.0),  # which would act at inference too
    "continuing_subword_prefix": (None,),
    "end_of_word_suffix": (WORD_END,),
    "byte_fallback": (False,),
    "ignore_merges": (False,),
}
_MODEL_WITHOUT_EFFECT = ("fuse_unk", "merges", "unk_token", "vocab")  # no byte is unknown
_WHOLE_WITHOUT_EFFECT = ("added_tokens", "decoder", "model", "normalizer", "padding",
                         "post_processor", "pre_tokenizer", "truncation",
                         "version")  # fmt: skip
_STEPS = {"NFC", "Replace", "Lowercase", "Split", "ByteLevel"}
_PIECES = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
_PATTERNS = (_PIECES, r"<\|startoftext\|>|<\|endoftext\|>|" + _PIECES, r"\s+")


def check_tokenizer(directory: Path, tokenizer: Tokenizer) -> None:
    """Refuses a directory whose files describe another tokenizer than its merges make.

    Raises:
        CheckpointError: names what differs.
    """
    if (directory / SETTINGS).exists():
        with described_in(SETTINGS):
            _check_settings(read_json(directory / SETTINGS), tokenizer)
    if (directory / SPECIAL).exists():
        with described_in(SPECIAL):
            special = _contents(read_json(directory / SPECIAL))
            check_settings(SPECIAL, special, _SETTINGS, _SETTINGS_WITHOUT_EFFECT)
    if (directory / ADDED).exists():
        added = read_json(directory / ADDED)
        _check_added(ADDED, ((id, content) for content, id in added.items()), tokenizer)
    if (directory / IDS).exists():
        _check_ids(IDS, read_json(directory / IDS), tokenizer)
    if (directory / WHOLE).exists():
        with described_in(WHOLE):
            _check_whole(read_json(directory / WHOLE), tokenizer)
            merges = read_merges(WHOLE, (directory / WHOLE).read_bytes())
            if tuple(merges) != tokenizer.merges:
                raise CheckpointError(
                    f"{WHOLE} has other merges than the vocabulary beside it; {_REMEDY}"
                )


def _check_settings(settings: Json, tokenizer: Tokenizer) -> None:
    check_settings(SETTINGS, _contents(settings), _SETTINGS, _SETTINGS_WITHOUT_EFFECT)
    _check_length(SETTINGS, "model_max_length", settings, tokenizer)
    added = settings.get("added_tokens_decoder") or {}
    _check_added(SETTINGS, ((int(id), found["content"]) for id, found in added.items()), tokenizer)


def _contents(settings: Json) -> dict[str, Any]:
    """Puts the contents of tokens in the place of what describes them."""
    return {
        name: value["content"] if isinstance(value, Mapping) and "content" in value else value
        for name, value in settings.items()
    }


def _check_length(where: str, name: str, settings: Json, tokenizer: Tokenizer) -> None:
    longest = settings.get(name)
    if longest is not None and longest < tokenizer.context_length:
        raise CheckpointError(
            f"{where} has {name} {longest}, which cuts texts shorter than the model's "
            f"{tokenizer.context_length} tokens and is not supported; {_REMEDY}"
        )


def _check_whole(document: Json, tokenizer: Tokenizer) -> None:
    model = document["model"]
    check_settings(WHOLE, document, {}, _WHOLE_WITHOUT_EFFECT)
    _check_length(
        f"{WHOLE}, truncation,", "max_length", document.get("truncation") or {}, tokenizer
    )
    _check_ends(document.get("post_processor") or {}, tokenizer)
    check_settings(f"{WHOLE}, model,", model, _MODEL, _MODEL_WITHOUT_EFFECT)
    if model.get("vocab"):
        _check_ids(WHOLE, model["vocab"], tokenizer)
    added = document.get("added_tokens") or ()
    _check_added(WHOLE, ((found["id"], found["content"]) for found in added), tokenizer)
    if "normalizer" not in document and "pre_tokenizer" not in document:
        return
    steps = [*_steps(document.get("normalizer")), *_steps(document.get("pre_tokenizer"))]
    kinds = [step.get("type") for step in steps]
    patterns = [step["pattern"].get("Regex") for step in steps if "pattern" in step]
    if sorted(map(str, kinds)) != sorted(_STEPS) or not set(patterns) <= set(_PATTERNS):
        raise CheckpointError(
            f"{WHOLE} splits texts by {', '.join(map(str, kinds))} with the patterns {patterns}, "
            f"and not as CLIP does; {_REMEDY}"
        )


def _check_ends(found: Json, tokenizer: Tokenizer) -> None:
    """Refuses other tokens around a text than the start and the end."""
    ends = (found.get("cls"), found.get("sep"))
    if found.get("type") == "TemplateProcessing":
        tokens = [step.get("SpecialToken", {}).get("id") for step in found["single"]]
        ends = ([tokens[0], tokenizer.start_id], [tokens[-1], tokenizer.end_id])
    if found and ends != ([START, tokenizer.start_id], [END, tokenizer.end_id]):
        raise CheckpointError(
            f"{WHOLE} puts {ends[0]} and {ends[1]} around a text, expected {START} and {END} with "
            f"the ids {tokenizer.start_id} and {tokenizer.end_id}; {_REMEDY}"
        )


def _steps(found: Any) -> Iterator[Json]:
    """Yields the steps of a normaliser or of what splits texts, out of any sequence of them."""
    if found and found.get("type") == "Sequence":
        for inner in found.get("normalizers") or found.get("pretokenizers") or ():
            yield from _steps(inner)
    elif found:
        yield found


def _check_added(where: str, added: Iterable[tuple[int, str]], tokenizer: Tokenizer) -> None:
    """Refuses tokens that are found before a text is split, but for the start and the end."""
    for token, content in added:
        if (token, content) not in ((tokenizer.start_id, START), (tokenizer.end_id, END)):
            raise CheckpointError(
                f"{where} adds the token {content!r} with the id {token}, which is not supported; "
                f"{_REMEDY}"
            )


def _check_ids(where: str, found: Json, tokenizer: Tokenizer) -> None:
    """Refuses ids in another order than that of the merges."""
    expected = {symbol: index for index, symbol in enumerate(tokenizer.symbols)}
    for symbol, index in expected.items():
        if found.get(symbol) != index:
            raise CheckpointError(
                f"{where} gives {symbol!r} the id {found.get(symbol)}, where the order of the "
                f"merges gives it {index}, which is not supported; {_REMEDY}"
            )
    if len(found) != len(expected):
        raise CheckpointError(
            f"{where} has {len(found)} symbols, the merges make {len(expected)}; {_REMEDY}"
        )
