"""Nothing in the files of a run widens what may be read: each door has a canary behind it."""

import http.server
import io
import json
import os
import shutil
import tarfile
import threading

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import clip_core
from making import encode_image, make_image, plan
from pipelines import cli
from pipelines.images.fetch import allowed_file
from pipelines.manifests.request import file_id
from pipelines.output.unit_record import UNIT_KEY, unit_to_json
from pipelines.pages import plots
from pipelines.storage import reading
from scored_runs import write_scored

PICTURE = encode_image(make_image(), "PNG")


@pytest.fixture(autouse=True)
def no_plots(monkeypatch):
    """They take longer than all else here."""
    for name in ("bars", "curve"):
        monkeypatch.setattr(plots, name, lambda *arguments, **settings: "")


@pytest.fixture
def private(tmp_path):
    """A directory that nobody allowed, with an image, and manifests with the image in them."""
    folder = tmp_path / "private"
    folder.mkdir()
    (folder / "secret.png").write_bytes(PICTURE)
    pq.write_table(pa.table({"image_bytes": [PICTURE], "text": ["a"]}), folder / "m.parquet")
    (folder / "m.jsonl").write_text('{"image": "secret.png", "text": "a"}\n')
    with tarfile.open(folder / "m.tar", "w") as tar:
        for name, data in (("k.png", PICTURE), ("k.txt", b"a")):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return folder


@pytest.fixture
def opened(monkeypatch):
    """What was opened or read, by URI."""
    seen = []
    for name in ("open_input", "read_whole"):
        real = getattr(reading, name)
        monkeypatch.setattr(
            reading, name, lambda uri, *rest, real=real: seen.append(str(uri)) or real(uri, *rest)
        )
    return seen


@pytest.fixture
def listener():
    """A server on this machine, and the requests that reached it."""
    requests = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            requests.append(self.path)
            self.send_error(404)

        do_HEAD = do_GET

        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", requests
    server.shutdown()


def write_run(root, row, options=None, unit=None):
    write_scored(root, [[row]], record={"options": options or {}})
    if unit is not None:
        path = root / "embeddings" / "unit-0.parquet"
        table = pq.read_table(path)
        metadata = table.schema.metadata | {UNIT_KEY: json.dumps(unit)}
        name = f"{file_id(row['source'])}-00000.parquet"
        pq.write_table(table.replace_schema_metadata(metadata), path.with_name(name))
        path.unlink()
    return root


def page_of(run, *flags):
    page = run.parent / "page.html"
    assert cli.main(["report", "--input", str(run), "--output", str(page), *flags]) == 0
    return page.read_text()


def unit_of(path, **changes):
    return json.loads(unit_to_json(plan(path).units[0])) | changes


def image_cases(private, run):
    """Row, options and unit of a run, each of which leads to the image."""
    secret, own = str(private / "secret.png"), str(run / "m.jsonl")
    listed = str(private / "m.jsonl")
    return {
        "absolute": ({"source": own, "url": secret}, {}, None),
        "file uri": ({"source": own, "url": f"file://{secret}"}, {}, None),
        "beside its manifest": ({"source": listed, "url": "secret.png"}, {}, None),
        "steps up": ({"source": own, "url": "../private/secret.png"}, {}, None),
        "run.json allows all": ({"source": own, "url": secret}, {"allow_images_from": ["/"]}, None),
        "run.json allows it": (
            {"source": own, "url": secret},
            {"allow_images_from": [str(private)]},
            None,
        ),
        "root of run.json": (
            {"source": own, "url": "secret.png"},
            {"image_root": str(private)},
            None,
        ),
        "root is all": ({"source": own, "url": secret}, {"image_root": "/"}, None),
        "root of the unit": (
            {"source": own, "url": "secret.png"},
            {},
            unit_of(private / "m.jsonl", uri=own, image_root=str(private)),
        ),
        "root of the unit is all": (
            {"source": own, "url": secret},
            {},
            unit_of(private / "m.jsonl", uri=own, image_root="/"),
        ),
        "link in the run": ({"source": own, "url": "link.png"}, {}, None),
    }


@pytest.mark.parametrize(
    "case",
    ["absolute", "file uri", "beside its manifest", "steps up", "run.json allows all"]
    + ["run.json allows it", "root of run.json", "root is all", "root of the unit"]
    + ["root of the unit is all", "link in the run"],
)
def test_picture_that_only_the_run_names_is_not_read(tmp_path, private, opened, capsys, case):
    run = tmp_path / "run"
    run.mkdir()
    os.symlink(private / "secret.png", run / "link.png")
    write_run(run, *image_cases(private, run)[case])
    opened.clear()
    page = page_of(run)
    assert "data:image/jpeg" not in page
    remedy = f"`--allow_images_from {private}`"
    assert remedy in page.replace("&#39;", "'") and remedy in capsys.readouterr().out
    assert not [uri for uri in opened if "private" in uri]
    assert "data:image/jpeg" in page_of(run, "--allow_images_from", str(private))


