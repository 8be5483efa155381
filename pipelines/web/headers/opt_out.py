"""What who publishes an image says of its use, in `X-Robots-Tag`."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

from pipelines.web.settings import NAME

# Directives with a value, whose colon is not that of a program's name.
_VALUED = ("unavailable_after", "max-snippet", "max-image-preview", "max-video-preview")
_SAME = {"none": ("noindex", "nofollow")}
_ALL = ("", "*", NAME)
_BETWEEN = re.compile("[,;]")  # the second is none of the header's, and found in it


def opted_out(headers: Iterable[str], disallowed: Collection[str]) -> str | None:
    """Returns the first directive to all or to this program that is heeded; None if there is none.

    Args:
        headers: the values, one a header. A name before a colon addresses what follows it in its
            header.
        disallowed: directives in lower case.
    """
    for header in headers:
        agent = ""
        for part in _BETWEEN.split(header.lower()):
            name, colon, rest = part.partition(":")
            name = name.partition("/")[0].strip()  # without a version
            if colon and name not in _VALUED and " " not in name:  # a date holds colons, too
                agent, part = name, rest
            directive = part.partition(":")[0].strip()
            if agent in _ALL and set(_SAME.get(directive, (directive,))) & set(disallowed):
                return directive
    return None
