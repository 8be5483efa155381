"""What an operator lets the files of a run name: by itself a run widens nothing.

A run may come from a stranger. Its metadata and its run.json say where manifests and images are
and which model made it; what they name is opened only below the run's own directory, or where the
operator allows it.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipelines.command_line.places import place
from pipelines.images.fetch import FetchPolicy, allowed_file
from pipelines.images.sources import check_prefix
from pipelines.images.web_flags import add_web_flags, web_options_of
from pipelines.records import RowFault
from pipelines.storage import uris
from pipelines.storage.redaction import redact
from pipelines.web.settings import WebSettings
from schemas.rejects import Reason

IMAGES, MANIFESTS, TRUST = "allow_images_from", "allow_manifests_from", "trust_run"


class NotTrustedError(RowFault):
    """A file that a run names and nobody has allowed.

    Args:
        uri: the file.
        parameter: the one that allows it.
    """

    def __init__(self, uri: str, parameter: str) -> None:
        self.remedy = f"`{parameter}={_printable(uris.parent(redact(uri)))!r}`"
        super().__init__("fetch", Reason.NOT_ALLOWED, f"allow it with {self.remedy}")


@dataclass(frozen=True)
class Trust:
    """Where the files that a run names may lie.

    Attributes:
        images, manifests: URI prefixes.
        run: whether all that the run names is opened.
        web: how images are asked for over http(s).
    """

    images: tuple[str, ...] = ()
    manifests: tuple[str, ...] = ()
    run: bool = False
    web: WebSettings = WebSettings()

    def fetch_policy(self, options: Mapping[str, Any]) -> FetchPolicy:
        """Returns the rules for images.

        Args:
            options: of the run; they count only where the run is trusted.
        """
        if not self.run:
            return FetchPolicy(self.images, allow_image_root=False, web=self.web)
        named = options.get("allow_images_from")
        places = [*(named if isinstance(named, list) else ()), options.get("image_root")]
        found = tuple(place for place in places if place and isinstance(place, str))
        return FetchPolicy(self.images + found, web=self.web)

    def manifest(self, uri: str) -> str:
        """Returns a manifest's URI in the form in which it was checked and has to be opened.

        Raises:
            NotTrustedError: if nobody has allowed it.
        """
        if self.run:
            return uri
        found = allowed_file(uri, self.manifests)
        if found is None:
            raise NotTrustedError(uri, MANIFESTS)
        return found


def add_trust_flags(flags: argparse.ArgumentParser) -> None:
    """Adds the flags that `trust_of` reads."""
    _add_prefix_flag(flags, IMAGES, "images")
    add_web_flags(flags)
    add_replay_flags(flags)


def add_replay_flags(flags: argparse.ArgumentParser) -> None:
    """Adds the flags for commands whose manifest may be a table of a run."""
    _add_prefix_flag(flags, MANIFESTS, "manifests")
    flags.add_argument(
        f"--{TRUST}",
        action="store_true",
        help="open whatever manifests, images and model the run's files name",
    )


def _add_prefix_flag(flags: argparse.ArgumentParser, name: str, what: str) -> None:
    flags.add_argument(
        f"--{name}",
        action="append",
        type=place,
        default=[],
        metavar="URI",
        help=f"prefix that {what} which a run names may come from; repeatable [the run's "
        "directory]",
    )


def trust_of(options: argparse.Namespace, root: str) -> Trust:
    """Returns what the flags allow, besides the run's own directory.

    Args:
        root: that directory.

    Raises:
        ValueError: if a prefix is one that no URL can lie under.
    """
    web = web_options_of(options)
    for prefix in options.allow_images_from:
        check_prefix(prefix, private=web.allow_private_hosts)
    for prefix in options.allow_manifests_from:
        check_prefix(prefix, "allow_manifests_from")
    return Trust(
        (root, *options.allow_images_from),
        (root, *options.allow_manifests_from),
        options.trust_run,
        web.web_settings(options.allow_images_from),
    )


def _printable(text: str) -> str:
    """Takes out what would steer a terminal: the run may be a stranger's."""
    return "".join(c if c.isprintable() else "?" for c in text)
