import io
import json
import tarfile
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from making import encode_image, make_image
from pipelines import check, embed
from pipelines.ownership.lock import lock_uri
from pipelines.runs import preflight
from pipelines.storage import stores, writing
from pipelines.storage.retries import RetryPolicy
from tars import make_tar
from web_server import WebServer


def write_manifest(folder, rows=12, bad=()):
    folder.mkdir(exist_ok=True)
    lines = []
    for number in range(rows):
        data = b"<html>" if number in bad else encode_image(make_image(seed=number))
        (folder / f"{number}.png").write_bytes(data)
        lines.append(json.dumps({"url": f"{number}.png", "text": f"a star {number}"}) + "\n")
    (folder / "m.jsonl").write_text("".join(lines))
    return folder / "m.jsonl"


@pytest.fixture
def found(tmp_path, model_dir, capsys):
    """Runs the command; returns its exit status, what it printed, and its problems."""

    def run(manifest, *flags, output=tmp_path / "out", model=model_dir):
        argv = ["--manifest", str(manifest), "--output", str(output), "--model", str(model)]
        status = check.main([*argv, *flags])
        printed = capsys.readouterr()
        lines = printed.out.splitlines()
        problems = [line.removeprefix("problem    ") for line in lines if line[:7] == "problem"]
        assert bool(problems) == (status == 1)
        return status, printed.out + printed.err, problems

    return run


def test_sound_run_has_no_problems_and_nothing_is_written(tmp_path, found):
    status, text, _ = found(write_manifest(tmp_path / "data", bad=[3]))
    assert status == 0 and text.endswith("no problems found\n")
    assert "1 file, 1 unit, 12 rows" in text
    assert "image_uri 'url', text 'text'" in text
    assert "12 rows: 11 embedded, 1 rejected (not_an_image 1)" in text
    assert "not_an_image, 8.3%, such as row 3 of" in text
    assert "estimate   12 rows: about" in text
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("there", [(), ("deep",), ("deep", "deep/er")])
def test_directories_of_the_output_are_left_as_they_were(tmp_path, found, there):
    for name in there:
        (tmp_path / name).mkdir()
    found(write_manifest(tmp_path / "data"), output=tmp_path / "deep" / "er" / "out")
    assert [(tmp_path / name).exists() for name in ("deep", "deep/er")] == [
        name in there for name in ("deep", "deep/er")
    ]


def test_credentials_are_not_shown(found, monkeypatch):
    monkeypatch.setattr(stores, "RETRIES", RetryPolicy(backoff_s=0))
    _, text, (problem, *_) = found("https://user:word@127.0.0.1:9/m.jsonl?sig=1234")
    assert "127.0.0.1:9" in problem
    assert "word" not in text and "1234" not in text


def test_sample_bounds_the_rows_and_is_spread_over_the_units(tmp_path, found):
    manifest = write_manifest(tmp_path / "data", rows=30, bad=[29])
    _, text, _ = found(manifest, "--sample", "6", "--rows_per_unit", "5")
    assert "sample     6 rows" in text
    _, text, _ = found(manifest, "--sample", "30", "--rows_per_unit", "1")
    assert "sample     10 rows" in text  # one of each of ten units


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (["--text_column", "title"], "`--text_column` names 'title', the manifest has columns"),
        (["--image_root", "/nowhere"], "100.0% of the sample were rejected, most as not_found; "),
        (["--device", "warp"], "device warp cannot be used"),
        (["--only_reasons", "not_found"], "`--only_reasons` needs `--retry_rejects`"),
    ],
)
def test_flag_that_would_go_wrong_is_a_problem_with_its_remedy(tmp_path, found, flags, problem):
    status, text, problems = found(write_manifest(tmp_path / "data"), *flags)
    assert status == 1 and len(problems) == 1
    assert problem in problems[0] and text.endswith("1 problem found\n")


def test_workers_elsewhere_need_a_service_and_a_device(tmp_path, found):
    service = ("--runner", "PortableRunner", "--job_endpoint", "localhost:1")
    status, _, problems = found(write_manifest(tmp_path), *service, "--job_server_timeout", "1")
    assert status == 1 and len(problems) == 2
    assert "no job service answered at localhost:1 within 1 s" in problems[0]
    assert "pass, for example, `--device cuda" in problems[1]


def test_what_a_reject_names_is_said_as_a_flag(tmp_path, found):
    (tmp_path / "m.jsonl").write_text('{"url": "/elsewhere/a.png", "text": "a star"}\n')
    _, text, _ = found(tmp_path / "m.jsonl")
    assert "allow its prefix with `--allow_images_from`" in text and "`allow_" not in text


def test_all_problems_are_told_at_once(tmp_path, found):
    (tmp_path / "file").write_text("")
    missing = {"output": tmp_path / "file" / "out", "model": tmp_path / "none"}
    _, _, problems = found(tmp_path / "none.csv", **missing)
    assert len(problems) == 3
    assert "no manifest files matched" in problems[0]
    assert "there is no model" in problems[1]
    assert "cannot be written" in problems[2]


