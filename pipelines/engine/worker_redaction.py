"""Keeps credentials out of the logs and tracebacks of Beam's worker processes.

A worker imports this module as it starts, as one of the job's Beam plugins; that it changes the
process is what it is for.
"""

from pipelines.storage.redaction import own_process

own_process()
