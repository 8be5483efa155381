"""Recipes against independent statements of their rules, row by row, on data with every case.

Whether a caption is English, and what WordNet says of a word, is told here by small stand-ins: the
models that the recipes name are not compared (fastText's own is, in `test_language.py`).
"""

import itertools
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pyarrow.dataset as ds
import pytest

from pipelines.curation.recipes import entities, language
from pipelines.curation.recipes.clusters import nearest_centroids
from pipelines.curation.recipes.presets import PRESETS
from scored_runs import filtered, write_scored

DIM = 6
TEXTS = [
    "en a red dog", "en dog", "en x", "en a\nb", "en a  b", "en", "xy a red dog", "en_a_red_dog",
    "en red dogs there", "en a", "ena\tb c", "en a\u00a0b", "en ab\n", "xy", "", None,
]  # fmt: skip
SCORES = [0.1, 0.27999, 0.28, 0.3, 0.29999998, 0.5]
SIZES = [(199, 300), (200, 200), (200, 600), (200, 601), (700, 250), (50, 50)]
SENSES = {"dog": [7, 9], "dogs": [7], "red": [5, 7], "there": []}  # offsets, the likeliest first


def unit(values):
    return values / np.linalg.norm(values, axis=-1, keepdims=True)


def rows():
    """Every text with every score, and sizes and vectors in turn."""
    random = np.random.default_rng(5)
    sizes = itertools.cycle(SIZES)
    for text, score in itertools.product(TEXTS, SCORES):
        width, height = next(sizes)
        vector = unit(random.normal(size=DIM)).astype(np.float32)
        yield {"text": text, "similarity": score, "original_width": width,
               "original_height": height, "image_embedding": vector}  # fmt: skip


@pytest.fixture(scope="module", params=["ViT-B/32", "ViT-L/14"])
def scored(request, tmp_path_factory):
    root = tmp_path_factory.mktemp("recipes")
    found = list(rows())
    fingerprint = {"architecture": request.param}
    write_scored(root / "run", [found[:40], found[40:]], dim=DIM, fingerprint=fingerprint)
    random = np.random.default_rng(6)
    np.save(root / "centroids.npy", random.normal(size=(20, DIM)).astype(np.float32))
    np.save(root / "targets.npy", np.array([3, 4, 4, 8, 11, 19]))
    (root / "synsets.txt").write_text("n00000007\nn00000123\n")
    return root, found, request.param


@pytest.fixture(autouse=True)
def stand_ins(monkeypatch):
    """A caption is English if it begins with `en`; WordNet has the words of `SENSES`."""
    said = {"lang": "en"}, {"lang": "xx"}
    fasttext, cld3, nltk, corpus = map(ModuleType, ("said_fasttext", "said_cld3", "nltk", "corpus"))
    fasttext.LangDetectConfig = dict
    fasttext.LangDetector = lambda config: SimpleNamespace(
        detect=lambda text, k: [said[not text.startswith("en")]]
    )
    cld3.NNetLanguageIdentifier = lambda **bounds: SimpleNamespace(
        FindLanguage=lambda text: SimpleNamespace(language="en" if text.startswith("en") else "xx")
    )
    corpus.wordnet = SimpleNamespace(ensure_loaded=lambda: None, synsets=senses)
    for name, module in (("said_fasttext", fasttext), ("said_cld3", cld3), ("nltk", nltk),
                         ("nltk.corpus", corpus)):  # fmt: skip
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(language, "PACKAGES", {"fastText": "said_fasttext", "CLD3": "said_cld3"})
    monkeypatch.setattr(language, "is_installed", lambda model: True)
    entities._offset.cache_clear()
    yield
    entities._offset.cache_clear()


def senses(word):
    return [SimpleNamespace(offset=lambda offset=offset: offset) for offset in SENSES.get(word, [])]


def english(row):
    return (row["text"] or "").startswith("en")


def basic(row, root):
    text, sides = row["text"] or "", sorted((row["original_width"], row["original_height"]))
    few = len(text.split()) > 2 and len(text) > 5
    return english(row) and few and sides[0] >= 200 and sides[1] / sides[0] <= 3.0


def text_based(row, root):
    """The first sense of a word is in the list; of one without senses nothing is."""
    for word in (row["text"] or "").split():
        if SENSES.get(word) and SENSES[word][0] in (7, 123):
            return english(row)
    return False


def image_based(row, root):
    """fastText's tokens are told apart by ASCII's blanks, and a line break is a token of its own."""
    text = row["text"] or ""
    words = [word for word in text.replace("\n", " </s> ").replace("\t", " ").split(" ") if word]
    products = np.load(root / "centroids.npy").astype(np.float64) @ row["image_embedding"]
    near = int(np.argmax(products)) in (3, 4, 8, 11, 19)
    return english(row) and len(words) > 1 and len(text) > 5 and near


