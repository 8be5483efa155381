"""The main loop of a worker process of `pipelines.images.decode_pool`.

Reads from a socket a pickled (decoder, preprocessings, limits), then images. Answers each with a
JSON object: the reason and detail of a reject; or width and height, and then the bytes of the
pixels for each preprocessing.
"""

from __future__ import annotations

import json
import pickle
import signal
from contextlib import suppress
from multiprocessing.connection import Connection

from PIL import Image

from pipelines.engine.memory import limit_memory
from pipelines.records import RowFault

_GRACE_S = 5


def main(descriptor: int) -> None:
    """Serves until the other end of the socket is closed."""
    connection = Connection(descriptor)
    decode, preprocesses, limits = pickle.loads(connection.recv_bytes())
    Image.init()  # imports Pillow's formats, for which the first image would have to wait
    limit_memory(limits.max_memory_bytes)
    connection.send_bytes(b"ready")
    with suppress(EOFError, OSError):
        while True:
            data = connection.recv_bytes()
            # Ends a hung decoder even if the parent, which would kill it, is gone.
            signal.alarm(int(limits.max_seconds) + _GRACE_S)
            try:
                image = decode(data, preprocesses, limits)
            except RowFault as fault:
                answer = {"reason": fault.reason.value, "detail": fault.detail}
                connection.send_bytes(json.dumps(answer).encode())
            else:
                answer = {"width": image.original_width, "height": image.original_height}
                connection.send_bytes(json.dumps(answer).encode())
                connection.send_bytes(b"".join(pixels.tobytes() for pixels in image.pixels))
            signal.alarm(0)
