"""Beam's own flags, which ride along with those of a command."""

from __future__ import annotations

import argparse
import contextlib
import sys
import threading
from collections.abc import Collection, Iterator, Sequence
from typing import Any, cast

import grpc
from apache_beam import Pipeline
from apache_beam.options.pipeline_options import (
    DirectOptions,
    GoogleCloudOptions,
    PipelineOptions,
    PortableOptions,
    SetupOptions,
    StandardOptions,
)
from apache_beam.portability.api import beam_provision_api_pb2
from apache_beam.runners.job.utils import dict_to_struct
from apache_beam.runners.portability.fn_api_runner.fn_runner import (
    ExtendedProvisionInfo,
    FnApiRunner,
)
from apache_beam.runners.runner import create_runner

from pipelines.command_line import exits
from pipelines.command_line.exits import RunnerError
from pipelines.command_line.parser import Parser
from pipelines.command_line.places import expanded
from pipelines.engine.beam_effects import idle, refusal, worth_suggesting
from pipelines.engine.cores import usable_cores
from pipelines.engine.store_flags import use_stores

# By name: `DirectRunner` is another engine on machines that can download Prism.
LOCAL_RUNNER = "FnApiRunner"
# Worker processes import them as they start. The first makes sure of this program's packages where
# another project's are called the same; the last scrubs what is logged.
PLUGINS = ("clip_beam", "pipelines.engine.worker_redaction")
PROCESSES = (LOCAL_RUNNER, "multi_processing")
LOCAL_RUNNERS = (LOCAL_RUNNER, "BundleBasedDirectRunner")
# Runners log what they then raise; the others tell how Prism is started, what it writes, and when
# it is ended.
NOISY = (
    "apache_beam.runners",
    "apache_beam.runners.portability.prism_runner",
    "apache_beam.utils.subprocess_server",
    "PrismJobServer",
)
SERVICE_S = 20.0  # in which a job service has to answer
JOB_S = 10 * 365 * 86_400  # that a job may take
LISTENER = "wait_until_finish_read"  # Beam's thread that hears a job's messages


class JobLostError(OSError):
    """Whatever does the job does not answer any more; it may go on with it."""


def read_beam_flags(
    argv: Sequence[str], own: Parser, rest: Sequence[str], used: Collection[str] = ()
) -> PipelineOptions:
    """Returns Beam's options of a command line.

    Flags that are neither the command's nor Beam's, and those that cannot work, end the program
    with exit status 2; those that do nothing with the runner are named in one line.

    Args:
        own: the command's flags.
        rest: what of `argv` they do not know.
        used: flags of Beam that the command itself reads.
    """
    groups = _groups(own, rest)
    options = PipelineOptions(expanded(argv))
    standard = options.view_as(StandardOptions)
    standard.runner = standard.runner or LOCAL_RUNNER
    _check_runner(own, options)
    refused = refusal(groups, runs_here(options))
    if refused:
        own.error(refused)
    nothing = idle(groups, standard.runner, runs_here(options), used)
    if nothing:
        print(f"{own.prog}: {nothing}", file=sys.stderr)
    try:
        use_stores(options)
    except ValueError as error:
        own.error(str(error))
    return options


def new_pipeline(options: PipelineOptions) -> Pipeline:
    """Returns an empty pipeline; worker processes find this program, and scrub what they log.

    Raises:
        RunnerError: what Beam finds missing or wrong in its flags, in one sentence.
    """
    exits.mute(*NOISY)
    if not runs_here(options):
        reach_job_service(options)
        # Beam bounds the streams by which it hears of a job by this, too, and gives up what takes
        # longer than the five minutes that it is.
        options.view_as(PortableOptions).job_server_timeout = JOB_S
        setup = options.view_as(SetupOptions)
        given = [name for name in setup.beam_plugins or () if name not in PLUGINS]
        setup.beam_plugins = [PLUGINS[0], *given, PLUGINS[1]]
    try:
        return Pipeline(_runner_of_processes(options), options)
    except ValueError as error:
        raise RunnerError(f"Beam refuses its flags: {_one_line(error)}") from error


def reach_job_service(options: PipelineOptions) -> None:
    """Waits until a job service that is named answers.

    Raises:
        RunnerError: if it does not.
    """
    portable = options.view_as(PortableOptions)
    endpoint, seconds = portable.job_endpoint, min(portable.job_server_timeout, SERVICE_S)
    if runs_here(options) or not endpoint or endpoint == "embed":  # which starts one
        return
    with grpc.insecure_channel(endpoint) as channel:
        try:
            grpc.channel_ready_future(channel).result(seconds)
        except grpc.FutureTimeoutError as error:
            raise RunnerError(
                f"no job service answered at {endpoint} within {seconds:g} s; start it, or name "
                "another with `--job_endpoint`"
            ) from error


