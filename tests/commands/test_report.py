import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser

import fsspec
import pyarrow.parquet as pq
import pytest

from making import encode_image, make_image
from pipelines import cli, report
from pipelines.command_line.exits import RunnerError
from pipelines.pages import statistics
from scored_runs import write_scored

HOSTILE = '</title></style><script>document.title="owned"</script><img src=x onerror=alert(1)>"\'&'
RECORD = {
    "options": {"model": "tiny", "manifest": ["/data"], "arch": None},
    "seconds": {"wall": 10.0, "wait": 1.25, "encode": 8.0, "fetch": 0.5},
    "versions": {"torch": "2.13.0"},
}


class Page(HTMLParser):
    """Collects what a browser would act upon."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.links, self.handlers, self.text = [], [], [], ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "xlink:href"):
                self.links.append(value)
            if name.startswith("on"):
                self.handlers.append(name)

    def handle_data(self, data):
        self.text += data + "\n"


def make_page(root, units, *flags, **settings):
    write_scored(root / "scored", units, **settings)
    output = root / "page.html"
    assert report.main(["--input", str(root / "scored"), "--output", str(output), *flags]) == 0
    return output.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    root = tmp_path_factory.mktemp("report")
    (root / "0.png").write_bytes(encode_image(make_image()))
    source = str(root / "manifest.jsonl")
    rows = [
        {"similarity": n / 256, "source": source, "url": "0.png" if n % 2 else "gone.png"}
        for n in range(100)
    ]
    rows[99]["text"] = HOSTILE
    rejects = [{"reason": "not_an_image", "text": HOSTILE}] * 25
    flags = ("--thumbnails", "3", "--allow_images_from", str(root))
    return make_page(root, [rows[:60], rows[60:]], *flags, rejects=rejects, record=RECORD)


def test_totals_rejects_times_and_provenance_are_told(page):
    text = Page(page).text
    for expected in ("125", "100", "80.0%", "20.0%", "not_an_image (decode)", "25"):
        assert expected in text
    for expected in ("10.0 s", "encode", "c0ffee", "torch", "2.13.0", "tiny"):
        assert expected in text


def test_times_in_turn_are_kept_apart_from_those_of_threads(tmp_path):
    page = make_page(tmp_path, [[{}]], record={"seconds": RECORD["seconds"]})
    text = re.sub(r"\s*\n\s*", " ", Page(page).text)
    assert "waiting for images 1.2 s encode 8.0 s In threads, meanwhile: fetch" in text
    assert "sums over all of its workers" in text


def test_cut_keeps_the_default_fraction(page):
    """Index int(100 * 0.3) = 30 of 99/256, 98/256, ..., as `filter` keeps them."""
    assert "31.0% at 0.2695" in Page(page).text


def test_pictures_are_embedded_and_missing_ones_say_why(page):
    found = Page(page)
    assert found.tags.count("img") + page.count("no image: not found") == 9
    assert 3 <= found.tags.count("img") <= 6
    assert all(link.startswith(("data:image/jpeg;base64,", "#")) for link in found.links)


def test_hostile_caption_stays_text(page):
    found = Page(page)
    assert HOSTILE in found.text
    assert "script" not in found.tags and not found.handlers
    assert found.tags.count("title") == 1


def test_page_names_nothing_outside_itself(page):
    assert not re.search(r"(?:src|href)=[\"']?(?:https?:|//)|@import|url\((?!#)", page)
    assert "default-src 'none'" in page


def test_plots_take_the_colours_of_the_page_and_ids_do_not_clash(page):
    for name in ("Rows by similarity", "Rows kept, by threshold", "Threshold, by fraction kept"):
        assert f'aria-label="{name}"' in page
    assert "var(--accent)" in page and "#030303" not in page
    ids = re.findall(r'<clipPath id="([^"]+)"', page)
    assert len(ids) == len(set(ids)) == 5


@pytest.mark.parametrize(
    "flags, told",
    [
        (("--cut", "0.25"), "50.0% at 0.2500"),
        (("--cut", "0.9"), "0.0% at 0.9000"),
        (("--cut", "-1"), "100.0% at -1.0000"),
        (("--top_fraction", "1"), "100.0% at 0.0000"),
    ],
)
def test_cut_and_top_fraction_are_heeded(tmp_path, flags, told):
    rows = [{"similarity": n / 100} for n in range(50)]
    text = Page(make_page(tmp_path, [rows], "--thumbnails", "0", *flags)).text
    assert told in text and "Pairs" not in text.split("\n")


@pytest.mark.parametrize("units", [[[]], [[], []]], ids=["one unit", "two"])
def test_run_without_scored_rows_still_has_a_page(tmp_path, units):
    text = Page(make_page(tmp_path, units, rejects=[{"reason": "not_found"}])).text
    assert "No row was embedded" in text and "not_found" in text


def test_scores_without_embeddings_and_without_run_json_have_a_page(tmp_path):
    write_scored(tmp_path, [[{}]], whole=False)
    path = tmp_path / "embeddings" / "unit-0.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["image_embedding", "text_embedding"]), path)
    output = tmp_path / "page.html"
    assert report.main(["--input", str(tmp_path), "--output", str(output)]) == 0
    assert "This run is not whole:" in output.read_text()


def test_any_filesystem_will_do(tmp_path):
    write_scored(tmp_path, [[{}]])
    files = fsspec.filesystem("memory")
    files.put(str(tmp_path / "embeddings"), "/report-test/embeddings", recursive=True)
    argv = ["--input", "memory://report-test", "--output", "memory://report-test/page.html"]
    assert report.main(argv) == 0
    assert b"</html>" in files.cat_file("/report-test/page.html")


@pytest.mark.parametrize("similarity", [-1.0, 0.0, 1.0])
def test_single_row_and_ends_of_the_scale_can_be_plotted(tmp_path, similarity):
    rows = [{"similarity": similarity, "text": "", "original_width": 1, "original_height": 1}]
    assert "<svg" in make_page(tmp_path, [rows * 3])


@pytest.mark.parametrize(
    "flags, message",
    [
        (("--cut", "2"), "`--cut` must be a similarity between -1 and 1, got 2.0"),
        (("--top_fraction", "0"), "`--top_fraction` must be above 0"),
        (("--thumbnails", "-1"), "`--thumbnails` must be between 0 and 100, got -1"),
        (("--thumbnails", "101"), "`--thumbnails` must be between 0 and 100, got 101"),
        (("--cut", "0.1", "--top_fraction", "0.1"), "not allowed with argument"),
        (("--thumbnail", "1"), "did you mean --thumbnails?"),
        ((), "expected the output directory of `clip-beam embed`"),
    ],
)
def test_wrong_usage_is_one_sentence(tmp_path, capsys, flags, message):
    argv = ["report", "--input", str(tmp_path), "--output", str(tmp_path / "p.html"), *flags]
    status = cli.main(argv)
    error = capsys.readouterr().err
    assert status == 2 and message in error and error.count("\n") == 1


def test_missing_extra_is_named_with_its_install_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert report.main(["--input", str(tmp_path), "--output", str(tmp_path / "p.html")]) == 2
    assert 'pip install "clip-beam[report]"' in capsys.readouterr().err


def test_credentials_reach_neither_messages_nor_the_page(tmp_path, capsys):
    write_scored(tmp_path, [[{}]])
    files = fsspec.filesystem("memory")
    files.put(str(tmp_path / "embeddings"), "/user:secret@report/embeddings", recursive=True)
    root = "memory://user:secret@report"
    assert report.main(["--input", root, "--output", f"{root}/page.html"]) == 0
    assert report.main(["--input", f"{root}/absent", "--output", f"{root}/page.html"]) == 2
    said = capsys.readouterr()
    page = files.cat_file("/user:secret@report/page.html").decode()
    assert "report     memory://…@report/page.html" in said.out and "…report/absent" in said.err
    assert "secret" not in said.out + said.err + page


def test_beam_flags_that_do_not_suffice_are_wrong_usage(tmp_path, capsys, monkeypatch):
    def refuse(*arguments):
        raise RunnerError("Beam refuses its flags: no region")

    monkeypatch.setattr(statistics, "over_files", refuse)
    write_scored(tmp_path, [[{}]])
    argv = [
        "--input",
        str(tmp_path),
        "--output",
        str(tmp_path / "p.html"),
        "--runner",
        "FnApiRunner",
    ]
    assert report.main(argv) == 2
    assert capsys.readouterr().err == "clip-beam report: Beam refuses its flags: no region\n"


def test_damaged_table_fails_the_report(tmp_path, capsys):
    write_scored(tmp_path, [[{}], [{}]])
    (tmp_path / "embeddings" / "unit-1.parquet").write_bytes(b"PAR1 cut")
    argv = ["--input", str(tmp_path), "--output", str(tmp_path / "p.html")]
    assert report.main(argv) == 1
    assert "unit-1.parquet is damaged" in capsys.readouterr().err
    assert not (tmp_path / "p.html").exists()


@pytest.mark.skipif(not shutil.which("chromium"), reason="chromium is not installed")
def test_browser_opens_the_page_without_an_error(page, tmp_path):
    (tmp_path / "page.html").write_text(page, encoding="utf-8")
    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --dump-dom "
    flags += "--disable-background-networking --disable-component-update --disable-sync "
    flags += "--enable-logging=stderr --v=0"
    profile = f"--user-data-dir={tmp_path / 'profile'}"
    command = ["chromium", *flags.split(), profile, (tmp_path / "page.html").as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90)
    assert "<h1>Image-text scores</h1>" in done.stdout
    assert "<title>Image-text scores</title>" in done.stdout  # the hostile script has not run
    assert not [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert json.dumps(done.stdout).count("var(--accent)") > 10
