"""The published OpenAI checkpoints: where they are, and a cache that holds them once."""

from __future__ import annotations

import hashlib
import http.client
import os
import time
import urllib.error
import urllib.request
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from http import HTTPStatus
from pathlib import Path
from typing import BinaryIO, cast

from tqdm import tqdm

from clip_core.checkpoints.lazy_tensor import CheckpointError

CACHE_VARIABLE = "CLIP_BEAM_CACHE"
_ADDRESS = "https://openaipublic.azureedge.net/clip/models/{sha256}/{file}"
_CHUNK_BYTES = 1 << 20
_SILENT_S = 20  # to connect, and between two pieces
_TOTAL_S = 3600.0  # of one download; the next goes on where it was

SHA256 = {
    "RN50": "afeb0e10f9e5a86da6080e35cf09123aca3b358a0c3e3b6c78a7b63bc04b6762",
    "RN101": "8fa8567bab74a42d41c5915025a8e4538c3bdbe8804a470a72f30b0d94fab599",
    "RN50x4": "7e526bd135e493cef0776de27d5f42653e6b4c8bf9e0f653bb11773263205fdd",
    "RN50x16": "52378b407f34354e150460fe41077663dd5b39c54cd0bfd2b27167a4a06ec9aa",
    "RN50x64": "be1cfb55d75a9666199fb2206c106743da0f6468c9d327f3e0d0a543a9919d9c",
    "ViT-B/32": "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af",
    "ViT-B/16": "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f",
    "ViT-L/14": "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836",
    "ViT-L/14@336px": "3035c92b350959924f9f00213499208652fc7ea050643e8b385c2dac08641f02",
}


def cache_directory() -> Path:
    """Returns $CLIP_BEAM_CACHE, or ~/.cache/clip-beam.

    Raises:
        CheckpointError: if this account has no home directory.
    """
    chosen = Path(os.environ.get(CACHE_VARIABLE) or "~/.cache/clip-beam")
    try:
        return chosen.expanduser()
    except RuntimeError as error:
        raise CheckpointError(
            f"there is no home directory for {chosen}, where downloaded models are kept; name "
            f"another place with `cache_dir` or ${CACHE_VARIABLE}"
        ) from error


def published_checkpoint(name: str, cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """Returns the file of a published model, downloaded once and verified.

    An interrupted download is resumed; a file appears under its name only when it is whole. A
    process that finds another at it waits, and takes what that one got.

    Raises:
        CheckpointError: if it cannot be downloaded, or its bytes are not the published ones.
    """
    sha256 = SHA256[name]
    file = name.replace("/", "-").replace("@", "-") + ".pt"
    target = (Path(cache_dir) if cache_dir else cache_directory()) / file
    if target.exists():
        return target
    address = _ADDRESS.format(sha256=sha256, file=file)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        found = _fetch(address, target, sha256)
    except (OSError, http.client.HTTPException) as error:
        raise CheckpointError(
            f"could not download {name} ({error}); run again to resume, or fetch {address} "
            f"elsewhere and put it at {target}"
        ) from error
    if found != sha256:
        raise CheckpointError(
            f"expected SHA-256 {sha256} for {name}, got {found}; it was removed, try again"
        )
    return target


def download(names: Collection[str], cache_dir: str | os.PathLike[str] | None = None) -> None:
    """Downloads published models that are not there yet, side by side.

    Raises:
        CheckpointError: as `published_checkpoint` does.
    """
    with ThreadPoolExecutor(max(len(names), 1)) as threads:
        for _ in threads.map(lambda name: published_checkpoint(name, cache_dir), names):
            pass


def file_sha256(path: Path) -> str:
    """Returns the hex digest of a file, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _fetch(address: str, target: Path, sha256: str) -> str:
    """Downloads a file by way of a partial one beside it; returns the hash of what arrived."""
    partial = target.with_suffix(".part")
    with _opened_alone(partial) as file:
        if target.exists():  # another process was faster
            partial.unlink(missing_ok=True)
            return sha256
        found = _complete(address, file, sha256)
        if found == sha256:
            os.replace(partial, target)
    return found


def _complete(address: str, file: BinaryIO, sha256: str) -> str:
    """Downloads what a file lacks, and returns its hash; wrong bytes are thrown away."""
    is_begun = file.seek(0, os.SEEK_END) > 0
    _download_rest(address, file)
    found = file_sha256(Path(file.name))
    if found != sha256:
        file.truncate(0)  # and not unlinked, as others may wait for this very file
        if is_begun:  # what was there was no beginning of it
            return _complete(address, file, sha256)
    return found


@contextmanager
def _opened_alone(path: Path) -> Iterator[BinaryIO]:
    """Opens a file to append to, when no other process has it open; a killed one frees it."""
    with path.open("a+b") as file:
        with suppress(ImportError, OSError):  # without locks the hash alone tells a mixture
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        yield cast(BinaryIO, file)


def _download_rest(address: str, file: BinaryIO) -> None:
    """Appends what the file lacks; raises a ConnectionError if the answer ends before its end."""
    done = file.seek(0, os.SEEK_END)
    request = urllib.request.Request(address, headers={"Range": f"bytes={done}-"} if done else {})
    try:
        response = urllib.request.urlopen(request, timeout=_SILENT_S)
    except urllib.error.HTTPError as error:
        if error.code != HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        return  # nothing comes after what is there
    with response:
        if response.status != HTTPStatus.PARTIAL_CONTENT:
            done = file.truncate(0)
        _append(response, file, done + int(response.headers.get("Content-Length", 0)))


def _append(response: http.client.HTTPResponse, file: BinaryIO, total: int) -> None:
    size, end = file.seek(0, os.SEEK_END), time.monotonic() + _TOTAL_S
    with tqdm(total=total, initial=size, unit="B", unit_scale=True, disable=None) as bar:
        while chunk := response.read1(_CHUNK_BYTES):  # what is there: a drip must not hide the end
            size += file.write(chunk)
            bar.update(len(chunk))
            if time.monotonic() > end:
                file.flush()
                raise TimeoutError(f"{size} of {total} bytes came within {_TOTAL_S / 60:.0f} min")
    file.flush()
    if size < total:
        raise ConnectionError(f"the connection closed after {size} of {total} bytes")
