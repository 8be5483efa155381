import pytest

from pipelines.images.http import is_public
from pipelines.images.sources import RefusedURL, is_under, parse_url


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
