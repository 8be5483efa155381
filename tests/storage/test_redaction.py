"""A secret planted in every place where one may be, and looked for in all that comes out."""

import json
import logging
import os
import subprocess
import sys

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apache_beam.options.pipeline_options import PipelineOptions, SetupOptions

import forked
from making import ROOT, encode_image, make_image
from pipelines import cli, embed
from pipelines.engine import beam_options
from pipelines.storage import listing
from pipelines.storage import stores as filesystems
from pipelines.storage.redaction import ScrubbingFormatter, redact, redacted, scrub
from pipelines.storage.retries import RetryPolicy
from stores import BUCKET

SECRET = "pl4nted-s3cret"
KEY = "another-s3cret"  # in the environment: else its rule would hide what others miss


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("at https://me:pw@host/a.png?sig=abc&x=1", "at https://…host/a.png…"),
        ("<BytesIO object at 0x7f1234>", "<BytesIO object at …>"),
        ("RN50x4, RN50x64", "RN50x4, RN50x64"),
        ("sv=2024&sig=abc%3D&se=1", "sv=2024&sig=…&se=1"),
        ("x-amz-signature=abc token=abc", "x-amz-signature=… token=…"),
        ("'https://h/a?b=c' and 'https://h/d?e=f'", "'https://h/a…' and 'https://h/d…'"),
        ("/o/a.jpg%3FX-Goog-Signature%3Dabc no", "/o/a.jpg… no"),
        ("a.jpg&X-Goog-Signature%3Dabc", "a.jpg&X-Goog-Signature%3D…"),
        ("nothing to hide", "nothing to hide"),
        ("", ""),
    ],
)
def test_scrub_takes_credentials_queries_and_addresses(message, expected):
    assert scrub(message) == expected


def test_scrub_takes_values_of_secret_variables(monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("FSSPEC_GS_TOKEN", "anon")
    assert scrub(f"key {SECRET} of anon") == "key … of anon"


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("sftp://me:pw@host/a", "sftp://…@host/a"),
        ("https://host/a.parquet?sig=abc", "https://host/a.parquet?…"),
        ("abfs://container@account/a?sig=abc", "abfs://container@account/a?…"),
        ("gs://bucket/what?.jpg", "gs://bucket/what?.jpg"),
        ("/data/me@home/a?.csv", "/data/me@home/a?.csv"),
        ("s3://bucket/a@b:c", "s3://bucket/a@b:c"),
    ],
)
def test_redact_leaves_the_rest_of_a_uri_readable(uri, expected):
    assert redact(uri) == expected
    assert redacted({"manifest": (uri, uri), "n": 3}) == {"manifest": [expected] * 2, "n": 3}
    assert redacted({"model": {"b32": uri}}) == {"model": {"b32": expected}}


def test_log_lines_and_their_tracebacks_are_scrubbed():
    try:
        raise OSError(f"https://host/x?sig={SECRET}")
    except OSError:
        info = sys.exc_info()
    record = logging.LogRecord("gcsfs", logging.ERROR, "f", 1, "at ?sig=%s", (SECRET,), info)
    assert SECRET not in ScrubbingFormatter(logging.BASIC_FORMAT).format(record)


