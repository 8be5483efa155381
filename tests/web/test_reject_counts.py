"""Rejects of the web by host and by answer."""

from pipelines.web.reject_counts import WORST, WebRejects


def test_rejects_are_counted_by_host_and_by_answer():
    told = [
        ("fetch", "http://gone.example/1", "gone.example: no connection within 4 s, also when"),
        ("fetch", "HTTPS://GONE.example:443/2", "gone.example: HTTP 404"),
        ("fetch", " http://far.example/3", "far.example: HTTP 404"),
        ("fetch", "http://straße.example/4", "redirected to https://x/, which ... not allow"),
        ("fetch", "http://[/5", "expected an http(s) URL with a host"),
        ("fetch", "http://a.example/6", None),
        ("fetch", "http://a.example/6", "a.example: more than 10 redirects"),
        ("fetch", "http://a.example/6", "a.example: no answer of HTTP (Bad status line)"),
        ("fetch", "http://a.example/6", "a.example: more than 9 bytes once it is unpacked"),
        ("fetch", "http://a.example/6", "a.example: Content-Encoding br is not unpacked"),
        ("fetch", "http://a.example/6", "a.example is not on the public network"),
        ("decode", "http://a.example/7", "HTTP 404"),
        ("fetch", "/data/8", "there is no such file"),
        ("fetch", None, None),
    ]
    counts, half = WebRejects(), WebRejects()
    for part, rows in ((counts, told[:3]), (half, told[3:])):
        part.add(*zip(*rows, strict=True))
    counts.merge(half)
    assert counts.hosts == {
        "gone.example": 2,
        "far.example": 1,
        "xn--strae-oqa.example": 1,
        "no host": 1,
        "a.example": 6,
    }
    assert counts.answers == {
        "no connection": 1,
        "HTTP 404": 2,
        "redirects": 2,
        "malformed URLs": 1,
        "no HTTP": 1,
        "too large": 1,
        "codings": 1,
        "private network": 1,
        "other": 1,
    }
    assert counts.lines()[0].startswith("by host    a.example 6, gone.example 2, ")
    assert counts.lines()[1].startswith("by answer  HTTP 404 2, ")


def test_only_the_worst_hosts_are_named():
    counts = WebRejects()
    assert counts.lines() == []
    hosts = [f"http://{n}.example/x" for n in range(WORST + 5)]
    counts.add(["fetch"] * len(hosts), hosts, ["x: HTTP 500"] * len(hosts))
    assert counts.lines()[0].endswith(", and 5 hosts more")
