"""The flags about images over http(s): who asks, by which way, and what is heeded."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, fields

from pipelines.web.proxies import check_proxy, unused_proxy
from pipelines.web.settings import DIRECTIVES, ENVIRONMENT, WebSettings
from pipelines.web.urls import HTTP_SCHEMES

NONE = "none"


@dataclass(frozen=True, kw_only=True)
class WebOptions:
    """What the flags say; their names and meanings."""

    http_proxy: str | None = None
    user_agent: str | None = None
    disallowed_header_directives: tuple[str, ...] = DIRECTIVES
    allow_private_hosts: bool = False

    def web_settings(self, prefixes: Sequence[str]) -> WebSettings:
        """Returns how images are asked for that these prefixes allow."""
        named = tuple(p for p in prefixes if _scheme(p) in HTTP_SCHEMES and _names_a_host(p))
        return WebSettings(
            user_agent=self.user_agent,
            disallowed=tuple(self.disallowed_header_directives),
            proxy=self.http_proxy,
            private=named if self.allow_private_hosts else (),
        )

    def unused_proxy(self, prefixes: Sequence[str]) -> str | None:
        """Says that the environment names a proxy that is not used for these prefixes."""
        return unused_proxy(self.http_proxy) if of_the_web(prefixes) else None

    def check_web(self) -> None:
        """Refuses values that cannot be sent.

        Raises:
            ValueError: says what is expected.
        """
        check_proxy(self.http_proxy)
        agent = self.user_agent
        if agent is not None and not (agent.strip() and agent.isascii() and agent.isprintable()):
            raise ValueError(
                f"`user_agent` takes one line of ASCII, such as 'lab/1.0 (mailto:me@example.org)'; "
                f"got {agent!r}"
            )


def web_options_of(options: argparse.Namespace) -> WebOptions:
    """Returns what the flags of `add_web_flags` say.

    Raises:
        ValueError: if a value cannot be sent.
    """
    found = WebOptions(**{one.name: getattr(options, one.name) for one in fields(WebOptions)})
    found.check_web()
    return found


def web_argv(options: argparse.Namespace) -> list[str]:
    """Returns these flags as they were given, for another command that takes them."""
    argv = ["--allow_private_hosts"] if options.allow_private_hosts else []
    for name in ("http_proxy", "user_agent"):
        if getattr(options, name) is not None:
            argv += [f"--{name}", getattr(options, name)]
    directives = ",".join(options.disallowed_header_directives) or NONE
    return [*argv, "--disallowed_header_directives", directives]


def add_web_flags(
    flags: argparse.ArgumentParser | argparse._ArgumentGroup, beams: bool = False
) -> None:
    """Adds the flags of `WebOptions`.

    Args:
        beams: whether they go to a parser of Beam, which has a `--user_agent` already; what it says
            to other services of who asks is the same.
    """
    flags.add_argument(
        "--allow_private_hosts",
        action="store_true",
        help="ask hosts of private networks that an allowed prefix names in full, as "
        "http://10.0.0.5/img/ does",
    )
    flags.add_argument(
        "--http_proxy",
        metavar="URL",
        help=f"proxy for images over http(s), which then decides what may be reached; "
        f"`{ENVIRONMENT}` for the one that http_proxy and https_proxy name [none]",
    )
    flags.add_argument(
        "--disallowed_header_directives",
        type=_directives,
        default=",".join(DIRECTIVES),
        metavar="A,B",
        help=f"directives of X-Robots-Tag that keep an image out, or `{NONE}` "
        f"[{','.join(DIRECTIVES)}]",
    )
    if not beams:
        flags.add_argument(
            "--user_agent",
            metavar="TEXT",
            help="who asks for images over http(s), such as 'lab/1.0 (mailto:me@example.org)'; "
            "goes before this program's own name [that name]",
        )


def _directives(value: str) -> tuple[str, ...]:
    names = tuple(name.strip().lower() for name in value.split(","))
    if not all(names):
        raise argparse.ArgumentTypeError(f"expected names between commas, got {value!r}")
    return () if names == (NONE,) else names


def of_the_web(prefixes: Sequence[str]) -> bool:
    """Tells whether one of these prefixes allows images over http(s)."""
    return any(_scheme(prefix) in HTTP_SCHEMES for prefix in prefixes)


def _scheme(prefix: str) -> str:
    return prefix.partition("://")[0].lower()


def _names_a_host(prefix: str) -> bool:
    return bool(prefix.partition("://")[2].strip("/"))
