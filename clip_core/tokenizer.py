"""The byte-pair tokenizer of CLIP, exact to the original on any string.

Source: Radford et al. 2021, section 2.4, and its release. A text is repaired (ftfy), unescaped
twice, white space collapsed, lowered, split by a pattern, and each piece's UTF-8 bytes are merged.

Ids: 0 to 255 are bytes, 256 to 511 bytes that end a word, then one id per merge, then the start and
the end token. Id 0 is the word piece "!" and pads too: never take it for "no token".
"""

from __future__ import annotations

import hashlib
import heapq
import html
import zlib
from collections.abc import Iterable, Sequence
from functools import cached_property, lru_cache
from typing import Any

import ftfy
import numpy as np
import regex

START = "<|startoftext|>"
END = "<|endoftext|>"
WORD_END = "</w>"
CONTEXT_LENGTH = 77
CACHED_WORDS = 50_000
CLEANING = "ftfy+unescape2+lower"  # names the rules of `clean` in a tokenizer's identity

_PIECES = regex.compile(
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+",
    regex.IGNORECASE,
)
# ASCII without control characters, which ftfy removes, and without what begins an HTML entity.
_PLAIN = regex.compile(r"[ -%'-~\t\n]*").fullmatch


class TextError(ValueError):
    """A text that does not fit the context."""


def clean(text: str) -> str:
    """Repairs mojibake, unescapes HTML twice, collapses white space and lowers."""
    if _PLAIN(text):  # most captions: there is nothing to repair or to unescape
        return " ".join(text.split()).lower()
    text = html.unescape(html.unescape(ftfy.fix_text(text))).strip()
    return " ".join(text.split()).lower()


def split_words(text: str) -> list[str]:
    """Cuts a cleaned text into special tokens, contractions, letter runs, digits and the rest."""
    found: list[str] = _PIECES.findall(text)
    return found


