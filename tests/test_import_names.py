"""The module `clip_beam`, beside projects that call their packages as this one's are called."""

import subprocess
import sys
from importlib import import_module

import pyarrow.dataset as ds
import pytest
import setuptools

import clip_beam
import clip_core
import pipelines
from embedding_runs import write_manifest
from making import ROOT, encode_image, make_image
from pipelines.command_line import exits

STARTS = ("from clip_beam import load", "import clip_beam; clip_beam.EmbedRows")
IN_A_PROCESS = ("--device", "cpu", "--precision", "fp32", "--direct_num_workers", "1",
                "--direct_running_mode", "multi_processing")  # fmt: skip


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder as a plain install fills it."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "setup.py", "-q", "build_py", "--build-lib", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return folder


@pytest.fixture
def project(tmp_path):
    """A project with packages of the same names, none of which should be imported."""
    for name in clip_beam.PACKAGES:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise AssertionError('a foreign package')")
    return tmp_path


@pytest.fixture
def run(site, project, monkeypatch):
    """Runs Python in the project, whose folder comes before all others."""
    monkeypatch.setenv("PYTHONPATH", f"{project}:{site}")

    def run(*arguments):
        command = [sys.executable, *map(str, arguments)]
        return subprocess.run(command, cwd=project, capture_output=True, text=True)

    return run


def test_module_has_what_the_packages_export():
    assert set(clip_beam.__all__) == {*pipelines.__all__, *clip_core.__all__, "__version__"}
    for package in (pipelines, clip_core):
        for name in package.__all__:
            assert getattr(clip_beam, name) is getattr(package, name)
    assert clip_beam.__version__[0].isdigit()
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        clip_beam.nothing  # noqa: B018


def test_console_script_starts_it(monkeypatch, capsys):
    made = setuptools.distutils.core.run_setup(str(ROOT / "setup.py"), stop_after="init")
    (script,) = made.entry_points["console_scripts"]
    module, _, name = script.removeprefix("clip-beam=").partition(":")
    monkeypatch.setattr(sys, "argv", ["clip-beam", "--version"])
    monkeypatch.setattr(exits, "run", lambda main: sys.exit(main()))  # the process is pytest's
    with pytest.raises(SystemExit) as ended:
        getattr(import_module(module), name)()
    assert ended.value.code == 0 and capsys.readouterr().out.startswith("clip-beam ")


def test_embed_runs_in_a_project_with_packages_of_the_same_names(run, project, model_dir):
    """In a process of its own, which has to find the packages."""
    manifest = write_manifest(project / "data", 4)
    job = ["--manifest", manifest, "--output", project / "out", "--model", model_dir]
    done = run("-m", "clip_beam", "embed", *job, *IN_A_PROCESS)
    assert done.returncode == 0, done.stderr
    assert ds.dataset(project / "out" / "embeddings").count_rows() == 3  # the last image is cut


def test_processes_that_decode_find_the_packages(run, project):
    (project / "image").write_bytes(encode_image(make_image(80, 70)))
    code = (
        "import clip_beam; from clip_core.preprocess import Preprocess\n"
        "from pipelines.images.decode import DecodeLimits\n"
        "from pipelines.images.decode_pool import decode_isolated\n"
        "data = open('image', 'rb').read()\n"
        "image = decode_isolated(data, [Preprocess(32)], DecodeLimits())\n"
        "print(image.original_width, image.original_height)"
    )
    done = run("-c", code)
    assert done.stdout.split() == ["80", "70"], done.stderr


def test_processes_that_draw_samples_find_the_packages(run, project):
    code = (
        "import runpy, clip_beam; from pipelines import sample; sample.WORTH_PROCESSES = 1\n"
        "runpy.run_module('clip_beam', run_name='__main__', alter_sys=True)"  # as `-m` does
    )
    done = run("-c", code, "sample", "--output", project / "s", "--rows", "3")
    assert done.returncode == 0, done.stderr


def test_names_are_imported_without_torch_and_beam(run, site):
    code = (
        "import clip_beam, sys; assert not {'torch', 'apache_beam'} & set(sys.modules)\n"
        "before = list(sys.path)\n"
        "from clip_beam import Row\n"
        "import clip_core.tokenizer, pipelines.records, schemas.rejects\n"
        "assert Row is pipelines.records.Row and sys.path == before\n"
        "print(*(sys.modules[name].__path__[0] for name in clip_beam.PACKAGES))"
    )
    done = run("-c", code)
    assert done.stdout.split() == [str(site / name) for name in clip_beam.PACKAGES], done.stderr


@pytest.mark.parametrize("form", ["package", "folder", "file", "no file"])
@pytest.mark.parametrize("name", clip_beam.PACKAGES)
def test_package_that_was_imported_first_is_named(run, project, site, name, form, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(project))
    package = project / name
    (package / "__init__.py").write_text("")
    if form in ("folder", "file"):
        (package / "__init__.py").unlink()
    if form == "file":
        package.rmdir()
        package = project / f"{name}.py"
        package.write_text("")
    first = f"import sys; sys.modules[{name!r}] = type(sys)({name!r})"
    first = first if form == "no file" else f"import sys, {name}"
    first += f"; sys.path.append({str(site)!r})"
    place = "no file" if form == "no file" else package
    code = f"{first}\nfor start in {STARTS}:\n    try: exec(start)\n    except ImportError as error: print(error)"
    done = run("-c", f"{code}\nclip_beam.main()")
    said = f"the package `{name}` of {place} was imported first"
    assert done.stdout.count(said) == done.stdout.count("rename it") == len(STARTS), done.stderr
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith(f"clip-beam: {said}")


def test_package_that_is_not_there_is_named(run, project):
    (project / "clip_beam.py").write_text((ROOT / "clip_beam.py").read_text())
    (project / "clip_core" / "__init__.py").write_text("")
    (project / "schemas" / "__init__.py").unlink()
    (project / "schemas").rmdir()
    done = run("-m", "clip_beam")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert f"the package `schemas` is not in {project}" in done.stderr
