import datetime

import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from pipelines.object_stores.dialects.s3 import quoted
from pipelines.object_stores.dialects.signing import Signer

NOW = 1_800_000_000.0
MODE = {"x-amz-checksum-mode": "ENABLED"}


def of_botocore(url, headers, signer, monkeypatch):
    credentials = Credentials(signer.access_key, signer.secret_key, signer.token)
    when = datetime.datetime.fromtimestamp(NOW, datetime.timezone.utc)
    request = AWSRequest("GET", url, headers=dict(headers))
    for name in ("botocore.auth.get_current_datetime",):
        monkeypatch.setattr(name, lambda **_: when.replace(tzinfo=None))
    S3SigV4Auth(credentials, "s3", signer.region).add_auth(request)
    return request.headers["Authorization"]


@pytest.mark.parametrize("token", [None, "a/session+token=="])
@pytest.mark.parametrize("extra", [MODE, {**MODE, "x-amz-request-payer": "requester"}])
@pytest.mark.parametrize(
    "key",
    [
        "a.jpg",
        "a b/ü.jpg",
        "a+b=c&d;e,f@g:h$i!j*k'l(m)n",
        "100%/%2e%2e",
        "a//b/",
        "~x_y-z.0",
        "?#[]",
    ],
)
def test_signature_is_botocores(key, extra, token, monkeypatch):
    signer = Signer("AKID", "secret/key", token, "eu-central-1")
    path = f"/bucket/{quoted(key)}"
    expected = of_botocore(f"https://s3.example.com:8443{path}", extra, signer, monkeypatch)
    headers = signer.signed("s3.example.com:8443", path, extra, NOW)
    assert headers["Authorization"] == expected


def test_signature_holds_for_its_day_and_region_alone():
    one = Signer("AKID", "secret", None, "us-east-1")
    other = Signer("AKID", "secret", None, "us-west-2")
    found = {
        signer.signed("host", "/k", {}, now)["Authorization"].rpartition("Signature=")[2]
        for signer in (one, other)
        for now in (NOW, NOW + 86_400)
    }
    assert len(found) == 4