def test_uncaught_error_is_scrubbed():
    code = (
        "from pipelines.storage.redaction import start_logging; start_logging(); "
        f"raise RuntimeError('https://host/?sig={SECRET}')"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert "RuntimeError: https://host/…" in done.stderr


@pytest.mark.parametrize("command", ["sample", "filter", "report", "export"])
def test_every_command_scrubs_logs_and_tracebacks(command):
    code = (
        "import logging, sys, threading; from pipelines import cli\n"
        f"try: cli.main([{command!r}, '--help'])\n"
        "except SystemExit: pass\n"
        f"threading.Thread(target=lambda: open('https://h/?sig={SECRET}')).start()\n"
        f"logging.getLogger('any').warning('https://me:{SECRET}@h/')\n"
        f"raise RuntimeError('https://host/?sig={SECRET}')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert SECRET not in done.stdout + done.stderr.replace(code, "")
    assert "RuntimeError: https://host/…" in done.stderr
    assert "WARNING:any:https://…h/" in done.stderr and "FileNotFoundError" in done.stderr


def test_process_of_a_module_scrubs_what_libraries_make_of_tracebacks():
    code = (
        "import sys, traceback; from pipelines.command_line import exits\n"
        "def main():\n"
        f"    try: raise OSError('https://h/?sig={SECRET}')\n"
        "    except OSError as error:\n"
        "        print(traceback.format_exc(), *traceback.format_exception(error))\n"
        "    return 0\n"
        "exits.run(main)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and SECRET not in done.stdout
    assert done.stdout.count("OSError: https://h/…") == 2


def test_workers_scrub_what_they_log_and_send():
    code = (
        "import logging; from apache_beam.runners.worker import sdk_worker_main as worker\n"
        f"worker._import_beam_plugins({list(beam_options.PLUGINS)!r})\n"
        "import sys, traceback\n"
        f"try: raise OSError('https://h/?sig={SECRET}')\n"
        "except OSError:\n"
        "    print(traceback.format_exc())\n"
        "    logging.getLogger('apache_beam').exception('failed')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert SECRET not in done.stdout + done.stderr, done.stderr
    assert "OSError: https://h/…" in done.stdout and "OSError: https://h/…" in done.stderr


@pytest.mark.parametrize(
    ("runner", "expected"),
    [("FnApiRunner", []), ("PortableRunner", ["clip_beam", "mine", beam_options.PLUGINS[1]])],
)
def test_workers_elsewhere_are_told_to(runner, expected):
    given = [] if runner == "FnApiRunner" else ["--beam_plugins", "mine"]
    options = PipelineOptions(["--runner", runner, *given])
    for _ in range(2):
        beam_options.new_pipeline(options)
    assert (options.view_as(SetupOptions).beam_plugins or []) == expected


@pytest.mark.parametrize("command", ["filter", "report", "convert", "verify"])
def test_flags_that_are_refused_name_no_secret(command, capsys):
    argv = [command, "--input", "x", "--output", "y", "--model", "tiny"]
    assert cli.main([*argv, f"s3://me:{SECRET}@bucket/x", f"--top_k=https://h/?sig={SECRET}"]) == 2
    assert SECRET not in capsys.readouterr().err


@pytest.mark.parametrize(
    "prefix",
    [f"https://me:{SECRET}@host/", f"https://host/?sig={SECRET}", f"https://host/a#{SECRET}"],
)
def test_prefix_with_credentials_is_refused_without_repeating_them(prefix, tmp_path, capsys):
    flags = ["--manifest", "m", "--output", str(tmp_path / "out"), "--model", "tiny"]
    assert embed.main([*flags, "--allow_images_from", prefix]) == 2
    message = capsys.readouterr().err
    assert SECRET not in message and "`https://host/path/`" in message


URLS = [
    "images/0.jpg",
    "images/none.jpg",
    f"https://me:{SECRET}@example.com/a.jpg",
    f"https://example.com/a.jpg?sig={SECRET}",
    f"http://127.0.0.1:9/a.jpg?token={SECRET}",
    f"{{scheme}}://me:{SECRET}@{BUCKET}/data/images/0.jpg",
    f"{{scheme}}://{BUCKET}/data/images/1.jpg?versionId={SECRET}",
    f"{{scheme}}://{BUCKET}/data/images/denied.jpg?X-Amz-Signature={SECRET}",
    f"{{scheme}}://{BUCKET}/data/images/broken.jpg?X-Goog-Signature={SECRET}",
    f"abfs://c@account/a.jpg?sv=1&sig={SECRET}",
    f"file:///etc/hostname?{SECRET}",
    f"simplecache::https://me:{SECRET}@host/a.jpg",
]


@pytest.fixture(scope="module", params=["gs", "s3"])
def outcome(request, stores, tmp_path_factory, model_dir):
    """A run over URLs with secrets, against a store that needs a secret key and often fails."""
    folder = tmp_path_factory.mktemp("secrets") / "data"
    (folder / "images").mkdir(parents=True)
    for name in ("0", "denied", "broken"):
        (folder / "images" / f"{name}.jpg").write_bytes(encode_image(make_image(), "JPEG"))
    urls = [url.replace("{scheme}", request.param) for url in URLS]
    lines = [{"uid": str(n), "url": url, "text": f"x {n}"} for n, url in enumerate(urls)]
    (folder / "m.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    store = stores[request.param]
    root, output = store.upload(folder), f"{store.root}/secrets-out"
    command = [sys.executable, "-m", "pipelines.embed", "--manifest", f"{root}/m.jsonl"]
    command += [
        "--output",
        output,
        "--model",
        str(model_dir),
        "--allow_images_from",
        "https://example.invalid/",
    ]

    def schedule(method, path):
        return 403 if "denied" in path else 400 if "broken" in path else None

    environment = {**os.environ, "AWS_SECRET_ACCESS_KEY": KEY, "FSSPEC_S3_TOKEN": KEY}
    with store.proxy.failing(schedule):
        done = forked.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    files = {uri: fsspec.open(uri).open().read() for uri in listing.expand(f"{output}/*/*.parquet")}
    record = store.files.cat_file(f"{output}/run.json").decode()
    return done, files, record


def test_run_with_secrets_ends_well_and_prints_none(outcome):
    done, _, record = outcome
    assert done.returncode == 0, done.stderr
    for secret in (SECRET, KEY):
        assert secret not in done.stdout + done.stderr + record
    assert "rejected   11" in done.stdout


def test_tables_hold_secrets_only_where_the_manifest_has_them(outcome):
    """`url` is the image reference as given, which rows are joined and tried again by."""
    tables = [pq.read_table(pa.BufferReader(data)) for data in outcome[1].values()]
    assert sum(table.num_rows for table in tables) == len(URLS)
    for table in tables:
        assert SECRET not in str(table.schema.metadata)
        assert SECRET not in str(table.drop_columns(["url"]).to_pylist())


def test_reasons_are_told_without_the_secrets(outcome):
    rejects = next(data for uri, data in outcome[1].items() if "/rejects/" in uri)
    table = pq.read_table(pa.BufferReader(rejects))
    details = dict(zip(table["uid"].to_pylist(), table["detail"].to_pylist(), strict=True))
    assert "HTTP 403" in details["7"]
    assert details["8"] == "the store answered HTTP 400"


@pytest.mark.parametrize("flag", ["--manifest", "--output"])
def test_errors_name_no_secret(flag, tmp_path, capsys, model_dir, monkeypatch):
    monkeypatch.setattr(filesystems, "RETRIES", RetryPolicy(backoff_s=0))
    (tmp_path / "m.csv").write_text("url,text\na.jpg,x\n")
    flags = {
        "--manifest": str(tmp_path / "m.csv"),
        "--output": str(tmp_path / "out"),
        "--model": str(model_dir),
    }
    flags[flag] = f"https://me:{SECRET}@127.0.0.1:9/x.csv?sig={SECRET}"
    status = embed.main([word for pair in flags.items() for word in pair])
    out, err = capsys.readouterr()
    assert status in (0, 1, 2) and SECRET not in out + err
    for path in tmp_path.glob("out/run.json"):
        assert SECRET not in path.read_text()
