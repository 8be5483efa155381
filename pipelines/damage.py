"""What is said of a run that cannot be read."""

from __future__ import annotations

MEND = "remove it and run `embed` again"  # of a file of a run that is damaged


class ScoredTablesError(ValueError):
    """A directory that `embed` did not write, or a part of it that cannot be read."""


class DamagedFileError(ScoredTablesError):
    """A file of a run that cannot be read: no wrong usage, whenever it is found."""

    exit_status = 1


def damaged(uri: str, error: Exception) -> DamagedFileError:
    """Returns what is to be raised of a file, with the one advice there is."""
    reason = str(error).split("\n", 1)[0]
    return DamagedFileError(f"{uri} is damaged ({reason}); {MEND}")
