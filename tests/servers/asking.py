"""Fetches several objects side by side."""

import threading

from pipelines.object_stores.answers import Ask


def fetch_all(client, bucket, keys, max_bytes=1 << 20):
    """Fetches objects side by side; returns them, or what they raise, in their order."""
    found, left, done = {}, set(keys), threading.Event()

    def arrived(key, what):
        found[key] = what
        left.discard(key)
        if not left:
            done.set()

    client.begin([Ask(bucket, key, max_bytes, lambda w, k=key: arrived(k, w)) for key in keys])
    assert done.wait(20)
    for one in found.values():
        if not isinstance(one, BaseException):
            one.give_back()
    return [found[key] for key in keys]
