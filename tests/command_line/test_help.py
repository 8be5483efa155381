import argparse
from importlib import import_module
from importlib.metadata import PackageNotFoundError

import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from pipelines import cli
from pipelines.runs.options import EmbedOptions

GROUPS = ["input", "model", "output", "running"]
OF_ONE_COMMAND = ["conditions", "content", "labels", "query", "training"]
TAKE_BEAM_FLAGS = {"check", "embed", "filter", "heads", "classify", "search", "report", "export"}
OF_THE_MACHINE = ("device", "threads")  # defaults that are not the same everywhere


def parser_of(command):
    return import_module(f"pipelines.{command}").parser()


def titles_of(parser):
    """Returns the groups that have flags, in their order; the first two are argparse's own."""
    return [group.title for group in parser._action_groups[2:] if group._group_actions]


@pytest.mark.parametrize("ask", [["{}", "--help"], ["{}", "-h"], ["help", "{}"]])
@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_has_help(command, ask, capsys):
    assert cli.main([word.format(command) for word in ask]) == 0
    assert capsys.readouterr().out.startswith(f"usage: clip-beam {command} ")


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_flag_is_in_a_group_and_is_explained(command):
    parser = parser_of(command)
    positional, of_argparse = parser._action_groups[:2]
    assert not positional._group_actions
    assert [action.dest for action in of_argparse._group_actions] == ["help"]
    assert all(action.help for action in parser._actions)


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_groups_come_in_one_order(command):
    titles = titles_of(parser_of(command))
    shared = [title for title in titles if title not in OF_ONE_COMMAND]
    assert shared == [title for title in GROUPS if title in shared]
    assert len(titles) - len(shared) <= 1


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_help_tells_every_default(command):
    for action in parser_of(command)._actions:
        has_one = isinstance(action, argparse._StoreAction) and action.default is not None
        if has_one and action.dest not in OF_THE_MACHINE:
            assert f"[{action.default}" in action.help, action.dest


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_help_says_whether_beams_flags_ride_along(command, capsys):
    cli.main([command, "--help"])
    assert ("Beam" in capsys.readouterr().out) == (command in TAKE_BEAM_FLAGS)


def test_first_line_of_help_names_what_must_be_given(capsys):
    cli.main(["help", "classify"])
    first = capsys.readouterr().out.split("\n\n")[0]
    assert "(--input URI | --manifest URI)" in first and first.endswith("[flags]")
    assert "--top_k" not in first
    cli.main(["help", "demo"])
    assert capsys.readouterr().out.startswith("usage: clip-beam demo [flags]\n")


def test_beams_own_parser_takes_the_groups():
    options = PipelineOptions(["--manifest", "m", "--decode=near", "--runner", "FnApiRunner"])
    found = options.view_as(EmbedOptions)
    assert (found.manifest, found.decode, found.rows_per_unit) == (["m"], "near", 10_000)
    assert options.get_all_options()["decode"] == "near"


def test_groups_stand_in_the_help_of_beams_own_parser():
    parser = argparse.ArgumentParser()
    EmbedOptions._add_argparse_args(parser)
    assert titles_of(parser) == GROUPS


@pytest.mark.parametrize("ask", [[], ["help"], ["--help"], ["-h"], ["help", "help"]])
def test_help_without_a_command_lists_the_commands(ask, capsys):
    assert cli.main(ask) == 0
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line[:2] == "  "]
    assert [word for word in listed if word != "clip-beam"] == list(cli.COMMANDS)


def test_help_of_no_command_suggests_one(capsys):
    assert cli.main(["help", "embd"]) == 2
    assert "did you mean `embed`?" in capsys.readouterr().err


def test_version_is_that_of_the_installation(capsys, monkeypatch):
    monkeypatch.setattr(cli, "version", {"clip-beam": "1.2.3"}.get)
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == "clip-beam 1.2.3\n"


def test_version_of_a_source_tree_is_not_known(capsys, monkeypatch):
    def absent(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(cli, "version", absent)
    assert cli.main(["--version"]) == 0
    assert "not installed" in capsys.readouterr().out
