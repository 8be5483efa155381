"""Flags about images over http(s): what they refuse, and what reaches the requests."""

import pytest

from pipelines.command_line.parser import Parser
from pipelines.images.sources import check_hosts, check_prefix
from pipelines.images.web_flags import add_web_flags, web_argv, web_options_of
from pipelines.runs import options as run_options
from pipelines.web.settings import DIRECTIVES, WebSettings


def parsed(*argv):
    flags = Parser()
    add_web_flags(flags)
    return flags.parse_args(argv)


def test_flags_become_settings_and_flags_again():
    argv = ["--allow_private_hosts", "--http_proxy", "http://proxy:3128", "--user_agent", "lab/1"]
    found = parsed(*argv, "--disallowed_header_directives", "NoAI, noarchive")
    prefixes = ["http://10.0.0.5/img/", "https://", "gs://bucket/"]
    settings = web_options_of(found).web_settings(prefixes)
    assert settings == WebSettings(
        "lab/1", ("noai", "noarchive"), "http://proxy:3128", ("http://10.0.0.5/img/",)
    )
    assert parsed(*web_argv(found)) == found
    assert web_options_of(parsed()).web_settings(prefixes) == WebSettings(disallowed=DIRECTIVES)
    assert parsed("--disallowed_header_directives", "none").disallowed_header_directives == ()


@pytest.mark.parametrize(
    "argv",
    [
        ("--http_proxy", "socks5://proxy:1080"),
        ("--http_proxy", "proxy:3128"),
        ("--http_proxy", "http://proxy:no"),
        ("--user_agent", "a\nX-Injected: yes"),
        ("--user_agent", " "),
        ("--user_agent", "laböratory"),
    ],
)
def test_what_cannot_be_sent_is_refused(argv):
    with pytest.raises(ValueError, match=f"`{argv[0][2:]}` takes"):
        web_options_of(parsed(*argv))


def test_proxy_of_the_environment_that_is_not_used_is_told(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    unset, used = web_options_of(parsed()), web_options_of(parsed("--http_proxy", "environment"))
    assert unset.unused_proxy(["http://"]) is None
    monkeypatch.setenv("https_proxy", "http://proxy:3128")
    assert "(https_proxy), which is not used" in unset.unused_proxy(["https://host/"])
    assert unset.unused_proxy(["gs://b/", "/data"]) is used.unused_proxy(["https://"]) is None


@pytest.mark.parametrize(
    "prefix", ["http://10.20.0.5/img/", "http://[::1]/", "http://127.1:8000/", "http://localhost/"]
)
def test_prefix_of_a_private_host_needs_its_flag(prefix):
    check_prefix(prefix, private=True)
    with pytest.raises(ValueError, match="pass `allow_private_hosts`"):
        check_prefix(prefix, private=False)


def test_host_that_is_private_is_refused_at_the_start():
    check_hosts(["http://8.8.8.8/", "http://", "/data", "https://no-such-host.invalid/"], False)
    check_hosts(["http://localhost/"], True)
    with pytest.raises(ValueError, match="pass `allow_private_hosts`"):
        check_hosts(["http://localhost/"], False)


def test_nobody_can_allow_metadata_of_clouds():
    for host in ("169.254.169.254", "0xa9fea9fe", "[fd00:ec2::254]"):
        with pytest.raises(ValueError, match="nobody may ask"):
            check_prefix(f"http://{host}/", private=True)


def test_run_has_the_flags_though_beam_has_one_of_that_name():
    argv = ["--manifest", "a.jsonl", "--output", "out", "--model", "tiny"]
    config, _ = run_options.parse([*argv, "--user_agent", "lab/1 (mailto:me@example.org)"])
    assert config.user_agent == "lab/1 (mailto:me@example.org)"
