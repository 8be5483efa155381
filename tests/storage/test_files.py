import errno
import os

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from pipelines.storage import listing, reading, stores, uris, writing
from pipelines.storage.retries import RetryPolicy
from pipelines.storage.stores import StorageError, StoreFault


@pytest.fixture(autouse=True)
def no_waits(monkeypatch):
    monkeypatch.setattr(stores, "RETRIES", RetryPolicy(backoff_s=0))


@pytest.fixture
def memory():
    filesystem = fsspec.filesystem("memory")
    filesystem.store.clear()
    yield filesystem
    filesystem.store.clear()


def test_local_names_are_absolute_and_lose_their_scheme(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert uris.normalize("a/../b.csv") == str(tmp_path / "b.csv")
    assert uris.normalize(f"file://{tmp_path}/b.csv") == str(tmp_path / "b.csv")
    assert uris.normalize("gs://bucket/dir/") == "gs://bucket/dir"
    assert uris.absolute("a/b.csv") == str(tmp_path / "a" / "b.csv")
    assert uris.absolute(f"file://{tmp_path}/b.csv") == str(tmp_path / "b.csv")
    assert uris.absolute("https://host/dir/") == "https://host/dir/"


def test_parent_and_base_name():
    assert uris.parent("gs://bucket/a/b.csv") == "gs://bucket/a"
    assert uris.parent("/data/b.csv") == "/data"
    assert uris.base_name("gs://bucket/a/b.csv") == "b.csv"


@pytest.mark.parametrize("root", ["local", "memory"])
def test_written_file_reads_back(tmp_path, memory, root):
    root = str(tmp_path) if root == "local" else "memory://box"
    uri = uris.join(root, "deep", "file.bin")
    writing.write_atomically(uri, b"first")
    writing.write_atomically(uri, b"second")
    assert listing.exists(uri)
    assert reading.file_size(uri) == 6
    assert reading.read_whole(uri, 6) == b"second"
    with pytest.raises(reading.TooLargeError, match="6 bytes, more than 5"):
        reading.read_whole(uri, 5)
    assert listing.list_files(uris.join(root, "deep")) == [uri]
    writing.remove_tree(root)
    assert not listing.exists(uri)


def test_failed_write_leaves_neither_file_nor_partial(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        writing.write_atomically(str(tmp_path / "file"), b"data")
    assert list(tmp_path.iterdir()) == []


def test_file_is_created_once_with_its_content(tmp_path, memory):
    for uri in (str(tmp_path / "a" / "lock"), "memory://box/lock"):
        assert writing.create_exclusively(uri, b"first")
        assert not writing.create_exclusively(uri, b"second")
        assert reading.read_whole(uri, 10) == b"first"
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["lock"]


def test_file_is_replaced_while_it_is_of_the_version(tmp_path, memory):
    for uri in (str(tmp_path / "a" / "lock"), "memory://box/lock"):
        writing.create_exclusively(uri, b"first")
        first = reading.file_state(uri).version
        second = writing.replace_if_match(uri, b"second", first)
        assert second == reading.file_state(uri).version != first
        assert writing.replace_if_match(uri, b"third", first) is None
        assert reading.read_whole(uri, 10) == b"second"
        writing.remove(uri)
        assert writing.replace_if_match(uri, b"third", second) is None


def test_file_being_created_is_not_there_before_its_content(tmp_path, monkeypatch):
    uri, link, seen = str(tmp_path / "lock"), os.link, []

    def watched(source, target):
        seen.append((reading.read_whole(source, 10), listing.exists(uri)))
        link(source, target)

    monkeypatch.setattr(os, "link", watched)
    assert writing.create_exclusively(uri, b"data")
    assert seen == [(b"data", False)]


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_mode_of_a_file_is_the_umasks(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        writing.write_atomically(str(tmp_path / "a" / "whole"), b"x")
        writing.create_exclusively(str(tmp_path / "a" / "lock"), b"x")
        with writing.open_output(str(tmp_path / "a" / "pieces")) as file:
            file.write(b"x")
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "a").iterdir()} == {mode}


@pytest.fixture(params=[errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL])
def bare_mount(request, monkeypatch):
    """A mount that takes bytes and names only."""

    def refuse(*arguments, **settings):
        raise OSError(request.param, os.strerror(request.param))

    for name in ("chmod", "fchmod", "link", "fsync", "utime", "chown"):
        monkeypatch.setattr(os, name, refuse)


def test_mount_that_refuses_all_but_bytes_gets_the_bytes(tmp_path, bare_mount):
    writing.write_atomically(str(tmp_path / "a" / "whole"), b"x")
    assert writing.create_exclusively(str(tmp_path / "a" / "lock"), b"x")
    assert not writing.create_exclusively(str(tmp_path / "a" / "lock"), b"y")
    with writing.open_output(str(tmp_path / "a" / "pieces")) as file:
        file.write(b"x")
    found = {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()}
    assert found == {"whole": b"x", "lock": b"x", "pieces": b"x"}


def test_block_that_raises_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError), writing.open_output(str(tmp_path / "a")) as file:
        file.write(b"half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_pipe_or_device_is_not_replaced_by_a_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="expected a file to write, got the pipe or device"):
        writing.write_atomically(str(tmp_path / "pipe"), b"x")
    assert not (tmp_path / "pipe").is_file()


def test_disk_without_hard_links_creates_files_too(tmp_path, monkeypatch):
    def refused(source, target):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    test_file_is_created_once_with_its_content(tmp_path, fsspec.filesystem("memory"))


def test_file_in_the_place_of_the_directory_is_an_error(tmp_path):
    (tmp_path / "out").write_bytes(b"")
    with pytest.raises(FileExistsError):
        writing.create_exclusively(str(tmp_path / "out" / "lock"), b"data")


def test_directory_expands_to_visible_files_at_any_depth(tmp_path):
    for name in ("b.csv", "a.csv", "_truth.csv", ".hidden.csv", "sub/c.csv", "_tmp/d.csv"):
        writing.write_atomically(str(tmp_path / name), b"x")
    names = [os.path.relpath(uri, tmp_path) for uri in listing.expand(str(tmp_path))]
    assert names == ["a.csv", "b.csv", "sub/c.csv"]


def test_glob_leaves_underscored_files_out_unless_it_names_them(tmp_path):
    for name in ("a.csv", "_a.csv"):
        writing.write_atomically(str(tmp_path / name), b"x")
    assert listing.expand(str(tmp_path / "*.csv")) == [str(tmp_path / "a.csv")]
    assert listing.expand(str(tmp_path / "_*.csv")) == [str(tmp_path / "_a.csv")]


def test_glob_on_another_filesystem(memory):
    for name in ("b.csv", "a.csv"):
        memory.pipe(f"/box/{name}", b"x")
    assert listing.expand("memory://box/*.csv") == ["memory://box/a.csv", "memory://box/b.csv"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*", ["a.csv"]),
        ("*.csv", ["a.csv"]),
        ("?.[a-c]sv", ["a.csv"]),
        ("[!a].csv", []),
        ("*/*.csv", ["x/b.csv", "y/b.csv"]),
        ("x*/b.csv", ["x/b.csv"]),
        ("*/deep/*.csv", ["x/deep/c.csv"]),
        ("**/*.csv", ["a.csv", "x/b.csv", "x/deep/c.csv", "y/b.csv"]),
        ("x/**", ["x/b.csv", "x/deep/c.csv"]),
        ("**/deep/**/*.csv", ["x/deep/c.csv"]),
        ("none/*.csv", []),
        ("a.csv/*", []),
    ],
)
@pytest.mark.parametrize("root", ["local", "memory"])
def test_glob_matches_part_by_part(tmp_path, memory, root, pattern, expected):
    root = str(tmp_path) if root == "local" else "memory://box"
    for name in ("a.csv", "x/b.csv", "x/deep/c.csv", "x/_d.csv", "y/b.csv"):
        writing.write_atomically(uris.join(root, name), b"x")
    assert listing.expand(uris.join(root, pattern)) == [f"{root}/{name}" for name in expected]


