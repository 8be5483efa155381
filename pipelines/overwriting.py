"""Makes room for output, or says that there is some already."""

from __future__ import annotations

from collections.abc import Sequence

from pipelines import storage


class OutputExistsError(ValueError):
    """The output is there already: says what to do."""


def make_room(output: str, names: Sequence[str], overwrite: bool) -> None:
    """Makes sure that nothing in an output directory will be mixed with what was there before.

    Args:
        names: files and directories that are going to be written.
        overwrite: remove them if they are there.

    Raises:
        OutputExistsError: if one is there, and may not be removed.
        NotADirectoryError: if the output is a file.
    """
    check_room(output, names, overwrite)
    for uri in (storage.join(output, name) for name in names):
        storage.remove_partials(uri)
        if overwrite:
            storage.remove_tree(uri)


def check_room(output: str, names: Sequence[str], overwrite: bool) -> None:
    """Does the check of `make_room`, and removes nothing.

    Raises:
        OutputExistsError, NotADirectoryError: as `make_room`.
    """
    storage.check_directory(output)
    for uri in (storage.join(output, name) for name in names):
        if not overwrite and (storage.list_files(uri) or _is_file(uri)):
            raise OutputExistsError(
                f"{uri} is there already; pass `--overwrite` or name another output"
            )


def _is_file(uri: str) -> bool:
    try:
        storage.file_size(uri)
    except (FileNotFoundError, IsADirectoryError):
        return False
    return True
