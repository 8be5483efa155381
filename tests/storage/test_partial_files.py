"""Files get their names by conditions in stores that have them: nobody's file is lost unseen."""

import pytest

from pipelines.storage import partial_files
from pipelines.storage.partial_files import PartialFile

URI = "s3://bucket/embeddings/unit.parquet"


class Store:
    """One name in a store; `turns` are what happens to it before each attempt at replacing."""

    def __init__(self, data=None, turns=()):
        self.data, self.version, self.turns = data, 1, list(turns)

    def put_if(self, uri, file, version):
        file.seek(0)
        data = file.read()
        if version is None:
            self.data, is_new = self.data or data, self.data is None
            return self.version if is_new else None
        if self.turns:
            self.data, self.version = self.turns.pop(0), self.version + 1
        if self.data is None or version != self.version:
            return None
        self.data, self.version = data, self.version + 1
        return self.version

    def remove(self, uri):
        self.data = None

    def version_of(self, uri):
        return self.version if self.data is not None else None


@pytest.fixture
def publish(monkeypatch):
    def publish(store, **settings):
        monkeypatch.setattr(partial_files, "place_of", lambda uri: store)
        monkeypatch.setattr(partial_files, "exists", lambda uri: store.data is not None)
        monkeypatch.setattr(partial_files, "put_if", store.put_if)
        monkeypatch.setattr(partial_files, "version_of", store.version_of)
        monkeypatch.setattr(partial_files, "remove", store.remove)
        file = PartialFile(URI, "run")
        file.file.write(b"mine")
        file.publish(**settings)
        return store.data

    return publish


def test_name_that_is_free_is_taken(publish):
    assert publish(Store()) == b"mine"


def test_file_of_another_attempt_keeps_the_name(publish):
    assert publish(Store(b"the same rows"), may_stay=lambda: True) == b"the same rows"


def test_file_of_an_earlier_run_is_replaced_after_a_look_at_the_lock(publish):
    looks = []
    assert publish(Store(b"of old"), check=lambda: looks.append(1)) == b"mine"
    assert looks == [1]


def test_file_that_comes_or_goes_meanwhile_is_looked_at_anew(publish):
    assert publish(Store(b"of old", turns=[b"newer"])) == b"mine"
    assert publish(Store(b"of old", turns=[None])) == b"mine"


def test_run_that_has_lost_the_lock_replaces_nothing(publish):
    def lost():
        raise RuntimeError("another run has taken over")

    store = Store(b"of the second run")
    with pytest.raises(RuntimeError, match="taken over"):
        publish(store, check=lost)
    assert store.data == b"of the second run"


@pytest.mark.parametrize("comes", [None, b"of the second run"])
def test_free_name_is_given_back_by_a_run_that_has_lost_the_lock(publish, comes):
    """It looked at the lock, was slow, and finds the names of a later run's output."""

    def lost():
        if comes:
            store.data, store.version = comes, store.version + 1
        raise RuntimeError("another run has taken over")

    store = Store()
    with pytest.raises(RuntimeError, match="taken over"):
        publish(store, check=lost)
    assert store.data == comes


def test_name_that_never_rests_is_given_up(publish):
    with pytest.raises(OSError, match="written by others all the time"):
        publish(Store(b"of old", turns=[b"newer"] * 9))
