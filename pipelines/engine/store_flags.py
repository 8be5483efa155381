"""Beam's flags about stores, handed on to the filesystems that read and write here."""

from __future__ import annotations

from typing import Any

import fsspec
from apache_beam.options.pipeline_options import (
    AzureOptions,
    HadoopFileSystemOptions,
    PipelineOptions,
    S3Options,
)

from pipelines.command_line.exits import put_back


def use_stores(options: PipelineOptions) -> None:
    """Configures fsspec as the flags say, until the command returns.

    Raises:
        ValueError: if a port is no number.
    """
    for protocol in ("s3", "s3a"):
        _configure(protocol, _s3(options.view_as(S3Options)))
    azure = {"connection_string": options.view_as(AzureOptions).azure_connection_string}
    for protocol in ("abfs", "abfss", "az"):
        _configure(protocol, azure)
    hdfs = options.view_as(HadoopFileSystemOptions)
    if hdfs.hdfs_port and not hdfs.hdfs_port.isdecimal():
        raise ValueError(f"`--hdfs_port` must be a number, got {hdfs.hdfs_port!r}")
    port = int(hdfs.hdfs_port) if hdfs.hdfs_port else None
    _configure("hdfs", {"host": hdfs.hdfs_host, "port": port, "user": hdfs.hdfs_user})


def _s3(flags: S3Options) -> dict[str, Any]:
    verify = {"true": True, "false": False}.get(str(flags.s3_verify).lower(), flags.s3_verify)
    client = {
        "region_name": flags.s3_region_name,
        "api_version": flags.s3_api_version,
        "verify": verify,
    }
    return {
        "key": flags.s3_access_key_id,
        "secret": flags.s3_secret_access_key,
        "token": flags.s3_session_token,
        "endpoint_url": flags.s3_endpoint_url,
        "use_ssl": False if flags.s3_disable_ssl else None,
        "client_kwargs": {name: value for name, value in client.items() if value is not None},
    }


def _configure(protocol: str, values: dict[str, Any]) -> None:
    conf = fsspec.config.conf
    before = conf.get(protocol, {})
    given = {name: value for name, value in values.items() if value not in (None, {})}
    if "client_kwargs" in given:
        given["client_kwargs"] = before.get("client_kwargs", {}) | given["client_kwargs"]
    if given:
        undo = (conf.__setitem__, protocol, before) if protocol in conf else (conf.pop, protocol)
        put_back(*undo)
        conf[protocol] = before | given
