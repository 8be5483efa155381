"""What comes of an image of the web: redirects, statuses, codings, bounds, and who is asked how."""

import datetime
import gzip
import socket
import ssl
import zlib
from contextlib import contextmanager
from email.utils import formatdate

import pytest
import zstandard

from making import make_row
from pipelines.images.fetch import FetchPolicy, fetch_image
from pipelines.object_stores import retry_after
from pipelines.web import exchange
from pipelines.web.settings import own_user_agent
from schemas.rejects import Reason
from web_server import WebServer

pytestmark = pytest.mark.usefixtures("loopback_allowed")


def test_http_is_off_unless_listed(server, fault_of):
    fault = fault_of(server.root + "a.png")
    assert fault.reason is Reason.NOT_ALLOWED
    assert "`allow_images_from`" in fault.detail
    assert fault_of(server.root + "a.png", "https://").reason is Reason.NOT_ALLOWED
    assert server.hits == []


def test_listed_prefix_is_read(server, fetch):
    assert fetch(server.root + "a.png", server.root) == b"image"
    assert fetch(server.root.upper() + "a.png", server.root) == b"image"
    server.answers["/a%20b%C3%A9%.png"] = (200, {}, b"quoted")
    assert fetch(server.root + "a b%C3%A9%.png?w=1 0", server.root) == b"quoted"
    assert server.hits[-1] == "/a%20b%C3%A9%.png?w=1%200"


def test_ends_of_a_url_and_a_missing_scheme(server, fetch, fault_of):
    for url in (f" {server.root}a.png", f"{server.root}a.png\r\n", f"\t{server.root}a.p\nng\0"):
        assert fetch(url, server.root) == b"image"
    row = make_row(url=server.root.removeprefix("http:") + "a.png", image_root=server.root)
    assert fetch_image(row, FetchPolicy()) == b"image"
    fault = fault_of("//host.example/a.png", "http://")
    assert "does not allow https://host.example/" in fault.detail
    assert "unless `https:` is missing" in fault_of("//host.example/a.png").detail


def test_path_with_two_slashes_stays_a_path_where_its_folder_is_allowed(tmp_path):
    (tmp_path / "a.png").write_bytes(b"local")
    row = make_row(url=f"/{tmp_path}/a.png", image_root=str(tmp_path))
    assert fetch_image(row, FetchPolicy(("https://",))) == b"local"


def test_redirects_are_followed_within_the_prefix_and_counted(server, fetch, fault_of):
    server.answers["/r"] = (301, {"Location": "/in/r"}, b"")
    server.answers["/in/r"] = (307, {"Location": "../a.png"}, b"")
    assert fetch(server.root + "r", server.root) == b"image"
    fault = fault_of(server.root + "in/r", server.root + "in/")
    assert (
        fault.reason is Reason.NOT_ALLOWED and f"redirected to {server.root[:-1]}" in fault.detail
    )
    server.answers["/loop"] = (302, {"Location": "/loop"}, b"")
    server.hits.clear()
    fault = fault_of(server.root + "loop", server.root)
    assert fault.reason is Reason.FETCH_FAILED and "more than 10 redirects" in fault.detail
    assert len(server.hits) == 11
    server.answers["/none"] = (302, {}, b"")
    fault = fault_of(server.root + "none", server.root)
    assert fault.reason is Reason.FETCH_FAILED and "names no target" in fault.detail


@pytest.mark.parametrize(
    ("location", "path"),
    [
        ("/bilder/äpfel.jpg".encode(), "/bilder/%C3%A4pfel.jpg"),
        (b"/caf\xe9.jpg", "/caf%E9.jpg"),
        (b"/b%20c.jpg", "/b%20c.jpg"),
        (b" /b c.jpg ", "/b%20c.jpg"),
        (b"?w=1", "/r?w=1"),
    ],
)
def test_target_is_asked_for_as_its_bytes_say(server, fetch, location, path):
    head = b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: "
    server.answers["/r"] = [head + location + b"\r\n\r\n", (200, {}, b"image")]
    server.answers[path] = (200, {}, b"image")
    assert fetch(server.root + "r", server.root) == b"image"
    assert server.hits == ["/r", path]


