import os
import subprocess
import sys
import warnings

import numpy as np
import pytest

from making import ROOT
from pipelines.pages import plots

DRAW = """
import hashlib, sys
import numpy as np
from pipelines.pages import plots
edges, counts, line = np.linspace(0, 1, 5), np.array([1, 4, 2, 3]), np.array([0.1, 0.5, 0.9])
drawn = plots.bars(edges, counts, x_label="x", title="t", cut=0.5)
drawn += plots.curve(line, line, x_label="x", y_label="y", title="u", percent="y", at=(0.5, 0.5))
drawn = drawn.encode() + plots.heat_map(np.eye(2), ["a", "b"], "title", "png")
print(hashlib.sha256(drawn).hexdigest())
{then}
"""
RC = """
text.usetex: True
backend: TkAgg
font.size: 30
lines.linewidth: 9
savefig.dpi: 300
svg.fonttype: path
axes.prop_cycle: cycler('color', ['red'])
"""


def draw(folder, then="", **environment):
    """Returns what is printed by a process that draws in a folder."""
    settings = {"PYTHONPATH": str(ROOT), "MPLCONFIGDIR": str(folder / "config"), **environment}
    environment = {k: v for k, v in os.environ.items() if k != "MPLBACKEND"} | settings
    command = [sys.executable, "-c", DRAW.format(then=then)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def usual(tmp_path_factory):
    return draw(tmp_path_factory.mktemp("usual"))


@pytest.mark.parametrize("backend", ["module://matplotlib_inline.backend_inline", "none", "TkAgg"])
def test_backend_of_a_notebook_changes_nothing(tmp_path, usual, backend):
    assert draw(tmp_path, MPLBACKEND=backend) == usual


@pytest.mark.parametrize("place", ["matplotlibrc", "config/matplotlibrc"])
def test_settings_of_the_user_change_nothing(tmp_path, usual, place):
    (tmp_path / "config").mkdir()
    (tmp_path / place).write_text(RC)
    assert draw(tmp_path) == usual


def test_plots_of_others_keep_their_settings(tmp_path):
    (tmp_path / "matplotlibrc").write_text(RC)
    then = (
        "import matplotlib, os; print(matplotlib.rcParams['font.size'], os.environ['MPLBACKEND'])"
    )
    assert draw(tmp_path, then, MPLBACKEND="svg").splitlines()[1] == "30.0 svg"


def test_names_that_cannot_be_drawn_are_numbered():
    assert plots._drawable(["猫", "cat", "Käse", "собака", "two\nlines"]) == [
        "#0", "cat", "Käse", "собака", "#4",
    ]  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drawn = plots.heat_map(np.eye(3), ["猫", "犬", "cat"], "title", "png")
    assert drawn.startswith(b"\x89PNG")
