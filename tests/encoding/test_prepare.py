"""Chunks in, batches of whole chunks out: complete, bounded, and never at a standstill."""

import itertools
import queue
import threading
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from clip_core.preprocess import Preprocess
from making import make_row
from pipelines.encoding import prepare
from pipelines.encoding.image_work import ImageWork
from pipelines.encoding.model_inputs import ModelInputs
from pipelines.encoding.prepare import Prepare, _Prepare
from pipelines.engine import failures
from pipelines.engine.chunks import ChunkCoder, chunk_rows, make_chunk
from pipelines.engine.ledger import MAX_OPEN_UNITS, Ledger
from pipelines.images import pixel_budget
from pipelines.images.decode import DecodedImage
from pipelines.images.pixel_budget import Account, Budget
from pipelines.records import End, RowFault, Unit
from schemas.manifest import Columns
from schemas.rejects import Reason

PATIENCE_S = 60  # after which a test has failed; one that passes does not wait
SIZE = 4
PIXEL_BYTES = 3 * SIZE * SIZE
UNIT = Unit("unit", "/data/m.jsonl", "jsonl", Columns(), "/data", 0, None)


@dataclass(frozen=True)
class StubWork(ImageWork):
    """Images that are one grey, the number of their row; some fail, some are slow."""

    bad: frozenset = frozenset()
    gates: dict = field(default_factory=dict)  # events, by the row that they hold

    def fetch(self, row):
        if gate := self.gates.get(row.source_row):
            assert gate.wait(PATIENCE_S), "nothing passed what is held"
        if row.source_row in self.bad:
            raise RowFault("fetch", Reason.NOT_FOUND, "gone")
        return bytes([row.source_row % 256])

    def decode(self, data):
        return DecodedImage((np.full((3, SIZE, SIZE), data[0], np.uint8),), 80, 70)


def unit_chunks(unit_rows, rows=8, unit=UNIT, first=0):
    """The chunks of a unit, the last with its end."""
    starts = range(0, max(unit_rows, 1), rows)
    for number, start in enumerate(starts):
        numbers = range(first + start, first + min(start + rows, unit_rows))
        end = End(len(starts), unit_rows, unit_rows) if number == len(starts) - 1 else None
        yield make_chunk([make_row(n) for n in numbers], unit=unit, number=number, end=end)


def chunks_of_units(sizes):
    """The chunks, of ten rows, of units of these sizes; rows are numbered through all of them."""
    firsts = itertools.accumulate(sizes, initial=0)
    return [
        chunk
        for n, (size, first) in enumerate(zip(sizes, firsts, strict=False))
        for chunk in unit_chunks(size, 10, replace(UNIT, unit_id=f"unit-{n}"), first)
    ]


@pytest.fixture
def budget(monkeypatch):
    def set_to(size):
        monkeypatch.setattr(prepare, "BUDGET", Budget(size))
        return prepare.BUDGET

    return set_to


@pytest.fixture
def inputs(tokenizer):
    return ModelInputs.of([Preprocess(SIZE)], [tokenizer])


def stage(work, batch_size, **settings):
    return _Prepare(Prepare(work, batch_size, **settings))


def batches_of(do_fn, chunks, encode=lambda batch: None):
    """Runs one bundle; each batch gives its bytes back as the encoder does."""
    do_fn.setup()
    do_fn.start_bundle()
    found = []

    def take(batch):
        encode(batch)
        found.append(batch)
        for chunk in batch:
            if chunk.lease is not None:
                chunk.lease.give_back()

    try:
        for chunk in chunks:
            for batch in do_fn.process(chunk):
                take(batch)
        for windowed in do_fn.finish_bundle():
            take(windowed.value)
    finally:
        do_fn.teardown()
    return found


def check_whole(batches, rows, bad=()):
    """Every row is in one chunk or its rejects, with its own pixels and what is known of it."""
    seen, lost = [], []
    for chunk in (chunk for batch in batches for chunk in batch):
        numbers = chunk.rows["source_row"].to_pylist()
        seen += numbers
        lost += chunk.rejects["source_row"].to_pylist()
        if numbers:
            greys = chunk.pixels[0][chunk.index][:, 0, 0, 0].tolist()
            assert greys == [n % 256 for n in numbers]
            assert chunk.known.take(chunk.index)["original_width"].to_pylist() == [80] * len(
                numbers
            )
            assert len(chunk.tokens[0]) == len(chunk.truncated[0]) == len(numbers)
        assert not chunk.images
    assert sorted(seen) == [n for n in rows if n not in bad]
    assert sorted(lost) == sorted(bad)


