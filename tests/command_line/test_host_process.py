"""A command that is called from another program leaves that program's process as it found it."""

import json
import logging
import signal
import sys
from importlib import import_module

import fsspec
import pyarrow as pa
import pytest
import torch

from pipelines import cli
from pipelines import filter as filtering
from pipelines.command_line import exits
from scored_runs import write_scored

LOGGERS = (None, "apache_beam", "apache_beam.runners", "gcsfs", "PIL", "clip_core", "pipelines")
MODULES = [name for name in cli.COMMANDS if name != "demo"]


def hook(*arguments):
    """The host's own excepthook."""


@pytest.fixture
def host(monkeypatch):
    """A service with a log format and an excepthook of its own; gives what it looks at."""
    handler = logging.StreamHandler(sys.stderr)
    formatter = logging.Formatter("%(message)s")
    handler.setFormatter(formatter)
    root = logging.getLogger()
    monkeypatch.setattr(sys, "excepthook", hook)
    monkeypatch.setattr(fsspec.config, "conf", {"s3": {"anon": True}})
    root.addHandler(handler)
    threads = torch.get_num_threads()
    torch.set_num_threads(3)  # neither 1 nor, on most machines, all cores

    def look():
        loggers = [logging.getLogger(name) for name in LOGGERS]
        return {
            "formatter": handler.formatter is formatter,
            "handlers": list(root.handlers),
            "loggers": [(one.level, list(one.filters), one.disabled) for one in loggers],
            "excepthook": sys.excepthook,
            "stores": json.dumps(fsspec.config.conf),
            "signals": [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)],
            "pool": pa.default_memory_pool().backend_name,
            "threads": torch.get_num_threads(),
            "streams": (sys.stdout, sys.stderr, getattr(sys.stdout, "errors", None)),
        }

    yield look
    root.removeHandler(handler)
    torch.set_num_threads(threads)


@pytest.mark.parametrize("status", [0, 1, 2])
def test_run_leaves_the_process_as_it_was(tmp_path, model_dir, host, status, monkeypatch):
    from pipelines import embed

    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)  # else torch's threads are left alone

    rows = ["url,text\n", "url,text\nnone.jpg,x\n", "a,b\n1,2\n"]  # none, one reject, no manifest
    (tmp_path / "m.csv").write_text(rows[status])
    flags = ["--manifest", str(tmp_path / "m.csv"), "--output", str(tmp_path / "out")]
    flags += ["--model", str(model_dir), "--s3_endpoint_url", "http://h", "--s3_region_name", "r"]
    before = host()
    assert embed.main(flags) == status
    assert host() == before


def test_timer_of_the_host_goes_on(tmp_path):
    from pipelines import embed

    signal.setitimer(signal.ITIMER_REAL, 1000)
    try:
        embed.main(["--manifest", "none.csv", "--output", str(tmp_path / "o"), "--model", "tiny"])
        assert signal.getitimer(signal.ITIMER_REAL)[0] > 900
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


@pytest.mark.parametrize("command", MODULES)
def test_wrong_usage_is_returned_and_help_too(command, capsys):
    main = import_module(f"pipelines.{command}").main
    assert main(["--no_such_flag"]) == 2
    assert capsys.readouterr().err.startswith(f"clip-beam {command}: ")
    assert main(["--help"]) == 0


def test_runner_that_is_not_there_is_returned(tmp_path, host):
    write_scored(tmp_path / "run", [[{}]])
    before = host()
    flags = ["--input", str(tmp_path / "run"), "--min_similarity", "0", "--dry_run"]
    assert filtering.main([*flags, "--runner", "NoSuchRunner"]) == 2
    assert host() == before


def test_what_is_put_back_waits_for_the_outermost_command():
    done = []

    @exits.command
    def inner(argv=None):
        exits.put_back(done.append, "inner")
        return 3

    @exits.command
    def outer(argv=None):
        exits.put_back(done.append, "outer")
        assert inner() == 3 and done == []
        raise SystemExit("no")

    assert outer() == 1 and done == ["inner", "outer"]
    exits.put_back(done.append, "nobody")
    assert done == ["inner", "outer"]


@pytest.mark.parametrize("owned", [False, True])
def test_muted_loggers_stay_so_only_where_the_process_ends_with_the_command(owned, monkeypatch):
    logger = logging.getLogger("a library")
    monkeypatch.setattr(logger, "disabled", False)
    monkeypatch.setattr(exits, "is_own", lambda: owned)

    @exits.command
    def quiet(argv=None):
        exits.mute("a library")
        assert logger.disabled
        return 0

    exits.mute("a library")
    assert not logger.disabled  # no command is at work
    assert quiet() == 0 and logger.disabled is owned
