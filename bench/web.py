"""What old lists of URLs cost, from a stand-in web: `python -m bench.web`.

One manifest of images on hosts that are alive, dead, slow, moved, busy or something else is
embedded by this pipeline, once more without the dead hosts, and downloaded by img2dataset where
that is installed, with as many connections and without resizing. Told are images, seconds and the
processor's; and the URLs that img2dataset got and this pipeline did not, without pages, which it
takes for images as they are. `--without drip` shows what dead hosts cost: what drips waits as long
as they do, and hides it. `--hosts 1 --without alive,dead,drip,gone,moved,packed,page` leaves one
host that answers 429 above the rate of `--allowed`. Linux, with `unshare`.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from bench.stand_in_web import SHARES, Host, hosts_of, make_network
from pipelines.samples.scenes import random_scene, render, scene_rng, to_jpeg
from pipelines.web.settings import Bounds

_INSIDE = "CLIP_BEAM_BENCH_INSIDE"
IMAGES = 50


def main(argv: Sequence[str] | None = None) -> None:
    """Prints a line for each run."""
    flags = argparse.ArgumentParser(prog="python -m bench.web", description=__doc__)
    flags.add_argument("--urls", type=int, default=5000)
    flags.add_argument("--hosts", type=int, default=500)
    flags.add_argument("--connections", type=int, default=128)
    flags.add_argument("--without", default="", metavar="KIND,...")
    flags.add_argument("--allowed", type=float, default=20.0, metavar="REQUESTS_A_SECOND")
    flags.add_argument("--img2dataset", default=shutil.which("img2dataset"), metavar="PROGRAM")
    options = flags.parse_args(argv)
    if os.environ.get(_INSIDE) != "1":
        os.environ[_INSIDE] = "1"
        command = [sys.executable, "-m", "bench.web", *(sys.argv[1:] if argv is None else argv)]
        os.execvp("unshare", ["unshare", "-Urnm", "--", *command])
    with tempfile.TemporaryDirectory() as folder:
        _measure(Path(folder), options)


def _measure(root: Path, options: argparse.Namespace) -> None:
    left_out = options.without.split(",")
    shares = {kind: share for kind, share in SHARES.items() if kind not in left_out}
    hosts = hosts_of(options.hosts, shares)
    make_network(hosts, root / "hosts")
    _draw(root / "images")
    server = [sys.executable, "-m", "bench.stand_in_web", str(root / "images")]
    server.append(str(options.allowed))
    web = subprocess.Popen(server, stdout=subprocess.PIPE, text=True)
    try:
        assert web.stdout is not None and web.stdout.readline() == "listening\n"
        print(f"{options.urls} URLs on {len(hosts)} hosts, {options.connections} connections")
        _compare(root, hosts, options)
    finally:
        web.terminate()
        web.wait()


def _compare(root: Path, hosts: Sequence[Host], options: argparse.Namespace) -> None:
    _write(root / "all.parquet", hosts, options.urls)
    ours, seconds = _told("this pipeline", lambda: _embedded(root, "all", options))
    alive = [host for host in hosts if host.kind != "dead"]
    if len(alive) < len(hosts):
        _write(root / "alive.parquet", alive, options.urls * len(alive) // len(hosts))
        _, alone = _told("without the dead hosts", lambda: _embedded(root, "alive", options))
        most = 1.3 * alone + Bounds().connect_s
        print(f"dead hosts: {seconds:.1f} s, where {most:.1f} s are 1.3 times, and a time-out")
    if not options.img2dataset:
        print("img2dataset is not installed")
        return
    theirs, others = _told("img2dataset", lambda: _downloaded(root, options))
    print(f"this pipeline took {seconds / others:.2f} of the time of img2dataset")
    lost = collections.Counter(url.split("/")[2].partition("-")[0] for url in theirs - ours)
    print(f"got by img2dataset alone: {len(theirs - ours)} {dict(lost) or ''}")


def _draw(folder: Path) -> None:
    folder.mkdir()
    for number in range(IMAGES):
        rng = scene_rng(1, number)
        image = render(random_scene(rng), rng, 256)
        (folder / f"{number}.jpg").write_bytes(to_jpeg(image, rng))


def _write(path: Path, hosts: Sequence[Host], count: int) -> None:
    urls = [f"http://{hosts[n * 7919 % len(hosts)].name}/{n}.jpg" for n in range(count)]
    texts = [f"a caption {n}" for n in range(count)]
    pq.write_table(pa.table({"url": urls, "text": texts}), path)


def _told(name: str, run: Callable[[], set[str]]) -> tuple[set[str], float]:
    """Runs something, and prints what it got; returns that, and seconds."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    found = run()
    seconds, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    told = f"{len(found):6} images {seconds:7.1f} s {used:7.1f} s of processor"
    print(f"{name:<24} {told}", flush=True)
    return found, seconds


def _embedded(root: Path, name: str, options: argparse.Namespace) -> set[str]:
    output = root / f"run-{name}"
    command = [sys.executable, "-m", "pipelines.embed", "--manifest", str(root / f"{name}.parquet")]
    command += ["--output", str(output), "--model", "tiny", "--allow_images_from", "http://"]
    command += ["--fetch_concurrency", str(options.connections)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    lines = [line for line in done.stdout.splitlines() if line.startswith("by ")]
    print("".join(f"  {line}\n" for line in lines), end="")
    return set(pq.read_table(output / "embeddings", columns=["url"])["url"].to_pylist())


def _downloaded(root: Path, options: argparse.Namespace) -> set[str]:
    settings = {
        "url_list": root / "all.parquet",
        "input_format": "parquet",
        "url_col": "url",
        "caption_col": "text",
        "output_folder": root / "downloaded",
        "output_format": "files",
        "processes_count": 1,
        "thread_count": options.connections,
        "resize_mode": "no",
        "disable_all_reencoding": True,
        "enable_wandb": False,
    }
    flags = [f"--{name}={value}" for name, value in settings.items()]
    quiet = {**os.environ, "NO_ALBUMENTATIONS_UPDATE": "1"}
    done = subprocess.run([options.img2dataset, *flags], capture_output=True, text=True, env=quiet)
    if done.returncode:
        raise SystemExit(done.stderr)
    found = (json.loads(path.read_text()) for path in (root / "downloaded").glob("*/*.json"))
    return {one["url"] for one in found if one["status"] == "success" and "page-" not in one["url"]}


if __name__ == "__main__":
    main()
