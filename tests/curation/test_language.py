import pickle

import pyarrow as pa
import pytest

from pipelines.command_line import optional_packages
from pipelines.command_line.optional_packages import MissingExtraError
from pipelines.curation.recipes import language
from pipelines.curation.recipes.language import english_rule
from pipelines.curation.recipes.presets import FASTTEXT
from scored_runs import filtered, write_scored

TEXTS = {
    "a photo of a dog on the beach": True,
    "Vintage leather jacket\nfor sale": True,
    "ein Hund läuft am Strand entlang": False,
    "un perro en la playa": False,
    "犬の写真": False,
    "": False,
    None: False,
}


def batch(texts):
    return pa.RecordBatch.from_pydict({"text": pa.array(texts, pa.string())})


def test_english_captions_are_told_whatever_process_asks():
    keeps = pickle.loads(pickle.dumps(english_rule().keeps))
    assert keeps(batch(list(TEXTS))).tolist() == list(TEXTS.values())
    assert keeps(batch([])).shape == (0,)


@pytest.fixture
def scored(tmp_path):
    rows = [{"text": text, "original_width": 300, "original_height": 300} for text in TEXTS]
    write_scored(tmp_path / "run", [rows])
    return tmp_path


def test_basic_filter_of_datacomp_keeps_english(scored, capsys):
    assert filtered(scored, "--dry_run", "--preset", "datacomp-basic") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[-2] for line in lines[2:]] == ["7", "2", "2", "2", "2", "2"]
    assert lines[3].startswith("caption in English")


def test_without_the_extra_the_rule_is_left_out_and_said_to_be(scored, capsys, monkeypatch):
    monkeypatch.setitem(language.PACKAGES, FASTTEXT, "not_there")
    assert filtered(scored, "--dry_run", "--preset", "datacomp-basic") == 0
    said = capsys.readouterr().out
    assert "caption in English" not in said
    assert 'left out   captions in other languages; `pip install "clip-beam[language]"`' in said
    assert filtered(scored, "--dry_run", "--preset", "laion400m") == 0
    assert "left out" not in capsys.readouterr().out


def test_rule_without_the_extra_names_it(monkeypatch):
    monkeypatch.setattr(optional_packages, "import_module", lambda name: __import__("not_there"))
    with pytest.raises(MissingExtraError, match=r'pip install "clip-beam\[language\]"'):
        english_rule()


def test_extra_that_is_there_in_part_is_one_sentence(scored, capsys, monkeypatch, tmp_path):
    package = tmp_path / "packages" / "in_part"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("import fasttext_that_is_not_there")
    monkeypatch.syspath_prepend(package.parent)
    monkeypatch.setitem(language.PACKAGES, FASTTEXT, "in_part")
    assert filtered(scored, "--dry_run", "--preset", "datacomp-basic") == 2
    error = capsys.readouterr().err
    assert 'pip install "clip-beam[language]"' in error and error.count("\n") == 1
