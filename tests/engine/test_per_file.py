"""Commands do the same work in a loop and on the workers of a Beam runner."""

import subprocess
import sys

import numpy as np
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.typehints.typehints import Any

import forked
from graphs import element_types
from pipelines import cli
from pipelines.engine import beam_options
from pipelines.engine.per_file import over_files, parse_with_engine
from pipelines.engine.slots import processes
from pipelines.engine.slots.choice import EngineChoice
from pipelines.search import parser
from pipelines.storage import listing
from scored_runs import write_scored
from slot_work import double, fail

RUNNER = ("--runner", "FnApiRunner")
UNITS = ([0, 1, 2, 3], [], [4, 5], [6])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((7, 128)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    units = [
        [{"similarity": n / 10, "image_embedding": vectors[n], "uid": f"{n:032x}"} for n in unit]
        for unit in UNITS
    ]
    rejects = [{"reason": "not_found"}] * 3
    # Nothing in the fingerprint: any model may be asked about these vectors.
    return write_scored(
        tmp_path_factory.mktemp("run"),
        units,
        dim=128,
        rejects=rejects,
        record={"options": {"model": "tiny"}},
        fingerprint={"decode": "exact"},
    )


def files(root):
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and not path.name.startswith(".")
    }


@pytest.mark.parametrize(
    "options",
    [None, PipelineOptions(RUNNER), EngineChoice("processes", 2)],
    ids=["loop", "beam", "slots"],
)
def test_results_come_in_order_and_faults_come_through(options):
    assert list(over_files(double, [3, 1, 2], options)) == [6, 2, 4]
    assert list(over_files(double, [], options)) == []
    with pytest.raises(OSError, match="no room for 5"):
        list(over_files(fail, [5], options))


def test_results_of_workers_travel_by_the_temp_location_which_is_left_empty(tmp_path):
    options = PipelineOptions([*RUNNER, "--temp_location", str(tmp_path)])
    assert list(over_files(double, [1, 2], options)) == [2, 4]
    assert list(tmp_path.iterdir()) == []


def test_large_items_lie_beside_the_graph(tmp_path, monkeypatch):
    made = []

    def new_pipeline(options):
        made.append(whole(options))
        return made[-1]

    whole = beam_options.new_pipeline
    monkeypatch.setattr(beam_options, "new_pipeline", new_pipeline)
    options = PipelineOptions([*RUNNER, "--temp_location", str(tmp_path)])
    masks = [np.random.default_rng(n).integers(0, 2, 10_000, np.uint8) for n in range(60)]
    assert list(over_files(np.sum, masks, options)) == [mask.sum() for mask in masks]
    assert made[0].to_runner_api().ByteSize() < 40_000
    assert list(tmp_path.iterdir()) == []


def test_results_are_read_again_when_the_store_fails_for_now(store_fails_once):
    options = PipelineOptions([*RUNNER, "--temp_location", "memory://temp"])
    assert list(over_files(double, [1, 2], options)) == [2, 4]
    assert not store_fails_once


def test_workers_elsewhere_need_a_temp_location(capsys):
    with pytest.raises(SystemExit):
        elsewhere = ["--runner", "PortableRunner", "--job_endpoint", "localhost:1"]
        parse_with_engine(parser(), ["--input", "x", "--text", "y", *elsewhere])
    assert "expected `--temp_location`, where workers" in capsys.readouterr().err


def test_job_service_that_is_not_there_is_told_at_once(run, tmp_path, capsys):
    service = ["--runner", "PortableRunner", "--job_endpoint", "localhost:1"]
    rest = [*service, "--job_server_timeout", "1", "--temp_location", str(tmp_path)]
    argv = ["filter", "--input", str(run), "--dry_run", "--top_fraction", "0.5", *rest]
    assert cli.main(argv) == 2
    (told,) = capsys.readouterr().err.splitlines()
    assert "no job service answered at localhost:1 within 1 s; start it" in told


def test_what_a_runner_refuses_is_one_sentence(run, capsys, monkeypatch):
    def refuse(runner, options):
        raise ValueError("Missing required option: region.")

    monkeypatch.setattr("pipelines.engine.beam_options.Pipeline", refuse)
    argv = ["filter", "--input", str(run), "--dry_run", "--top_fraction", "0.5", *RUNNER]
    assert cli.main(argv) == 2
    assert "Beam refuses its flags: Missing required option: region" in capsys.readouterr().err


