"""Learns a byte-pair vocabulary in CLIP's format (Sennrich et al. 2016, on bytes)."""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable

from clip_core.tokenizer import END, START, base_symbols, clean, split_words, word_symbols

SMALLEST_VOCABULARY = 514  # byte symbols, the same at a word's end, start and end token

Pair = tuple[str, str]


def learn_merges(texts: Iterable[str], vocab_size: int) -> list[Pair]:
    """Learns the merges of a vocabulary of at most `vocab_size` ids.

    The commonest pair of neighbouring symbols is merged again and again; among equally common ones
    the first in alphabetical order, so the result depends on the texts alone. Ends early when no
    pair is left.

    Raises:
        ValueError: if `vocab_size` is below 514, which the bytes alone need.
    """
    if vocab_size < SMALLEST_VOCABULARY:
        raise ValueError(f"`vocab_size` must be at least {SMALLEST_VOCABULARY}, got {vocab_size}")
    learner = _Learner(_count_words(texts))
    merges: list[Pair] = []
    known = set(base_symbols())
    while len(merges) < vocab_size - SMALLEST_VOCABULARY:
        pair = learner.commonest()
        if pair is None:
            break
        if "".join(pair) in known:  # a second way to the same symbol would give it two ids
            continue
        learner.merge(pair)
        known.add("".join(pair))
        merges.append(pair)
    return merges


def _count_words(texts: Iterable[str]) -> Counter[tuple[str, ...]]:
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(split_words(clean(text)))
    return Counter(
        {tuple(word_symbols(word)): n for word, n in counts.items() if word not in (START, END)}
    )


class _Learner:
    """Words as symbols, and how often each pair of neighbours stands in them."""

    def __init__(self, counts: Counter[tuple[str, ...]]) -> None:
        self._words = [list(word) for word in counts]
        self._counts = list(counts.values())
        self._pairs: Counter[Pair] = Counter()
        self._where: defaultdict[Pair, set[int]] = defaultdict(set)
        for index in range(len(self._words)):
            self._add(index, 1)
        self._heap = [(-count, pair) for pair, count in self._pairs.items()]
        heapq.heapify(self._heap)

    def commonest(self) -> Pair | None:
        """Returns the pair to merge next, or None; drops heap entries that are out of date."""
        while self._heap:
            count, pair = heapq.heappop(self._heap)
            if -count == self._pairs[pair] > 0:
                return pair
        return None

    def merge(self, pair: Pair) -> None:
        """Replaces the pair in every word that has it."""
        touched: set[Pair] = set()
        for index in sorted(self._where.pop(pair, ())):
            touched |= self._add(index, -1)
            self._words[index] = _merged(self._words[index], pair)
            touched |= self._add(index, 1)
        del self._pairs[pair]
        for changed in touched - {pair}:
            if self._pairs[changed] > 0:
                heapq.heappush(self._heap, (-self._pairs[changed], changed))

    def _add(self, index: int, sign: int) -> set[Pair]:
        word = self._words[index]
        pairs = list(zip(word, word[1:], strict=False))
        for pair in pairs:
            self._pairs[pair] += sign * self._counts[index]
            if sign > 0:
                self._where[pair].add(index)
        return set(pairs)


def _merged(word: list[str], pair: Pair) -> list[str]:
    result: list[str] = []
    index = 0
    while index < len(word):
        if tuple(word[index : index + 2]) == pair:
            result.append(word[index] + word[index + 1])
            index += 2
        else:
            result.append(word[index])
            index += 1
    return result
