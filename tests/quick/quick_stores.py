"""Lets botocore read once what it reads from its files for each client that a test makes.

It is the description of S3 and of its places, a tenth of a second each time.
"""

import functools

from botocore import loaders, session


def quicken() -> None:
    """Has all sessions share what reads the files, which keeps what it has read."""
    if session.create_loader is loaders.create_loader:
        session.create_loader = functools.cache(loaders.create_loader)