def best(row, root):
    scores = np.sort(np.float32([row["similarity"] for row in rows()]))[::-1]
    return np.float32(row["similarity"]) >= scores[int(len(scores) * 0.3)]


RULES = {
    "datacomp-basic": basic,
    "datacomp-text-based": text_based,
    "datacomp-image-based": image_based,
    "datacomp-image-based-clip-l14-30pct": lambda row, root: (
        image_based(row, root) and best(row, root)
    ),
    "clip-l14-30pct": best,
    "laion2b": lambda row, root: english(row) and np.float32(row["similarity"]) >= np.float32(0.28),
    "laion400m": lambda row, root: (
        len(row["text"] or "") >= 5 and np.float32(row["similarity"]) >= np.float32(0.3)
    ),
}


def flags_of(name, root):
    files = {
        "synsets": "synsets.txt",
        "centroids": "centroids.npy",
        "target_clusters": "targets.npy",
    }
    needs = PRESETS[name].needs
    return [
        "--preset",
        name,
        *(w for flag in needs for w in (f"--{flag}", str(root / files[flag]))),
    ]


@pytest.mark.parametrize("name", PRESETS)
def test_recipe_keeps_what_its_rule_says_and_is_refused_for_another_model(
    scored, tmp_path, capsys, name
):
    root, found, architecture = scored
    status = filtered(root, *flags_of(name, root), "--output", str(tmp_path))
    if PRESETS[name].architecture not in (None, architecture):
        assert status == 2 and f"those of {architecture}" in capsys.readouterr().err
        return
    assert status == 0
    left = ds.dataset(tmp_path / "embeddings", ignore_prefixes=["."]).to_table()["source_row"]
    expected = [number for number, row in enumerate(found) if RULES[name](row, root)]
    assert sorted(left.to_pylist()) == expected and 0 < len(expected) < len(found)


@pytest.mark.parametrize("name", [name for name, preset in PRESETS.items() if preset.needs])
def test_files_that_a_recipe_needs_are_asked_for(scored, capsys, name):
    assert filtered(scored[0], "--dry_run", "--preset", name) == 2
    assert (
        f"expected `--{PRESETS[name].needs[0]}` with the preset {name}" in capsys.readouterr().err
    )
    flags = flags_of(name, scored[0])[2:]
    assert filtered(scored[0], "--dry_run", "--min_similarity", "0", *flags) == 2
    assert "belongs to a `--preset` that needs it" in capsys.readouterr().err


@pytest.mark.parametrize(
    "array, told",
    [
        (np.zeros((3, DIM + 1), "f4"), f"expected `--centroids` of {DIM} numbers each"),
        (np.zeros(DIM, "f4"), f"of shape [{DIM}]"),
        (np.zeros((5, DIM), "f4"), "expected numbers from 0 to 4 as `--target_clusters`, got 3 to"),
        (np.array([object()]), "which is none"),
    ],
)
def test_centroids_of_another_form_are_refused(scored, tmp_path, capsys, array, told):
    root, _, architecture = scored
    if architecture != "ViT-L/14":
        return
    np.save(tmp_path / "centroids.npy", array, allow_pickle=True)
    flags = ["--preset", "datacomp-image-based", "--target_clusters", str(root / "targets.npy")]
    assert filtered(root, "--dry_run", *flags, "--centroids", str(tmp_path / "centroids.npy")) == 2
    assert told in capsys.readouterr().err


def test_list_of_something_else_is_refused(scored, tmp_path, capsys):
    (tmp_path / "list").write_text("n00000007\ndog\n")
    flags = ["--preset", "datacomp-text-based", "--synsets", str(tmp_path / "list")]
    assert filtered(scored[0], "--dry_run", *flags) == 2
    assert "one a line as in n02084071, got 'dog'" in capsys.readouterr().err


@pytest.mark.parametrize("rows, centroids", [(0, 5), (5, 1), (40, 300)])
def test_nearest_centroid_is_that_of_all_products(rows, centroids, monkeypatch):
    monkeypatch.setattr("pipelines.curation.recipes.clusters.CENTROIDS", 7)
    random = np.random.default_rng(0)
    vectors = random.integers(-2, 3, (rows, 4)).astype(np.float32)  # with ties
    others = random.integers(-2, 3, (centroids, 4)).astype(np.float32)
    assert (nearest_centroids(vectors, others) == (vectors @ others.T).argmax(axis=1)).all()
