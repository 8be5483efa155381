import pytest

from clip_core.tokenizer import Tokenizer
from clip_core.training.bpe import learn_merges


def test_commonest_pair_is_merged_first():
    assert learn_merges(["aab aab xy"], 515) == [("a", "a")]


def test_equally_common_pairs_go_in_alphabetical_order():
    assert learn_merges(["cd ab"], 516) == [("a", "b</w>"), ("c", "d</w>")]


def test_learning_ends_when_nothing_is_left_to_merge():
    merges = learn_merges(["red red"], 1000)
    assert Tokenizer(merges).encode("red") == [512 + len(merges) - 1]


def test_words_of_the_texts_become_single_tokens():
    texts = ["a red circle", "a blue circle", "a red star"] * 5
    tokenizer = Tokenizer(learn_merges(texts, 1000))
    assert all(len(tokenizer.encode(word)) == 1 for word in ("red", "blue", "circle", "star"))


def test_merges_never_cross_words():
    merges = learn_merges(["ab cd"] * 5, 1000)
    assert all("</w>" not in first for first, _ in merges)


def test_no_symbol_is_made_twice():
    merges = learn_merges(["abc bcabc cabcab aabbcc"] * 3, 1000)
    made = [first + second for first, second in merges]
    assert len(made) == len(set(made))


def test_vocabulary_size_bounds_the_merges():
    assert len(learn_merges(["the quick brown fox"], 520)) == 6


def test_special_tokens_are_not_learned_from():
    assert learn_merges(["<|endoftext|>"] * 3, 600) == []


def test_no_texts_give_no_merges():
    assert learn_merges([], 600) == []


def test_vocabulary_below_the_bytes_is_refused():
    with pytest.raises(ValueError, match="at least 514, got 513"):
        learn_merges([], 513)
