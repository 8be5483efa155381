import numpy as np
import pytest

from pipelines.encoding.batch_recovery import GROW_AFTER, BatchLimit, BatchRecovery


class OutOfMemory(RuntimeError):
    pass


class Encoder:
    """Doubles numbers; fails as it is told to, and notes the sizes it was asked for."""

    def __init__(self, fits=10**9, poison=(), too_large=(), lost=False):
        self.fits, self.poison, self.too_large, self.lost = fits, poison, too_large, lost
        self.sizes = []
        self.released = 0

    def work(self, rows):
        self.sizes.append(len(rows))
        if self.lost:
            raise RuntimeError("device lost")
        if len(rows) > self.fits or set(rows) & set(self.too_large):
            raise OutOfMemory(f"{len(rows)} rows do not fit")
        if set(rows) & set(self.poison):
            raise ValueError("poison")
        return [2 * row for row in rows]

    def release(self):
        self.released += 1

    def run(self, rows, limit=None):
        recovery = BatchRecovery(
            work=self.work,
            check_machine=lambda: self.work([0]),
            blame=lambda error: [str(error)],
            is_out_of_memory=lambda error: isinstance(error, OutOfMemory),
            release=self.release,
        )
        return [value for part in recovery.run(rows, limit or BatchLimit()) for value in part]


def test_batch_that_fits_is_done_in_one_go():
    encoder = Encoder()
    assert encoder.run([1, 2, 3]) == [2, 4, 6]
    assert encoder.sizes == [3]


def test_no_rows_need_no_work():
    encoder = Encoder()
    assert encoder.run([]) == [] and encoder.sizes == []


@pytest.mark.parametrize("fits", [1, 2, 3, 7, 31, 63])
def test_batch_that_does_not_fit_is_halved_until_it_does(fits):
    encoder = Encoder(fits=fits)
    assert encoder.run(list(range(64))) == [2 * row for row in range(64)]
    assert 0 < encoder.released < 16  # of at most 64 + 16 attempts


def test_later_batches_begin_at_the_size_that_fits():
    encoder, limit = Encoder(fits=10), BatchLimit()
    encoder.run(list(range(64)), limit)
    encoder.sizes.clear()
    encoder.run(list(range(32)), limit)
    assert encoder.sizes == [8] * 4


def test_size_grows_back_once_memory_is_there_again():
    encoder, limit = Encoder(fits=10), BatchLimit()
    encoder.run(list(range(64)), limit)
    encoder.fits = 64
    for _ in range(3 * GROW_AFTER):
        encoder.run(list(range(64)), limit)
    assert limit.rows is None and encoder.sizes[-1] == 64


def test_size_that_still_does_not_fit_is_tried_seldom():
    encoder, limit = Encoder(fits=10), BatchLimit()
    for _ in range(100):
        encoder.run(list(range(64)), limit)
    assert encoder.released <= 3 + 800 // GROW_AFTER


@pytest.mark.parametrize("poison", [[1], [64], [5, 6], [1, 32, 33, 64], list(range(1, 65))])
def test_poison_rows_are_blamed_and_all_others_done(poison):
    rows = range(1, 65)  # 0 is the row that the machine is checked with
    expected = ["poison" if row in poison else 2 * row for row in rows]
    assert Encoder(poison=poison).run(list(rows)) == expected


def test_row_that_does_not_fit_alone_is_blamed_and_batches_are_whole_again():
    encoder, limit = Encoder(too_large=[9]), BatchLimit()
    found = encoder.run(list(range(1, 33)), limit)
    assert found == ["1 rows do not fit" if row == 9 else 2 * row for row in range(1, 33)]
    assert limit.rows is None


def test_lost_device_is_raised_and_nobody_blamed():
    encoder = Encoder(lost=True)
    with pytest.raises(RuntimeError, match="device lost"):
        encoder.run(list(range(64)))
    assert len(encoder.sizes) < 10  # no need to try every row


def test_no_memory_for_anything_is_raised_and_nobody_blamed():
    with pytest.raises(OutOfMemory, match="1 rows do not fit"):
        Encoder(fits=0).run(list(range(8)))


def test_device_lost_half_way_is_raised():
    encoder = Encoder(poison=[3])
    original = encoder.work

    def work(rows):
        encoder.lost = encoder.lost or len(encoder.sizes) >= 3
        return original(rows)

    encoder.work = work
    with pytest.raises(RuntimeError, match="device lost"):
        encoder.run(list(range(8)))


def test_any_mix_of_faults_leaves_no_row_out():
    rng = np.random.default_rng(0)
    for _ in range(200):
        rows = list(range(1, int(rng.integers(2, 80))))
        poison = set(rng.choice(rows, len(rows) // 8, replace=False).tolist())
        encoder = Encoder(fits=int(rng.integers(1, 70)), poison=poison)
        found = encoder.run(rows)
        assert found == ["poison" if row in poison else 2 * row for row in rows]