@contextlib.contextmanager
def job_under_way() -> Iterator[None]:
    """Says in one sentence that a job service has gone in the midst of a job.

    Raises:
        JobLostError: if so.
    """
    hook = threading.excepthook

    def unless_told(thrown: threading.ExceptHookArgs) -> None:
        if not isinstance(thrown.exc_value, grpc.RpcError):  # of Beam's threads
            hook(thrown)

    threading.excepthook = unless_told
    try:
        yield
    except grpc.RpcError as error:
        exits.leave_threads()
        for thread in threading.enumerate():
            if thread.name == LISTENER:
                thread.join(SERVICE_S)
        said = f"{error.code().name}: {error.details()}" if isinstance(error, grpc.Call) else error
        raise JobLostError(
            f"the job service does not answer any more ({_one_line(said)}); the job may go on, but "
            "names no further file; run again once it is there"
        ) from error
    finally:
        if not exits.is_own():  # else it ends soon, and its threads speak until then
            threading.excepthook = hook


def named_runner(rest: Sequence[str]) -> str | None:
    """Returns the runner that Beam's flags name, unless it is the one of this process."""
    runner = PipelineOptions(list(rest)).view_as(StandardOptions).runner
    return None if runner in LOCAL_RUNNERS else runner


def name_job(options: PipelineOptions, run: str) -> str:
    """Gives the job a name that carries the id of the run, and returns it."""
    cloud = options.view_as(GoogleCloudOptions)
    cloud.job_name = f"{cloud.job_name or 'clip-beam'}-{run}"
    return str(cloud.job_name)


def runs_here(options: PipelineOptions) -> bool:
    """Tells whether the runner keeps the whole job in this process."""
    return options.view_as(StandardOptions).runner in LOCAL_RUNNERS


def _runner_of_processes(options: PipelineOptions) -> FnApiRunner | None:
    """Returns the local runner where it works in processes, to which it hands no options itself."""
    if not _works_in_processes(options):
        return None
    handed = dict_to_struct({"beam:option:beam_plugins:v1": PLUGINS})
    info = beam_provision_api_pb2.ProvisionInfo(retrieval_token="unused", pipeline_options=handed)
    return FnApiRunner(provision_info=ExtendedProvisionInfo(info))


def _works_in_processes(options: PipelineOptions) -> bool:
    runner = options.view_as(StandardOptions).runner
    return (runner, options.view_as(DirectOptions).direct_running_mode) == PROCESSES


def local_threads(options: PipelineOptions) -> int:
    """Returns how many threads the in-process runner works in."""
    return options.view_as(DirectOptions).direct_num_workers or usable_cores()


def use_local_threads(options: PipelineOptions, least: int) -> None:
    """Lets the in-process runner work in at least so many threads.

    Where it works in processes there are as many as were asked for: each loads the models.
    """
    if not _works_in_processes(options):
        options.view_as(DirectOptions).direct_num_workers = max(local_threads(options), least)


def _check_runner(own: Parser, options: PipelineOptions) -> None:
    """Refuses a runner that cannot start. Beam's further checks are left out: they may use the
    network."""
    runner = options.view_as(StandardOptions).runner
    try:
        create_runner(runner)
    except (ValueError, ImportError, AttributeError) as error:
        own.error(f"`--runner` cannot be used: {_one_line(error)}")
    if runner.endswith("PortableRunner") and not options.view_as(PortableOptions).job_endpoint:
        own.error("PortableRunner needs a job service; name it with `--job_endpoint HOST:PORT`")
    if runner.endswith("DataflowRunner") and not _has_google_cloud():
        own.error(f'{runner} needs an extra; run `pip install "clip-beam[dataflow]"`')


def _one_line(said: object) -> str:
    return " ".join(str(said).split()).rstrip(".")


def _has_google_cloud() -> bool:
    try:
        import apache_beam.runners.dataflow.internal.apiclient  # noqa: F401
    except ImportError:
        return False
    return True


def _groups(own: Parser, rest: Sequence[str]) -> dict[str, str]:
    """Returns the group of each of Beam's flags that is given, and refuses flags of nobody."""
    if not rest:
        return {}
    every = Parser(prog=own.prog, add_help=False, conflict_handler="resolve")
    group_of: dict[argparse.Action, str] = {}
    for options in _subclasses(PipelineOptions):
        of_beam = not options.__module__.startswith("pipelines.")
        if of_beam and "_add_argparse_args" in vars(options):
            # Some of Beam's option groups share a flag; either definition will do for a name check.
            with contextlib.suppress(argparse.ArgumentError):
                options._add_argparse_args(cast(Any, every))
            for action in every._actions:
                group_of.setdefault(action, options.__name__)
    words = every.words(rest)
    actions = every._option_string_actions
    runner = {flag: values for flag, values in words if values}.get("--runner", [LOCAL_RUNNER])[0]
    for flag, _ in words:
        if flag not in actions:
            groups = {name: group_of[action] for name, action in actions.items()}
            useful = worth_suggesting(groups, runner, runner in LOCAL_RUNNERS)
            own.refuse_unknown(flag, useful)
    every.parse_args(list(rest))
    return {actions[flag].option_strings[0]: group_of[actions[flag]] for flag, _ in words}


def _subclasses(parent: type[PipelineOptions]) -> list[type[PipelineOptions]]:
    children: list[type[PipelineOptions]] = parent.__subclasses__()
    return children + [deeper for child in children for deeper in _subclasses(child)]
