"""A server of this machine whose answers a test writes down, and hosts that take no connection."""

import socket
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Handler(BaseHTTPRequestHandler):
    """Answers as `server.answers` says, by path: status, headers, body; a list of these, one after
    the other; or bytes that are sent as they are. A body may be a function of the handler."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.server.hits.append(self.path)
        self.server.heard.append(dict(self.headers))
        if raw := self.server.raw.get(self.path.partition("?")[0]):
            self.close_connection = True
            return raw(self)
        answer = self.server.answers.get(self.path.partition("?")[0], (404, {}, b""))
        answer = answer.pop(0) if isinstance(answer, list) else answer
        self.close_connection = True
        if isinstance(answer, bytes):
            self.wfile.write(answer)
            return
        status, headers, body = answer
        self.send_response_only(status)
        length = {} if callable(body) else {"Content-Length": str(len(body))}
        for name, value in (length | headers).items():
            for one in value if isinstance(value, list) else [value]:
                self.send_header(name, one)
        self.end_headers()
        if callable(body):
            body(self)
        else:
            self.wfile.write(body)

    def log_message(self, format, *args):
        pass


class WebServer(ThreadingHTTPServer):
    """Listens on every IPv4 address.

    Attributes:
        hits: paths that were asked for.
        heard: headers of these requests.
        raw: functions of the handler that answer, by path.
        ended: set when the test is over.
        root: its URL.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self):
        super().__init__(("0.0.0.0", 0), Handler)
        self.ended = threading.Event()
        self.reset()
        self.port = self.server_address[1]
        self.root = f"http://127.0.0.1:{self.port}/"
        threading.Thread(target=self.serve_forever, args=[0.01], daemon=True).start()

    def reset(self):
        """Forgets what was asked, and has one image."""
        self.ended.set()
        self.hits, self.heard, self.raw, self.ended = [], [], {}, threading.Event()
        self.answers = {"/a.png": (200, {}, b"image")}

    def handle_error(self, request, client_address):
        """A client that hangs up is part of the tests."""


@contextmanager
def dead_host():
    """Yields the port of 127.0.0.1 that takes no connection, as behind a firewall."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        waiting = [socket.socket() for _ in range(4)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]
        for one in waiting:
            one.close()