def manifest_cases(private, run):
    """Row, options and unit of a run, each of which leads to a manifest with the image in it."""
    table, tar = str(private / "m.parquet"), str(private / "m.tar")
    return {
        "table": ({"source": table}, {}, None),
        "tar": ({"source": tar}, {}, None),
        "file uri": ({"source": f"file://{table}"}, {"manifest_format": "parquet"}, None),
        "steps up": ({"source": str(run / ".." / "private" / "m.parquet")}, {}, None),
        "unit": ({"source": str(run / "m.parquet")}, {}, unit_of(private / "m.parquet")),
        "unit of a tar": ({"source": str(run / "m.tar")}, {}, unit_of(private / "m.tar")),
        "run.json allows it": ({"source": table}, {"allow_manifests_from": ["/"]}, None),
        "run.json trusts": ({"source": table}, {"trust_run": True, "image_root": "/"}, None),
        "link in the run": ({"source": str(run / "link.parquet")}, {}, None),
    }


@pytest.mark.parametrize(
    "case",
    ["table", "tar", "file uri", "steps up", "unit", "unit of a tar", "run.json allows it"]
    + ["run.json trusts", "link in the run"],
)
def test_manifest_that_only_the_run_names_is_not_read(tmp_path, private, opened, capsys, case):
    run = tmp_path / "run"
    run.mkdir()
    os.symlink(private / "m.parquet", run / "link.parquet")
    write_run(run, *manifest_cases(private, run)[case])
    opened.clear()
    page = page_of(run)
    said = capsys.readouterr().out
    assert "data:image/jpeg" not in page
    assert "`--allow_manifests_from " in page and "`--allow_manifests_from " in said
    assert not [uri for uri in opened if not uri.startswith(str(run)) or "link" in uri]
    assert "data:image/jpeg" in page_of(run, "--allow_manifests_from", str(private))
    assert "data:image/jpeg" in page_of(run, "--trust_run")


def test_spelling_that_the_filesystem_reads_otherwise_is_not_opened(
    tmp_path, private, opened, monkeypatch
):
    """`file:/x` is a file of that name to the check and /x to fsspec: what is checked is opened."""
    run = write_run(tmp_path / "run", {"source": f"file:{private / 'm.parquet'}"})
    monkeypatch.chdir(run)
    opened.clear()
    assert "data:image/jpeg" not in page_of(run)
    assert not [uri for uri in opened if uri.startswith((str(private), f"file:{private}"))]


@pytest.mark.parametrize("door", ["manifest", "manifest of a unit", "image", "image by root"])
def test_no_address_is_asked_on_a_runs_word(tmp_path, private, listener, door):
    address, requests = listener
    own = str(tmp_path / "run" / "m.jsonl")
    row, options, unit = {
        "manifest": ({"source": f"{address}/m.parquet"}, {}, None),
        "manifest of a unit": (
            {"source": own},
            {},
            unit_of(private / "m.parquet", uri=f"{address}/m.parquet"),
        ),
        "image": (
            {"source": own, "url": f"{address}/a.png"},
            {"allow_images_from": [f"{address}/", "http://"]},
            None,
        ),
        "image by root": ({"source": own, "url": "a.png"}, {"image_root": address}, None),
    }[door]
    run = write_run(tmp_path / "run", row, options, unit)
    page_of(run)
    assert not requests
    if door.startswith("manifest"):
        page_of(run, "--allow_manifests_from", f"{address}/")
        assert requests


@pytest.mark.parametrize(
    "uri",
    [
        "simplecache::file:///data/in/a",
        "zip://a::file:///data/in/a",
        "/data/in/../out/a",
        "/data/inner/a",
        "memory://bucket/in/../out/a",
        "memory://bucket/inner/a",
        "https://host/in/../out/a",
        "https://host/in/%2e%2e/out/a",
        "https://user@host/in/a",
        "https://host.example/in/a",
        "ftp://host/in/a",
        "/data/in/a\0b",
    ],
)
def test_file_outside_every_prefix_or_read_in_two_ways_is_not_allowed(uri):
    assert allowed_file(uri, ["/data/in", "memory://bucket/in", "https://host/in/"]) is None


@pytest.mark.parametrize("uri", ["/data/in/a", "memory://bucket/in/a", "https://host/in/a"])
def test_file_under_a_prefix_is_allowed(uri):
    assert allowed_file(uri, ["/data/in", "memory://bucket/in", "https://host/in/"]) == uri


def test_pictures_in_the_runs_own_directory_are_shown(tmp_path):
    run = write_run(tmp_path / "run", {"source": str(tmp_path / "run/m.jsonl"), "url": "a.png"})
    (run / "a.png").write_bytes(PICTURE)
    assert "data:image/jpeg" in page_of(run)
    files = fsspec.filesystem("memory")
    write_run(tmp_path / "other", {"source": "memory://trusted/m.jsonl", "url": "a.png"})
    files.put(str(tmp_path / "other"), "/trusted", recursive=True)
    files.pipe_file("/trusted/a.png", PICTURE)
    page = tmp_path / "memory.html"
    argv = ["report", "--input", "memory://trusted", "--output", str(page)]
    assert cli.main(argv) == 0 and "data:image/jpeg" in page.read_text()


