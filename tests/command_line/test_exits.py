"""How a command's process ends. Each test is one, with a thread that is still waiting."""

import signal
import subprocess
import sys

import pytest

from making import ROOT
from pipelines.command_line import exits

CODE = """
import atexit, threading
from pipelines.command_line import exits
waiting = threading.Event()
thread = threading.Thread(target=waiting.wait, daemon={daemon})
thread.start()
atexit.register(print, "tidied up")
def main():
    print("working", end=" ")
    {body}
exits.run(main)
"""


def end(body, daemon):
    code = CODE.format(body=body, daemon=daemon)
    command = [sys.executable, "-c", code]
    # A shell's background job has SIGINT ignored, and its children, such as these tests, too.
    heard = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, **heard)


@pytest.mark.parametrize("status", [130, 143])
def test_after_a_signal_no_thread_is_waited_for(status):
    found = end(f"return {status}", daemon=False)
    assert (found.returncode, found.stdout, found.stderr) == (status, "working ", "")


def test_interrupt_that_a_command_lets_pass_is_said_in_one_line():
    found = end("raise KeyboardInterrupt", daemon=False)
    assert (found.returncode, found.stderr) == (130, "clip-beam: interrupted\n")


@pytest.mark.parametrize(
    ("name", "status", "said"),
    [("SIGTERM", 143, "clip-beam: terminated\n"), ("SIGINT", 130, "clip-beam: interrupted\n")],
)
def test_signal_that_python_drops_is_heard_again(name, status, said):
    """What is raised in a destructor is printed, and forgotten."""
    body = f"""
    import os, signal, sys, time
    sys.unraisablehook = lambda dropped: print("dropped", end=" ")
    class Object:
        def __del__(self):
            os.kill(os.getpid(), signal.{name})
            time.sleep(0.1)
    Object()
    time.sleep(60)
    """.strip()
    found = end(body, daemon=False)
    assert (found.returncode, found.stdout, found.stderr) == (status, "working dropped ", said)


@pytest.mark.parametrize("status", [0, 1, 2])
def test_without_a_signal_all_is_tidied_up(status):
    found = end(f"return {status}", daemon=True)
    assert (found.returncode, found.stdout) == (status, "working tidied up\n")


def test_reader_of_the_output_may_leave_early():
    command = [sys.executable, "-m", "pipelines.cli", "--help"]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    process.stdout.close()
    assert (process.wait(timeout=60), process.stderr.read()) == (141, "")


@pytest.mark.parametrize("size", [10, 1_000_000])
def test_reader_that_has_seen_enough_ends_a_command_quietly(size):
    """As `head` does: what is said in the midst of the work meets a closed pipe."""
    code = (
        "from pipelines.command_line import exits\n"
        "@exits.command\n"
        "def main(argv=None):\n"
        "    try:\n"
        f"        print('x' * {size}, flush=True); print('x' * {size}, flush=True)\n"
        "    except OSError as error:\n"
        "        return exits.fail('search', str(error), exits.status_of(error))\n"
        "exits.run(main)"
    )
    shell = f'"{sys.executable}" -c "$0" | head -c 1'
    done = subprocess.run(["sh", "-c", shell, code], cwd=ROOT, capture_output=True)
    assert (done.stdout, done.stderr) == (b"x", b"")


def test_pipe_of_another_that_breaks_is_told():
    assert exits.status_of(BrokenPipeError(32, "Broken pipe")) == exits.FAILED
