"""Does the work on each file of a run: in turn in this process, or on the workers of a Beam runner.

Beam is imported only where one of its flags is given, so that commands start at once without.
"""

from __future__ import annotations

import pickle
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from pipelines.command_line.parser import Parser
from pipelines.storage import reading, uris, writing

if TYPE_CHECKING:
    import argparse

    from apache_beam.options.pipeline_options import PipelineOptions

Item = TypeVar("Item")
Result = TypeVar("Result")
MAX_RESULT_BYTES = 1 << 30


def parse_with_beam(
    flags: Parser, argv: Sequence[str] | None
) -> tuple[argparse.Namespace, PipelineOptions | None]:
    """Reads a command line whose unknown flags may be Beam's.

    Returns:
        The command's own flags, and Beam's options if there are any.
    """
    argv = sys.argv[1:] if argv is None else argv
    found, rest = flags.parse_known_args(argv)
    if not rest:
        return found, None
    from pipelines.engine.beam_options import read_beam_flags, runs_here

    options = read_beam_flags(rest, flags, rest, used=("--temp_location",))
    if not runs_here(options) and not _temp_location(options):
        flags.error("expected `--temp_location`, where workers elsewhere leave results")
    return found, options


def workers_that_read(options: PipelineOptions) -> PipelineOptions | None:
    """Returns options by which `over_files` can use workers elsewhere; None if it cannot."""
    from pipelines.engine.beam_options import runs_here

    return options if _temp_location(options) and not runs_here(options) else None


def over_files(
    work: Callable[[Item], Result], items: Sequence[Item], options: PipelineOptions | None
) -> Iterator[Result]:
    """Yields what a function returns for each item, in order.

    Args:
        work: for a runner, something that can be pickled; what it returns travels by files.
        options: of Beam; None for a loop in this process.

    Raises:
        RunnerError: if Beam does not start the job.
    """
    if options is None:
        yield from map(work, items)
        return
    import apache_beam as beam

    from pipelines.engine.beam_options import new_pipeline

    with _scratch(options) as scratch:
        with new_pipeline(options) as pipeline:
            numbered = [(index, pickle.dumps(item)) for index, item in enumerate(items)]
            created = beam.Create(numbered).with_output_types(tuple[int, bytes])  # reshuffles
            do = beam.Map(_kept_result, work=work, scratch=scratch).with_output_types(int)
            _ = pipeline | created | "Work" >> do
        for index in range(len(items)):
            data = reading.read_retried(_result_uri(scratch, index), MAX_RESULT_BYTES)
            yield pickle.loads(data)  # written by this very job


def _kept_result(numbered: tuple[int, bytes], work: Callable[[Item], Any], scratch: str) -> int:
    """Does the work on one item and leaves the result in a file; returns the item's number."""
    index, item = numbered
    result = work(pickle.loads(item))  # written by this very job
    writing.write_atomically(_result_uri(scratch, index), pickle.dumps(result))
    return index


def _result_uri(scratch: str, index: int) -> str:
    return uris.join(scratch, f"{index:09}.pickle")


@contextmanager
def _scratch(options: PipelineOptions) -> Iterator[str]:
    place = _temp_location(options)
    with tempfile.TemporaryDirectory() as folder:
        if not place:
            yield folder
            return
        scratch = uris.join(place, f"clip-beam-{uris.base_name(folder)}")
        try:
            yield scratch
        finally:
            writing.remove_tree(scratch)


def _temp_location(options: PipelineOptions) -> str | None:
    from apache_beam.options.pipeline_options import GoogleCloudOptions

    return options.view_as(GoogleCloudOptions).temp_location