def test_name_with_the_characters_of_a_glob_is_a_name(tmp_path):
    for name in ("a[1].csv", "a1.csv"):
        writing.write_atomically(str(tmp_path / name), b"x")
    assert listing.expand(str(tmp_path / "a[1].csv")) == [str(tmp_path / "a[1].csv")]


def test_links_to_files_are_files_and_links_to_directories_are_not_followed(tmp_path):
    writing.write_atomically(str(tmp_path / "real" / "a.csv"), b"x")
    (tmp_path / "real" / "loop").symlink_to(tmp_path / "real")
    (tmp_path / "real" / "b.csv").symlink_to(tmp_path / "real" / "a.csv")
    names = [str(tmp_path / "real" / name) for name in ("a.csv", "b.csv")]
    assert listing.expand(str(tmp_path / "real")) == names
    assert listing.expand(str(tmp_path / "real" / "*")) == names


def test_nothing_expands_to_nothing(tmp_path):
    assert listing.expand(str(tmp_path / "none.csv")) == []
    assert listing.list_files(str(tmp_path / "none")) == []


def test_missing_file_and_directory_are_told_apart(tmp_path):
    with pytest.raises(FileNotFoundError):
        reading.file_size(str(tmp_path / "none"))
    with pytest.raises(IsADirectoryError):
        reading.file_size(str(tmp_path))


