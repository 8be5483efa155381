"""Hosts that take no connection, say nothing, drip, or ask to be asked less."""

import asyncio
import contextlib
import dataclasses
import threading
import time

import pytest

from asking import fetch_all
from pipelines.object_stores.client import Client
from pipelines.web.faults import WebFault
from pipelines.web.fetching import Allowed, Web
from pipelines.web.later import Together
from pipelines.web.settings import Bounds, WebSettings
from web_server import dead_host

pytestmark = pytest.mark.usefixtures("loopback_allowed")
QUICK = Bounds(connect_s=0.3, last_connect_s=0.2, silent_s=5, later_s=20, backoff_s=0.01)
SILENT = dataclasses.replace(QUICK, silent_s=0.3)
PATIENT = dataclasses.replace(QUICK, connect_s=20, last_connect_s=20, silent_s=20)


@pytest.fixture
def web():
    """Returns what fetches several images side by side, through one web."""
    client = Client(64)
    waits, webs = [], {}

    async def sleep(seconds):
        waits.append(seconds)
        await asyncio.sleep(min(seconds, 0.01))

    def fetched(urls, bounds=QUICK):
        if bounds not in webs:
            webs[bounds] = Web(WebSettings(bounds=bounds), 64, sleep=sleep)
        roots = tuple({url.rpartition("/")[0] + "/" for url in urls})
        found = fetch_all(client, Allowed(webs[bounds], roots), urls)
        return [one if isinstance(one, BaseException) else one.data for one in found]

    fetched.waits = waits
    yield fetched
    client.close()


def test_images_of_a_dead_host_are_put_back_tried_once_more_and_rejected(server, web):
    with dead_host() as port:
        dead = [f"http://127.0.0.1:{port}/{n}.png" for n in range(40)]
        good = [f"{server.root}a.png?{n}" for n in range(40)]
        found = web(dead + good)
    assert found[40:] == [b"image"] * 40
    said = [str(fault) for fault in found[:40]]
    assert all(isinstance(fault, WebFault) for fault in found[:40])
    assert all("127.0.0.1: no connection within 0.2 s, also when it was tried" in s for s in said)


def test_host_that_comes_back_gives_its_images_at_the_end(server, web):
    """It says nothing to what is asked first."""
    left, lock = [3], threading.Lock()

    def hang(handler):
        handler.rfile.read(1)  # until the reader hangs up

    def answer(handler):
        with lock:
            left[0] -= 1
        if left[0] >= 0:
            hang(handler)
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nimage")

    server.raw["/x"] = answer
    bounds = dataclasses.replace(QUICK, silent_s=2)  # this process answers, too, and may be slow
    assert web([f"{server.root}x?{n}" for n in range(20)], bounds) == [b"image"] * 20


@pytest.mark.parametrize("length", [{"Content-Length": "5000"}, {}])
def test_drip_is_given_up_and_tried_once_more(server, web, length):
    """Each byte comes in time, the whole never does."""

    def drip(handler):
        for _ in range(500):
            handler.wfile.write(b"x")
            handler.wfile.flush()
            if handler.server.ended.wait(0.02):
                return

    server.answers["/x"] = (200, length, drip)
    (fault,) = web([server.root + "x"], SILENT)
    assert "127.0.0.1: the image stalled" in str(fault) and "at the end" in str(fault)
    assert len(server.hits) == 2


def test_whole_request_has_an_end(server, web):
    def slow(handler):
        while not handler.server.ended.wait(0.005):
            handler.wfile.write(b"x" * 2000)

    server.answers["/x"] = (200, {"Content-Length": "1000000"}, slow)
    (fault,) = web([server.root + "x"], dataclasses.replace(QUICK, whole_s=0.2))
    assert "not there within 0.2 s" in str(fault)


def test_all_images_together_have_an_end(server, web):
    """What has come in time is there; the others wait no longer, and are not asked for any more."""
    server.raw["/x"] = lambda handler: handler.rfile.read(1)  # until the reader hangs up
    bounds = dataclasses.replace(QUICK, all_s=1)
    silent = [f"{server.root}x?{n}" for n in range(40)]
    found = web([server.root + "a.png", *silent], bounds)
    assert found[0] == b"image"
    said = {str(fault) for fault in found[1:]}
    assert said == {"127.0.0.1: not there within the 1 s of all images together"}
    assert len(server.hits) < 41


def test_time_of_all_goes_on_only_while_something_is_under_way():
    now = [0.0]

    async def taking(seconds):
        now[0] += seconds
        return seconds

    async def ask():
        together = Together(10, lambda: now[0])
        assert await together.within(taking(6)) == 6
        now[0] += 100
        assert await together.within(taking(4)) == 4
        with pytest.raises(asyncio.TimeoutError):
            await together.within(taking(1))

    asyncio.run(ask())


