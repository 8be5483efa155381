"""What libraries say in parameters is said to a shell in flags."""

from dataclasses import fields

import pytest

from pipelines.command_line import exits
from pipelines.command_line.flag_names import in_flags
from pipelines.command_line.parser import Parser
from pipelines.manifests.request import ManifestRequest
from pipelines.runs import options

FLAGS = ("--vocab", "--model_cache", "--decode", "--pairs", "--device", "--allow_images_from")


def told(message, flags=FLAGS):
    """Returns what a command says to a shell that has these flags."""
    found = []

    @exits.command
    def main(argv=None):
        parser = Parser(prog="clip-beam it")
        for name in flags:
            parser.add_argument(name)
        parser.parse_args(argv)
        found.append(in_flags(message))
        return 0

    assert main([]) == 0
    return found[0]


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ("name `vocab` or `unknown`; see `embed`", "name `--vocab` or `unknown`; see `embed`"),
        ("`cache_dir`, `resampling`", "`--model_cache`, `--decode`"),
        ("pass `pairs='images'`", "pass `--pairs images`"),
        ("pass `device='a b', pairs=\"it's\"`", "pass `--device 'a b' --pairs 'it'\"'\"'s'`"),
        ("pass `pairs='images', unknown='x'`", "pass `pairs='images', unknown='x'`"),
        ("pass `allow_images_from=('gs://a`b/',)`", "pass `--allow_images_from 'gs://a`b/'`"),
        ("pass `pairs='\\x'`, `pairs=x`", "pass `pairs='\\x'`, `pairs=x`"),  # no value of Python's
    ],
)
def test_parameters_that_a_library_names_are_said_as_flags(message, said):
    assert told(message) == said


def test_parameter_whose_own_name_is_a_flag_is_called_by_it():
    assert told("`format='laion'`", ("--format", "--manifest_format")) == "`--format laion`"
    assert told("`format`", ("--manifest_format",)) == "`--manifest_format`"


@pytest.mark.parametrize("name", [f.name for f in fields(ManifestRequest) if f.name != "patterns"])
def test_what_is_said_of_a_manifest_is_a_flag_of_embed(name):
    flags = [
        flag for flag in options.parser()._option_string_actions if flag not in ("-h", "--help")
    ]
    assert told(f"`{name}`", flags).startswith("`--")


def test_errors_of_the_parser_are_said_in_flags(capsys):
    @exits.command
    def main(argv=None):
        parser = Parser(prog="clip-beam it")
        parser.add_argument("--slots")
        parser.parse_args(argv)
        parser.error("`slots` must be a positive int")

    assert main([]) == 2
    assert capsys.readouterr().err.startswith("clip-beam it: `--slots` must be a positive int;")


def test_failing_command_speaks_in_flags(capsys):
    @exits.command
    def main(argv=None):
        parser = Parser()
        parser.add_argument("--vocab")
        parser.parse_args(argv)
        return exits.fail("it", "name `vocab`", 1)

    assert main([]) == 1
    assert capsys.readouterr().err == "clip-beam it: name `--vocab`\n"


def test_outside_of_a_command_parameters_stay():
    parser = Parser()
    parser.add_argument("--vocab")
    parser.parse_args([])
    assert in_flags("name `vocab`") == "name `vocab`"
