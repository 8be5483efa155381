"""Proxies of the operator's and of the environment, and what comes of those that fail."""

import socket

import pytest

from pipelines.web import guard
from schemas.rejects import Reason

pytestmark = pytest.mark.usefixtures("loopback_allowed")


def test_proxy_is_gone_through_where_the_operator_says_so(server, fetch, fault_of, monkeypatch):
    server.answers["http://far.example/a.png"] = (200, {}, b"by proxy")
    url, proxy = "http://far.example/a.png", server.root
    assert fetch(url, "http://", proxy=proxy) == b"by proxy"
    monkeypatch.setenv("http_proxy", proxy)
    monkeypatch.setenv("no_proxy", "near.example")
    assert fetch(url, "http://", proxy="environment") == b"by proxy"
    assert (
        "no such host" in fault_of("http://near.example/a.png", "http://", proxy=proxy).detail
        or server.hits[-1] == "http://near.example/a.png"
    )
    monkeypatch.setattr(guard, "is_public", lambda address: False)
    fault = fault_of("http://10.0.0.1/a.png", "http://", proxy=proxy)
    assert fault.reason is Reason.NOT_ALLOWED


@pytest.mark.parametrize("name", ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"])
@pytest.mark.parametrize(
    "form", ["http://127.0.0.1:{p}", "127.0.0.1:{p}", "http://u:p@127.0.0.1:{p}/"]
)
def test_proxy_of_the_environment_in_its_forms(server, fetch, monkeypatch, name, form):
    for other in ("http_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(other, raising=False)
        monkeypatch.delenv(other.upper(), raising=False)
    monkeypatch.setenv(name, form.format(p=server.port))
    server.answers["http://far.example/a.png"] = (200, {}, b"by proxy")
    assert fetch("http://far.example/a.png", "http://", proxy="environment") == b"by proxy"
    assert ("Proxy-Authorization" in server.heard[0]) is ("@" in form)


def test_proxy_that_cannot_be_gone_through_is_named(server, fault_of):
    fault = fault_of("https://far.example/a.png", "https://", proxy=server.root)
    assert "far.example: HTTP 501 of the proxy" in fault.detail
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        proxy = f"http://127.0.0.1:{closed.getsockname()[1]}"
        fault = fault_of("http://far.example/a.png", "http://", proxy=proxy)
    assert "far.example: no connection to the proxy (ECONNREFUSED)" in fault.detail


def test_empty_proxy_is_none_and_opens_nothing(server, fetch, fault_of, monkeypatch):
    assert fetch(f"{server.root}a.png", server.root, proxy="") == b"image"
    monkeypatch.setattr(guard, "is_public", lambda address: False)
    monkeypatch.setattr(guard, "is_literal", lambda host: False)  # as a name that leads there
    fault = fault_of(f"{server.root}a.png", server.root, proxy="")
    assert fault.reason is Reason.NOT_ALLOWED
    assert len(server.hits) == 1