@pytest.mark.parametrize("batch_size", [1, 7, 8, 64, 512])
@pytest.mark.parametrize("unit_rows", [0, 1, 200])
def test_every_row_leaves_once_in_batches_that_are_full(inputs, batch_size, unit_rows):
    bad = frozenset(range(3, unit_rows, 11))
    rows = min(chunk_rows(batch_size), 8)
    chunks = unit_chunks(unit_rows, rows)
    batches = batches_of(stage(StubWork(inputs, bad=bad), batch_size), chunks)
    check_whole(batches, range(unit_rows), bad)
    assert max(sum(c.rows.num_rows for c in batch) for batch in batches) <= max(batch_size, rows)
    assert sum(chunk.end is not None for batch in batches for chunk in batch) == 1


def test_batches_span_units_and_are_full(inputs):
    chunks = chunks_of_units(range(20, 420, 20))
    batches = batches_of(stage(StubWork(inputs), 50), chunks)
    sizes = [sum(chunk.rows.num_rows for chunk in batch) for batch in batches]
    assert sum(sizes) == sum(chunk.size for chunk in chunks) and sizes.count(50) >= len(sizes) - 2


@pytest.mark.parametrize("seed", range(12))
def test_random_settings_never_stand_still(inputs, budget, seed):
    rng = np.random.default_rng(seed)
    budget(int(rng.choice([1, PIXEL_BYTES, 20 * PIXEL_BYTES, 10_000 * PIXEL_BYTES])))
    sizes = rng.choice([0, 1, 5, 60, 300], 6).tolist()
    chunks, first = [], 0
    for n, size in enumerate(sizes):
        unit = replace(UNIT, unit_id=f"unit-{n}")
        chunks += unit_chunks(first + size, int(rng.integers(1, 20)), unit, first) if size else []
        first += size
    chunks = [chunk for chunk in chunks if chunk.rows.num_rows]
    numbers = [n for chunk in chunks for n in chunk.rows["source_row"].to_pylist()]
    bad = frozenset(n for n in numbers if rng.random() < rng.choice([0, 0.1, 1]))
    do_fn = stage(
        StubWork(inputs, bad=bad),
        int(rng.choice([1, 16, 64])),
        row_bytes=int(rng.choice([1, 1 << 24])),
    )
    found = batches_of(do_fn, chunks)
    seen = [
        n
        for b in found
        for c in b
        for t in (c.rows, c.rejects)
        for n in t["source_row"].to_pylist()
    ]
    assert sorted(seen) == sorted(numbers)
    assert prepare.BUDGET.used == 0


def test_a_slow_image_does_not_hold_up_the_others(inputs):
    gate = threading.Event()
    chunks, left = chunks_of_units(range(20, 620, 20)), set()

    def encode(batch):
        left.update(chunk.unit.unit_id for chunk in batch)
        if len(left) > 20:
            gate.set()  # most units have passed the one that is held

    batches = batches_of(stage(StubWork(inputs, gates={0: gate}), 10), chunks, encode)
    assert gate.is_set()
    check_whole(batches, range(9300))


def test_chunk_that_may_not_leave_does_not_hold_up_those_behind_it(inputs):
    """Four units are begun, so the first may not begin with its second chunk. It waits, and what
    ends the four goes past it."""
    first, second, ends, left = threading.Event(), threading.Event(), threading.Event(), set()

    def encode(batch):
        left.update((chunk.unit.unit_id, chunk.number) for chunk in batch)
        if left >= {(f"unit-{n}", 0) for n in (1, 2, 3, 4)}:
            second.set()
        if left >= {(f"unit-{n}", 1) for n in (1, 2, 3, 4)}:
            first.set()

    class Landing(_Prepare):
        def _land(self, job):
            super()._land(job)
            if job and job.chunk.unit.unit_id == "unit-0":
                ends.set()

    gates = {0: first, 10: second} | dict.fromkeys((30, 50, 70, 90), ends)
    do_fn = Landing(Prepare(StubWork(inputs, gates=gates), 10))
    check_whole(batches_of(do_fn, chunks_of_units([20] * 5), encode), range(100))