def test_cookies_live_in_one_chain(server, fetch):
    server.answers["/r"] = (302, {"Location": "/s", "Set-Cookie": ["a=1", "b=2; Path=/"]}, b"")
    server.answers["/s"] = (302, {"Location": "/a.png", "Set-Cookie": "a=3"}, b"")
    for _ in range(2):
        assert fetch(server.root + "r", server.root) == b"image"
    assert [heard.get("Cookie") for heard in server.heard] == [None, "a=1; b=2", "a=3; b=2"] * 2


@pytest.mark.parametrize(
    ("status", "reason", "hits"),
    [
        (404, Reason.NOT_FOUND, 1),
        (410, Reason.NOT_FOUND, 1),
        (401, Reason.FORBIDDEN, 1),
        (403, Reason.FORBIDDEN, 1),
        (400, Reason.FETCH_FAILED, 1),
        (204, Reason.FETCH_FAILED, 1),
        (304, Reason.FETCH_FAILED, 1),
        (408, Reason.FETCH_FAILED, 3),
        (429, Reason.FETCH_FAILED, 3),
        (500, Reason.FETCH_FAILED, 3),
        (503, Reason.FETCH_FAILED, 3),
    ],
)
def test_status_decides_between_reject_and_another_attempt(server, fault_of, status, reason, hits):
    server.answers["/x"] = (status, {"Content-Length": "0"}, b"")
    fault = fault_of(server.root + "x?token=secret", server.root)
    assert (fault.reason, len(server.hits)) == (reason, hits)
    assert f"127.0.0.1: HTTP {status}" in fault.detail and "secret" not in fault.detail


@pytest.mark.parametrize("status", [200, 201, 203])
def test_success_is_an_image(server, fetch, status):
    server.answers["/x"] = (status, {}, b"image")
    assert fetch(server.root + "x", server.root) == b"image"


def test_interim_answers_are_read_past(server, fetch):
    interim = b"".join(b"HTTP/1.1 %d Soon\r\nLink: </a.css>\r\n\r\n" % n for n in (100, 103, 102))
    server.answers["/x"] = interim + b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nimage"
    assert fetch(server.root + "x", server.root) == b"image"


def test_short_body_is_read_again(server, fetch):
    short = (200, {"Content-Length": "7"}, b"pict")
    server.answers["/x"] = [short, short, (200, {}, b"image")]
    assert fetch(server.root + "x", server.root) == b"image"


def test_large_body_is_refused_with_and_without_its_length(server, fault_of):
    server.answers["/x"] = (200, {}, b"x" * 1001)
    fault = fault_of(server.root + "x", server.root)
    assert fault.reason is Reason.TOO_LARGE and "1001 bytes, more than 1000" in fault.detail
    chunk = b"200\r\n" + b"x" * 512 + b"\r\n"
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    server.answers["/y"] = head + chunk * 3 + b"0\r\n\r\n"
    assert fault_of(server.root + "y", server.root).reason is Reason.TOO_LARGE


def test_body_without_a_length_is_read_to_its_end(server, fetch):
    body = bytes(range(256)) * 10_000  # more than the room that is taken at first
    server.answers["/x"] = b"HTTP/1.0 200 OK\r\n\r\n" + body
    assert fetch(server.root + "x", server.root, max_bytes=len(body)) == body


