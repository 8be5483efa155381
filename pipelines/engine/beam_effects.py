"""What a flag of Beam does with a runner: it works, is refused, or is said to do nothing."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

LOCAL_FLAGS = ("--direct_num_workers", "--experiment", "--pickle_library", "--runner")
# Beam's groups of flags that one kind of runner reads, by a part of its name.
_READ_BY = {
    "DirectOptions": (),
    "FlinkRunnerOptions": ("Flink",),
    "GoogleCloudOptions": ("Dataflow",),
    "JobServerOptions": ("Flink", "KafkaStreams", "Spark"),
    "KafkaStreamsRunnerOptions": ("KafkaStreams",),
    "PrismRunnerOptions": ("Prism",),
    "SparkRunnerOptions": ("Spark",),
}
_EVERYWHERE = ("--job_name", "--temp_location")  # of Google Cloud's group, and of use elsewhere
_REFUSED_GROUPS = {
    "TestOptions": "is for tests of Beam; `clip-beam check` says what a run would do",
    "TestDataflowOptions": "is for tests of Beam",
    "TypeOptions": "is for pipelines that are being written",
}
_REFUSED = {
    "--streaming": "does not fit: a manifest has an end",
    "--no_wait_until_finish": "does not fit: a run is counted and closed at its end",
    "--update": "does not fit: run the same command again, which goes on where it was",
    "--template_location": "does not fit: a run is planned, counted and closed by this process",
    "--blob_service_endpoint": "is not handed on; set AZURE_STORAGE_CONNECTION_STRING instead",
    "--azure_managed_identity_client_id": "is not handed on; set AZURE_CLIENT_ID instead",
}
_LOCAL_ONLY_REFUSED = {"ProfilingOptions": "profiles workers of other runners than this one"}
STORES = ("S3Options", "AzureOptions", "HadoopFileSystemOptions")
_STORES_ELSEWHERE = (
    "reaches no worker of another machine; set what the store's own library reads there, such as "
    "AWS_ENDPOINT_URL or AZURE_STORAGE_CONNECTION_STRING"
)
_WORKERS = ("worker", "parallelism")


def refusal(groups: Mapping[str, str], local: bool) -> str | None:
    """Returns why the first flag that cannot work is refused; None if there is no such.

    Args:
        groups: of each flag that is given, the group of Beam's options that it belongs to.
        local: whether the runner works in this process.
    """
    for flag, group in groups.items():
        reason = _REFUSED.get(flag) or _REFUSED_GROUPS.get(group)
        if local:
            reason = reason or _LOCAL_ONLY_REFUSED.get(group)
        elif group in STORES:
            reason = _STORES_ELSEWHERE
        if reason:
            return f"`{flag}` of Beam {reason}"
    return None


def idle(groups: Mapping[str, str], runner: str, local: bool, used: Collection[str]) -> str | None:
    """Says which flags nothing will read; None if there are none.

    Args:
        groups: as for `refusal`.
        used: flags that the command itself reads.
    """
    works = (*LOCAL_FLAGS, *used)
    flags = [
        flag
        for flag, group in groups.items()
        if flag not in works and not _is_read(flag, group, runner, local)
    ]
    if not flags:
        return None
    hint = ""
    if local and _is_about_workers(flags):
        hint = "; `--direct_num_workers N` lets it work in N threads"
    return f"{', '.join(flags)}: of no effect with the runner {runner}{hint}"


def worth_suggesting(groups: Mapping[str, str], runner: str, local: bool) -> list[str]:
    """Returns flags without those about workers that the runner has not: nobody means them."""
    return [
        flag
        for flag, group in groups.items()
        if _is_read(flag, group, runner, local)
        or not (group == "WorkerOptions" or _is_about_workers([flag]))
    ]


def _is_read(flag: str, group: str, runner: str, local: bool) -> bool:
    if local:
        return group in (*STORES, "DirectOptions") and flag != "--hdfs_full_urls"
    if flag in _EVERYWHERE or group not in _READ_BY:
        return True
    return any(name in runner for name in _READ_BY[group])


def _is_about_workers(flags: Iterable[str]) -> bool:
    return any(word in flag for flag in flags for word in _WORKERS)