@pytest.mark.parametrize(
    "unit",
    [[], 3, "x", {}, {"uri": 1}, {"columns": 5}, {"columns": {"kept": 3}}],
    ids=str,
)
def test_unit_of_another_form_costs_only_its_pictures(tmp_path, unit):
    row = {"source": str(tmp_path / "run/m.jsonl"), "url": "a.png"}
    assert "no image" in page_of(write_run(tmp_path / "run", row, unit=unit))


@pytest.mark.parametrize(
    "options",
    [
        {"allow_images_from": 3, "image_root": [1], "manifest_format": ["x"]},
        {"allow_images_from": [1, None], "image_root": {}, "image_column": 5},
        {"model": 3, "manifest": {"a": [1]}, "image_policy": []},
    ],
)
@pytest.mark.parametrize("flags", [(), ("--trust_run",)])
def test_options_of_another_form_cost_only_pictures(tmp_path, options, flags):
    row = {"source": str(tmp_path / "run/m.parquet"), "url": "a.png"}
    assert "no image" in page_of(write_run(tmp_path / "run", row, options), *flags)


def test_remedy_can_be_pasted_whatever_the_run_names(tmp_path, capsys):
    row = {"source": str(tmp_path / "run/m.jsonl"), "url": "/x; rm -r $(y)\x1b[31m/a.png"}
    page_of(write_run(tmp_path / "run", row))
    assert "`--allow_images_from '/x; rm -r $(y)?[31m'`" in capsys.readouterr().out


@pytest.fixture
def embedded(tmp_path, model_dir):
    """Writes a run of a model outside it, which run.json names in a given way."""
    copy = tmp_path / "private" / "model"
    shutil.copytree(model_dir, copy)
    model = clip_core.load(str(copy))

    def write(**options):
        return write_scored(
            tmp_path / "run",
            [[{"text": "a"}]],
            dim=model.config.embed_dim,
            fingerprint=model.fingerprint,
            record={"options": options},
        )

    return copy, write


def asked(run, command, *flags):
    more = {
        "search": ["--text", "a"],
        "classify": ["--labels", "a,b", "--output", str(run.parent / "out")],
    }
    return cli.main([command, "--input", str(run), *more[command], *flags])


@pytest.mark.parametrize("command", ["search", "classify"])
@pytest.mark.parametrize("spelling", ["{}", "file://{}", "{}/.", "./private/model", "memory://m"])
def test_model_that_only_the_run_names_is_not_loaded(
    embedded, capsys, monkeypatch, command, spelling
):
    copy, write = embedded
    monkeypatch.chdir(copy.parent.parent)
    run = write(model=spelling.format(copy))
    with monkeypatch.context() as patch:
        patch.setattr(clip_core, "load", lambda *a, **k: pytest.fail("the model was loaded"))
        assert asked(run, command) == 2
    error = capsys.readouterr().err
    assert "`--trust_run`" in error and "`--model`" in error and error.count("\n") == 1
    if "memory" not in spelling:
        assert asked(run, command, "--trust_run") == 0
        shutil.rmtree(run.parent / "out", ignore_errors=True)
    assert asked(run, command, "--model", str(copy)) == 0


@pytest.mark.parametrize("command", ["search", "classify"])
def test_no_model_is_asked_for_at_an_address(embedded, listener, command):
    address, requests = listener
    run = embedded[1](model=f"{address}/model.pt")
    assert asked(run, command) == 2 and not requests
    assert asked(run, command, "--trust_run") == 2 and requests


@pytest.mark.parametrize("name", ["vocab", "model_cache", "arch", "activation"])
@pytest.mark.parametrize("model", ["tiny", "ViT-B/32"])
def test_what_run_json_says_about_a_known_model_counts_only_when_trusted(
    embedded, monkeypatch, model, name
):
    seen = []

    def load(*arguments, **settings):
        seen.append((arguments, settings))
        raise ValueError("enough")

    monkeypatch.setattr(clip_core, "load", load)
    run = embedded[1](model=model, **{name: "/private/canary"})
    assert asked(run, "search") == 2 and asked(run, "search", "--trust_run") == 2
    assert [arguments for arguments, _ in seen] == [(model,)] * 2
    assert "/private/canary" not in seen[0][1].values()
    assert "/private/canary" in seen[1][1].values()


@pytest.mark.parametrize("model", [3, ["tiny"], {"a": "tiny"}, "", None])
def test_model_of_another_form_asks_for_one(embedded, capsys, model):
    assert asked(embedded[1](model=model), "search") == 2
    assert "expected `--model`" in capsys.readouterr().err


def test_prefix_that_nothing_can_lie_under_names_its_flag(tmp_path, capsys):
    run = write_run(tmp_path / "run", {})
    flags = ("--allow_manifests_from", "https://a@host/")
    argv = ["report", "--input", str(run), "--output", str(tmp_path / "p.html"), *flags]
    assert cli.main(argv) == 2
    assert "`--allow_manifests_from` takes `https://host/path/`" in capsys.readouterr().err
