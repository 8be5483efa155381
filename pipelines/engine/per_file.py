"""Does the work on each file of a run: in this process, in slots, or on workers of Beam.

Beam is imported only where one of its flags is given, so that commands start at once without.
"""

from __future__ import annotations

import pickle
import sys
import tempfile
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, TypeVar, Union

from pipelines.command_line.parser import Parser
from pipelines.engine.slots.board import Patience, Seat
from pipelines.engine.slots.choice import EngineChoice, engine_choice
from pipelines.engine.slots.messages import Failed, Task
from pipelines.engine.slots.supervisor import SlotsFailedError, Supervisor
from pipelines.engine.slots.work import EachItem
from pipelines.storage import reading, uris, writing
from pipelines.storage.stores import is_local

if TYPE_CHECKING:
    import argparse

    from apache_beam.options.pipeline_options import PipelineOptions

Workers = Union[EngineChoice, "PipelineOptions"]
Item = TypeVar("Item")
Result = TypeVar("Result")
MAX_RESULT_BYTES = 1 << 30
MAX_ITEM_BYTES = 512  # that a graph carries itself
WRITERS = 16  # of larger ones
SIDE_BY_SIDE = 16  # files of a store, which takes its time for each


def parse_with_engine(
    flags: Parser, argv: Sequence[str] | None
) -> tuple[argparse.Namespace, Workers | None]:
    """Reads a command line that says what runs the work; unknown flags may be Beam's.

    Returns:
        The command's own flags, and slots or Beam's options; None for a loop in this process.
    """
    argv = sys.argv[1:] if argv is None else argv
    found, rest = flags.parse_known_args(argv)
    if not rest:
        return found, chosen_slots(flags, found, None)
    from pipelines.engine.beam_options import named_runner, read_beam_flags, runs_here

    options = read_beam_flags(rest, flags, rest, used=("--temp_location",))
    slots = chosen_slots(flags, found, named_runner(rest))
    if slots is None and not runs_here(options) and not _temp_location(options):
        flags.error("expected `--temp_location`, where workers elsewhere leave results")
    return found, slots or options


def chosen_slots(
    flags: Parser, found: argparse.Namespace, runner: str | None
) -> EngineChoice | None:
    """Returns the engine that flags name, if it has slots; what does not fit ends the program.

    Args:
        runner: of Beam, where one was named.
    """
    try:
        choice = engine_choice(found, runner)
    except ValueError as error:
        flags.error(str(error))
    return choice if choice.has_slots else None


def workers_that_read(choice: EngineChoice, options: PipelineOptions) -> Workers | None:
    """Returns what of a run `over_files` can use; None for a loop in this process."""
    from pipelines.engine.beam_options import runs_here

    if choice.has_slots:
        return choice
    return options if _temp_location(options) and not runs_here(options) else None


def over_files(
    work: Callable[[Item], Result],
    items: Sequence[Item],
    workers: Workers | None,
    most: int = SIDE_BY_SIDE,
) -> Iterator[Result]:
    """Yields what a function returns for each item, in order.

    Args:
        work: something that can be pickled, unless it is called here.
        items: URIs of files, or what has one as its `uri`.
        workers: slots, or options of Beam; None for `side_by_side` in this process.
        most: items at once in this process.

    Raises:
        RunnerError: if Beam does not start the job.
        JobLostError: if whatever does it is gone.
        OSError: if the work of a slot fails: says why.
    """
    if workers is None:
        yield from side_by_side(work, items, most)
    elif isinstance(workers, EngineChoice):
        yield from _on_slots(work, items, workers)
    else:
        yield from _on_beam(work, items, workers)


def side_by_side(
    work: Callable[[Item], Result], items: Sequence[Item], most: int = SIDE_BY_SIDE
) -> Iterator[Result]:
    """Yields what a function returns for each item, in order: one by one of files of this machine,
    in threads of those that are elsewhere, as most of the time is spent waiting for these.

    Args:
        items: URIs of files, or what has one as its `uri`.
    """
    if not any(map(_is_elsewhere, items[:1])):
        yield from map(work, items)
        return
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(min(most, len(items))) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) >= 2 * most:  # the first may be slow, and results are held
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def begun(items: Iterator[Item]) -> Iterator[Item]:
    """Returns an iterator whose first item is there already: of a file that is opened side by side
    with others, and read on one after the other."""
    return chain(list(islice(items, 1)), items)