def test_output_of_another_run_is_a_problem(tmp_path, found, model_dir):
    manifest, output = write_manifest(tmp_path / "data"), tmp_path / "out"
    argv = ["--manifest", str(manifest), "--output", str(output), "--model", str(model_dir)]
    embed.main([*argv, "--rows_per_unit", "5"])
    status, text, _ = found(manifest, "--rows_per_unit", "5")
    assert status == 0 and "3 units are finished, 0 left to do" in text
    _, _, problems = found(manifest, "--rows_per_unit", "5", "--embedding_dtype", "float16")
    assert "embedding_dtype 'float32', this run has 'float16'" in problems[0]
    status, text, _ = found(manifest, "--overwrite")
    assert status == 0 and "3 units there, which `--overwrite` removes" in text


def test_output_in_use_is_a_problem(tmp_path, found):
    lock = {"run": "x", "host": "elsewhere", "process": 1, "seen": time.time()}
    writing.write_atomically(lock_uri(str(tmp_path / "out")), json.dumps(lock).encode())
    _, _, problems = found(write_manifest(tmp_path / "data"))
    assert "another run writes to this output" in problems[0]


def test_share_of_rejects_is_held_against_the_allowed_one(tmp_path, found):
    manifest = write_manifest(tmp_path / "data", bad=[1, 2, 3])
    assert found(manifest, "--max_reject_fraction", "0.3")[0] == 0
    _, _, problems = found(manifest, "--max_reject_fraction", "0.2")
    assert problems == ["25.0% of the sample were rejected, most as not_an_image"]


def test_tar_with_dotted_keys_is_a_problem(tmp_path, found):
    with tarfile.open(tmp_path / "m.tar", "w") as tar:
        for name, data in (("a.b.png", encode_image(make_image())), ("a.b.txt", b"a star")):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    _, _, problems = found(tmp_path / "m.tar")
    assert "keys with dots, such as 'a.b.png'" in problems[0]
    assert "rejected, most as missing_image" in problems[1]


def test_damaged_and_empty_manifests_are_problems(tmp_path, found):
    manifest = write_manifest(tmp_path / "data")
    pq.write_table(pa.table({"url": ["0.png"], "text": ["x"]}), tmp_path / "data" / "a.parquet")
    (tmp_path / "data" / "b.parquet").write_bytes(b"PAR1 cut")
    _, _, problems = found(tmp_path / "data")
    assert len(problems) == 1 and "b.parquet is damaged" in problems[0]
    manifest.write_text("")
    assert found(manifest)[2] == ["the manifest has no rows"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--sample", "0"], "`--sample` must be a positive int, got 0"),
        (["--sampel", "3"], "did you mean --sample?"),
        (["--rows_per_unit", "0"], "`--rows_per_unit` must be a positive int"),
    ],
)
def test_wrong_usage_exits_2(tmp_path, found, flags, message, capsys):
    try:
        status, text, _ = found(tmp_path / "m.csv", *flags)
    except SystemExit as stopped:
        status, text = stopped.code, capsys.readouterr().err
    assert status == 2 and message in text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (119, "119 s"), (120, "2.0 min"), (9_000, "2.5 h"), (1e6, "11.6 days")]
)  # fmt: skip
def test_durations_are_readable(seconds, text):
    assert preflight._duration(seconds) == text


def test_kept_columns_that_a_warehouse_cannot_read_are_told(tmp_path, found):
    folder = tmp_path / "data"
    write_manifest(folder)
    about = {"url": ["0.png"], "text": ["x"], "my col": [1], "at": pa.array([1], pa.time64("us"))}
    pq.write_table(pa.table(about), folder / "m.parquet")
    flags = ["--keep_columns", "my col,at", "--embedding_dtype", "float16"]
    status, text, _ = found(folder / "m.parquet", *flags)
    assert status == 0
    assert "BigQuery cannot read column 'my col': it takes letters" in text
    assert "Spark 3.5 cannot read column 'at': it has no type for time64[us]" in text
    assert "Spark 3.5, Delta and BigQuery cannot read embeddings in float16" in text


def test_wrong_delimiter_and_torn_samples_are_problems(tmp_path, found):
    (tmp_path / "m.csv").write_text("url;caption\n0.png;x\n")
    assert "pass `--csv_delimiter` semicolon" in found(tmp_path / "m.csv")[2][0]
    (tmp_path / "m.tar").write_bytes(make_tar(("0.jpg", b"x"), ("1.jpg", b"x"), ("0.txt", b"x")))
    assert "samples that are torn apart, such as '0'" in found(tmp_path / "m.tar")[2][0]


def test_images_of_the_web_have_a_time_for_all(tmp_path, found, monkeypatch):
    monkeypatch.setattr(preflight, "IMAGES_S", 0.3)
    server = WebServer()
    server.raw["/x"] = lambda handler: handler.rfile.read(1)  # until the reader hangs up
    lines = [json.dumps({"url": f"{server.root}x?{n}", "text": f"a star {n}"}) for n in range(9)]
    (tmp_path / "m.jsonl").write_text("\n".join(lines))
    flags = ("--allow_images_from", server.root, "--allow_private_hosts")
    _, text, problems = found(tmp_path / "m.jsonl", *flags)
    server.shutdown()
    server.server_close()
    assert "127.0.0.1: not there within the 0.3 s of all images together" in text
    assert "100.0% of the sample were rejected, most as fetch_failed" in problems[0]
