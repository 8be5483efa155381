import io
import sys
from contextlib import redirect_stderr

from pipelines.command_line.meter import meter
from pipelines.engine.tally import Tally
from pipelines.runs import progress
from pipelines.runs.progress import Progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def shown(monkeypatch, stream, total, done, embedded, rejects):
    tally = Tally()
    monkeypatch.setattr(progress, "TALLY", tally)
    with Progress(total, done, progress.in_this_process(), stream) as shown:
        tally.add(embedded + rejects, embedded, {"not_found": rejects} if rejects else {})
        tally.add_unit()
        line = shown._line()
    return line, stream.getvalue()


def test_line_counts_rows_of_earlier_runs_too(monkeypatch):
    line, _ = shown(monkeypatch, io.StringIO(), total=100, done=40, embedded=8, rejects=2)
    assert line.startswith("50 of 100 rows, ")
    assert "2 rejects (not_found 2), 1 units" in line and "s left" in line


def test_line_without_a_total_has_no_time_left(monkeypatch):
    line, _ = shown(monkeypatch, io.StringIO(), total=None, done=0, embedded=3, rejects=0)
    assert line.startswith("3 rows, ") and "left" not in line


def test_bar_is_drawn_on_a_terminal_only(monkeypatch):
    assert "7/9" in shown(monkeypatch, Terminal(), 9, 0, 5, 2)[1]
    assert shown(monkeypatch, io.StringIO(), 9, 0, 5, 2)[1] == ""


def test_nothing_done_yet_is_no_division_by_zero(monkeypatch):
    assert shown(monkeypatch, io.StringIO(), 9, 0, 0, 0)[0].startswith("0 of 9 rows")


def test_progress_goes_to_the_stderr_of_the_moment():
    stream = Terminal()
    with redirect_stderr(stream), Progress(9, 0, progress.in_this_process()):
        pass
    assert "0/9" in stream.getvalue()


def test_meter_draws_a_bar_on_a_terminal():
    stream = Terminal()
    with meter(9, "images", stream) as count:
        count(4)
        count(3)
    assert "7/9" in stream.getvalue() and "images" in stream.getvalue()


def test_meter_prints_plain_lines_now_and_then_elsewhere():
    seconds = iter([0, 4, 11, 12, 22])
    stream = io.StringIO()
    with meter(44, "rows", stream, lambda: next(seconds)) as count:
        for _ in range(4):
            count(11)
    assert stream.getvalue().splitlines() == [
        "22 of 44 rows, 2.0/s, 11 s left",
        "44 of 44 rows, 2.0/s, 0 s left",
    ]


def test_meter_of_nothing_says_nothing():
    stream = io.StringIO()
    with meter(0, "rows", stream):
        pass
    assert stream.getvalue() == ""


def test_meter_writes_to_the_stderr_of_the_moment(monkeypatch):
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    with meter(2, "rows") as count:
        count(1)
    assert "1/2" in stream.getvalue()
