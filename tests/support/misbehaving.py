"""A decoder that does what its image says, for worker processes: it must be quick to import."""

import os
import signal
import sys
import time

import numpy as np
from PIL import Image

from clip_core.preprocess import Preprocess
from pipelines.images.decode import DecodedImage, DecodeLimits, decode_image
from pipelines.records import RowFault
from schemas.rejects import Reason

PREPROCESS = Preprocess(32)
LIMITS = DecodeLimits(max_seconds=1.0, max_memory_bytes=200 << 20)


def misbehaving(data, preprocesses, limits):
    """A decoder that does what its image says; runs in the workers."""
    if data == b"crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if data == b"exit":
        os._exit(7)
    if data == b"hang":
        time.sleep(60)
    if data == b"raise":
        raise KeyError("not a fault it should raise")
    if data == b"flood":
        try:
            bytearray(1 << 30)
        except MemoryError:
            raise RowFault("decode", Reason.DECODE_FAILED, "no memory") from None
    if data == b"lie":
        return DecodedImage((np.zeros((3, 99, 99), np.uint8),), 1, 1)
    if data == b"pid":
        return DecodedImage((np.zeros((3, 32, 32), np.uint8),), os.getpid(), 1)
    if data == b"modules":
        heavy = {"torch", "apache_beam"} & set(sys.modules)
        return DecodedImage((np.zeros((3, 32, 32), np.uint8),), len(heavy), 1)
    if data == b"formats":
        return DecodedImage((np.zeros((3, 32, 32), np.uint8),), len(Image.OPEN), 1)
    return decode_image(data, preprocesses, limits)
