"""Ray Data and Daft over the images of a store beside this pipeline: `bench.store --peers`.

Each is a process of its own, which embeds the same rows with the same model, in batches, and has 64
connections. Their rows lie in memory: Daft's reader of JSON leaves two requests in flight.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from bench.stand_in_process import ENVIRONMENT, StandInProcess

CONNECTIONS, BATCH = 64, 256
MODEL = "tiny"
_MISSING = 3  # exit status of a peer that is not installed

Mark = tuple[float, int]  # when a batch was encoded, and its rows


class _Encoder:
    """The usual loop: images and captions of a batch in, similarities out."""

    def __init__(self) -> None:
        import torch

        from bench.peers import padded_text, prepared
        from clip_core.loading import load

        self._torch, self._prepared = torch, prepared
        self._model = load(MODEL)
        self._text = padded_text(self._model)

    def __call__(self, images: Iterable[bytes], texts: Iterable[str]) -> Mark:
        """Encodes a batch; returns when that was done, and the number of its rows."""
        pairs = list(zip(images, texts, strict=True))
        pixels, tokens = self._prepared(self._model, pairs)
        torch = self._torch
        with torch.no_grad():
            image = self._model.encode_image(torch.from_numpy(pixels))
            text = self._text(torch.from_numpy(tokens))
            torch.cosine_similarity(image, text).numpy()
        return time.time(), len(pairs)


class _Fetch:
    """Ray Data's stage that fetches a batch with threads."""

    def __init__(self) -> None:
        import boto3
        from botocore.config import Config

        config = Config(max_pool_connections=CONNECTIONS)
        self._s3 = boto3.client("s3", config=config)
        self._pool = ThreadPoolExecutor(CONNECTIONS)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        return {"image": list(self._pool.map(self._get, batch["uri"])), "text": batch["text"]}

    def _get(self, uri: str) -> bytes:
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        return bytes(self._s3.get_object(Bucket=bucket, Key=key)["Body"].read())


class _Encode:
    """Ray Data's stage that encodes a batch."""

    def __init__(self) -> None:
        self._encoder = _Encoder()

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        at, rows = self._encoder(batch["image"], batch["text"])
        return {"at": [at], "rows": [rows]}


def ray_data(rows: list[dict[str, str]]) -> Iterator[Mark]:
    """Fetches in one stage and encodes in another, each an actor."""
    import ray

    ray.init(logging_level="error", log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    data = ray.data.from_items(rows, override_num_blocks=-(-len(rows) // BATCH))
    fetched = data.map_batches(_Fetch, batch_size=BATCH, concurrency=1)
    encoded = fetched.map_batches(_Encode, batch_size=BATCH, concurrency=1)
    for row in encoded.iter_rows():
        yield row["at"], row["rows"]


def daft(rows: list[dict[str, str]]) -> Iterator[Mark]:
    """Downloads in an expression and encodes in a function of the user's."""
    import daft as library
    from daft.io import IOConfig, S3Config

    s3 = S3Config(
        endpoint_url=os.environ["AWS_ENDPOINT_URL_S3"], region_name="us-east-1",
        key_id="stand-in", access_key="stand-in", max_connections=CONNECTIONS, use_ssl=False,
    )  # fmt: skip
    held: list[_Encoder] = []

    @library.udf(return_dtype=library.DataType.float64(), batch_size=BATCH)
    def encode(images: Any, texts: Any) -> list[float]:
        held.extend([] if held else [_Encoder()])
        at, count = held[0](images.to_pylist(), texts.to_pylist())
        return [at] * count

    data = library.from_pydict({name: [row[name] for row in rows] for name in ("uri", "text")})
    images = data["uri"].download(max_connections=CONNECTIONS, io_config=IOConfig(s3=s3))
    found = data.with_column("image", images)
    at = found.select(encode(found["image"], found["text"]).alias("at")).to_pydict()["at"]
    for moment in sorted(set(at)):
        yield moment, at.count(moment)


def here(rows: list[dict[str, str]]) -> Iterator[Mark]:
    """This pipeline, over the manifest that the rows are of."""
    from bench.marked import embed_marked

    manifest = "s3://bucket/data/manifest.jsonl"
    for mark in embed_marked(manifest, "s3://bucket/out-peers", len(rows)):
        yield mark.at, mark.rows


PEERS: dict[str, Callable[[list[dict[str, str]]], Iterator[Mark]]] = {
    "here": here, "Ray Data": ray_data, "Daft": daft,
}  # fmt: skip


def print_peers(root: Path, store: StandInProcess, options: argparse.Namespace) -> None:
    """Runs each by turns, and prints rows a second and the most that was in flight."""
    for _ in range(options.rounds):
        for name in PEERS:
            store.set(latency=options.latency, **options.settings)
            began = time.time()
            told = _run(name, root, options.peers_python)
            took = time.time() - began
            if told is None:
                print(f"{name:<10} not installed")
                continue
            most = store.stats()["most_in_flight"]
            whole = options.rows / took
            print(f"{name:<10}{told:8.0f} rows/s from the first batch to the last,"
                  f"{whole:8.0f} end to end; {most} in flight at most", flush=True)  # fmt: skip


def _run(name: str, root: Path, other: str) -> float | None:
    """Returns the rate of one in a process of its own; None if no interpreter has it."""
    for python in dict.fromkeys((sys.executable, other)):
        argv = [python, "-m", "bench.store_peers", name, str(root / "bucket/data/manifest.jsonl")]
        done = subprocess.run(argv, capture_output=True, text=True)
        if done.returncode == 0:
            return float(done.stdout.split()[-1])
        if done.returncode != _MISSING:
            raise SystemExit(f"{name}: {done.stderr[-2000:]}")
    return None


def main(argv: Sequence[str]) -> int:
    """Runs one peer over a manifest of a bucket's images; prints its rate."""
    name, manifest = argv
    os.environ |= ENVIRONMENT
    with open(manifest) as file:
        lines = [json.loads(line) for line in file]
    rows = [{"uri": f"s3://bucket/data/{line['url']}", "text": line["text"]} for line in lines]
    try:
        marks = sorted(PEERS[name](rows))
    except ModuleNotFoundError as error:
        if error.name not in ("ray", "daft"):
            raise
        print(error, file=sys.stderr)
        return _MISSING
    (first, some), (last, _) = marks[0], marks[-1]
    print((sum(count for _, count in marks) - some) / (last - first))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
