import json
import shutil

import pytest

import clip_core
from clip_core.checkpoints.lazy_tensor import CheckpointError
from clip_core.tokenizer import END, START

SETTINGS, IDS, WHOLE = "tokenizer_config.json", "vocab.json", "tokenizer.json"
PIECES = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


@pytest.fixture
def model(vit_dir, tmp_path):
    return shutil.copytree(vit_dir, tmp_path / "model")


def added_token(content, **changes):
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": True}
    return {"content": content, "__type": "AddedToken", **flags, **changes}


def whole(tokenizer):
    """A tokenizer.json as transformers 4 and 5 write it for CLIP."""
    ids = {symbol: index for index, symbol in enumerate(tokenizer.symbols)}
    added = ((tokenizer.start_id, START), (tokenizer.end_id, END))
    steps = [{"type": "Split", "pattern": {"Regex": PIECES}, "behavior": "Removed", "invert": True},
             {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}]  # fmt: skip
    cleaning = [{"type": "NFC"}, {"type": "Lowercase"},
                {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "}]  # fmt: skip
    return {
        "version": "1.0",
        "truncation": None,
        "added_tokens": [{"id": id, **added_token(content)} for id, content in added],
        "normalizer": {"type": "Sequence", "normalizers": cleaning},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps},
        "post_processor": {"type": "RobertaProcessing", "sep": [END, tokenizer.end_id],
                           "cls": [START, tokenizer.start_id]},
        "model": {
            "type": "BPE", "dropout": None, "unk_token": END, "continuing_subword_prefix": "",
            "end_of_word_suffix": "</w>", "fuse_unk": False, "vocab": ids,
            "merges": [" ".join(pair) for pair in tokenizer.merges],
        },
    }  # fmt: skip


def write(directory, name, content):
    (directory / name).write_text(json.dumps(content), encoding="utf-8")


def refused(directory, message):
    with pytest.raises(CheckpointError, match=message):
        clip_core.load(directory)
    # What is named is taken as CLIP's own tokenizer would take it.
    clip_core.load(directory, vocab=directory / "merges.txt")


# As the files of published models have it.
PUBLISHED = {
    "unk_token": added_token(END),
    "bos_token": added_token(START),
    "eos_token": END,
    "pad_token": END,
    "add_prefix_space": False,
    "errors": "replace",
    "do_lower_case": True,
    "name_or_path": "openai/clip-vit-base-patch32",
    "model_max_length": 77,
    "special_tokens_map_file": "./special_tokens_map.json",
    "tokenizer_class": "CLIPTokenizer",
    "clean_up_tokenization_spaces": True,
    "additional_special_tokens": [],
    "extra_special_tokens": {},
    "backend": "tokenizers",
    "is_local": True,
    "processor_class": "CLIPProcessor",
}


@pytest.mark.parametrize("merges", [True, False])
def test_published_files_are_understood(model, tokenizer, merges):
    ids = {tokenizer.start_id: START, tokenizer.end_id: END}
    decoder = {str(id): added_token(content, special=True) for id, content in ids.items()}
    write(model, SETTINGS, PUBLISHED | {"added_tokens_decoder": decoder})
    write(model, WHOLE, whole(tokenizer))
    if not merges:
        (model / "merges.txt").unlink()
    assert clip_core.load(model).tokenizer.identity == tokenizer.identity


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tokenizer_class", "BertTokenizer"),
        ("do_lower_case", False),
        ("add_prefix_space", True),
        ("padding_side", "left"),
        ("truncation_side", "left"),
        ("bos_token", "<s>"),
        ("eos_token", added_token("</s>")),
        ("additional_special_tokens", ["<sep>"]),
        ("strip_accents", True),
        ("auto_map", {"AutoTokenizer": ["tok.Other", None]}),
    ],
)
def test_other_settings_are_refused_by_name(model, name, value):
    write(model, SETTINGS, PUBLISHED | {name: value})
    refused(model, f"{SETTINGS} has {name} .*not supported")


def test_shorter_texts_are_refused_and_longer_ones_are_not(model):
    write(model, SETTINGS, PUBLISHED | {"model_max_length": 1000000000000000019884624838656})
    clip_core.load(model)
    write(model, SETTINGS, PUBLISHED | {"model_max_length": 16})
    refused(model, "model_max_length 16, which cuts texts shorter than the model's 32 tokens")


