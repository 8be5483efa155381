"""The stand-in store in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "stand-in", "AWS_SECRET_ACCESS_KEY": "stand-in",
    "AWS_DEFAULT_REGION": "us-east-1", "NO_GCE_CHECK": "true",
}  # fmt: skip


class StandInProcess:
    """The stand-in in a process of its own; it holds what lies in a folder, a folder a bucket."""

    def __init__(self, root: Path) -> None:
        command = [sys.executable, "-m", "bench.stand_in_store", "0", str(root)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.url = f"http://127.0.0.1:{int(self._process.stdout.readline())}"

    def set(self, **settings: object) -> None:
        """Behaves so from now on, and counts anew."""
        body = json.dumps(settings).encode()
        urllib.request.urlopen(urllib.request.Request(f"{self.url}/_set", body)).read()

    def stats(self) -> dict[str, Any]:
        """Returns what was asked since then."""
        return dict(json.load(urllib.request.urlopen(f"{self.url}/_stats")))

    def stop(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.wait()
