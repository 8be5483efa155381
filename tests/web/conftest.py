"""A server of this machine, and images that are fetched from it as rows are."""

import pytest

from making import make_row
from pipelines.images.fetch import FetchPolicy, fetch_image
from pipelines.records import RowFault
from pipelines.web import fetching, guard
from pipelines.web.settings import Bounds, WebSettings
from web_server import WebServer

QUICK = Bounds(
    connect_s=0.3, last_connect_s=0.2, silent_s=3, whole_s=20, later_s=20, attempts=3, backoff_s=0
)


@pytest.fixture(scope="session")
def web_server():
    server = WebServer()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def server(web_server):
    web_server.reset()
    return web_server


@pytest.fixture
def anew():
    """Lets this test know nothing of hosts that others asked."""
    fetching._new_web.cache_clear()
    yield
    fetching._new_web.cache_clear()


@pytest.fixture
def loopback_allowed(monkeypatch, anew):
    monkeypatch.setattr(guard, "is_public", lambda address: True)


@pytest.fixture
def fetch():
    """Returns what fetches an image where prefixes allow it."""

    def fetched(url, *allowed, max_bytes=1000, bounds=QUICK, **settings):
        web = WebSettings(bounds=bounds, **settings)
        policy = FetchPolicy(allowed, max_bytes=max_bytes, web=web)
        return fetch_image(make_row(url=url), policy)

    return fetched


@pytest.fixture
def fault_of(fetch):
    """Returns what fetches an image that cannot be had, and tells why."""

    def fault(url, *allowed, **settings):
        with pytest.raises(RowFault) as found:
            fetch(url, *allowed, **settings)
        return found.value

    return fault