IMAGE = b"\xff\xd8\xff" + bytes(500)
BARE = zlib.compressobj(wbits=-15)


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        *((name, IMAGE) for name in ("", "utf-8", "aws-chunked", "none", "binary", "identity")),
        *((name, IMAGE) for name in ("gzip", "deflate", "zstd", "br", "UTF-8, gzip")),  # a lie
        ("GZIP;q=1.0", gzip.compress(IMAGE)),
        ('"gzip"', gzip.compress(IMAGE)),
        ("gzip", gzip.compress(IMAGE)),
        ("x-gzip", gzip.compress(IMAGE)),
        ("aws-chunked,gzip", gzip.compress(IMAGE)),
        ("gzip", gzip.compress(IMAGE[:100]) + gzip.compress(IMAGE[100:])),
        ("gzip, gzip", gzip.compress(gzip.compress(IMAGE))),
        ("deflate", zlib.compress(IMAGE)),
        ("deflate", BARE.compress(IMAGE) + BARE.flush()),
        ("zstd", zstandard.compress(IMAGE)),
    ],
    ids=range(21),
)
def test_codings_are_undone_and_what_is_none_is_left(server, fetch, coding, body):
    server.answers["/x"] = (200, {"Content-Encoding": coding}, body)
    assert fetch(server.root + "x", server.root) == IMAGE


@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress, zstandard.compress])
def test_body_is_unpacked_within_the_bound(server, fault_of, pack):
    coding = {gzip.compress: "gzip", zlib.compress: "deflate"}.get(pack, "zstd")
    server.answers["/x"] = (200, {"Content-Encoding": coding}, pack(bytes(1_000_000)))
    fault = fault_of(server.root + "x", server.root, max_bytes=10_000)
    assert fault.reason is Reason.TOO_LARGE and "unpacked" in fault.detail


def test_body_that_cannot_be_unpacked_is_no_matter_of_permission(server, fault_of):
    server.answers["/x"] = (200, {"Content-Encoding": "gzip"}, gzip.compress(IMAGE)[:-9])
    server.answers["/y"] = (200, {"Content-Encoding": "br"}, b"packed")
    for path, said in (("x", "cannot be unpacked"), ("y", "Content-Encoding br is not unpacked")):
        fault = fault_of(server.root + path, server.root)
        assert fault.reason is Reason.FETCH_FAILED and said in fault.detail


@pytest.mark.parametrize(
    ("tags", "disallowed", "told"),
    [
        ("noai", None, "noai"),
        ("NoIndex, NOIMAGEAI", None, "noindex"),
        (["noarchive", "noimageindex"], None, "noimageindex"),
        ("none", None, "none"),
        ("*: noai", None, "noai"),
        ("clip-beam: noai", None, "noai"),
        ("googlebot: nofollow, clip-beam: noai", None, "noai"),
        ("max-snippet: 20, noai", None, "noai"),
        ("noarchive; noai", None, "noai"),
        ("clip-beam/1.0: noai", None, "noai"),
        ("unavailable_after: Wed, 25 Jun 2030 15:00:00 GMT, noai", None, "noai"),
        ("googlebot: noai, noindex", None, None),
        ("noarchive, max-image-preview: large", None, None),
        ("noai", (), None),
        ("noarchive", ("noarchive",), "noarchive"),
        ("noai", ("noarchive",), None),
    ],
)
def test_who_publishes_may_say_no(server, fetch, fault_of, tags, disallowed, told):
    server.answers["/x"] = (200, {"X-Robots-Tag": tags}, b"image")
    settings = {} if disallowed is None else {"disallowed": disallowed}
    if told is None:
        assert fetch(server.root + "x", server.root, **settings) == b"image"
        return
    fault = fault_of(server.root + "x", server.root, **settings)
    assert fault.reason is Reason.OPTED_OUT and f"X-Robots-Tag {told}" in fault.detail


def test_request_says_who_asks_and_no_more(server, fetch):
    fetch(server.root + "a.png", server.root)
    fetch(server.root + "a.png", server.root, user_agent="lab/1 (mailto:me@example.org)")
    assert [set(heard) for heard in server.heard] == [
        {"Host", "User-Agent", "Accept", "Accept-Encoding"}
    ] * 2
    said = [heard["User-Agent"] for heard in server.heard]
    assert said == [own_user_agent(), f"lab/1 (mailto:me@example.org) {own_user_agent()}"]
    assert said[0].startswith("clip-beam/") and "(+https://" in said[0]


