"""Counts the images of the web that were not had, by host and by what their hosts answered."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

from pipelines.web.urls import RefusedURL, is_http, parse_url

WORST = 10  # hosts that are named
_STATUS = re.compile("HTTP [0-9]{3}")
# What the detail of a reject says where there was no status; see `exchange` and `fetching`.
_KINDS = {
    "redirects": ("redirect",),
    "no connection": ("no connection",),
    "no HTTP": ("no answer of HTTP",),
    "no answer": ("no answer", "not answered"),
    "stalled": ("stalled",),
    "broke off": ("broke off",),
    "no such host": ("no such host",),
    "no name looked up": ("name resolution", "not looked up"),
    "no TLS connection": ("TLS",),
    "X-Robots-Tag": ("X-Robots-Tag",),
    "too large": ("more than",),
    "codings": ("Content-Encoding", "codings", "unpacked"),
    "private network": ("public network", "private host"),
    "not allowed": ("allow",),
    "malformed URLs": ("the URL holds", "URL with a host"),
}


class WebRejects:
    """Counters over rejects.

    Attributes:
        hosts: rejects by the host of their URL.
        answers: rejects by status, or by what came instead of one.
    """

    def __init__(self) -> None:
        self.hosts: Counter[str] = Counter()
        self.answers: Counter[str] = Counter()

    def add(
        self, stages: Iterable[str], urls: Iterable[str | None], details: Iterable[str | None]
    ) -> None:
        """Counts rejects of the stage `fetch` whose URL is of http(s)."""
        for stage, url, detail in zip(stages, urls, details, strict=True):
            if stage == "fetch" and url and is_http(url.lstrip()):
                self.hosts[_host(url)] += 1
                self.answers[_kind(detail or "")] += 1

    def merge(self, other: WebRejects) -> None:
        """Adds the counters of other rejects."""
        self.hosts += other.hosts
        self.answers += other.answers

    def lines(self) -> list[str]:
        """Returns lines for a summary; none where nothing was counted."""
        if not self.hosts:
            return []
        more = len(self.hosts) - WORST
        rest = f", and {more} hosts more" if more > 0 else ""
        hosts = ", ".join(f"{host} {count}" for host, count in self.hosts.most_common(WORST))
        answers = ", ".join(f"{kind} {count}" for kind, count in self.answers.most_common())
        return [f"by host    {hosts}{rest}", f"by answer  {answers}"]


def _kind(detail: str) -> str:
    if status := _STATUS.search(detail):
        return status[0]
    found = (kind for kind, words in _KINDS.items() if any(word in detail for word in words))
    return next(found, "other")


def _host(url: str) -> str:
    try:
        return parse_url(url).host
    except RefusedURL:
        return "no host"
