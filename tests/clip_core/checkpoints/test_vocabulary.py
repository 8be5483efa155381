import gzip
import json

import pytest

from clip_core.checkpoints import vocabulary
from clip_core.checkpoints.vocabulary import (
    VocabularyError,
    find_openai_merges,
    read_merges,
    write_vocabulary,
)
from clip_core.tokenizer import Tokenizer


def test_openai_vocabulary_is_found_in_an_installed_distribution():
    merges = find_openai_merges()
    assert len(merges) == 48_894
    assert merges[0] == ("i", "n")


def test_absent_vocabulary_names_the_install_line(monkeypatch):
    monkeypatch.setattr(vocabulary, "SHIPPED_BY", ("no-such-distribution",))
    with pytest.raises(VocabularyError, match=r'pip install "clip-beam\[openai\]"'):
        find_openai_merges()


def test_openai_vocabulary_with_other_bytes_is_refused():
    with pytest.raises(VocabularyError, match="expected SHA-256 924691ac"):
        vocabulary.read_openai_vocabulary(gzip.compress(b"x"), "somewhere")


def test_merges_txt_is_read_with_and_without_its_header():
    assert read_merges("merges.txt", b"#version: 0.2\na b\nab c</w>\n") == [
        ("a", "b"),
        ("ab", "c</w>"),
    ]
    assert read_merges("merges.txt", b"a b\n") == [("a", "b")]


@pytest.mark.parametrize("merges", [["a b"], [["a", "b"]]])
def test_tokenizer_json_is_read_in_both_spellings(merges):
    data = json.dumps({"model": {"merges": merges}}).encode()
    assert read_merges("tokenizer.json", data) == [("a", "b")]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("tokenizer.json", b"{}"),
        ("tokenizer.json", b"not json"),
        ("vocab.txt.gz", b"not gzip"),
        ("vocab.txt.gz", gzip.compress(b"a b\n", mtime=0)[:-9]),
        ("merges.txt", b"\xff\xfe"),
    ],
)
def test_damaged_vocabulary_is_refused(name, data):
    with pytest.raises(VocabularyError, match=f"{name}.*damaged"):
        read_merges(name, data)


def test_line_that_is_no_pair_is_refused_with_its_number():
    with pytest.raises(VocabularyError, match="merge 2 of merges.txt, got 'abc'"):
        read_merges("merges.txt", b"#version: 0.2\na b\nabc\n")


def test_unknown_name_is_refused():
    with pytest.raises(VocabularyError, match="got 'vocab.bin'"):
        read_merges("vocab.bin", b"")


def test_written_vocabulary_reads_back(tmp_path, tokenizer):
    write_vocabulary(tmp_path, tokenizer)
    merges = read_merges("merges.txt", (tmp_path / "merges.txt").read_bytes())
    assert Tokenizer(merges, 32).identity == tokenizer.identity
    ids = json.loads((tmp_path / "vocab.json").read_text(encoding="utf-8"))
    assert ids["<|endoftext|>"] == tokenizer.end_id


def test_hugging_face_tokenizes_with_the_written_vocabulary(tmp_path, tokenizer):
    import transformers  # slow, and for one test

    write_vocabulary(tmp_path, tokenizer)
    theirs = transformers.CLIPTokenizer.from_pretrained(str(tmp_path))
    for text in ("a red circle", "a photo of a large blue star, on white"):
        row = [tokenizer.start_id, *tokenizer.encode(text), tokenizer.end_id]
        assert theirs(text)["input_ids"] == row
