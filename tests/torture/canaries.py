"""Asks for hostile images in a network where every address is this machine; prints what was reached.

Run it under `unshare -Urn`. Each address, private or public, of IPv4 or IPv6, leads to one listener,
which answers every request with an image, or sends it on as its query says; so whatever the guard
lets through is reached. Printed are the addresses that were, and what came of the images.
"""

import asyncio
import fcntl
import json
import socket
import struct
import threading
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote, unquote, unquote_to_bytes

import hostile
from making import make_row
from pipelines.images.fetch import FetchPolicy, fetch_image
from pipelines.records import RowFault
from pipelines.web import guard
from pipelines.web.settings import Bounds, WebSettings

PORT, PROXY_PORT, TLS_PORT = 8080, 3128, 443
OWN, OWN_SIX, ULA = "93.184.216.34", "2606:4700::1111", "fd00::5"
QUICK = Bounds(connect_s=2, last_connect_s=1, silent_s=2, whole_s=5, attempts=1, backoff_s=0)
LURES = [
    f'Alt-Svc: http/1.1="10.0.0.9:{PORT}", h2="[fd00::9]:{PORT}"; ma=86400; persist=1',
    f"Refresh: 0; url=http://10.0.0.9:{PORT}/a.png",
    f"Content-Location: http://10.0.0.9:{PORT}/a.png",
    f"Link: <http://10.0.0.9:{PORT}/a.png>; rel=preload; as=image",
]
# Names, and what each look-up of them says, the last one from then on.
NAMES = {
    "own.example": [[OWN]],
    "six.example": [[OWN_SIX]],
    "localhost": [["127.0.0.1", "::1"]],
    **{f"bad-{n}.example": [answer] for n, answer in enumerate(hostile.ANSWERS)},
    **{
        f"turns-{n}.example": [[OWN], answer, [OWN_SIX], answer]
        for n, answer in enumerate(hostile.ANSWERS)
    },
}


def make_every_address_local() -> None:
    """Brings the loopback device up, and routes all of IPv4 and IPv6 to this machine."""
    with socket.socket() as control:
        flags = struct.unpack("16sh", fcntl.ioctl(control, 0x8913, struct.pack("16sh", b"lo", 0)))
        fcntl.ioctl(control, 0x8914, struct.pack("16sh", b"lo", flags[1] | 1))
    for family, scope in ((socket.AF_INET, 254), (socket.AF_INET6, 0)):
        # struct rtmsg: a local route in the table `local`; then the device, which is the first.
        route = struct.pack("=8BIHHI", family, 0, 0, 0, 255, 4, scope, 2, 0, 8, 4, 1)
        head = struct.pack("=IHHII", 16 + len(route), 24, 0x405, 1, 0)
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as kernel:
            kernel.send(head + route)
            if failed := -struct.unpack_from("=i", kernel.recv(4096), 16)[0]:
                raise OSError(failed, "no route")


class Canaries:
    """Listens at every address; `reached` holds those of this machine that were connected to."""

    def __init__(self) -> None:
        self.reached: set[str] = set()
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        for port in (PORT, PROXY_PORT, TLS_PORT, 80):
            listener = socket.create_server(
                ("::", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=500
            )
            serving = asyncio.start_server(self._talk, sock=listener)
            asyncio.run_coroutine_threadsafe(serving, self._loop).result()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reached.add(writer.get_extra_info("sockname")[0].removeprefix("::ffff:"))
        try:
            line = await reader.readline()
            if b" HTTP/" in line:  # what is left unread when it closes would undo the answer
                await reader.readuntil(b"\r\n\r\n")
            _, _, to = line.split(b" ")[1].partition(b"?to=")
            moved = [b"Location: " + unquote_to_bytes(to)] if to else []
            lines = [b"HTTP/1.1 302 Found" if to else b"HTTP/1.1 200 OK", *moved]
            lines += [lure.encode() for lure in LURES]
            # It does close, and a client that counted on the connection would be cut off.
            lines += [b"Connection: close", b"Content-Length: 5", b"", b"image"]
            writer.write(b"\r\n".join(lines))
            await writer.drain()
        except (IndexError, OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


def resolve(host, port, *args, **settings):
    """Stands in for the resolver of the system, which reads numbers as well."""
    if host in NAMES:
        left = NAMES[host]
        addresses = left.pop(0) if len(left) > 1 else left[0]
        return [(0, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]
    settings["flags"] = socket.AI_NUMERICHOST
    return system_resolver(host, port, *args, **settings)


def outcome(url: str, private: tuple[str, ...] = ()) -> str:
    """Returns `image`, or the reason for which there is none, where every prefix is allowed."""
    ends = (url, unquote(url.partition("?to=")[2]))
    roots = ("http://", "https://", *(end.rpartition("/")[0] + "/" for end in ends))
    web = WebSettings(bounds=QUICK, private=private)
    try:
        return fetch_image(make_row(url=url), FetchPolicy(roots, web=web)).decode()
    except RowFault as fault:
        return f"{fault.reason.value}: {fault.detail}"


def main() -> None:
    """Asks for all, side by side."""
    canaries = Canaries()
    root = f"http://own.example:{PORT}/"
    urls = [url.format(p=PORT) for url in hostile.URLS]
    urls += [f"http://{name}:{PORT}/a.png" for name in NAMES if name.startswith("bad-")]
    targets = [target.format(p=PORT) for target in hostile.TARGETS]
    targets += [f"http://{name}:{PORT}/a.png" for name in NAMES if name.startswith("bad-")]
    redirects = [f"{root}r?to={quote(target, safe='')}" for target in targets]
    turning = [f"http://{name}:{PORT}/a.png" for name in NAMES if name.startswith("turns-")]
    good = [root + "a.png", f"http://six.example:{PORT}/a.png"] * 2
    with ThreadPoolExecutor(32) as pool:
        told = {
            "hostile": dict(zip(urls, pool.map(outcome, urls), strict=True)),
            "redirects": dict(zip(redirects, pool.map(outcome, redirects), strict=True)),
            "good": list(pool.map(outcome, good)),
            "turning": [list(pool.map(outcome, turning)) for _ in range(4)],
        }
    told["reached"] = sorted(canaries.reached)
    own = f"http://[{ULA}]:{PORT}/"
    told["private"] = outcome(own + "a.png", (own,))
    told["reached with it"] = sorted(canaries.reached)
    print(json.dumps(told))


if __name__ == "__main__":
    make_every_address_local()
    system_resolver, socket.getaddrinfo = socket.getaddrinfo, resolve
    guard.KEPT_S = -1.0  # every image has its name looked up
    main()
