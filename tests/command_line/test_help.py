import pytest

from pipelines import cli


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_has_help(command, capsys):
    assert cli.main([command, "--help"]) == 0
    assert f"usage: clip-beam {command}" in capsys.readouterr().out