@pytest.mark.parametrize(
    "command",
    [
        ("filter", "--top_fraction", "0.5", "--dedup", "near"),
        ("filter", "--where", "similarity > 0.15", "--preset", "laion400m"),
        ("classify", "--labels", "red,green,blue"),
        ("export", "--format", "clip_retrieval"),
        ("export", "--format", "laion"),
        ("export", "--format", "datacomp", "--datacomp_key", "b32"),
    ],
    ids=lambda command: " ".join(command[:3]),
)
def test_runner_writes_the_files_that_the_loop_writes(run, tmp_path, command):
    name, *flags = command
    for output, more in (("loop", ()), ("beam", RUNNER)):
        argv = [name, "--input", str(run), "--output", str(tmp_path / output), *flags, *more]
        assert cli.main(argv) == 0
    found = files(tmp_path / "loop")
    assert found and found == files(tmp_path / "beam")


def test_runner_finds_and_counts_what_the_loop_does(run, tmp_path, capsys):
    argv = ["search", "--input", str(run), "--text", "a red circle", "--top_k", "3"]
    assert cli.main(argv) == 0
    expected = capsys.readouterr().out
    assert len(expected.splitlines()) == 4
    assert cli.main([*argv, *RUNNER]) == 0
    assert capsys.readouterr().out == expected
    pages = [tmp_path / "loop.html", tmp_path / "beam.html"]
    for page, more in zip(pages, ((), RUNNER), strict=True):
        argv = ["report", "--input", str(run), "--output", str(page), "--thumbnails", "2"]
        assert cli.main([*argv, *more]) == 0
    assert pages[0].read_text() == pages[1].read_text()


def test_slots_write_the_files_that_the_loop_writes(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(processes, "subprocess", forked.as_subprocess())
    slots = ("--engine", "processes", "--slots", "2")
    filtering = ("filter", "--where", "similarity > 0.15", "--top_fraction", "0.5")
    for name, *flags in (filtering, ("export", "--format", "laion")):
        for output, more in (("loop", ()), ("slots", slots)):
            output = str(tmp_path / name / output)
            assert cli.main([name, "--input", str(run), "--output", output, *flags, *more]) == 0
        found = files(tmp_path / name / "loop")
        assert found and found == files(tmp_path / name / "slots")
    capsys.readouterr()
    argv = ["search", "--input", str(run), "--text", "a red circle", "--top_k", "3"]
    assert cli.main(argv) == 0
    expected = capsys.readouterr().out
    assert cli.main([*argv, *slots]) == 0
    assert capsys.readouterr().out == expected


def test_no_beam_flag_means_no_beam(run):
    code = (
        "import sys; from pipelines import cli; status = cli.main(sys.argv[1:]); "
        "assert not {'torch', 'apache_beam'} & set(sys.modules); sys.exit(status)"
    )
    argv = ["filter", "--input", str(run), "--dry_run", "--top_fraction", "0.5"]
    assert subprocess.run([sys.executable, "-c", code, *argv]).returncode == 0


def test_flags_of_neither_are_refused_with_a_suggestion(capsys):
    found, options = parse_with_engine(parser(), ["--input", "x", "--text", "y", *RUNNER])
    assert found.input == "x" and options.get_all_options()["runner"] == "FnApiRunner"
    for flag, told in (("--runer", "--runner"), ("--manifest", "unknown flag --manifest")):
        with pytest.raises(SystemExit) as stopped:
            parse_with_engine(parser(), ["--input", "x", flag, "z"])
        assert stopped.value.code == 2
        assert told in capsys.readouterr().err


def test_scratch_is_removed_when_the_work_fails(tmp_path):
    options = PipelineOptions([*RUNNER, "--temp_location", str(tmp_path)])
    with pytest.raises(OSError):
        list(over_files(fail, [1], options))
    assert listing.list_files(str(tmp_path)) == [] and list(tmp_path.iterdir()) == []


def test_what_is_sent_to_workers_has_a_type_and_is_spread_once(monkeypatch):
    made, new_pipeline = [], beam_options.new_pipeline
    monkeypatch.setattr(
        beam_options, "new_pipeline", lambda options: made.append(new_pipeline(options)) or made[-1]
    )
    assert list(over_files(double, [1, 2], PipelineOptions(RUNNER))) == [2, 4]
    types = element_types(made[0])
    assert types and Any not in types.values()
    assert sum(name.endswith("/GroupByKey None") for name in types) == 1
