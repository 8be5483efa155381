"""Parts of one run, each by a launcher of its own; the run is closed and told of from outside."""

import json

import pytest

from embedding_runs import assert_same, embeddings, reasons, run, write_manifest
from pipelines import finish, status
from pipelines.output.layout import PLAN_JSON
from pipelines.ownership.lock import OutputLockedError, RunLock
from pipelines.ownership.parts import Part


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return write_manifest(tmp_path_factory.mktemp("parts") / "data", rows=30)


def part(manifest, output, model_dir, number, of=3, *flags):
    units = ("--rows_per_unit", "5")
    return run(manifest, output, model_dir, *units, "--part", f"{number}/{of}", *flags)


def test_parts_make_one_run_that_finish_closes(manifest, tmp_path, model_dir, capsys):
    output = tmp_path / "out"
    assert part(manifest, output, model_dir, 2) == 0
    assert len(list(output.glob("embeddings/*.parquet"))) == 2
    assert part(manifest, output, model_dir, 1) == 0
    assert not (output / "_SUCCESS").exists() and not (output / "run.json").exists()
    capsys.readouterr()
    assert finish.main(["--output", str(output)]) == 1
    assert "2 of 6 units are missing" in capsys.readouterr().err
    assert status.main(["--output", str(output)]) == 1
    assert "4 of 6 are whole" in capsys.readouterr().out
    assert part(manifest, output, model_dir, 3) == 0
    assert part(manifest, output, model_dir, 3) == 0  # each may be started again
    assert status.main(["--output", str(output)]) == 1
    assert "every unit is there; `clip-beam finish`" in capsys.readouterr().out
    assert finish.main(["--output", str(output)]) == 0
    assert status.main(["--output", str(output)]) == 0
    found = capsys.readouterr().out
    assert "rows read  30" in found and "state      done" in found
    assert (output / "_SUCCESS").exists()
    assert json.loads((output / "run.json").read_text())["counts"]["rows_read"] == 30
    run(manifest, tmp_path / "whole", model_dir, "--rows_per_unit", "5")
    assert_same(embeddings(output), embeddings(tmp_path / "whole"))
    assert reasons(output) == reasons(tmp_path / "whole")


def test_parts_must_agree(manifest, tmp_path, model_dir, capsys):
    output = tmp_path / "out"
    assert part(manifest, output, model_dir, 1) == 0
    assert part(manifest, output, model_dir, 1, 4) == 2
    assert "begun in 3 parts, this is one of 4" in capsys.readouterr().err
    assert part(manifest, output, model_dir, 2, 3, "--embedding_dtype", "float16") == 2
    assert "embedding_dtype" in capsys.readouterr().err
    other = write_manifest(tmp_path / "other", rows=10)
    assert part(other, output, model_dir, 2) == 2


def test_who_may_hold_an_output_beside_whom(tmp_path):
    output = str(tmp_path / "out")
    first, second = RunLock(output, part=Part(1, 3)), RunLock(output, part=Part(2, 3))
    first.acquire()
    second.acquire()
    for other in (RunLock(output), RunLock(output, part=Part(1, 3))):
        with pytest.raises(OutputLockedError, match="part . of|part .-of-. of"):
            other.acquire()
        other.release()
    first.check()
    first.release()
    second.release()
    whole = RunLock(output)
    whole.acquire()
    late = RunLock(output, part=Part(3, 3))
    with pytest.raises(OutputLockedError, match="another run writes"):
        late.acquire()
    late.release()
    whole.check()
    whole.release()
    assert list((tmp_path / "out").iterdir()) == []


def test_lock_of_a_dead_part_goes_when_another_run_takes_the_output(tmp_path):
    (tmp_path / "_RUNNING.2-of-3").write_text(json.dumps({"run": "dead", "seen": 0}))
    lock = RunLock(str(tmp_path))
    lock.acquire()
    assert [path.name for path in tmp_path.iterdir()] == ["_RUNNING"]
    lock.release()


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "a/b", "1/0", "-1/2"])
def test_what_is_no_part_is_refused(text):
    with pytest.raises(ValueError, match="expected a part such as 3/64"):
        Part.parse(text)


@pytest.mark.parametrize("command", [finish, status])
def test_output_without_a_run_is_told(command, tmp_path, capsys):
    assert command.main(["--output", str(tmp_path)]) == 2
    assert "no run of `embed` has begun" in capsys.readouterr().err


@pytest.mark.parametrize("command", [finish, status])
def test_damaged_plan_is_told_with_the_flags_of_embed(command, tmp_path, capsys):
    (tmp_path / PLAN_JSON).write_text("{}")
    assert command.main(["--output", str(tmp_path)]) == 2
    assert "use another `--output`, or `--overwrite`" in capsys.readouterr().err


def test_living_run_is_not_closed(manifest, tmp_path, model_dir, capsys):
    output = tmp_path / "out"
    run(manifest, output, model_dir)
    lock = RunLock(str(output))
    lock.acquire()
    assert finish.main(["--output", str(output)]) == 2
    assert "another run writes to this output" in capsys.readouterr().err
    assert status.main(["--output", str(output)]) == 0
    lock.release()


def test_what_an_overwritten_run_names_late_is_removed_before_the_run_is_closed(
    manifest, tmp_path, model_dir
):
    output = tmp_path / "out"
    run(manifest, output, model_dir, "--rows_per_unit", "4")
    late = {path.relative_to(output): path.read_bytes() for path in output.rglob("*.parquet")}
    assert run(manifest, output, model_dir, "--rows_per_unit", "5", "--overwrite") == 0
    expected = embeddings(output)
    for path, data in late.items():  # as a worker of a store may, that looked at the lock before
        if not (output / path).exists():
            (output / path).write_bytes(data)
    assert run(manifest, output, model_dir, "--rows_per_unit", "5") == 0
    assert_same(embeddings(output), expected)
    assert finish.main(["--output", str(output)]) == 0
