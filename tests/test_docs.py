"""What README and docs say can be typed is typed here, and where they point there is something."""

import re
import runpy
import shlex
from importlib import import_module

import duckdb
import pytest

from making import ROOT
from pipelines import cli
from pipelines.engine import beam_options
from pipelines.runs import options
from scored_runs import write_scored

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
TEXTS = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in PAGES}
WIDTH, README_LINES = 120, 150


def found(pattern, flags=0):
    """Returns what a pattern finds, each with its page, once."""
    return sorted(
        {(page, hit) for page, text in TEXTS.items() for hit in re.findall(pattern, text, flags)}
    )


def command_lines():
    for page, text in TEXTS.items():
        for line in text.replace("\\\n", "").splitlines():
            if re.match(r" {4}(\$ )?clip-beam ", line):
                yield page, line.split("#")[0].replace("$ ", "").strip()


def headings(text):
    """Returns the anchors that GitHub gives the headings of a page."""
    lines = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-") for line in lines}


COMMANDS = sorted(set(command_lines()))
BENCHMARKS = sorted({name for _, name in found(r"python -m (bench\.[a-z_]+)")})
LINKS = [(page, link) for page, link in found(r"\]\(([^)]+)\)") if "://" not in link]
PATHS = found(
    r"`([a-z_]+/[\w/]*(?:\*?\.py|\.md|/))`"
)  # where no room of `pipelines` is meant, from the root
STATEMENTS = [
    statement.strip()
    for _, block in found(r"```sql\n(.*?)```", re.DOTALL)
    for statement in block.split(";")
    if statement.strip()
]


@pytest.mark.parametrize("page", TEXTS)
def test_pages_fit_a_terminal(page):
    lines = [line for line in TEXTS[page].splitlines() if page == "README.md" or line[:1] != "|"]
    assert [line for line in lines if len(line) > WIDTH] == []


def test_readme_is_short():
    assert len(TEXTS["README.md"].splitlines()) <= README_LINES


def test_every_page_is_named_in_the_readme():
    named = {link.partition("#")[0] for page, link in LINKS if page == "README.md"}
    assert set(TEXTS) - named == {"README.md"}


def test_all_kinds_of_what_can_be_typed_are_found():
    assert {command.split()[1] for _, command in COMMANDS} >= set(cli.COMMANDS)
    assert len(BENCHMARKS) >= 8 and len(LINKS) >= 20 and len(PATHS) >= 30
    assert len(STATEMENTS) == 5


@pytest.mark.parametrize(("page", "command"), COMMANDS)
def test_commands_are_understood(page, command, monkeypatch):
    monkeypatch.setattr(beam_options, "_has_google_cloud", lambda: True)
    name, *flags = shlex.split(command)[1:]
    assert name in cli.COMMANDS
    parser = import_module(f"pipelines.{name}").parser()
    if name in ("embed", "check"):  # those two go on to Beam's flags
        options.parse(flags, parser)
    else:
        parser.parse_args(flags)


@pytest.mark.parametrize(("page", "link"), LINKS)
def test_links_lead_somewhere(page, link):
    name, _, anchor = link.partition("#")
    target = (ROOT / page).parent / name if name else ROOT / page
    assert target.exists()
    assert not anchor or anchor in headings(target.read_text(encoding="utf-8"))


@pytest.mark.parametrize(("page", "path"), PATHS)
def test_paths_are_there(page, path):
    assert [*ROOT.glob(path.rstrip("/")), *(ROOT / "pipelines").glob(path.rstrip("/"))]


@pytest.mark.parametrize("name", BENCHMARKS)
def test_benchmarks_start(name, capsys):
    with pytest.raises(SystemExit) as ended:
        import_module(name).main(["--help"])
    assert ended.value.code == 0 and "usage:" in capsys.readouterr().out


@pytest.mark.parametrize(("page", "targets"), found(r"\bmake ([a-z]+)\b(?=`| {2,}#)"))
def test_make_has_the_targets(page, targets):
    assert re.search(rf"^{targets}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


def test_command_reference_is_that_of_the_command_lines():
    reference = runpy.run_path(str(ROOT / "docs" / "make_commands.py"))["reference"]
    assert TEXTS["docs/commands.md"] == reference(), "run `make docs`"


def test_library_is_used_as_the_guide_to_models_says():
    (code,) = re.findall(r"```python\n(.*?)```", TEXTS["docs/guides/models.md"], re.DOTALL)
    said = {}
    exec(code, said)
    assert said["logits_per_image"].argmax() == 0


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    rows = [{"similarity": n / 100, "text": f"caption {n % 7}"} for n in range(100)]
    rejects = [
        {"reason": "not_found", "stage": "fetch", "source_row": 100 + n, "source": "m"}
        for n in range(3)
    ]
    return write_scored(tmp_path_factory.mktemp("run"), [rows[:50], rows[50:]], rejects=rejects)


def answer(statement, run):
    """Runs a statement in DuckDB; Spark's way to name files is put into DuckDB's."""
    text = re.sub(r"parquet\.`([^`]+)`", r"'\1/*.parquet'", statement).replace("OUTPUT", str(run))
    return duckdb.sql(text).fetchall()


def test_statements_give_what_their_comments_say(run):
    rejects, best, nearest, captions, together = (answer(text, run) for text in STATEMENTS)
    assert rejects == [("fetch", "not_found", 3)]
    ((source, rows, mean),) = best
    assert source == "/data/manifest.jsonl" and 30 <= rows <= 31 and mean > 0.8
    assert len(nearest) == 10 and nearest[0][1] == pytest.approx(1.0)
    assert [row[1] for row in captions] == [15, 15, 14, 14, 14, 14, 14]
    assert [row[0] for row in together] == list(range(103))
    assert together[-1] == (102, None, "not_found")


def test_image_of_workers_has_every_extra():
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    [named] = re.findall(r"/opt/clip-beam\[([a-z0-9,]+)\]", text)
    setup = (ROOT / "setup.py").read_text(encoding="utf-8")
    extras = set(re.findall(r'^    "([a-z0-9]+)": \[', setup, re.MULTILINE))
    # Beam's own cloud clients are installed beside it.
    assert set(named.split(",")) == extras - {"dataflow", "dev", "test"} != set()
