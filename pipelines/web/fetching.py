"""Fetches one image of the web: through redirects, in its hosts' turns, again where that helps."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import lru_cache
from http.cookies import BaseCookie

import aiohttp
from yarl import URL

from pipelines.object_stores.answers import Got, Sought
from pipelines.object_stores.faults import ObjectFault
from pipelines.object_stores.pool import Pool
from pipelines.object_stores.retry_after import asked_s
from pipelines.web.exchange import Exchange, Reply
from pipelines.web.faults import AgainError, Kind, Trial, WebFault
from pipelines.web.guard import Guard
from pipelines.web.later import Later, Together
from pipelines.web.settings import WebSettings
from pipelines.web.site import Site
from pipelines.web.urls import RefusedURL, Url, is_allowed, parse_url, target_of
from schemas.rejects import Reason

MAX_REDIRECTS = 10
_ALIVE_S = 60.0  # after an answer; what hosts allow is often counted by the minute
_MAX_SITES = 10_000  # that something is known of
_BUSY, _PASSING = (429, 503), (408, 425)


class Web:
    """What the fetches of a process share.

    Args:
        concurrency: requests that may be in flight.
        clock: seconds.
        sleep: waits so many of them.
    """

    def __init__(
        self,
        settings: WebSettings,
        concurrency: int,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._settings, self._bounds = settings, settings.bounds
        self._concurrency, self._clock, self._sleep = concurrency, clock, sleep
        self._slots = Pool(concurrency)
        self._sites: dict[str, Site] = {}
        self._later = Later(self._bounds.later_s)
        self._together = Together(self._bounds.all_s, clock)
        self._exchange: Exchange | None = None

    async def fetch(self, sought: Sought, prefixes: tuple[str, ...], bodies: Pool) -> Got:
        """Returns an image; its bytes are taken from the pool.

        Args:
            sought: its key is the URL.
            prefixes: that allow it, and every URL that it is sent on to.

        Raises:
            RefusedURL: if it must not be opened.
            WebFault: if it cannot be had.
        """
        if self._exchange is None:
            guard = Guard(self._settings.private, self._bounds, self._clock)
            self._exchange = Exchange(self._settings, guard, bodies, self._clock)
        url = parse_url(sought.key)
        if not is_allowed(url, prefixes):
            raise RefusedURL(f"`allow_images_from` does not allow {url.origin}/")
        try:
            return await self._together.within(self._tried(url, sought, prefixes))
        except asyncio.TimeoutError as error:
            said = f"not there within the {self._bounds.all_s:g} s of all images together"
            raise WebFault(Reason.FETCH_FAILED, f"{url.host}: {said}") from error

    async def close(self) -> None:
        """Closes the connections."""
        if self._exchange is not None:
            await self._exchange.close()

    async def _tried(self, url: Url, sought: Sought, prefixes: tuple[str, ...]) -> Got:
        trial = Trial()
        with self._later.at_work():
            while True:
                began = self._clock()
                try:
                    return Got(await self._follow(url, sought, prefixes, trial), "")
                except _AtSite as failed:
                    trial.spent_s += self._clock() - began
                    await self._wait(trial, failed)

    async def _follow(
        self, url: Url, sought: Sought, prefixes: tuple[str, ...], trial: Trial
    ) -> bytes:
        jar: aiohttp.CookieJar | None = None
        first = url
        for _ in range(MAX_REDIRECTS + 1):
            cookies = jar.filter_cookies(URL(str(url), encoded=True)) if jar else None
            try:
                reply = await self._ask(url, _header(cookies), sought, trial)
            except RefusedURL as error:
                if url is first:
                    raise
                raise RefusedURL(f"{first.host}: redirected to {url.origin}/: {error}") from None
            if not reply.is_redirect:
                return _image(url, reply)
            if reply.cookies:
                jar = jar or aiohttp.CookieJar(unsafe=True)
                jar.update_cookies_from_headers(reply.cookies, URL(str(url), encoded=True))
            url = _next(url, reply, prefixes)
        said = f"{url.host}: more than {MAX_REDIRECTS} redirects"
        raise WebFault(Reason.FETCH_FAILED, said)

    async def _ask(self, url: Url, cookies: str, sought: Sought, trial: Trial) -> Reply:
        """Sends a request, unless the host is known to be silent."""
        site = self._site(f"{url.host}:{url.port}")
        _check_gone(site)
        if not site.is_lost:
            return await self._send(site, url, cookies, sought, trial)
        if not trial.last:
            raise _lost(site)
        async with site.probing:
            _check_gone(site)
            if site.is_lost:
                return await self._send(site, url, cookies, sought, trial)
        return await self._send(site, url, cookies, sought, trial)

    async def _send(
        self, site: Site, url: Url, cookies: str, sought: Sought, trial: Trial
    ) -> Reply:
        await site.slots.take(1, sought.order)
        try:
            if site.is_lost and not trial.last:  # it became so while this one waited
                raise _lost(site)
            await self._slots.take(1, sought.order)
            try:
                number = await site.turn(sought.order)
                if not sought.still():
                    raise ObjectFault("nobody wants the image any more")
                return await self._answer(site, number, url, cookies, sought, trial)
            finally:
                self._slots.give_back(1)
        finally:
            site.slots.give_back(1)

    async def _answer(
        self, site: Site, number: int, url: Url, cookies: str, sought: Sought, trial: Trial
    ) -> Reply:
        assert self._exchange is not None
        try:
            reply = await self._exchange.get(url, cookies, sought, trial.last, trial.broke)
        except AgainError as error:
            if error.is_silence:
                site.silent(str(error), trial.last, self._bounds.gone_s)
            else:
                site.failed()
            raise _AtSite(site, error) from error
        except WebFault:
            site.answered(number)
            raise
        status, said = reply.status, f"{url.host}: HTTP {reply.status}"
        if status in _BUSY:
            asked = asked_s(reply.headers)
            site.heard()
            site.refused(number, asked)
            raise _AtSite(site, AgainError(Kind.BUSY, said, asked))
        if status in _PASSING or status >= 500:
            site.heard()
            site.failed()
            raise _AtSite(site, AgainError(Kind.BROKEN, said, asked_s(reply.headers)))
        site.answered(number)
        return reply

    async def _wait(self, trial: Trial, failed: _AtSite) -> None:
        """Waits for the next attempt, unless there is to be none."""
        trial.failed(failed.error)
        if failed.error.is_silence:
            await self._later.until_quiet()
            return
        alive = failed.site.answered_since(self._clock() - _ALIVE_S)
        seconds = trial.wait_s(failed.error, alive, self._bounds)
        trial.spent_s += seconds
        await self._sleep(seconds)

    def _site(self, name: str) -> Site:
        if name not in self._sites:
            if len(self._sites) >= _MAX_SITES:
                self._sites = {n: s for n, s in self._sites.items() if s.slots.used or s.gone}
            self._sites[name] = Site(name, self._concurrency, self._clock)
        return self._sites[name]


@dataclass(frozen=True)
class Allowed:
    """The web as far as prefixes allow it: where `Client` finds images of the web."""

    web: Web
    prefixes: tuple[str, ...]

    async def fetch(self, sought: Sought, bodies: Pool) -> Got:
        """Returns an image; see `Web.fetch`."""
        return await self.web.fetch(sought, self.prefixes, bodies)

    async def close(self) -> None:
        """Closes the connections."""
        await self.web.close()


def web_of(settings: WebSettings, concurrency: int) -> Web:
    """Returns the web of this process."""
    return _new_web(os.getpid(), settings, concurrency)


@lru_cache(maxsize=64)
def _new_web(process: int, settings: WebSettings, concurrency: int) -> Web:
    return Web(settings, concurrency)


class _AtSite(Exception):
    """An attempt that failed at a host, perhaps not the first of a chain."""

    def __init__(self, site: Site, error: AgainError) -> None:
        super().__init__(str(error))
        self.site, self.error = site, error


def _lost(site: Site) -> _AtSite:
    said = f"{site.name}: several requests were not answered"
    return _AtSite(site, AgainError(Kind.SILENT, said))


def _check_gone(site: Site) -> None:
    if said := site.gone:
        raise WebFault(Reason.FETCH_FAILED, f"{said}, also when it was tried again at the end")


def _next(url: Url, reply: Reply, prefixes: tuple[str, ...]) -> Url:
    """Returns where an answer sends on to, if that or the same at http is allowed."""
    location = reply.headers.get("Location", "").strip()
    if not location:
        raise WebFault(Reason.FETCH_FAILED, f"{url.host}: a redirect that names no target")
    try:
        to = parse_url(target_of(url, location))
    except RefusedURL as error:
        scheme = location.partition(":")[0][:20] if "://" in location else "another place"
        raise RefusedURL(f"{url.host}: redirected to {scheme}: {error}") from None
    twin = to.scheme == "https" and is_allowed(to.without_tls, prefixes)
    if not twin and not is_allowed(to, prefixes):
        said = f"redirected to {to.origin}/, which `allow_images_from` does not allow"
        raise RefusedURL(f"{url.host}: {said}")
    return to


def _image(url: Url, reply: Reply) -> bytes:
    if reply.body is not None:
        return reply.body
    said = f"{url.host}: HTTP {reply.status}"
    if reply.status in (404, 410):
        raise WebFault(Reason.NOT_FOUND, said)
    raise WebFault(Reason.FORBIDDEN if reply.status in (401, 403) else Reason.FETCH_FAILED, said)


def _header(cookies: BaseCookie[str] | None) -> str:
    return "; ".join(f"{c.key}={c.coded_value}" for c in cookies.values()) if cookies else ""