@pytest.mark.parametrize("form", ["fixdate", "rfc850", "asctime", "seconds"])
def test_server_may_ask_for_patience_in_every_form(form):
    now = 784_111_777.0  # Sun, 06 Nov 1994 08:49:37 GMT
    until = {
        "fixdate": "Sun, 06 Nov 1994 08:49:44 GMT",
        "rfc850": "Sunday, 06-Nov-94 08:49:44 GMT",
        "asctime": "Sun Nov  6 08:49:44 1994",
        "seconds": "7",
    }[form]
    assert retry_after.asked_s({"Retry-After": until, "Date": formatdate(now, usegmt=True)}) == 7
    assert retry_after.asked_s({"Retry-After": until}, now) == 7
    for nothing in ("", "soon", "-1", "Sun, 06 Nov"):
        assert retry_after.asked_s({"Retry-After": nothing}, now) == 0


@contextmanager
def https_server(tmp_path, certificate, private):
    (tmp_path / "pem").write_bytes(certificate + private)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "pem")
    server = WebServer()
    server.socket = context.wrap_socket(server.socket, server_side=True)
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def authority():
    """A certificate of `images.example`, signed by itself."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "images.example")])
    now = datetime.datetime.now(datetime.timezone.utc)
    names = x509.SubjectAlternativeName([x509.DNSName("images.example")])
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - datetime.timedelta(days=1))
    builder = builder.not_valid_after(now + datetime.timedelta(days=1)).add_extension(names, False)
    certificate = builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return certificate, private


@pytest.fixture
def trusted(authority, monkeypatch):
    """The authority is trusted, and every name is one of this machine."""
    trusting = ssl.create_default_context(cadata=authority[0].decode())
    monkeypatch.setattr(exchange, "tls_context", lambda: trusting)
    here = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **settings: here)
    return authority


@pytest.mark.parametrize(
    ("host", "reason"), [("images.example", None), ("other.example", Reason.FETCH_FAILED)]
)
def test_certificate_is_checked_against_the_name_and_not_the_address(
    trusted, tmp_path, fetch, fault_of, host, reason
):
    with https_server(tmp_path, *trusted) as server:
        root = f"https://{host}:{server.port}/"
        if reason is None:
            assert fetch(root + "a.png", root) == b"image"
        else:
            fault = fault_of(root + "a.png", root)
            assert fault.reason is reason and "CERTIFICATE_VERIFY_FAILED" in fault.detail
            assert server.hits == []


def test_http_that_is_allowed_includes_its_own_https_and_not_the_other_way(
    trusted, tmp_path, server, fetch, fault_of
):
    with https_server(tmp_path, *trusted) as secure:
        to = f"https://images.example:{secure.port}/a.png"
        server.answers["/r"] = (308, {"Location": to}, b"")
        http = f"http://images.example:{server.port}/"
        twin = f"http://images.example:{secure.port}/"
        assert fetch(http + "r", http, twin) == b"image"
        secure.answers["/on"] = (301, {"Location": "/a.png"}, b"")
        server.answers["/on"] = (301, {"Location": to.replace("a.png", "on")}, b"")
        assert fetch(http + "on", http, twin) == b"image"
        fault = fault_of(http + "r", http)
        assert f"redirected to https://images.example:{secure.port}/" in fault.detail
        secure.answers["/r"] = (308, {"Location": http + "a.png"}, b"")
        tls = f"https://images.example:{secure.port}/"
        assert fault_of(tls + "r", tls).reason is Reason.NOT_ALLOWED


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"not http at all\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 20_000 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000 + b"\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: http://[::\r\n\r\n",
        b"HTTP/1.1 302 Found\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nimage",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n",
    ],
    ids=range(9),
)
def test_broken_server_is_one_reject(server, fault_of, answer):
    server.answers["/x"] = answer
    fault = fault_of(server.root + "x", server.root)
    assert fault.reason in (Reason.FETCH_FAILED, Reason.NOT_ALLOWED)
