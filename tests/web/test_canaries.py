"""Listeners at every address of a network of its own, which hostile images must not reach."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "torture" / "canaries.py"
PROXY = "http://10.0.0.9:3128"
PROXIES = {name: PROXY for name in ("http_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")}


@pytest.fixture(scope="module")
def told():
    isolated = ["unshare", "-Urn", "--"]
    try:
        subprocess.run([*isolated, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this system gives no network of one's own")
    path = os.pathsep.join(filter(None, sys.path))
    done = subprocess.run(
        [*isolated, sys.executable, SCRIPT],
        env={**os.environ, **PROXIES, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_nothing_but_public_addresses_is_reached(told):
    """By no spelling, redirect or name, by no answer that changes, and by no header or proxy."""
    assert len(told["hostile"]) + len(told["redirects"]) >= 300
    assert "image" not in told["hostile"].values()
    for url, outcome in told["redirects"].items():
        assert "own.example: redirected to " in outcome or "no such host" in outcome, url
    assert told["reached"] == ["2606:4700::1111", "93.184.216.34"]


def test_canaries_sing_where_something_is_allowed(told):
    """What public hosts have is got, and a private one is reached once the operator names it."""
    assert told["good"] == ["image"] * 4
    assert {"image"} < {outcome for round in told["turning"] for outcome in round}
    assert told["private"] == "image"
    assert set(told["reached with it"]) - set(told["reached"]) == {"fd00::5"}