def test_host_that_says_when_is_asked_then(server, web):
    busy = {"Retry-After": "Sun, 06 Nov 1994 08:49:44 GMT", "Date": "Sun, 06 Nov 1994 08:49:37 GMT"}
    server.answers["/x"] = [
        (429, busy, b""),
        (503, {"Retry-After": "9"}, b""),
        (500, {}, b""),
        (200, {}, b"image"),
    ]
    assert web([server.root + "x"]) == [b"image"]
    assert web.waits[:2] == [7.0, 9.0] and web.waits[2] < 1


@pytest.fixture
def timed():
    """Returns what fetches images through one web, whose waits set its clock on."""
    client, slept = Client(64), [-time.monotonic()]

    def clock():
        return slept[0] + time.monotonic()

    async def sleep(seconds):
        slept[0] += seconds
        await asyncio.sleep(0)

    def fetched(urls):
        one = Web(WebSettings(bounds=PATIENT), 64, clock=clock, sleep=sleep)
        return fetch_all(client, Allowed(one, (urls[0].rpartition("/")[0] + "/",)), urls)

    fetched.clock = clock
    yield fetched
    client.close()


def test_image_that_is_refused_for_good_is_given_up(server, timed):
    """Its host gives others; it is asked for less and less often, and not for long after these."""
    server.answers["/x"] = (429, {}, b"")
    given, refused = timed([server.root + "a.png", server.root + "x"])
    assert given.data == b"image" and "127.0.0.1: HTTP 429" in str(refused)
    assert len(server.hits) < 80 and 60 < timed.clock() < 120


def test_host_that_gives_nothing_for_a_while_loses_no_image(server, timed):
    """It was asked too much, as it counts, and lets nothing through until that is over."""

    def answer(handler):
        refuses = len(server.hits) > 2 and timed.clock() < 30
        status = b"429 Too Many Requests" if refuses else b"200 OK"
        handler.wfile.write(b"HTTP/1.1 " + status + b"\r\nContent-Length: 5\r\n\r\nimage")

    server.raw["/x"] = answer
    found = timed([f"{server.root}x?{n}" for n in range(30)])
    assert [getattr(one, "data", one) for one in found] == [b"image"] * 30


def test_images_that_are_throttled_are_not_rejected(server, timed):
    """Every second request is refused, ten times as often as an image is tried otherwise."""
    lock, count = threading.Lock(), [0]

    def answer(handler):
        with lock:
            count[0] += 1
            refused = count[0] % 2
        status = b"429 Too Many Requests" if refused else b"200 OK"
        handler.wfile.write(b"HTTP/1.1 " + status + b"\r\nContent-Length: 5\r\n\r\nimage")

    server.raw["/x"] = answer
    found = timed([f"{server.root}x?{n}" for n in range(100)])
    assert [getattr(one, "data", one) for one in found] == [b"image"] * 100


def test_kept_connections_that_are_closed_without_a_word_lose_no_image(server, web):
    """More of them than an image has attempts: each is closed when it is asked on again."""
    together = threading.Barrier(16)

    def answer(handler):
        handler.close_connection = hasattr(handler, "answered")
        if handler.close_connection:
            return
        handler.answered = True
        with contextlib.suppress(threading.BrokenBarrierError):
            together.wait(5)
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nimage")

    server.raw["/x"] = answer
    assert web([f"{server.root}a.png"], PATIENT) == [b"image"]  # it has answered: many at once now
    assert web([f"{server.root}x?{n}" for n in range(16)], PATIENT) == [b"image"] * 16
    together.abort()  # nobody else comes now
    assert web([f"{server.root}x?alone"], PATIENT) == [b"image"]


def test_image_that_was_refused_often_may_break_off_once(server, web):
    """Refusals of a host that answers are no attempts that failed."""
    answers = [b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 0\r\n\r\n"] * 8
    answers += [b"", b"", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nimage"]

    def answer(handler):
        if said := answers.pop(0):
            handler.wfile.write(said)

    server.raw["/x"] = answer
    assert web([f"{server.root}a.png"], PATIENT) == [b"image"]
    assert web([f"{server.root}x"], PATIENT) == [b"image"]


def test_image_that_was_put_back_may_be_refused_then(server, web):
    """A refusal of a host that answers is not the answer for which it was put back."""
    answers = [b"", *[b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 0\r\n\r\n"] * 2]
    answers += [b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nimage"]

    def answer(handler):
        if said := answers.pop(0):
            handler.wfile.write(said)
        else:
            handler.rfile.read(1)  # until the reader hangs up

    server.raw["/x"] = answer
    bounds = dataclasses.replace(PATIENT, silent_s=1)
    assert web([f"{server.root}a.png"], bounds) == [b"image"]
    assert web([f"{server.root}x"], bounds) == [b"image"]
