import pytest

from pipelines.web.addresses import is_public
from pipelines.web.urls import RefusedURL, is_under, parse_url


@pytest.mark.parametrize(
    ("url", "prefix", "expected"),
    [
        ("https://host/img/a.png", "https://host/img/", True),
        ("https://host/img/a.png", "https://host/img", True),
        ("https://HOST:443/img/a.png", "https://host/", True),
        ("https://host/a.png", "https://", True),
        ("https://host:8443/a.png", "https://", False),
        ("https://host:8443/a.png", "https://host:8443/", True),
        ("https://host/img2/a.png", "https://host/img", False),
        ("https://host.evil.example/img/a.png", "https://host/", False),
        ("https://evil.example/https://host/a.png", "https://host/", False),
        ("http://host/a.png", "https://host/", False),
        ("https://host/a.png", "http://", False),
        ("https://host/a.png?x=https://other/", "https://other/", False),
        ("https://bücher.example/a.png", "https://xn--bcher-kva.example/", True),
        ("https://host/a.png", "gs://host/", False),
    ],
)
def test_prefixes_compare_scheme_host_port_and_path_segments(url, prefix, expected):
    assert is_under(parse_url(url), prefix) is expected


@pytest.mark.parametrize("path", ["img/../b.png", "img/%2e%2e/b.png", "img/.%2E/b.png", "./a.png"])
def test_steps_up_are_refused(path):
    with pytest.raises(RefusedURL, match="step of its path"):
        parse_url(f"https://host/{path}")


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8"])
def test_public_addresses_are_public(address):
    assert is_public(address)


@pytest.mark.parametrize(
    ("text", "url"),
    [
        (" http://host/a.jpg ", "http://host/a.jpg"),
        ("\x00\thttp://host/a.jpg\r\n\x1f", "http://host/a.jpg"),
        ("http://host/a\n b.jpg", "http://host/a%20b.jpg"),
        ("HTTP://HOST:80/A", "http://host/A"),
        ("https://host:443", "https://host/"),
        ("https://host:/a", "https://host/a"),
        ("http://host:0080/a", "http://host/a"),
        ("http://host?q", "http://host/?q"),
        ("http://host/a?b?c#d?e", "http://host/a?b?c"),
        ("http://host/%7Ea%zz%", "http://host/%7Ea%zz%"),
        ("http://host/a%2520b", "http://host/a%2520b"),
        ("http://host/ä|^`{}[]", "http://host/%C3%A4|%5E%60%7B%7D[]"),
        ("http://host/?ä|^`{}[]'\"<>", "http://host/?%C3%A4|^`{}[]%27%22%3C%3E"),
        ("http://straße.example/x", "http://xn--strae-oqa.example/x"),
        ("http://STRASSE.example/x", "http://strasse.example/x"),
        ("http://βόλος.example/", "http://xn--nxasmm1c.example/"),
        ("http://bücher.example/", "http://xn--bcher-kva.example/"),
        ("http://xn--BCHER-kva.example/", "http://xn--bcher-kva.example/"),
        ("http://ｂücher。example/", "http://xn--bcher-kva.example/"),
        ("http://b%C3%BCcher.example/", "http://xn--bcher-kva.example/"),
        ("http://i❤.example/", "http://xn--i-7iq.example/"),
        ("http://نامه\u200cای.example/", "http://xn--mgba3gch31f060k.example/"),
        ("http://my_host.r3---sn.example/", "http://my_host.r3---sn.example/"),
        ("http://0x8.8.8.8/", "http://8.8.8.8/"),
        ("http://134744072/", "http://8.8.8.8/"),
        ("http://[2606:4700::1111]:81/", "http://[2606:4700::1111]:81/"),
    ],
)
def test_url_is_read_as_browsers_read_it(text, url):
    assert str(parse_url(text)) == url
    assert str(parse_url(url)) == url


@pytest.mark.parametrize(
    "text",
    [
        "",
        "http://",
        "http:///a",
        "http://:80/",
        "http://a b/",
        "http://a%20b/",
        "http://a%2520b/",
        "http://host:65536/",
        "http://host:0/",
        "http://1.2.3.4.5/",
        "http://256.1.1.1/",
        "http://a.0x/../",
        "http://xn--a.example/",
        "http://xn--.example/",
        "http://\u0301a.example/",
        "http://a\u200db.example/",
        "http://\u00ad/",
        "http://[::1%25eth0]/",
        "http://host/\ud800",
        "ftp://host/",
    ],
)
def test_what_is_no_url_is_refused(text):
    with pytest.raises(RefusedURL):
        parse_url(text)


@pytest.mark.parametrize(
    "address",
    ["64:ff9b:1::808:808", "3fff::1", "2606:4700::5efe:10.0.0.1", "168.63.129.16", "192.0.0.192"],
)
def test_addresses_that_look_public_are_not(address):
    assert not is_public(address)
