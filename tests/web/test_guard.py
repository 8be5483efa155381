"""A listener of this machine that hostile URLs, redirects, names and proxies must not reach."""

import asyncio
import socket

import pytest

import hostile
from pipelines.web import guard
from pipelines.web.guard import Guard
from pipelines.web.urls import RefusedURL
from schemas.rejects import Reason


def is_refusal(fault):
    """Some systems know no `localhost.`"""
    reasons = (Reason.NOT_ALLOWED, Reason.NOT_FOUND)
    return fault.reason in reasons or "there is no such host" in fault.detail


@pytest.mark.parametrize("url", hostile.URLS)
def test_hostile_url_reaches_nothing(server, fault_of, url):
    """Even where the operator allows every host, and this one."""
    url = url.format(p=server.port)
    here = f"http://127.0.0.1:{server.port}/"
    fault = fault_of(url, "http://", "https://", here, url.rpartition("/")[0] + "/")
    assert is_refusal(fault)
    assert server.hits == [] and "secret" not in fault.detail


def test_there_are_enough_hostile_urls_and_redirects():
    assert len(set(hostile.URLS)) + len(set(hostile.TARGETS)) + len(hostile.ANSWERS) >= 300


def resolving(monkeypatch, *answers):
    """Makes the system's resolver answer so, one after the other; returns what it is asked."""
    asked, left = [], list(answers)

    def resolve(host, port, **settings):
        asked.append(host)
        addresses = left.pop(0) if len(left) > 1 else left[0]
        return [(0, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    return asked


@pytest.mark.parametrize("addresses", hostile.ANSWERS, ids=str)
def test_name_with_a_private_address_reaches_nothing(
    server, fault_of, anew, monkeypatch, addresses
):
    """One private address among public ones spoils the host."""
    resolving(monkeypatch, addresses)
    root = f"http://name.example:{server.port}/"
    assert fault_of(root + "a.png", "http://", root).reason is Reason.NOT_ALLOWED
    assert server.hits == []


@pytest.fixture
def connected(monkeypatch):
    """Addresses that sockets were asked for, none of which answers."""
    seen = []
    real = Guard.socket_for

    def note(self, info):
        real(self, info).close()
        seen.append(info[4][0])
        raise TimeoutError

    monkeypatch.setattr(Guard, "socket_for", note)
    return seen


def test_name_is_resolved_once_and_the_checked_address_is_used(
    server, fault_of, anew, monkeypatch, connected
):
    """A name that points elsewhere when asked again (DNS rebinding) gains nothing."""
    asked = resolving(monkeypatch, ["93.184.216.34"], ["127.0.0.1"])
    root = f"http://rebind.example:{server.port}/"
    assert fault_of(root + "a.png", root).reason is Reason.FETCH_FAILED
    assert asked == ["rebind.example"] and set(connected) == {"93.184.216.34"}
    monkeypatch.setattr(guard, "KEPT_S", -1)
    resolving(monkeypatch, ["93.184.216.34"], ["127.0.0.1"])
    fault = fault_of(root.replace("rebind", "again") + "a.png", root.replace("rebind", "again"))
    assert fault.reason is Reason.NOT_ALLOWED and set(connected) == {"93.184.216.34"}
    assert server.hits == []


def test_socket_looks_at_the_address_once_more():
    looking = Guard()
    for address in ("127.0.0.1", "169.254.169.254", "::1", "::ffff:10.0.0.1", "64:ff9b::a00:1"):
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with pytest.raises(RefusedURL, match="not on the public network"):
            looking.socket_for((family, socket.SOCK_STREAM, 6, "", (address, 80)))
    looking.socket_for((socket.AF_INET, socket.SOCK_STREAM, 6, "", ("8.8.8.8", 80))).close()


@pytest.mark.parametrize("target", hostile.TARGETS)
def test_redirect_is_checked_like_a_first_request(server, fault_of, monkeypatch, target):
    """The first host passes, as the operator says; those it sends on to do not."""
    real = socket.getaddrinfo
    here = [(0, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0))]
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda host, *a, **k: here if host == "own" else real(host, *a, **k)
    )
    own, to = f"http://own:{server.port}/", target.format(p=server.port)
    head = b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: "
    server.answers["/r"] = head + to.encode() + b"\r\n\r\n"
    roots = [own, to.rpartition("/")[0] + "/", "http://", "https://"]
    fault = fault_of(own + "r", *roots, private=(own,))
    assert is_refusal(fault), target
    assert set(server.hits) == {"/r"}


