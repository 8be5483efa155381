"""What a bundle leaves behind that has failed, or that is torn down as another one has."""

import threading
import time
from dataclasses import replace

import pytest

from pipelines.engine import failures
from pipelines.output import unit_writer, write_units
from written_units import UNIT, chunk, files, writer_of, written


def test_no_file_is_named_once_the_run_has_failed(layout, tmp_path):
    own = replace(layout, run="failed-run")
    failures.stop("failed-run", ValueError("the first error"))
    with pytest.raises(failures.RunStoppedError, match="the first error") as caught:
        written(own, chunk([0], 0, (1, 1)))
    assert isinstance(caught.value.__cause__, ValueError)
    assert files(tmp_path) == []


def test_bundle_that_is_torn_down_leaves_nothing_and_goes_no_further(layout, tmp_path):
    writer = writer_of(layout)
    list(writer.process(chunk([0])))
    writer.teardown()  # as Beam does from another thread, when a sibling failed
    with pytest.raises(failures.RunStoppedError, match="another bundle of the run failed"):
        list(writer.process(chunk([1], 1, (2, 2))))
    with pytest.raises(failures.RunStoppedError):
        list(writer.finish_bundle())
    assert files(tmp_path) == []


def test_bundle_torn_down_while_it_ends_a_unit_goes_no_further(layout, tmp_path, monkeypatch):
    writer = writer_of(layout)
    close, tearing = unit_writer.UnitWriter.close, threading.Thread(target=writer.teardown)

    def closing(unit):
        tearing.start()
        tearing.join(0.2)  # as far as it comes while this bundle is at work
        return close(unit)

    monkeypatch.setattr(unit_writer.UnitWriter, "close", closing)
    with pytest.raises(failures.RunStoppedError, match="another bundle of the run failed"):
        list(writer.process(chunk([0], 0, (1, 1))))
        list(writer.finish_bundle())
    tearing.join()
    assert files(tmp_path) == []


def test_files_that_wait_to_be_named_are_given_up(layout, tmp_path):
    most, gate = write_units.MAX_UPLOADS[True], threading.Event()
    writer = writer_of(layout, gate.wait)
    tearing = threading.Thread(target=writer.teardown)

    def tear_down():
        while len(writer._uploads) < most:  # one is waited for, and one waits behind the others
            time.sleep(0.01)
        tearing.start()
        tearing.join(0.2)
        gate.set()

    threading.Thread(target=tear_down).start()
    with pytest.raises(failures.RunStoppedError, match="another bundle of the run failed"):
        for number in range(most + 1):
            unit = replace(UNIT, unit_id=f"unit-{number}")
            list(writer.process(chunk([0], 0, (1, 1), unit)))
        list(writer.finish_bundle())
    tearing.join()
    assert not any(f"unit-{most}" in name for name in files(tmp_path))
