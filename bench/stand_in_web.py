"""A stand-in for the web, in a process and a network of its own: `python -m bench.stand_in_web`.

It needs Linux and `unshare`. Hosts have addresses that look public, all on the loopback device of
that network; nothing leaves the machine. What a host is like, its name says: `alive-7.example`.
"""

from __future__ import annotations

import asyncio
import ctypes
import fcntl
import gzip
import random
import resource
import socket
import struct
import sys
from dataclasses import dataclass
from pathlib import Path

# Kinds of hosts, and how many of 100 are so.
SHARES = {
    "alive": 60, "dead": 10, "drip": 3, "gone": 8, "moved": 5, "packed": 4, "busy": 5, "page": 5,
}  # fmt: skip
ADDRESSES = 60  # that the hosts share, some of them the dead ones'
DEAD_ADDRESSES = 10
_DRIP_S = 40.0
_SIOCSIFADDR, _SIOCGIFFLAGS, _SIOCSIFFLAGS = 0x8916, 0x8913, 0x8914


@dataclass(frozen=True)
class Host:
    """A host of the stand-in: its name, and its address."""

    name: str
    address: str

    @property
    def kind(self) -> str:
        """What it is like: one of `SHARES`."""
        return self.name.partition("-")[0]


def hosts_of(count: int, shares: dict[str, int]) -> list[Host]:
    """Returns so many hosts of each kind as their shares say."""
    found = []
    for kind, share in shares.items():
        for number in range(count * share // sum(shares.values())):
            first = 0 if kind == "dead" else DEAD_ADDRESSES
            last = DEAD_ADDRESSES if kind == "dead" else ADDRESSES
            address = f"11.0.0.{1 + first + number % (last - first)}"
            found.append(Host(f"{kind}-{number}.example", address))
    return found


def make_network(hosts: list[Host], hosts_file: Path) -> None:
    """Gives the loopback device of this network the addresses, and the machine the names."""
    with socket.socket() as control:
        flags = fcntl.ioctl(control, _SIOCGIFFLAGS, struct.pack("16sh", b"lo", 0))
        up = struct.unpack("16sh", flags)[1] | 1
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sh", b"lo", up))
        for number in range(1, ADDRESSES + 1):
            packed = socket.inet_aton(f"11.0.0.{number}")
            name = f"lo:{number}".encode()
            wanted = struct.pack("16sHH4s8s", name, socket.AF_INET, 0, packed, b"")
            fcntl.ioctl(control, _SIOCSIFADDR, wanted)
    lines = ["127.0.0.1 localhost", *(f"{host.address} {host.name}" for host in hosts)]
    hosts_file.write_text("\n".join(lines) + "\n")
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(str(hosts_file).encode(), b"/etc/hosts", None, 4096, None):
        raise OSError(ctypes.get_errno(), "/etc/hosts cannot be replaced")


class Web:
    """Answers for all hosts with one of the images of a folder.

    Args:
        allowed: requests a second that a busy host answers.
    """

    def __init__(self, folder: Path, allowed: float) -> None:
        self._a_second = allowed
        self._images = [path.read_bytes() for path in sorted(folder.glob("*.jpg"))]
        self._allowed: dict[str, tuple[float, float]] = {}

    async def serve(self) -> None:
        """Listens until the process ends."""
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        held = [_dead(f"11.0.0.{number + 1}") for number in range(DEAD_ADDRESSES)]
        for number in range(DEAD_ADDRESSES, ADDRESSES):
            await asyncio.start_server(self._talk, f"11.0.0.{number + 1}", 80, backlog=1000)
        print("listening", flush=True)
        await asyncio.Event().wait()
        del held

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                lines = head.decode("latin-1").split("\r\n")
                fields = dict(line.lower().split(": ", 1) for line in lines[1:] if ": " in line)
                target, host = lines[0].split(" ")[1], fields["host"]
                await self._answer(writer, host, target)
                await writer.drain()
                if fields.get("connection") == "close":
                    return
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _answer(self, writer: asyncio.StreamWriter, host: str, target: str) -> None:
        kind, image = host.partition("-")[0], self._images[hash(target) % len(self._images)]
        await asyncio.sleep(0.02 + 0.28 * random.Random(host).random())
        status, fields, body = "200 OK", ["Content-Type: image/jpeg"], image
        if kind == "gone":
            status, body = "404 Not Found", b"gone"
        elif kind == "page":
            fields, body = ["Content-Type: text/html"], b"<html>parked</html>"
        elif kind == "packed":
            fields, body = [*fields, "Content-Encoding: gzip"], gzip.compress(image, 1)
        elif kind == "moved" and not target.startswith("/to/"):
            status, fields, body = "301 Moved Permanently", [f"Location: /to{target}"], b""
        elif kind == "busy" and not self._may(host):
            status, body = "429 Too Many Requests", b""
        head = [f"HTTP/1.1 {status}", *fields, f"Content-Length: {len(body)}", "", ""]
        writer.write("\r\n".join(head).encode())
        if kind != "drip":
            writer.write(body)
            return
        for byte in body[: int(_DRIP_S)]:
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(1)
        raise ConnectionResetError

    def _may(self, host: str) -> bool:
        now = asyncio.get_running_loop().time()
        most = self._a_second / 4
        tokens, filled = self._allowed.get(host, (most, now))
        tokens = min(tokens + (now - filled) * self._a_second, most)
        self._allowed[host] = (max(tokens - 1, 0.0) if tokens >= 1 else tokens, now)
        return tokens >= 1


def _dead(address: str) -> list[socket.socket]:
    """Takes no connection, as behind a firewall: the queue of those that wait is full."""
    listener = socket.socket()
    listener.bind((address, 80))
    listener.listen(0)
    waiting = [socket.socket() for _ in range(4)]
    for one in waiting:
        one.setblocking(False)
        one.connect_ex((address, 80))
    return [listener, *waiting]


if __name__ == "__main__":
    asyncio.run(Web(Path(sys.argv[1]), float(sys.argv[2])).serve())