def test_proxy_of_the_environment_and_alternative_services_lead_nowhere(
    server, fetch, fault_of, monkeypatch
):
    here = f"http://127.0.0.1:{server.port}"
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, here)
    for url in ("http://10.0.0.1/a.png", "https://169.254.169.254/a.png"):
        assert fault_of(url, "http://", "https://").reason is Reason.NOT_ALLOWED
    monkeypatch.setattr(guard, "is_public", lambda address: address == "127.0.0.1")
    other = f'h2="127.0.0.2:{server.port}"; ma=86400, http/1.1="127.0.0.2:{server.port}"'
    server.answers["/a.png"] = (200, {"Alt-Svc": other}, b"image")
    assert [fetch(server.root + "a.png", server.root) for _ in range(2)] == [b"image"] * 2
    assert {heard["Host"] for heard in server.heard} == {f"127.0.0.1:{server.port}"}


def test_private_host_that_the_operator_names_is_asked_under_its_prefix_only(
    server, fetch, fault_of, anew, monkeypatch
):
    server.answers["/in/a.png"] = (200, {}, b"mine")
    private = (server.root + "in/",)
    assert fetch(server.root + "in/a.png", *private, private=private) == b"mine"
    for url in (server.root + "a.png", f"http://127.0.0.2:{server.port}/in/a.png"):
        fault = fault_of(url, "http://", server.root, private[0], private=private)
        assert fault.reason is Reason.NOT_ALLOWED
    resolving(monkeypatch, ["127.0.0.1"])  # another's name for the same host
    root = f"http://other.example:{server.port}/"
    assert fault_of(root + "in/a.png", root, private=private).reason is Reason.NOT_ALLOWED
    assert server.hits == ["/in/a.png"]
    own = (root + "in/",)
    assert fetch(root + "in/a.png", root, private=own) == b"mine"


@pytest.mark.parametrize("address", ["169.254.169.254", "fd00:ec2::254", "0.0.0.0", "fe80::1"])
def test_metadata_of_clouds_stays_refused(anew, monkeypatch, address):
    resolving(monkeypatch, [address])
    looking = Guard(private=("http://meta.example/",))
    with pytest.raises(RefusedURL, match="meta.example is not on the public network"):
        asyncio.run(looking.resolve("meta.example"))


def test_answers_of_the_resolver_are_kept_for_their_time(monkeypatch):
    now = [0.0]
    looking = Guard(clock=lambda: now[0])
    asked = resolving(monkeypatch, ["8.8.8.8"])

    async def ask():
        await asyncio.gather(*[looking.resolve("kept.example") for _ in range(5)])

    for moment, times in ((0.0, 1), (guard.KEPT_S - 1, 1), (guard.KEPT_S + 1, 2)):
        now[0] = moment
        asyncio.run(ask())
        assert len(asked) == times


def test_name_that_is_not_there_is_kept_and_one_that_fails_for_now_is_not(monkeypatch):
    looking, asked = Guard(), []

    def resolve(host, port, **settings):
        asked.append(host)
        code = socket.EAI_NONAME if host == "none.example" else socket.EAI_AGAIN
        raise socket.gaierror(code, "as it is")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)

    async def ask():
        for host in ("none.example", "later.example") * 2:
            with pytest.raises(socket.gaierror):
                await looking.resolve(host)

    asyncio.run(ask())
    assert asked == ["none.example", "later.example", "later.example"]
