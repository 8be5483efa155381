"""Counts the images of the web that were not had, by host and by what their hosts answered."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

from pipelines.web.urls import RefusedURL, parse_url

WORST = 10  # hosts that are named
_HTTP = re.compile(r"https?://", re.IGNORECASE)
# What the detail of a reject says went wrong; see `exchange` and `fetching`.
_KINDS = re.compile(
    "HTTP [0-9]{3}|no connection|no answer|stalled|no such host|name resolution|not looked up"
    "|TLS|redirect|X-Robots-Tag|public network|allow"
)
_CALLED = {
    "name resolution": "no name looked up",
    "not looked up": "no name looked up",
    "TLS": "no TLS connection",
    "redirect": "redirects",
    "public network": "private network",
    "allow": "not allowed",
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
            if stage == "fetch" and url and _HTTP.match(url.lstrip()):
                self.hosts[_host(url)] += 1
                found = _KINDS.search(detail or "")
                kind = found[0] if found else "other"
                self.answers[_CALLED.get(kind, kind)] += 1

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


def _host(url: str) -> str:
    try:
        return parse_url(url).host
    except RefusedURL:
        return "no host"