def test_what_is_no_rows_fault_ends_the_run(inputs):
    class Broken(StubWork):
        def decode(self, data):
            raise KeyError("a bug")

    do_fn = stage(Broken(inputs), 8, run="broken-run")
    with pytest.raises(KeyError, match="a bug"):
        batches_of(do_fn, unit_chunks(20))
    with pytest.raises(failures.RunStoppedError, match="a bug"):
        failures.check("broken-run")


def test_bundle_that_is_torn_down_while_it_waits_wakes_and_ends(inputs):
    gate = threading.Event()
    do_fn = stage(StubWork(inputs, gates=dict.fromkeys(range(8), gate)), 8)
    do_fn.setup()
    do_fn.start_bundle()
    torn_down = threading.Thread(target=do_fn.teardown)

    class Ready(queue.SimpleQueue):
        def get(self):
            torn_down.start()
            return super().get(timeout=PATIENCE_S)

    do_fn._bundle.account.ready = Ready()
    assert list(do_fn.process(next(unit_chunks(8)))) == []
    with pytest.raises(failures.RunStoppedError, match="another bundle"):
        list(do_fn.finish_bundle())
    gate.set()
    torn_down.join()
    assert prepare.BUDGET.used == 0


def test_line_that_is_cut_behind_prepare_is_refused(inputs, budget):
    budget(10 * PIXEL_BYTES)
    do_fn = stage(StubWork(inputs), 4)
    do_fn.setup()
    do_fn.start_bundle()
    try:
        with pytest.raises(RuntimeError, match="give resource hints to the whole of it"):
            for chunk in unit_chunks(100, 4):
                for batch in do_fn.process(chunk):  # whose pixels nobody gives back
                    with pytest.raises(RuntimeError, match="holds pixels, which never travel"):
                        ChunkCoder().encode(batch[0])
    finally:
        do_fn.teardown()


def test_chunk_survives_its_coder(inputs):
    (chunk,) = unit_chunks(3)
    coder = ChunkCoder()
    again = coder.decode(coder.encode(chunk))
    assert again.rows.equals(chunk.rows) and again.unit == UNIT and again.end == End(1, 3, 3)
    assert coder.estimate_size(chunk) == chunk.nbytes > chunk.rows.nbytes


@pytest.mark.parametrize(
    ("batch", "rows"), [(1, 1), (63, 63), (64, 64), (65, 32), (100, 50), (512, 64), (97, 48)]
)
def test_whole_chunks_fill_a_batch(batch, rows):
    assert chunk_rows(batch) == rows


def test_ledger_bounds_what_waits_for_its_own_unit_and_units_begun():
    ledger = Ledger(row_bytes=8 << 20)  # eight rows
    first, second, third = (c for c in unit_chunks(12, 4))
    ledger.leaves(second)
    assert ledger.waiting == 4 and ledger.may_leave(third) and ledger.may_leave(first)
    ledger.leaves(third)
    others = [replace(UNIT, unit_id=f"unit-{n}") for n in range(9)]
    late = [list(unit_chunks(12, 4, unit))[1] for unit in others]
    assert not ledger.may_leave(late[0])  # eight rows wait already
    ledger.leaves(first)
    assert ledger.waiting == 0
    begun = 0
    for unit in others:
        chunk = next(unit_chunks(12, 4, unit))
        if ledger.may_leave(chunk):
            ledger.leaves(chunk)
            begun += 1
    assert begun == MAX_OPEN_UNITS - 1  # and one is left for the oldest


def test_budget_lets_everybody_have_something():
    budget, ready = Budget(100), queue.SimpleQueue()
    one, other = Account(), Account(ready)
    lease = budget.take(90, one, floor=50)
    assert budget.take(90, other, floor=50) and budget.used == 180  # it held nothing
    assert budget.take(10, other, floor=50) is None
    lease.give_back(30)
    assert ready.get_nowait() is None  # told to try again
    lease.give_back()
    lease.give_back()
    assert budget.used == 90
    budget.close(other)
    assert budget.used == 0
    other_lease = pixel_budget.Lease(budget, other, 5)
    other_lease.give_back()
    assert budget.used == 0  # what a closed account held is back already
