import pytest
from apache_beam.options.pipeline_options import (
    GoogleCloudOptions,
    PipelineOptions,
    StandardOptions,
)

from making import flags_over
from pipelines import cli
from pipelines.command_line.exits import RunnerError
from pipelines.command_line.parser import Parser
from pipelines.engine import beam_options
from pipelines.engine.beam_options import runs_here
from pipelines.runs import options

NEEDED = ["--manifest", "m.csv", "--output", "out", "--model", "tiny"]


def refused(argv, capsys, parse=options.parse):
    with pytest.raises(SystemExit) as error:
        parse(argv)
    assert error.value.code == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    return message


def test_defaults_are_those_of_the_contract():
    config, beam = options.parse(NEEDED)
    assert (config.rows_per_unit, config.embedding_dtype, config.decode) == (
        10_000,
        "float32",
        "exact",
    )
    assert (config.device, config.precision, config.max_reject_fraction) == ("auto", "auto", 1.0)
    assert beam.view_as(StandardOptions).runner == "FnApiRunner"
    assert runs_here(beam)


def test_beams_own_flags_ride_along(monkeypatch):
    monkeypatch.setattr(beam_options, "_has_google_cloud", lambda: True)
    config, beam = options.parse(
        [*NEEDED, "--runner", "DataflowRunner", "--temp_location=gs://b/t"]
    )
    assert beam.view_as(StandardOptions).runner == "DataflowRunner"
    assert beam.view_as(GoogleCloudOptions).temp_location == "gs://b/t"
    assert not runs_here(beam)
    assert config.manifest == ("m.csv",)


def test_repeated_and_listed_flags():
    config, _ = options.parse([*NEEDED, "--manifest", "n.csv", "--keep_columns", "a, b,"])
    again, _ = options.parse([*NEEDED, "--keep_columns", "a", "--keep_columns=b, c"])
    assert again.keep_columns == ("a", "b", "c")
    assert config.manifest == ("m.csv", "n.csv")
    assert config.keep_columns == ("a", "b")


@pytest.mark.parametrize(
    ("flag", "suggestion"),
    [
        ("--mainfest", "--manifest"),
        ("--batchsize", "--batch_size"),
        ("--temp_locaton", "--temp_location"),
    ],
)
def test_misspelt_flag_suggests_the_right_one(flag, suggestion, capsys):
    message = refused([*NEEDED, flag, "x"], capsys)
    assert f"unknown flag {flag}; did you mean {suggestion}?" in message


@pytest.mark.parametrize("flag", ["--output", "--temp_location", "--image_root"])
def test_flag_given_twice_is_refused(flag, capsys):
    message = refused([*NEEDED, flag, "a", f"{flag}=b"], capsys)
    assert f"expected `{flag}` once, got" in message


def test_abbreviated_and_stray_arguments_are_refused(capsys):
    assert "unknown flag --manif" in refused([*NEEDED, "--manif", "x"], capsys)
    assert "expected one value for `--model`, got 'x' besides" in refused([*NEEDED, "x"], capsys)


def test_missing_flag_is_named(capsys):
    assert "--manifest" in refused(["--output", "o", "--model", "m"], capsys)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--rows_per_unit", "0"], "`rows_per_unit` must be a positive int, got 0"),
        (["--batch_size", "-1"], "`batch_size` must be a positive int, got -1"),
        (["--output", ""], "`output` is empty; give a path or URI"),
        (["--manifest", " "], "`manifest` is empty; give a path or URI"),
        (["--max_reject_fraction", "2"], "must be between 0 and 1, got 2.0"),
    ],
)
def test_values_out_of_range_are_refused(extra, message):
    with pytest.raises(ValueError, match=message):
        options.parse(flags_over(NEEDED, extra))


def test_cli_lists_its_commands(capsys):
    assert cli.main([]) == 0
    usage = capsys.readouterr().out
    assert all(name in usage for name in cli.COMMANDS)


def test_cli_suggests_a_command(capsys):
    assert cli.main(["embd"]) == 2
    assert "unknown command 'embd'; did you mean `embed`?" in capsys.readouterr().err
    assert cli.main(["xyzzy"]) == 2
    assert "expected demo, sample" in capsys.readouterr().err


def test_parser_names_its_help(capsys):
    parser = Parser(prog="clip-beam x")
    parser.add_argument("--number", type=int)
    message = refused(["--number", "many"], capsys, parser.parse_args)
    assert message.startswith("clip-beam x: ") and message.endswith("see clip-beam x --help\n")


def test_importing_the_options_leaves_other_pipelines_alone():
    assert PipelineOptions([]).view_as(StandardOptions).runner is None


def test_runner_that_is_not_there_is_told_before_any_work(capsys):
    message = refused([*NEEDED, "--runner", "NoSuchRunner"], capsys)
    assert "`--runner` cannot be used: Unexpected pipeline runner: NoSuchRunner" in message


def test_portable_runner_needs_its_job_service(capsys):
    message = refused([*NEEDED, "--runner", "PortableRunner"], capsys)
    assert "name it with `--job_endpoint HOST:PORT`" in message


def test_flags_that_a_runner_refuses_are_told_in_one_sentence(monkeypatch):
    def refuse(runner, options):
        raise ValueError("Pipeline has validations errors: \nMissing required option: region.")

    monkeypatch.setattr(beam_options, "Pipeline", refuse)
    with pytest.raises(RunnerError, match="validations errors: Missing required option: region$"):
        beam_options.new_pipeline(options=PipelineOptions([]))


def test_dataflow_without_its_extra_names_it(capsys, monkeypatch):
    monkeypatch.setattr(beam_options, "_has_google_cloud", lambda: False)
    place = ("--project", "my-project", "--region", "europe-west4", "--temp_location", "gs://b/tmp")
    message = refused([*NEEDED, "--runner", "DataflowRunner", *place], capsys)
    assert 'pip install "clip-beam[dataflow]"' in message
