"""Every layout is read back as its consumer reads it."""

import hashlib
import json

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from embedding_reader import EmbeddingReader

from pipelines import cli, export
from pipelines.output.layout import FINGERPRINT_KEY
from scored_runs import exported, make_models, refused, write_scored

DIM = 8
BOXES = pa.list_(pa.list_(pa.float64()))
KEPT = [
    pa.field("language", pa.string()),
    pa.field("face_bboxes", BOXES),
    pa.field("Caption", pa.string()),
]


def uid(number):
    return hashlib.md5(str(number).encode()).hexdigest()


def unit_vectors(rows, seed):
    vectors = np.random.default_rng(seed).standard_normal((rows, DIM)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


IMAGES, TEXTS = unit_vectors(60, 1), unit_vectors(60, 2)


def scored_rows(**changes):
    """Sixty rows, whose images are of every size that DataComp's rules tell apart."""
    return [
        {
            "uid": uid(number),
            "url": f"https://x/{number}.jpg" if number % 7 else None,
            "text": "one two three"[: 5 + number % 9],
            "original_width": 150 + 10 * (number % 11),
            "original_height": 150 + 100 * (number % 5),
            "sha256": f"{number:064x}",
            "similarity": float((IMAGES[number] * TEXTS[number]).sum()),
            "image_embedding": IMAGES[number],
            "text_embedding": TEXTS[number],
            "language": "en",
            "face_bboxes": [[0.1, 0.2, 0.3, 0.4]] if number % 2 else [],
            "Caption": "kept",
        }
        | changes
        for number in range(60)
    ]


@pytest.fixture
def run(tmp_path):
    """Three files, one without rows, of one model."""
    rows = scored_rows()
    fingerprint = {"architecture": "ViT-L/14", "checkpoint_sha256": "c0ffee"}
    units = [rows[:25], [], rows[25:]]
    return write_scored(
        tmp_path / "run", units, dim=DIM, kept=KEPT, fingerprint=fingerprint, record={}
    )


def embeddings(run):
    return ds.dataset(run / "embeddings").to_table()


def basic_and_clip_filter(parquet, fraction):
    """DataComp's `basic` without language and its `clip_score`, as `baselines` states them."""
    table = pq.read_table(parquet).to_pandas()
    words = table["text"].fillna("").str.split().str.len()
    size = table[["original_width", "original_height"]]
    aspect = size.max(axis=1) / size.min(axis=1)
    basic = (
        (words > 2)
        & (table["text"].fillna("").str.len() > 5)
        & (size.min(axis=1) >= 200)
        & (aspect <= 3.0)
    )
    scores = np.sort(table["clip_l14_similarity_score"])[::-1]
    best = table["clip_l14_similarity_score"] >= scores[int(len(scores) * fraction)]
    return [(int(u[:16], 16), int(u[16:32], 16)) for u in table["uid"][basic & best]]


def test_datacomp_columns_have_the_published_names_order_and_types(run):
    output = exported(run, "datacomp")
    paths = sorted((output / "metadata").glob("*.parquet"))
    assert len(paths) == 3 and all(len(path.stem) == 32 for path in paths)
    for path in paths:
        schema = pq.read_schema(path)
        assert {field.name: field.type for field in schema} == {
            "uid": pa.string(),
            "url": pa.string(),
            "text": pa.string(),
            "original_width": pa.int64(),
            "original_height": pa.int64(),
            "clip_l14_similarity_score": pa.float32(),
            "face_bboxes": BOXES,
            "sha256": pa.string(),
        }
        assert json.loads(schema.metadata[FINGERPRINT_KEY])["checkpoint_sha256"] == "c0ffee"


def test_datacomp_npz_is_aligned_with_its_parquet(run):
    output = exported(run, "datacomp")
    seen = 0
    for path in (output / "metadata").glob("*.parquet"):
        uids = pq.read_table(path)["uid"].to_pylist()
        numbers = [[uid(n) for n in range(60)].index(found) for found in uids]
        with np.load(path.with_suffix(".npz")) as archive:
            assert sorted(archive) == ["l14_img", "l14_txt"]
            assert archive["l14_img"].dtype == np.float16
            np.testing.assert_array_equal(archive["l14_img"], IMAGES[numbers].astype("f2"))
            np.testing.assert_array_equal(archive["l14_txt"], TEXTS[numbers].astype("f2"))
        seen += len(uids)
    assert seen == 60


def test_datacomp_subset_and_own_filter_agree_with_its_baselines(run):
    subset = np.load(exported(run, "datacomp") / "subset.npy")
    assert subset.dtype == np.dtype("u8,u8") and len(subset) == 60
    assert (np.sort(subset) == subset).all()
    # One file, as the baselines take the fraction of all.
    rows = run.parent / "one" / "run"
    write_scored(
        rows, [scored_rows()], dim=DIM, fingerprint={"architecture": "ViT-L/14"}, kept=KEPT
    )
    path = next((exported(rows, "datacomp") / "metadata").glob("*.parquet"))
    expected = basic_and_clip_filter(path, 0.5)
    out = run.parent / "filtered"
    flags = ["--preset", "datacomp-basic", "--top_fraction", "0.5"]
    assert cli.main(["filter", "--input", str(rows), "--output", str(out), *flags]) == 0
    assert 0 < len(expected) < 30
    assert np.load(out / "uids.npy").tolist() == sorted(expected)


def test_uids_of_other_kinds_are_hashed_and_kept_beside(tmp_path, capsys):
    run = write_scored(tmp_path / "run", [[{"uid": "img 7"}, {"uid": "AB" * 16}]])
    output = exported(run, "datacomp", "--datacomp_key", "b32")
    table = pq.read_table(next((output / "metadata").glob("*.parquet")))
    hashed = hashlib.sha256(b"img 7").hexdigest()[:32]
    assert table["uid"].to_pylist() == [hashed, "ab" * 16]
    assert table["original_uid"].to_pylist() == ["img 7", "AB" * 16]
    assert "1 hashed to 32 hex digits, see original_uid" in capsys.readouterr().out


def test_boxes_of_another_type_are_no_boxes(tmp_path):
    kept = [pa.field("face_bboxes", pa.string())]
    run = write_scored(tmp_path / "run", [[{"face_bboxes": "none"}]], kept=kept)
    output = exported(run, "datacomp", "--datacomp_key", "l14")
    assert "face_bboxes" not in pq.read_schema(next((output / "metadata").glob("*.parquet"))).names


def test_two_models_fill_both_columns_of_datacomp(run):
    make_models(run, ["b32", "l14"])
    output = exported(run, "datacomp")
    path = next((output / "metadata").glob("*.parquet"))
    names = pq.read_schema(path).names
    scores = ["clip_b32_similarity_score", "clip_l14_similarity_score"]
    assert [name for name in names if name.endswith("score")] == scores
    with np.load(path.with_suffix(".npz")) as archive:
        assert sorted(archive) == ["b32_img", "b32_txt", "l14_img", "l14_txt"]


def test_clip_retrieval_is_read_by_embedding_reader(run):
    output = exported(run, "clip_retrieval")
    for kind, vectors in (("img_emb", IMAGES), ("text_emb", TEXTS)):
        reader = EmbeddingReader(
            embeddings_folder=str(output / kind),
            metadata_folder=str(output / "metadata"),
            meta_columns=["image_path", "caption", "url", "uid", "similarity"],
            file_format="parquet_npy",
        )
        assert (reader.count, reader.dimension) == (60, DIM)
        found = list(reader(batch_size=17))
        read = np.concatenate([batch for batch, _ in found])
        uids = [value for _, meta in found for value in meta["uid"]]
        assert uids == [uid(number) for number in range(60)]
        np.testing.assert_array_equal(read, vectors.astype("f2"))


def test_clip_retrieval_metadata_names_every_picture_and_keeps_the_rest(run):
    output = exported(run, "clip_retrieval")
    assert sorted(path.name for path in (output / "img_emb").iterdir()) == [
        "img_emb_0.npy",
        "img_emb_1.npy",
    ]
    table = pq.read_table(output / "metadata" / "metadata_0.parquet")
    assert table.schema.names[:4] == ["image_path", "caption", "url", "similarity"]
    assert table["image_path"].to_pylist()[:2] == [uid(0), "https://x/1.jpg"]
    assert "language" in table.schema.names and "Caption" not in table.schema.names
    assert not {"image_embedding", "text", "text_truncated"} & set(table.schema.names)


def test_laion_columns_have_the_published_types(run):
    output = exported(run, "laion")
    table = ds.dataset(output / "metadata").to_table()
    types = {field.name: str(field.type) for field in table.schema}
    expected = {"SAMPLE_ID": "int64", "URL": "string", "TEXT": "string", "HEIGHT": "int32"}
    expected |= {"WIDTH": "int32", "similarity": "double", "uid": "string", "language": "string"}
    expected |= {"LICENSE": "string", "NSFW": "string"}
    names = ["SAMPLE_ID", "URL", "TEXT", "HEIGHT", "WIDTH", "LICENSE", "NSFW", "similarity"]
    assert table.schema.names[:8] == names
    assert {name: types[name] for name in expected} == expected
    before = embeddings(run)
    assert table["WIDTH"].to_pylist() == before["original_width"].to_pylist()
    assert table["similarity"].to_pylist() == before["similarity"].to_pylist()
    ids = table["SAMPLE_ID"].to_pylist()
    assert len(set(ids)) == 60 and min(ids) >= 0


def test_licence_and_what_heads_made_have_the_names_of_laion(tmp_path):
    kept = [("license", pa.string()), ("Nsfw", pa.float32()), ("aesthetic", pa.float32())]
    row = {"license": "CC0", "Nsfw": 0.25, "aesthetic": 5.5}
    run = write_scored(tmp_path / "run", [[row]], kept=[pa.field(*field) for field in kept])
    [found] = ds.dataset(exported(run, "laion") / "metadata").to_table().to_pylist()
    scores = found["LICENSE"], found["NSFW"], found["punsafe"], found["AESTHETIC_SCORE"]
    assert scores == ("CC0", None, 0.25, 5.5)
    assert not {"license", "Nsfw", "aesthetic"} & set(found)


def test_tag_of_unsafe_images_is_kept_as_text(tmp_path):
    kept = [pa.field("NSFW", pa.string())]
    run = write_scored(tmp_path / "run", [[{"NSFW": "UNLIKELY"}]], kept=kept)
    [found] = ds.dataset(exported(run, "laion") / "metadata").to_table().to_pylist()
    assert found["NSFW"] == "UNLIKELY" and "punsafe" not in found


def test_decimal_uid_is_the_sample_id(tmp_path):
    uids = ["0", "123456789012345678", "007", "-5", "9" * 19]
    run = write_scored(tmp_path / "run", [[{"uid": value} for value in uids]])
    table = ds.dataset(exported(run, "laion") / "metadata").to_table()
    ids = table["SAMPLE_ID"].to_pylist()
    assert ids[:2] == [0, 123456789012345678] and len(set(ids)) == 5
    assert table["uid"].to_pylist() == uids


def test_separate_tables_join_to_the_run(run):
    output = exported(run, "tables")
    scores, vectors = (ds.dataset(output / name).to_table() for name in ("scores", "vectors"))
    assert not {"image_embedding", "text_embedding"} & set(scores.schema.names)
    keys = ["source", "source_row"]
    before = embeddings(run)
    images = before["image_embedding"].combine_chunks().flatten().to_numpy().reshape(-1, DIM)
    assert scores.select(keys).equals(vectors.select(keys))
    found = vectors["image_embedding"].combine_chunks().flatten().to_numpy().reshape(-1, DIM)
    np.testing.assert_array_equal(found, images)
    assert scores.equals(before.select(scores.schema.names))


def test_half_precision_runs_and_single_rows_export_too(tmp_path):
    run = write_scored(tmp_path / "run", [[{}]])
    path = run / "embeddings" / "unit-0.parquet"
    table = pq.read_table(path)
    half = pa.array(np.array([[0.6, 0.8, 0, 0]], "f2").reshape(-1))
    column = pa.FixedSizeListArray.from_arrays(half, 4)
    index = table.schema.get_field_index("image_embedding")
    pq.write_table(table.set_column(index, "image_embedding", column), path)
    output = exported(run, "clip_retrieval")
    found = np.load(output / "img_emb" / "img_emb_0.npy")
    np.testing.assert_array_equal(found, np.array([[0.6, 0.8, 0, 0]], "f2"))


def test_any_filesystem_will_do(run):
    output = f"memory://export-{run.parent.name}"
    flags = ["--format", "datacomp", "--input", str(run), "--output", output]
    assert export.main(flags) == 0
    from pipelines.storage import listing, reading

    assert len(listing.list_files(f"{output}/metadata")) == 6
    assert reading.file_size(f"{output}/subset.npy") == 60 * 16 + 128


def test_bigquery_gets_a_schema_for_each_table_and_commands(tmp_path, capsys):
    run = write_scored(tmp_path / "run", [[{}]], rejects=[{"reason": "not_found"}])
    output = exported(run, "bigquery")
    said = capsys.readouterr().out
    for name, path in (("embeddings", "embeddings/unit-0"), ("rejects", "rejects/unit-0")):
        fields = json.loads((output / f"{name}.schema.json").read_text())
        names = [entry["name"] for entry in fields]
        assert names == pq.read_schema(run / f"{path}.parquet").names
        assert (
            "bq load --source_format=PARQUET --parquet_enable_list_inference "
            f"DATASET.{name} '{run}/{name}/*.parquet' {output}/{name}.schema.json"
        ) in said


def test_bigquery_refuses_what_it_cannot_load(run, capsys):
    told = refused(capsys, run, "--format", "bigquery")
    assert "no type for list" in told and "'face_bboxes'" in told


@pytest.mark.parametrize(
    ("kind", "value", "fits"),
    [
        (pa.uint64(), 2**63 - 1, True),
        (pa.uint64(), 2**63, False),
        (pa.list_(pa.uint64()), [1, 2**64 - 1], False),
        (pa.timestamp("us"), 2**60, False),
        (pa.timestamp("ms", "Nowhere/Land"), 0, True),
        (pa.timestamp("s"), 253_402_300_800, False),
        (pa.date32(), 2_932_896, True),
        (pa.date32(), 2_932_897, False),
    ],
)
def test_bigquery_refuses_values_that_its_types_do_not_hold(tmp_path, capsys, kind, value, fits):
    write_scored(tmp_path / "run", [[{"x": value}]], kept=[pa.field("x", kind)])
    if fits:
        exported(tmp_path / "run", "bigquery")
        return
    told = refused(capsys, tmp_path / "run", "--format", "bigquery")
    assert "column 'x' of" in told and "which BigQuery does not hold as" in told
