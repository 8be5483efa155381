"""Images over http(s): a local listener that hostile URLs must not reach, and that others may."""

import datetime
import socket
import ssl
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from helpers import make_row
from pipelines.images import http
from pipelines.images.fetch import FetchPolicy, fetch_image
from pipelines.records import RowFault
from pipelines.storage.retries import RetryPolicy
from schemas.rejects import Reason

RETRIES = RetryPolicy(attempts=3, backoff_s=0)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.server.hits.append(self.path)
        answer = self.server.answers.get(self.path.partition("?")[0], (404, {}, b""))
        status, headers, body = answer.pop(0) if isinstance(answer, list) else answer
        self.send_response_only(status)
        length = {} if callable(body) else {"Content-Length": str(len(body))}
        for name, value in (length | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if callable(body):
            body(self)
        else:
            self.wfile.write(body)
        self.close_connection = True

    def log_message(self, format, *args):
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    address_family = socket.AF_INET

    def handle_error(self, request, client_address):
        """A client that hangs up is part of the tests."""


@pytest.fixture
def server():
    server = Server(("0.0.0.0", 0), Handler)
    server.hits, server.answers = [], {"/a.png": (200, {}, b"image")}
    server.port = server.server_address[1]
    server.root = f"http://127.0.0.1:{server.port}/"
    threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def loopback_allowed(monkeypatch):
    monkeypatch.setattr(http, "is_public", lambda address: True)


def fetch(url, *allowed, max_bytes=1000):
    policy = FetchPolicy(allowed=allowed, max_bytes=max_bytes, retries=RETRIES)
    return fetch_image(make_row(url=url), policy)


def fault_of(url, *allowed, **settings):
    with pytest.raises(RowFault) as fault:
        fetch(url, *allowed, **settings)
    return fault.value


# Spellings of this host and of the addresses that clouds keep credentials at; `{p}` is the port.
HOSTILE_HOSTS = [
    "127.0.0.1",
    "127.1",
    "127.0.1",
    "2130706433",
    "0x7f000001",
    "0x7f.0.0.1",
    "0x7f.1",
    "017700000001",
    "0177.0.0.1",
    "0177.0.0.01",
    "127.000.000.001",
    "127.255.255.254",
    "127.0.0.1.",
    "localhost",
    "LOCALHOST",
    "localhost.",
    "0.0.0.0",
    "0",
    "0x0",
    "[::1]",
    "[::]",
    "[0:0:0:0:0:0:0:1]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[::ffff:0:0]",
    "[::127.0.0.1]",
    "[64:ff9b::127.0.0.1]",
    "[64:ff9b::7f00:1]",
    "[2002:7f00:1::]",
    "[fe80::1]",
    "[fe80::1%25lo]",
    "[fec0::1]",
    "[fc00::1]",
    "[ff02::1]",
    "169.254.169.254",
    "2852039166",
    "0xa9fea9fe",
    "0251.0376.0251.0376",
    "169.254.43518",
    "[::ffff:169.254.169.254]",
    "[::ffff:a9fe:a9fe]",
    "[fd00:ec2::254]",
    "10.0.0.1",
    "172.16.0.1",
    "192.168.0.1",
    "100.64.0.1",
    "198.18.0.1",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "①②⑦.⓪.⓪.①",
    "127。0。0。1",
    "%31%32%37.0.0.1",
]
HOSTILE_URLS = [f"http://{host}:{{p}}/a.png" for host in HOSTILE_HOSTS] + [
    "http://127.0.0.1:{p}\\@example.com/a.png",
    "http://example.com@127.0.0.1:{p}/a.png",
    "http://user:secret@127.0.0.1:{p}/a.png",
    "http://127.0.0.1:{p}#@example.com/a.png",
    "http://127.0.0.1:{p}?@example.com/a.png",
    "http:127.0.0.1:{p}/a.png",
    "http:///127.0.0.1:{p}/a.png",
    "http://\t127.0.0.1:{p}/a.png",
    "http://127.0.0.1\r\n:{p}/a.png",
    "http://127.0.0.1:{p}/a.png\r\nX-Injected: yes",
    "HTTP://127.0.0.1:{p}/a.png",
    "simplecache::http://127.0.0.1:{p}/a.png",
    "//127.0.0.1:{p}/a.png",
]


@pytest.mark.parametrize("url", HOSTILE_URLS)
def test_hostile_url_reaches_nothing(server, url):
    """Even where the operator allows every host."""
    fault = fault_of(url.format(p=server.port), "http://", f"http://127.0.0.1:{server.port}/")
    assert fault.reason in (Reason.NOT_ALLOWED, Reason.NOT_FOUND)
    assert server.hits == [] and "secret" not in fault.detail


def test_there_are_enough_hostile_urls():
    assert len(set(HOSTILE_URLS)) >= 40


def test_http_is_off_unless_listed(server, loopback_allowed):
    fault = fault_of(server.root + "a.png")
    assert fault.reason is Reason.NOT_ALLOWED
    assert "`--allow_images_from`" in fault.detail
    assert fault_of(server.root + "a.png", "https://").reason is Reason.NOT_ALLOWED
    assert server.hits == []


def test_listed_prefix_is_read(server, loopback_allowed):
    assert fetch(server.root + "a.png", server.root) == b"image"
    assert fetch(server.root.upper() + "a.png", server.root) == b"image"
    server.answers["/a%20b%C3%A9.png"] = (200, {}, b"quoted")
    assert fetch(server.root + "a bé.png?w=1 0", server.root) == b"quoted"
    assert server.hits[-1] == "/a%20b%C3%A9.png?w=1%200"


def test_name_is_resolved_once_and_the_checked_address_is_used(server, monkeypatch):
    """A name that points elsewhere when asked again (DNS rebinding) gains nothing."""
    asked, connected = [], []

    def resolve(host, port, **settings):
        asked.append(host)
        address = "93.184.216.34" if len(asked) == 1 else "127.0.0.1"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    def connect(address, timeout):
        connected.append(address)
        raise TimeoutError

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr(socket, "create_connection", connect)
    assert fault_of("http://rebind.example/a.png", "http://").reason is Reason.NOT_ALLOWED
    assert asked == ["rebind.example"] * 2  # the second attempt met the other address
    assert connected == [("93.184.216.34", 80)]


def test_one_private_address_among_public_ones_spoils_the_host(monkeypatch):
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (a, 80)) for a in ("8.8.8.8", "10.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **settings: found)
    assert fault_of("http://mixed.example/a.png", "http://").reason is Reason.NOT_ALLOWED


def test_redirect_is_checked_like_a_first_request(server, monkeypatch):
    """The first address passes; those it redirects to do not."""
    monkeypatch.setattr(http, "is_public", lambda address: address == "127.0.0.1")
    targets = [
        f"http://127.0.0.2:{server.port}/a.png",
        f"http://2130706434:{server.port}/a.png",
        "http://169.254.169.254/latest/meta-data",
        "https://127.0.0.1/a.png",
        "file:///etc/hostname",
        "gs://bucket/a.png",
        f"//127.0.0.2:{server.port}/a.png",
        f"http://127.0.0.1@127.0.0.2:{server.port}/a.png",
    ]
    for target in targets:
        server.answers["/r"] = (302, {"Location": target}, b"")
        fault = fault_of(server.root + "r", server.root, f"http://127.0.0.2:{server.port}/")
        assert fault.reason is Reason.NOT_ALLOWED, target
    assert set(server.hits) == {"/r"}


def test_redirects_are_followed_within_the_prefix_and_counted(server, loopback_allowed):
    server.answers["/r"] = (301, {"Location": "/in/r"}, b"")
    server.answers["/in/r"] = (307, {"Location": "../a.png"}, b"")
    assert fetch(server.root + "r", server.root) == b"image"
    assert fault_of(server.root + "in/r", server.root + "in/").reason is Reason.NOT_ALLOWED
    server.answers["/loop"] = (302, {"Location": "/loop"}, b"")
    server.hits.clear()
    assert "5 redirects" in fault_of(server.root + "loop", server.root).detail
    assert len(server.hits) == 6


@pytest.mark.parametrize(
    ("status", "reason", "hits"),
    [
        (404, Reason.NOT_FOUND, 1),
        (410, Reason.NOT_FOUND, 1),
        (401, Reason.FORBIDDEN, 1),
        (403, Reason.FORBIDDEN, 1),
        (400, Reason.FETCH_FAILED, 1),
        (204, Reason.FETCH_FAILED, 1),
        (408, Reason.FETCH_FAILED, 3),
        (429, Reason.FETCH_FAILED, 3),
        (500, Reason.FETCH_FAILED, 3),
        (503, Reason.FETCH_FAILED, 3),
    ],
)
def test_status_decides_between_reject_and_another_attempt(
    server, loopback_allowed, status, reason, hits
):
    server.answers["/x"] = (status, {"Content-Length": "0"}, b"")
    fault = fault_of(server.root + "x?token=secret", server.root)
    assert (fault.reason, len(server.hits)) == (reason, hits)
    assert f"HTTP {status}" in fault.detail and "secret" not in fault.detail


def test_short_body_is_read_again(server, loopback_allowed):
    short = (200, {"Content-Length": "7"}, b"pict")
    server.answers["/x"] = [short, short, (200, {}, b"image")]
    assert fetch(server.root + "x", server.root) == b"image"


def test_server_may_ask_for_patience(server, loopback_allowed):
    server.answers["/x"] = [(429, {"Retry-After": "7"}, b""), (503, {}, b""), (200, {}, b"image")]
    waits = []
    policy = FetchPolicy(allowed=(server.root,), retries=RETRIES)
    assert fetch_image(make_row(url=server.root + "x"), policy, sleep=waits.append) == b"image"
    assert waits == [7.0, 0.0]


def test_large_body_is_refused_with_and_without_its_length(server, loopback_allowed):
    server.answers["/x"] = (200, {}, b"x" * 1001)
    assert fault_of(server.root + "x", server.root).reason is Reason.TOO_LARGE
    chunk = b"200\r\n" + b"x" * 512 + b"\r\n"
    server.answers["/y"] = (
        200,
        {"Transfer-Encoding": "chunked", "Content-Length": ""},
        chunk * 3 + b"0\r\n\r\n",
    )
    assert fault_of(server.root + "y", server.root).reason is Reason.TOO_LARGE


def test_packed_body_is_refused(server, loopback_allowed):
    server.answers["/x"] = (200, {"Content-Encoding": "gzip"}, b"\x1f\x8b")
    assert "Content-Encoding" in fault_of(server.root + "x", server.root).detail


class Alarm:
    """A timer that rings when it is told to, and the clock that it goes by."""

    def __init__(self):
        self.now, self.call = 0.0, None

    def __call__(self, seconds, call, arguments):
        self.seconds, self.call = seconds, lambda: call(*arguments)
        return self

    def clock(self):
        return self.now

    def start(self):
        """It waits to be rung."""

    def cancel(self):
        """It would not ring any more."""

    def ring(self):
        self.now += self.seconds
        self.call()


@pytest.mark.parametrize("version", ["HTTP/1.0", "HTTP/1.1"])
@pytest.mark.parametrize("length", ["100", ""])  # without one, the end of the body is its end
@pytest.mark.parametrize("connection", ["close", "keep-alive"])
def test_drip_ends_with_the_time(
    server, loopback_allowed, monkeypatch, version, length, connection
):
    """Each byte comes in time, the whole never does."""
    alarm = Alarm()

    def drip(handler):
        handler.wfile.write(b"xxx")
        alarm.ring()
        handler.rfile.read(1)  # until the reader hangs up

    monkeypatch.setattr(Handler, "protocol_version", version)
    headers = {"Content-Length": length, "Connection": connection}
    server.answers["/x"] = (200, headers, drip)
    with pytest.raises(TimeoutError, match="not done within 60 s"):
        http.read_http(server.root + "x", lambda url: True, 1000, alarm.clock, alarm)
    assert alarm.seconds == http.MAX_SECONDS


def test_server_that_says_nothing_is_left_when_the_time_is_over(
    server, loopback_allowed, monkeypatch
):
    monkeypatch.setattr(http, "MAX_SECONDS", 0.05)
    server.answers["/x"] = (200, {"Content-Length": "1"}, lambda handler: handler.rfile.read(1))
    fault = fault_of(server.root + "x", server.root)
    assert fault.reason is Reason.FETCH_FAILED and "not done within" in fault.detail


@contextmanager
def raw_server(answer):
    listener = socket.create_server(("127.0.0.1", 0))

    def serve():
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            connection.recv(4096)
            connection.sendall(answer)
            connection.close()

    threading.Thread(target=serve, daemon=True).start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
    listener.close()


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"not http at all\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000 + b"\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: http://[::\r\n\r\n",
        b"HTTP/1.1 302 Found\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
def test_broken_server_is_one_reject(loopback_allowed, answer):
    with raw_server(answer) as root:
        assert fault_of(root + "x", root).reason in (Reason.FETCH_FAILED, Reason.NOT_ALLOWED)


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


@pytest.mark.parametrize(
    ("host", "reason"), [("images.example", None), ("other.example", Reason.FETCH_FAILED)]
)
def test_certificate_is_checked_against_the_name_and_not_the_address(
    server, authority, tmp_path, monkeypatch, loopback_allowed, host, reason
):
    certificate, private = authority
    (tmp_path / "pem").write_bytes(certificate + private)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "pem")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    trusting = ssl.create_default_context(cadata=certificate.decode())
    monkeypatch.setattr(http, "_tls_context", lambda: trusting)
    here = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", server.port))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **settings: here)
    root = f"https://{host}:{server.port}/"
    if reason is None:
        assert fetch(root + "a.png", root) == b"image"
    else:
        fault = fault_of(root + "a.png", root)
        assert fault.reason is reason and "CERTIFICATE_VERIFY_FAILED" in fault.detail
        assert server.hits == []