def test_unknown_filesystem_is_one_sentence():
    with pytest.raises(StorageError, match="no filesystem for nosuch:// is installed"):
        reading.open_input("nosuch://a/b")


@pytest.mark.parametrize("method", ["info", "ls"])
def test_store_that_fails_for_now_is_not_taken_for_an_absent_file(monkeypatch, method):
    def failing(*arguments, **settings):
        raise ConnectionResetError("try again")

    writing.write_atomically("memory://there/a/b", b"x")
    monkeypatch.setattr(MemoryFileSystem, method, failing)
    look = listing.exists if method == "info" else listing.list_files
    with pytest.raises(StoreFault, match="ConnectionResetError"):
        look("memory://there/a/b" if method == "info" else "memory://there/a")


@pytest.mark.parametrize("method", ["info", "ls"])
@pytest.mark.parametrize("pattern", ["a/*.csv", "*/*.csv", "a", "*/b/c.csv"])
def test_store_that_fails_for_now_is_not_an_empty_manifest(memory, monkeypatch, method, pattern):
    writing.write_atomically("memory://there/a/b/c.csv", b"x")
    working = getattr(MemoryFileSystem, method)

    def failing(self, path, *arguments, **settings):
        if path.endswith("/there"):  # so that what fails is found on the way
            return working(self, path, *arguments, **settings)
        raise ConnectionResetError("try again")

    monkeypatch.setattr(MemoryFileSystem, method, failing)
    with pytest.raises(StoreFault, match="ConnectionResetError"):
        listing.expand(f"memory://there/{pattern}")


def test_fault_that_passes_is_read_over(monkeypatch, memory):
    writing.write_atomically("memory://box/a", b"data")
    faults = [ConnectionResetError("try again"), ConnectionResetError("try again")]
    working = MemoryFileSystem.cat_file

    def failing(self, path):
        if faults:
            raise faults.pop()
        return working(self, path)

    monkeypatch.setattr(MemoryFileSystem, "cat_file", failing)
    assert reading.read_retried("memory://box/a", 4) == b"data"
    with pytest.raises(reading.TooLargeError):
        reading.read_retried("memory://box/a", 3)


def test_fault_that_stays_is_a_store_fault(monkeypatch, memory):
    def failing(self, path):
        raise RuntimeError("of the store's own kind")

    writing.write_atomically("memory://box/a", b"data")
    monkeypatch.setattr(MemoryFileSystem, "cat_file", failing)
    with pytest.raises(StoreFault, match="of the store's own kind"):
        reading.read_retried("memory://box/a", 4)


def test_absent_files_and_directories_are_absent(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    for root in (str(tmp_path), "memory://nowhere"):
        assert not listing.exists(f"{root}/none/x")
        assert listing.list_files(f"{root}/none") == []
    assert not listing.exists(str(tmp_path / "file" / "x"))
    assert listing.list_files(str(tmp_path / "file")) == []


def test_name_that_is_too_long_is_that_of_no_file(tmp_path):
    for name in ("a" * 300, "a/" * 3000):
        assert not listing.exists(str(tmp_path / name))
