import os
import threading
import time

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing.util import assert_that, equal_to
from conftest import make_row

from pipelines.records import RowFault
from pipelines.run_ahead import WINDOW_BYTES, RunAhead, Step, _RunAhead, run_steps
from schemas.rejects import Reason


def pipeline():
    return beam.Pipeline(runner="FnApiRunner", options=PipelineOptions([]))


def number(row, value):
    return row.source_row


def double(row, value):
    return 2 * value


def fail_on_odd(row, value):
    if row.source_row % 2:
        raise RowFault("decode", Reason.NOT_AN_IMAGE, "odd")
    return value


STEPS = (Step("first", number), Step("second", double))


def test_steps_follow_each_other_and_rejects_are_set_aside():
    rows = [make_row(n, image_bytes=b"x") for n in range(300)]
    with pipeline() as p:
        out = p | beam.Create(rows) | RunAhead((*STEPS, Step("third", fail_on_odd)))
        assert_that(out.results, equal_to([2 * n for n in range(0, 300, 2)]), "results")
        numbers = out.rejects | beam.Map(lambda r: (r.row.source_row, r.reason, r.row.image_bytes))
        expected = [(n, Reason.NOT_AN_IMAGE, None) for n in range(1, 300, 2)]
        assert_that(numbers, equal_to(expected), "rejects")


def test_counters_tell_rows_rejects_and_time():
    p = pipeline()
    _ = (
        p
        | beam.Create([make_row(n) for n in range(10)])
        | RunAhead([Step("check", slow_fail, computes=True)])
    )
    result = p.run()
    result.wait_until_finish()
    counters = {c.key.metric.name: c.committed for c in result.metrics().query()["counters"]}
    assert counters["rows"] == 10
    assert counters["rejects"] == 5
    assert counters["check_usec"] > 0
    assert counters["wait_usec"] > 0


def slow_fail(row, value):
    sum(range(1000))
    return fail_on_odd(row, row.source_row)


def test_no_rows_give_nothing():
    with pipeline() as p:
        out = p | beam.Create([]) | RunAhead(STEPS)
        assert_that(out.results, equal_to([]))


def test_other_exceptions_fail_the_bundle():
    def broken(row, value):
        raise MemoryError("no memory")

    with pytest.raises(MemoryError, match="no memory"), pipeline() as p:
        _ = p | beam.Create([make_row()]) | RunAhead([Step("broken", broken)])


class Gauge:
    """Counts how many rows are being worked on or wait to be taken."""

    def __init__(self):
        self.lock = threading.Lock()
        self.submitted = self.most = self.taken = 0

    def __call__(self, row, value):
        with self.lock:
            self.submitted += 1
            self.most = max(self.most, self.submitted - self.taken)
        return row.source_row


def driven(steps, window, rows):
    do_fn = _RunAhead(steps, window, threads=4)
    do_fn.setup()
    do_fn.start_bundle()
    return do_fn, (output for n in range(rows) for output in do_fn.process(make_row(n)))


def test_window_bounds_what_is_in_flight_and_order_is_kept():
    gauge = Gauge()
    do_fn, outputs = driven([Step("gauge", gauge)], window=8, rows=200)
    found = []
    for output in outputs:
        found.append(output)
        gauge.taken += 1
    found += [windowed.value for windowed in do_fn.finish_bundle()]
    do_fn.teardown()
    assert found == list(range(200))
    assert gauge.most <= 8


def test_pictures_that_rows_bring_along_bound_the_window_by_their_bytes():
    """Of rows with a third of the bound each, three are in flight and no fourth."""
    gauge = Gauge()
    do_fn, _ = driven([Step("gauge", gauge)], window=128, rows=0)
    picture = bytes(WINDOW_BYTES // 3)
    for n in range(12):
        for _ in do_fn.process(make_row(n, image_bytes=picture)):
            gauge.taken += 1
    gauge.taken += len(list(do_fn.finish_bundle()))
    do_fn.teardown()
    assert gauge.submitted == gauge.taken == 12
    assert gauge.most <= 4
    assert do_fn._bytes == 0


def test_step_that_computes_is_charged_its_processor_time_and_others_what_they_wait():
    def sleep(row, value):
        time.sleep(0.2)

    outcome = run_steps([Step("a", sleep), Step("b", sleep, computes=True)], make_row())
    assert outcome.seconds[0] >= 0.2 and outcome.seconds[1] < 0.1


def test_no_more_threads_compute_than_there_are_cores():
    gauge = Gauge()

    def work(row, value):
        gauge(row, value)
        time.sleep(0.002)
        with gauge.lock:
            gauge.taken += 1

    do_fn, outputs = driven([Step("work", work, computes=True)], window=64, rows=60)
    list(outputs)
    list(do_fn.finish_bundle())
    do_fn.teardown()
    assert gauge.most <= (os.cpu_count() or 1)


def test_threads_work_ahead_of_a_consumer_that_is_busy():
    started = threading.Event()

    def step(row, value):
        if row.source_row == 1:
            started.set()
        return row.source_row

    do_fn, _ = driven([Step("step", step)], window=8, rows=0)
    list(do_fn.process(make_row(0)))
    list(do_fn.process(make_row(1)))
    assert started.wait(timeout=10)  # though nobody has asked for row 1
    do_fn.teardown()


def test_bundle_that_failed_leaves_no_rows_behind():
    do_fn, _ = driven([Step("number", number)], window=8, rows=0)
    do_fn._pending.append((do_fn._pool.submit(time.time), 0))
    do_fn.start_bundle()
    assert list(do_fn.finish_bundle()) == []
    do_fn.teardown()


def test_steps_after_a_fault_are_not_run():
    outcome = run_steps([Step("a", fail_on_odd), Step("b", double)], make_row(1))
    assert outcome.value.reason is Reason.NOT_AN_IMAGE
    assert len(outcome.seconds) == 1


def test_rows_wait_for_a_store_together():
    """Whatever the number of cores: each of the 32 waits for a tenth of a second."""
    do_fn = _RunAhead([Step("wait", lambda row, value: time.sleep(0.1))], 128, None)
    do_fn.setup()
    do_fn.start_bundle()
    began = time.monotonic()
    done = [value for n in range(32) for value in do_fn.process(make_row(n))]
    done += list(do_fn.finish_bundle())
    do_fn.teardown()
    assert len(done) == 32 and time.monotonic() - began < 1.0