def _is_elsewhere(item: object) -> bool:
    uri = getattr(item, "uri", item)
    return isinstance(uri, str) and not is_local(uri)


def _on_slots(
    work: Callable[[Item], Result], items: Sequence[Item], choice: EngineChoice
) -> Iterator[Result]:
    from pipelines.engine.slots.engines import started

    if not items:
        return
    results: dict[str, Result] = {}
    tasks = [Task(((str(index), item),)) for index, item in enumerate(items)]
    patience = Patience(kill=None)  # an item is a file, of whatever size
    try:
        with started(choice, EachItem(work, failed), len(tasks)) as (engine, share):

            def done(seat: Seat, name: str, result: Result) -> None:
                results[name] = result

            Supervisor(engine, share.slots, tasks, done, patience).run()
    except SlotsFailedError as error:
        if error.told:
            print(error.told, file=sys.stderr)
        raise OSError(str(error)) from error
    for index in range(len(items)):
        yield results.pop(str(index))


def failed(error: BaseException) -> Failed:
    """Says what went wrong with an item, as the loop in this process would: it ends the work."""
    known = isinstance(error, OSError | ValueError)
    told = "" if known else "".join(traceback.format_exception(error))
    return Failed(str(error) or type(error).__name__, True, told)


def _on_beam(
    work: Callable[[Item], Result], items: Sequence[Item], options: PipelineOptions
) -> Iterator[Result]:
    import apache_beam as beam

    from pipelines.engine.beam_options import job_under_way, new_pipeline
    from pipelines.engine.chunks import packed, unpacked

    with _scratch(options) as scratch:
        with job_under_way(), new_pipeline(options) as pipeline:
            created = beam.Create(packed(_laid_down(items, scratch)), reshuffle=False)
            numbered = beam.FlatMap(unpacked).with_output_types(tuple[int, bytes | None])
            do = beam.Map(_kept_result, work=work, scratch=scratch).with_output_types(int)
            _ = (
                pipeline
                | created.with_output_types(bytes)
                | "Unpack" >> numbered
                | beam.Reshuffle()
                | "Work" >> do
            )
        for index in range(len(items)):
            data = reading.read_retried(_uri_of("result", scratch, index), MAX_RESULT_BYTES)
            yield pickle.loads(data)  # written by this very job


def _laid_down(items: Sequence[Any], scratch: str) -> list[tuple[int, bytes | None]]:
    """Pickles items for a graph; what is large lies in a file, and the graph has its number only.

    A filter hands on a byte a row: Dataflow's bound on a graph is that of some million rows.
    """

    def pickled(numbered: tuple[int, Any]) -> tuple[int, bytes | None]:
        index, data = numbered[0], pickle.dumps(numbered[1])
        if len(data) <= MAX_ITEM_BYTES:
            return index, data
        writing.write_atomically(_uri_of("item", scratch, index), data)
        return index, None

    with ThreadPoolExecutor(WRITERS) as pool:
        return list(pool.map(pickled, enumerate(items)))


def _kept_result(
    numbered: tuple[int, bytes | None], work: Callable[[Item], Any], scratch: str
) -> int:
    """Does the work on one item and leaves the result in a file; returns the item's number."""
    index, data = numbered
    if data is None:
        data = reading.read_retried(_uri_of("item", scratch, index), MAX_RESULT_BYTES)
    result = work(pickle.loads(data))  # written by this very job
    writing.write_atomically(_uri_of("result", scratch, index), pickle.dumps(result))
    return index


def _uri_of(what: str, scratch: str, index: int) -> str:
    return uris.join(scratch, f"{what}-{index:09}.pickle")


@contextmanager
def _scratch(options: PipelineOptions) -> Iterator[str]:
    place = _temp_location(options)
    with tempfile.TemporaryDirectory() as folder:
        if not place:
            yield folder
            return
        scratch = uris.join(uris.absolute(place), f"clip-beam-{uris.base_name(folder)}")
        try:
            yield scratch
        finally:
            writing.remove_tree(scratch)


def _temp_location(options: PipelineOptions) -> str | None:
    from apache_beam.options.pipeline_options import GoogleCloudOptions

    return options.view_as(GoogleCloudOptions).temp_location
