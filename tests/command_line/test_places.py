import os

import pytest

from pipelines import cli
from pipelines.command_line.places import (
    PlaceError,
    expanded,
    manifest_place,
    place,
    readable_place,
)
from pipelines.storage import writing


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return str(tmp_path / "home")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("~", "HOME"),
        ("~/scores", "HOME/scores"),
        ("file://~/scores", "HOME/scores"),
        ("file:/x/a%20b", "/x/a b"),
        ("gcs://b/x", "gs://b/x"),
        ("S3N://b/x", "s3://b/x"),
        ("./~/scores", "./~/scores"),
        ("a~b", "a~b"),
        ("gs://bucket/~/x", "gs://bucket/~/x"),
        ("ViT-B/32", "ViT-B/32"),
    ],
)
def test_only_a_leading_tilde_is_a_home(home, value, expected):
    assert place(value) == expected.replace("HOME", home)


def test_tilde_of_nobody_is_refused_unless_a_file_is_called_so(tmp_path):
    with pytest.raises(PlaceError, match="no home directory for '~no-such-user/x'"):
        place("~no-such-user/x")
    (tmp_path / "~backup.csv").touch()
    assert place("~backup.csv") == "~backup.csv"


def test_flags_of_beam_are_expanded_too(home):
    words = ["--temp_location=~/t", "--staging_location", "~/s", "--job_name=a~b", "--flag"]
    assert expanded(words) == [
        f"--temp_location={home}/t", "--staging_location", f"{home}/s", "--job_name=a~b", "--flag",
    ]  # fmt: skip


FLAGS = [
    ("embed", ("--manifest", "--output", "--image_root", "--vocab", "--model_cache", "--model")),
    ("check", ("--manifest", "--output", "--allow_images_from")),
    ("filter", ("--input", "--output")),
    ("report", ("--input", "--output")),
    ("export", ("--input", "--output")),
    ("search", ("--input", "--html", "--image", "--vocab")),
    ("classify", ("--input", "--output", "--labels", "--templates", "--truth")),
    ("classify", ("--confusion_plot",)),
    ("convert", ("--model", "--output")),
    ("verify", ("--model",)),
    ("sample", ("--output",)),
    ("demo", ("--output",)),
    ("pretrain", ("--manifest", "--output", "--init_from")),
]


@pytest.mark.parametrize(("command", "flag"), [(c, flag) for c, flags in FLAGS for flag in flags])
def test_every_flag_that_names_a_place_expands_it(home, command, flag):
    from importlib import import_module

    module = import_module(f"pipelines.{command}")
    if command == "embed":
        from pipelines.runs import options

        flags = options.parser("embed", "")
    else:
        flags = module.parser()
    for action in flags._actions:
        action.required = False
    for group in flags._mutually_exclusive_groups:
        group.required = False
    found = getattr(flags.parse_args([f"{flag}=~/x"]), flag[2:])
    assert str(found[0] if isinstance(found, list) else found) == f"{home}/x"


def test_named_model_expands_too(home):
    from pipelines.command_line.model_flags import models_of

    assert models_of(["b32=~/m.pt", "l14=x"]) == {"b32": f"{home}/m.pt", "l14": "x"}


def test_pipe_is_refused_as_a_pipe(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for value in (str(tmp_path / "pipe"), f"file://{tmp_path}/pipe", "/dev/zero"):
        with pytest.raises(PlaceError, match="pipe or device and can be read only once"):
            readable_place(value)
    reader, writer = os.pipe()
    try:
        with pytest.raises(PlaceError, match="pipe"):
            manifest_place(f"/dev/fd/{reader}")
    finally:
        os.close(reader)
        os.close(writer)


@pytest.mark.parametrize("name", ["m.csv", "a,b.csv", "folder", "none.csv", "in,fold/*.csv"])
def test_what_can_be_read_passes(tmp_path, name):
    for file in ("m.csv", "a,b.csv", "folder/m.csv", "in,fold/m.csv"):
        writing.write_atomically(str(tmp_path / file), b"x")
    assert manifest_place(name) == name


def test_list_with_commas_says_what_to_type(tmp_path):
    (tmp_path / "a.csv").touch()
    with pytest.raises(PlaceError, match=r"--manifest a\.csv --manifest b\.csv"):
        manifest_place("a.csv, b.csv")
    assert manifest_place("{a,b}.csv") == "{a,b}.csv"


@pytest.mark.parametrize("command", ["embed", "check", "pretrain"])
def test_pattern_that_the_shell_expanded_says_what_to_type(command, capsys):
    flags = ["--manifest", "d/a.csv", "d/b.csv", "--output", "o", "--model", "tiny"]
    assert cli.main([command, *flags]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert "got 'd/b.csv' besides" in message and "--manifest 'd/*.csv'" in message
