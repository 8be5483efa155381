"""Every flag of Beam works, is refused, or is said to do nothing."""

import argparse

import fsspec
import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from pipelines.engine import beam_effects, beam_options
from pipelines.engine.per_file import parse_with_engine
from pipelines.runs import options
from pipelines.search import parser as search_parser

NEEDED = ["--manifest", "m.csv", "--output", "out", "--model", "tiny"]
VALUES = {int: "1", float: "1", None: "x", str: "x"}


def flags_of_beam():
    """Yields each of Beam's flags with a value that it takes."""
    for group in beam_options._subclasses(PipelineOptions):
        if group.__module__.startswith("pipelines.") or "_add_argparse_args" not in vars(group):
            continue
        parser = argparse.ArgumentParser(add_help=False, conflict_handler="resolve")
        group._add_argparse_args(parser)
        for action in parser._actions:
            name = action.option_strings[0]
            if action.nargs == 0:
                yield name, [name]
            elif action.choices:
                yield name, [name, next(iter(action.choices))]
            else:
                yield (
                    name,
                    [
                        name,
                        {"--label": "a=b", "--hdfs_port": "1"}.get(
                            name, VALUES.get(action.type, "{}")
                        ),
                    ],
                )


@pytest.fixture(autouse=True)
def own_settings(monkeypatch):
    monkeypatch.setattr(fsspec.config, "conf", {})


def outcome(argv, capsys):
    """Returns `refused`, `idle` or `works`, and what was said."""
    try:
        options.parse([*NEEDED, *argv])
    except SystemExit as ended:
        assert ended.code == 2
        return "refused", capsys.readouterr().err
    said = capsys.readouterr().err
    return ("idle" if said else "works"), said


WORKING = {
    *beam_effects.LOCAL_FLAGS, "--direct_num_workers", "--direct_runner_bundle_repeat",
    "--direct_running_mode", "--direct_test_splits", "--direct_embed_docker_python",
    "--no_direct_runner_use_stacked_bundle", "--azure_connection_string", "--hdfs_host",
    "--hdfs_port", "--hdfs_user", "--s3_access_key_id", "--s3_secret_access_key",
    "--s3_session_token", "--s3_endpoint_url", "--s3_region_name", "--s3_api_version",
    "--s3_verify", "--s3_disable_ssl", "--user_agent",  # the last is a flag of the command, too
}  # fmt: skip


@pytest.mark.parametrize(
    ("flag", "argv"), dict(flags_of_beam()).items(), ids=lambda value: str(value)
)
def test_flag_works_is_refused_or_said_to_do_nothing(flag, argv, capsys):
    what, said = outcome(["--runner", "FnApiRunner"] if flag == "--runner" else argv, capsys)
    assert (what == "works") == (flag in WORKING), (what, said)
    assert what == "works" or (flag in said and said.count("\n") == 1)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--dry_run", "true"], "`--dry_run` of Beam is for tests of Beam; `clip-beam check` says"),
        (["--profile_cpu"], "profiles workers of other runners"),
        (["--type_check_strictness", "ALL_REQUIRED"], "for pipelines that are being written"),
        (["--streaming"], "a manifest has an end"),
    ],
)
def test_flag_that_cannot_work_is_refused_in_one_line(argv, message, capsys):
    what, said = outcome(argv, capsys)
    assert what == "refused" and message in said and said.count("\n") == 1


def test_flags_without_effect_are_named_in_one_line(capsys):
    what, said = outcome(["--num_workers", "8", "--region=r"], capsys)
    assert (what, said) == (
        "idle",
        "clip-beam embed: --num_workers, --region: of no effect with the runner FnApiRunner; "
        "`--direct_num_workers N` lets it work in N threads\n",
    )


def test_hint_for_workers_is_a_flag_that_works(capsys, monkeypatch):
    monkeypatch.setattr(beam_options, "_has_google_cloud", lambda: True)
    assert "did you mean --direct_num_workers?" in outcome(["--workers", "8"], capsys)[1]
    dataflow = ["--runner", "DataflowRunner", "--workers", "8"]
    assert "did you mean --num_workers?" in outcome(dataflow, capsys)[1]


@pytest.mark.parametrize(("mode", "workers"), [("in_memory", 2), ("multi_processing", 1)])
def test_threads_are_raised_to_what_the_line_needs_but_processes_are_not(mode, workers):
    flags = ["--direct_num_workers", "1", "--direct_running_mode", mode]
    found = PipelineOptions(["--runner", beam_options.LOCAL_RUNNER, *flags])
    beam_options.use_local_threads(found, 2)
    assert beam_options.local_threads(found) == workers


def test_port_that_is_none_is_refused(capsys):
    what, said = outcome(["--hdfs_port", "x"], capsys)
    assert what == "refused" and "`--hdfs_port` must be a number, got 'x'" in said


def test_flags_of_one_runner_are_idle_with_another(capsys, monkeypatch):
    monkeypatch.setattr(beam_options, "_has_google_cloud", lambda: True)
    dataflow = ["--runner", "DataflowRunner"]
    assert outcome([*dataflow, "--region", "r", "--num_workers", "8"], capsys)[0] == "works"
    assert (
        outcome([*dataflow, "--temp_location", "gs://b/t", "--profile_cpu"], capsys)[0] == "works"
    )
    what, said = outcome([*dataflow, "--flink_master", "m"], capsys)
    assert what == "idle" and "--flink_master: of no effect with the runner DataflowRunner" in said
    what, said = outcome([*dataflow, "--s3_endpoint_url", "http://h"], capsys)
    assert what == "refused" and "AWS_ENDPOINT_URL" in said


def test_experiments_may_be_given_again(capsys):
    assert outcome(["--experiments", "a", "--experiments=b"], capsys)[0] == "works"


def test_place_for_results_is_used_by_commands_over_files(capsys):
    flags = ["--input", "i", "--text", "t", "--temp_location", "/tmp/t"]
    parse_with_engine(search_parser(), flags)
    assert capsys.readouterr().err == ""


def test_flags_about_stores_reach_the_filesystems(capsys):
    fsspec.config.conf["s3"] = {"anon": False, "client_kwargs": {"region_name": "old", "x": 1}}
    flags = ["--s3_endpoint_url", "http://store:9000", "--s3_access_key_id", "me"]
    flags += [
        "--s3_secret_access_key",
        "s3cret",
        "--s3_region_name",
        "here",
        "--s3_verify",
        "False",
    ]
    assert outcome([*flags, "--azure_connection_string", "a=b", "--hdfs_port", "8020"], capsys)[0]
    assert fsspec.config.conf["s3"] == {
        "anon": False, "endpoint_url": "http://store:9000", "key": "me", "secret": "s3cret",
        "client_kwargs": {"region_name": "here", "x": 1, "verify": False},
    }  # fmt: skip
    assert fsspec.config.conf["az"] == {"connection_string": "a=b"}
    assert fsspec.config.conf["hdfs"] == {"port": 8020}


def test_private_store_is_reached_by_the_flag(stores, tmp_path, monkeypatch, model_dir, capsys):
    from pipelines import embed

    address = stores["s3"].proxy.url
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3")
    manifest = f"{stores['s3'].root}/flag.csv"
    with fsspec.filesystem("s3", endpoint_url=address).open(manifest, "w") as file:
        file.write("url,text\nnone.jpg,x\n")
    flags = ["--manifest", manifest, "--output", str(tmp_path / "out"), "--model", str(model_dir)]
    assert embed.main([*flags, "--s3_endpoint_url", address]) == 1  # of its one row
    assert "rejected   1 (not_found 1)" in capsys.readouterr().out
