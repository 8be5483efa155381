import gzip
import json
import pickle

import numpy as np
import pytest

from clip_core.checkpoints.vocabulary import find_openai_merges
from clip_core.tokenizer import CACHED_WORDS, TextError, Tokenizer, byte_symbols, clean, merge


@pytest.fixture(scope="module")
def openai() -> Tokenizer:
    return Tokenizer(find_openai_merges())


def test_tokens_equal_the_golden_rows(openai, golden):
    rows = json.loads(gzip.decompress((golden / "tokens.json.gz").read_bytes()))
    wrong = []
    for row in rows:
        tokens, _ = openai.tokenize_row(row["text"])
        end = len(row["ids"])
        if tokens[:end].tolist() != row["ids"] or tokens[end:].any():
            wrong.append(row["text"])
    assert wrong == []
    assert len(rows) == 2000


def test_vocabulary_has_the_published_size_and_special_ids(openai):
    assert (openai.vocab_size, openai.start_id, openai.end_id) == (49408, 49406, 49407)


def test_known_caption_has_known_ids(openai):
    assert openai.encode("a diagram") == [320, 22697]


def test_byte_ids_are_ranks_not_values(openai):
    assert openai.symbols[0] == "!"
    assert len(set(byte_symbols())) == 256


def test_row_is_start_text_end_and_zeros(openai):
    row = openai.tokenize("a dog")[0]
    assert row.dtype == np.int64
    assert row[:4].tolist() == [49406, 320, 1929, 49407]
    assert not row[4:].any()


def test_long_text_without_truncate_is_refused(openai):
    with pytest.raises(TextError, match="at most 75 tokens.*truncate=True"):
        openai.tokenize("dog " * 76)


def test_long_text_is_cut_and_keeps_its_end_token(openai):
    row, truncated = openai.tokenize_row("dog " * 76)
    assert truncated
    assert row[-1] == openai.end_id
    assert row[-2] == 1929


def test_text_that_just_fits_is_not_truncated(openai):
    row, truncated = openai.tokenize_row("dog " * 75)
    assert not truncated
    assert row[-1] == openai.end_id


def test_empty_text_is_start_and_end(openai):
    assert openai.tokenize([""])[0, :3].tolist() == [49406, 49407, 0]


def test_no_texts_give_no_rows(openai):
    assert openai.tokenize([]).shape == (0, 77)


def test_literal_special_tokens_become_their_ids(openai):
    text = "a <|endoftext|> dog &lt;|startoftext|&gt;"
    assert openai.encode(text) == [320, 49407, 1929, 49406]


def test_special_token_after_punctuation_is_text(openai):
    assert max(openai.encode("!<|endoftext|>")) < openai.start_id


def test_cleaning_unescapes_twice_and_repairs():
    assert clean("  Caf\u00c3\u00a9 &amp;amp; BAR\n\tx ") == "caf\u00e9 & bar x"


@pytest.mark.parametrize("half", ["\ud800", "&#xd800;", "&amp;#xdfff;"])
def test_half_of_a_surrogate_pair_becomes_the_replacement_character(openai, half):
    assert openai.encode(f"a {half} b") == openai.encode("a \ufffd b")


@pytest.mark.parametrize("text", ["\0", "a\0b", "\x1b[31mred", "\u202edlrow", "=cmd()", "\ufeff"])
def test_odd_characters_are_tokenised(openai, text):
    assert all(0 <= token < openai.vocab_size for token in openai.encode(text))


def test_decode_reverses_encode(openai):
    assert openai.decode(openai.encode("a café, 3 dogs 🙂!")) == "a café , 3 dogs 🙂! "


def test_decode_refuses_ids_outside_the_vocabulary(openai):
    with pytest.raises(ValueError, match="below 49408, got 49408"):
        openai.decode([49408])


def test_long_word_is_tokenised_like_by_the_textbook_loop(openai):
    word = "abcab" * 40
    ranks = {pair: rank for rank, pair in enumerate(openai.merges)}
    symbols = [*word[:-1], word[-1] + "</w>"]
    assert merge(symbols, ranks) == _textbook_merge(symbols, ranks)


def _textbook_merge(symbols, ranks):
    symbols = list(symbols)
    while True:
        pairs = set(zip(symbols, symbols[1:], strict=False)) & ranks.keys()
        if not pairs:
            return symbols
        first, second = min(pairs, key=ranks.__getitem__)
        merged, index = [], 0
        while index < len(symbols):
            if symbols[index : index + 2] == [first, second]:
                merged.append(first + second)
                index += 2
            else:
                merged.append(symbols[index])
                index += 1
        symbols = merged


def test_very_long_word_does_not_overflow(openai):
    assert len(openai.encode("ab" * 20_000)) > 1000


def test_cache_is_bounded(openai):
    assert openai._word_ids.cache_info().maxsize == CACHED_WORDS


def test_pickled_tokenizer_is_equal_and_carries_no_cache():
    original = Tokenizer([("r", "e"), ("re", "d</w>")], 16)
    fresh = pickle.dumps(original)
    original.encode("a red circle")
    assert pickle.dumps(original) == fresh
    copy = pickle.loads(fresh)
    assert copy is not original
    assert copy.identity == original.identity
    assert (copy.tokenize("a red circle") == original.tokenize("a red circle")).all()


def test_equal_pickles_become_one_tokenizer_in_a_process(tokenizer):
    copies = [pickle.loads(pickle.dumps(tokenizer)) for _ in range(2)]
    assert copies[0] is copies[1]


def test_pickle_of_a_published_vocabulary_is_small(openai):
    assert len(pickle.dumps(openai)) < 300_000


def test_identity_tells_vocabularies_and_contexts_apart(tokenizer):
    assert Tokenizer(tokenizer.merges, 32).identity == tokenizer.identity
    assert Tokenizer(tokenizer.merges, 33).identity != tokenizer.identity
    assert Tokenizer(tokenizer.merges[:-1], 32).identity != tokenizer.identity