@lru_cache(maxsize=1)
def byte_symbols() -> tuple[str, ...]:
    """Returns the printable character that stands for each byte value 0 to 255."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    symbols = {value: chr(value) for value in printable}
    others = (value for value in range(256) if value not in symbols)
    symbols.update({value: chr(256 + rank) for rank, value in enumerate(others)})
    return tuple(symbols[value] for value in range(256))


@lru_cache(maxsize=1)
def base_symbols() -> tuple[str, ...]:
    """Returns the 512 symbols before any merge, in the order of their ids."""
    # The printable bytes come first: an id is a byte's rank in this order, not its value.
    in_id_order = sorted(byte_symbols(), key=ord)
    return tuple(in_id_order) + tuple(symbol + WORD_END for symbol in in_id_order)


def word_symbols(word: str) -> list[str]:
    """Returns the byte symbols of a cleaned word, the last one marked as its end."""
    symbols = [byte_symbols()[value] for value in word.encode("utf-8")]
    return [*symbols[:-1], symbols[-1] + WORD_END]


def merge(symbols: list[str], ranks: dict[tuple[str, str], int]) -> list[str]:
    """Applies merges to one word, the best-ranked first and equal ones from the left.

    Keeps candidates in a heap over a linked list, so that a word of n letters takes n log n steps;
    the textbook loop takes n * n.
    """
    symbols = list(symbols)
    after = list(range(1, len(symbols) + 1))
    before = list(range(-1, len(symbols) - 1))
    heap: list[tuple[int, int, str, str]] = []

    def offer(left: int) -> None:
        right = after[left]
        if left >= 0 and right < len(symbols):
            rank = ranks.get((symbols[left], symbols[right]))
            if rank is not None:
                heapq.heappush(heap, (rank, left, symbols[left], symbols[right]))

    for index in range(len(symbols) - 1):
        offer(index)
    while heap:
        _, left, first, second = heapq.heappop(heap)
        right = after[left]
        if symbols[left] != first or right >= len(symbols) or symbols[right] != second:
            continue  # one of the two was merged away meanwhile
        symbols[left], symbols[right] = first + second, ""
        after[left] = after[right]
        if after[left] < len(symbols):
            before[after[left]] = left
        if before[left] >= 0:
            offer(before[left])
        offer(left)
    return [symbol for symbol in symbols if symbol]


class Tokenizer:
    """Turns captions into token ids and back.

    Args:
        merges: pairs of symbols in the order they were learned; they fix the vocabulary.
        context_length: tokens in a row, start and end included.
    """

    def __init__(
        self, merges: Iterable[tuple[str, str]], context_length: int = CONTEXT_LENGTH
    ) -> None:
        self.merges = tuple((first, second) for first, second in merges)
        self.context_length = context_length
        self._ranks = {pair: rank for rank, pair in enumerate(self.merges)}
        symbols = (*base_symbols(), *(first + second for first, second in self.merges), START, END)
        self._ids = {symbol: index for index, symbol in enumerate(symbols)}
        self._symbols = symbols
        self._word_ids = lru_cache(maxsize=CACHED_WORDS)(self._encode_word)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickles to the compressed merges; a process makes one tokenizer of all equal pickles."""
        return _unpickled, (self._compressed_merges, self.context_length)

    @cached_property
    def _compressed_merges(self) -> bytes:
        return zlib.compress("\n".join(map(" ".join, self.merges)).encode())

    @property
    def vocab_size(self) -> int:
        """Number of ids; the last two are the start and the end token."""
        return len(self._symbols)

    @property
    def start_id(self) -> int:
        """Id of the token that begins every row."""
        return self.vocab_size - 2

    @property
    def end_id(self) -> int:
        """Id of the token that ends the text; the largest id, at which the model pools."""
        return self.vocab_size - 1

    @property
    def symbols(self) -> tuple[str, ...]:
        """The vocabulary, in the order of ids."""
        return self._symbols

    @cached_property
    def identity(self) -> str:
        """Sixteen hex digits over vocabulary, context length and cleaning rules."""
        digest = hashlib.sha256(f"{CLEANING}\n{self.context_length}\n".encode())
        for first, second in self.merges:
            digest.update(f"{first} {second}\n".encode())
        return digest.hexdigest()[:16]

    def encode(self, text: str) -> list[int]:
        """Returns the ids of a text of any length, without start and end token.

        A literal special token in the text becomes that token's id, as in the original; half of a
        surrogate pair becomes U+FFFD.
        """
        return [token for word in split_words(clean(text)) for token in self._word_ids(word)]

    def decode(self, tokens: Iterable[int]) -> str:
        """Returns the text of `tokens`; bytes that are not UTF-8 become U+FFFD.

        Raises:
            ValueError: if an id is outside the vocabulary.
        """
        tokens = [int(token) for token in tokens]
        outside = [token for token in tokens if not 0 <= token < self.vocab_size]
        if outside:
            raise ValueError(
                f"expected token ids below {self.vocab_size}, got {outside[0]}; "
                "use the tokenizer that made them"
            )
        values = {symbol: value for value, symbol in enumerate(byte_symbols())}
        text = "".join(self._symbols[token] for token in tokens)
        decoded = b"".join(
            bytes([values[character]]) if character in values else character.encode()
            for character in text
        )
        return decoded.decode("utf-8", errors="replace").replace(WORD_END, " ")

    def tokenize_row(self, text: str) -> tuple[np.ndarray, bool]:
        """Returns one row [context_length] int64, and whether the text had to be cut to fit."""
        rows, truncated = self.tokenize_rows([text])
        return rows[0], bool(truncated[0])

    def tokenize_rows(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Returns rows [texts, context_length] int64, and which texts had to be cut, [texts] bool.

        See `tokenize_row`.
        """
        start, end, most = self.start_id, self.end_id, self.context_length
        rows = np.zeros((len(texts), most), np.int64)
        truncated = np.zeros(len(texts), bool)
        for index, text in enumerate(texts):
            tokens = [start, *self.encode(text), end]
            if len(tokens) > most:
                tokens = [*tokens[: most - 1], end]
                truncated[index] = True
            rows[index, : len(tokens)] = tokens
        return rows, truncated

    def tokenize(self, texts: str | Sequence[str], *, truncate: bool = False) -> np.ndarray:
        """Returns rows [texts, context_length] int64: start, text, end, zero padded.

        Args:
            truncate: whether to cut a text that is too long, keeping the end token.

        Raises:
            TextError: if a text is too long and `truncate` is false.
        """
        texts = [texts] if isinstance(texts, str) else texts
        rows, truncated = self.tokenize_rows(texts)
        if truncated.any() and not truncate:
            raise TextError(
                f"expected at most {self.context_length - 2} tokens, got more in "
                f"{texts[int(truncated.argmax())][:60]!r}; pass `truncate=True` to cut it"
            )
        return rows

    def _encode_word(self, word: str) -> tuple[int, ...]:
        if word in (START, END):
            return (self._ids[word],)
        return tuple(self._ids[symbol] for symbol in merge(word_symbols(word), self._ranks))


@lru_cache(maxsize=4)
def _unpickled(compressed_merges: bytes, context_length: int) -> Tokenizer:
    text = zlib.decompress(compressed_merges).decode()
    return Tokenizer((tuple(line.split(" ")) for line in text.split("\n") if line), context_length)  # type: ignore[misc]