def test_truncation_of_the_whole_file_is_refused(model, tokenizer):
    write(model, WHOLE, whole(tokenizer) | {"truncation": {"max_length": 16, "stride": 0}})
    refused(model, "tokenizer.json, truncation, has max_length 16")


@pytest.mark.parametrize(
    "change",
    [
        {"sep": ["</s>", 2]},
        {"cls": [START, 3]},
        {"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A"}}]},
    ],
)
def test_other_tokens_around_a_text_are_refused(model, tokenizer, change):
    document = whole(tokenizer)
    document["post_processor"] |= change
    write(model, WHOLE, document)
    refused(model, "tokenizer.json puts .* around a text, expected")


def test_template_of_the_same_tokens_is_understood(model, tokenizer):
    ends = [{"SpecialToken": {"id": token, "type_id": 0}} for token in (START, END)]
    single = [ends[0], {"Sequence": {"id": "A", "type_id": 0}}, ends[1]]
    template = {"type": "TemplateProcessing", "single": single}
    write(model, WHOLE, whole(tokenizer) | {"post_processor": template})
    clip_core.load(model)


def test_files_of_older_releases_are_read_too(model, tokenizer):
    write(model, "special_tokens_map.json", {"bos_token": added_token(START), "pad_token": END})
    write(model, "added_tokens.json", {END: tokenizer.end_id})
    clip_core.load(model)
    write(model, "added_tokens.json", {"!": 0})
    refused(model, "added_tokens.json adds the token '!'")
    (model / "added_tokens.json").unlink()
    write(model, "special_tokens_map.json", {"bos_token": "<s>"})
    refused(model, "special_tokens_map.json has bos_token '<s>', which is not supported")


def test_added_token_is_refused(model):
    """Hugging Face finds it before it splits a text, also inside of words."""
    write(model, SETTINGS, PUBLISHED | {"added_tokens_decoder": {"0": added_token("!")}})
    refused(model, "adds the token '!' with the id 0, which is not supported; name the right")


@pytest.mark.parametrize("name", [IDS, WHOLE])
def test_ids_in_another_order_than_the_merges_are_refused(model, tokenizer, name):
    document = whole(tokenizer)
    ids = document["model"]["vocab"]
    ids["!"], ids['"'] = ids['"'], ids["!"]
    write(model, name, ids if name == IDS else document)
    refused(model, f"{name} gives '!' the id 1, where the order of the merges gives it 0")


@pytest.mark.parametrize("change", [{"extra": 3}, {END: 5}])
def test_more_symbols_or_another_end_are_refused(model, tokenizer, change):
    write(model, IDS, whole(tokenizer)["model"]["vocab"] | change)
    refused(model, f"{IDS} (has|gives)")


@pytest.mark.parametrize(
    ("name", "value"),
    [("dropout", 0.1), ("type", "Unigram"), ("ignore_merges", True), ("end_of_word_suffix", "_")],
)
def test_other_model_of_a_tokenizer_is_refused(model, tokenizer, name, value):
    document = whole(tokenizer)
    document["model"][name] = value
    write(model, WHOLE, document)
    refused(model, f"{WHOLE}, model, has {name} .*not supported")


@pytest.mark.parametrize("where", ["normalizer", "pre_tokenizer"])
def test_other_cleaning_or_splitting_is_refused(model, tokenizer, where):
    document = whole(tokenizer)
    steps = next(v for k, v in document[where].items() if k != "type")
    steps.pop(1 if where == "normalizer" else 0)
    write(model, WHOLE, document)
    refused(model, f"{WHOLE} splits texts by .*, and not as CLIP does")


def test_other_merges_beside_merges_txt_are_refused(model, tokenizer):
    document = whole(tokenizer)
    merges = document["model"]["merges"]
    merges[0], merges[1] = merges[1], merges[0]
    document["model"]["vocab"] = {}
    write(model, WHOLE, document)
    refused(model, f"{WHOLE} has other merges than the vocabulary beside it")


@pytest.mark.parametrize("name", [SETTINGS, IDS, WHOLE])
@pytest.mark.parametrize("content", ["", "[]", "junk"])
def test_damaged_files_are_refused(model, name, content):
    (model / name).write_text(content)
    refused(model, name)
