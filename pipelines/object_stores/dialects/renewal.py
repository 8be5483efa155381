"""Has a filesystem get other credentials where a store refuses those that it has."""

from __future__ import annotations

from typing import Any

from pipelines.object_stores.dialects.gcs import refresh
from pipelines.object_stores.dialects.s3 import EXPIRED

_WITHOUT_A_BODY = "400"  # what botocore makes of a refusal to tell whether an object is there


def renewed(filesystem: Any, error: BaseException) -> bool:
    """Renews an s3fs or gcsfs filesystem's credentials, if an error says that they are refused.

    Returns:
        Whether it has other ones now, so that asking again may help.
    """
    package = type(filesystem).__module__.partition(".")[0]
    if package == "s3fs" and _code(error) in EXPIRED | {_WITHOUT_A_BODY}:
        filesystem.connect(refresh=True)
        return True
    if package == "gcsfs" and getattr(error, "code", None) == 401:
        return refresh(filesystem.credentials)
    return False


def _code(error: BaseException) -> str:
    """Returns the code that S3 gave; s3fs keeps botocore's error as the cause of its own."""
    response = getattr(error.__cause__, "response", None)
    return str(response.get("Error", {}).get("Code")) if isinstance(response, dict) else ""
