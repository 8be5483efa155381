"""What a failed run says, whatever a runner has wrapped its error in."""

import pytest

from pipelines.encoding.handler import EncoderFailedError
from pipelines.engine.failures import RunStoppedError
from pipelines.output.unit_writer import ConservationError
from pipelines.runs import faults

JOB = "Pipeline job-001 failed in state FAILED: "
WORKER = """bundle inst001 failed:Traceback (most recent call last):
  File "apache_beam/runners/common.py", line 1569, in _invoke_bundle_method
{} [while running 'WriteUnits/Write-ptransform-20']
"""


def wrapped(error, cause):
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (wrapped(RuntimeError("bundle failed"), OSError("no space left")), "no space left"),
        (
            RuntimeError(
                JOB + WORKER.format("pipelines.output.unit_writer.ConservationError: unit a: 1 row")
            ),
            "unit a: 1 row",
        ),
        (
            RuntimeError(JOB + "prism worker didn't get\n  control connection after 1m0s"),
            "the runner could not do the job: prism worker didn't get control connection after "
            "1m0s",
        ),
        (RuntimeError(JOB + WORKER.format("TypeError: a fault of ours")), None),
        (RuntimeError("a fault of ours"), None),
    ],
)
def test_fault_that_is_not_of_this_program_is_one_sentence(error, words):
    assert faults.sentence(error) == words


def test_slot_says_what_is_the_same_everywhere_and_what_is_a_fault_of_this_program():
    everywhere = faults.failed(EncoderFailedError("the GPU is gone"))
    assert everywhere[:2] == ("the GPU is gone", True) and not everywhere.told
    here = faults.failed(ConservationError("unit a: 1 row"))
    assert here[:2] == ("unit a: 1 row", False) and not here.told
    stopped = wrapped(RunStoppedError("another bundle failed"), KeyError("a fault of ours"))
    own = faults.failed(stopped)
    assert own.words == "KeyError: 'a fault of ours'" and "another bundle failed" in own.told
