import pytest

from pipelines.command_line.parser import WRONG_USAGE, Parser


@pytest.fixture
def parser():
    parser = Parser(prog="clip-beam x")
    parser.add_argument("--output", required=True)
    parser.add_argument("--swap_rate", type=float, default=0.0)
    parser.add_argument("--kind", choices=("one", "two"), default="one")
    parser.add_argument("--dry_run", action="store_true")
    parser.add_argument("--place", action="append")
    return parser


def refusal(parser, argv, capsys):
    with pytest.raises(SystemExit) as error:
        parser.parse_args(argv)
    assert error.value.code == WRONG_USAGE == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1
    return captured.err


def test_known_flags_are_read(parser):
    found = parser.parse_args(["--output", "o", "--swap_rate=0.5"])
    assert (found.output, found.swap_rate, found.kind) == ("o", 0.5, "one")


def test_flags_come_from_the_command_line_by_default(parser, monkeypatch):
    monkeypatch.setattr("sys.argv", ["x", "--output", "o"])
    assert parser.parse_args().output == "o"


@pytest.mark.parametrize("argv", [["--swap-rate", "1"], ["--swap-rate=1"], ["--swap_rat", "1"]])
def test_misspelt_flag_suggests_the_right_one(parser, argv, capsys):
    flag = argv[0].split("=")[0]
    message = refusal(parser, ["--output", "o", *argv], capsys)
    assert f"unknown flag {flag}; did you mean --swap_rate?" in message


def test_misspelt_required_flag_is_not_called_missing(parser, capsys):
    message = refusal(parser, ["--ouput", "o"], capsys)
    assert "unknown flag --ouput; did you mean --output?" in message


def test_misspelt_required_flag_is_named_by_those_who_read_on(parser, capsys):
    with pytest.raises(SystemExit):
        parser.parse_known_args(["--ouput=o"])
    assert "did you mean --output?" in capsys.readouterr().err


def test_flags_of_others_are_left_to_those_who_read_on(parser):
    found, rest = parser.parse_known_args(["--output", "o", "--runner", "R"])
    assert (found.output, rest) == ("o", ["--runner", "R"])


def test_unlike_flag_is_refused_without_a_suggestion(parser, capsys):
    message = refusal(parser, ["--output", "o", "--zzz"], capsys)
    assert message == "clip-beam x: unknown flag --zzz; see clip-beam x --help\n"


def test_stray_value_is_refused(parser, capsys):
    assert "expected flags only, got 'y'" in refusal(parser, ["y", "--output", "o"], capsys)
    message = refusal(parser, ["--output", "o", "y"], capsys)
    assert "expected one value for `--output`, got 'y' besides" in message
    message = refusal(parser, ["--output", "o", "--dry_run", "true"], capsys)
    assert "`--dry_run` takes no value, got 'true'" in message


@pytest.mark.parametrize("again", [["--output", "p"], ["--output=p"]])
def test_flag_given_twice_is_refused_with_both_values(parser, again, capsys):
    message = refusal(parser, ["--output", "o", *again], capsys)
    assert "expected `--output` once, got 'o' and 'p'" in message


def test_flag_that_gathers_may_be_given_again(parser):
    found = parser.parse_args(["--output", "o", "--place", "a", "--place=b", "--dry_run"])
    assert (found.place, found.dry_run) == (["a", "b"], True)


def test_missing_flag_is_named(parser, capsys):
    assert "required: --output" in refusal(parser, [], capsys)


def test_value_outside_the_choices_is_refused(parser, capsys):
    message = refusal(parser, ["--output", "o", "--kind", "three"], capsys)
    assert "--kind" in message and "'three'" in message and "'one'" in message


def test_help_ends_well(parser, capsys):
    with pytest.raises(SystemExit) as end:
        parser.parse_args(["--help"])
    assert end.value.code == 0
    assert "--swap_rate" in capsys.readouterr().out
