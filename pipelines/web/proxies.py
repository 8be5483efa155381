"""Which proxy a request goes through, as the operator says."""

from __future__ import annotations

from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from pipelines.web.settings import ENVIRONMENT
from pipelines.web.urls import HTTP_SCHEMES, Url


def proxy_for(setting: str | None, url: Url) -> str | None:
    """Returns the proxy of a URL, or None where its host is asked itself."""
    if setting != ENVIRONMENT:
        return setting
    if proxy_bypass(f"{url.host}:{url.port}"):
        return None
    return _named(url.scheme)


def check_proxy(setting: str | None) -> None:
    """Refuses a proxy that cannot be gone through.

    Raises:
        ValueError: says what is expected.
    """
    if setting is None:
        return
    named = [setting] if setting != ENVIRONMENT else map(_named, HTTP_SCHEMES)
    for proxy in filter(None, named):
        try:
            parts = urlsplit(proxy)
            good = parts.scheme in HTTP_SCHEMES and parts.hostname and parts.port != 0
        except ValueError:
            good = False
        if not good:
            raise ValueError(
                "`http_proxy` takes `environment`, or a proxy as http://host:port; got one of "
                f"another form{' in the environment' if setting == ENVIRONMENT else ''}"
            )


def unused_proxy(setting: str | None) -> str | None:
    """Says that the environment names a proxy that is not used; None where there is none."""
    names = [name for name in _NAMES if getproxies().get(name)] if setting is None else []
    if not names:
        return None
    return (
        f"the environment names a proxy ({', '.join(f'{name}_proxy' for name in names)}), which is "
        f"not used for images; pass `http_proxy={ENVIRONMENT!r}` if it is the way out, and it then "
        "decides what may be reached"
    )


def _named(scheme: str) -> str | None:
    """Returns the proxy that the environment names for a scheme; `host:port` is one of http."""
    named = getproxies().get(scheme) or getproxies().get("all")
    return f"http://{named}" if named and "://" not in named else named


_NAMES = (*HTTP_SCHEMES, "all")
