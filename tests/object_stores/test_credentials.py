"""Credentials are those of the filesystem, and are asked for anew when a store refuses them."""

import asyncio
import threading
from types import SimpleNamespace

import google.auth.exceptions
import pytest
from google.oauth2.credentials import Credentials
from multidict import CIMultiDict, CIMultiDictProxy

from pipelines.object_stores.answers import Answer, Meaning
from pipelines.object_stores.dialects.credentials import Renewing
from pipelines.object_stores.faults import ObjectFault, StoreFault


class Renewable(Credentials):
    """A token of GCS that can be renewed so many times."""

    def __init__(self, *later):
        super().__init__("old")
        self.later = list(later)

    def refresh(self, request):
        if not self.later:
            raise google.auth.exceptions.RefreshError("no more")
        self.token = self.later.pop(0)


@pytest.fixture
def held(stand_in):
    stand_in.objects.put("/bucket/a.jpg", b"bytes")
    return stand_in


@pytest.mark.parametrize("store", ["s3", "gs"])
def test_credentials_that_expire_are_asked_for_anew(held, client, store, request, monkeypatch):
    settings = {} if store == "s3" else {"token": Renewable("new", "newer")}
    bucket = request.getfixturevalue(store)(**settings)
    for token in ("old", "new", "newer"):
        held.set(token=token)
        monkeypatch.setenv("AWS_SESSION_TOKEN", token)
        assert client.fetch(bucket, "a.jpg", 10) == b"bytes"
        assert held.counts.faults["expired"] == (token != "old")


@pytest.mark.parametrize("store", ["s3", "gs"])
def test_credentials_that_stay_refused_end_in_a_sentence(held, client, store, request):
    settings = {} if store == "s3" else {"token": Renewable("new", "newer")}
    bucket = request.getfixturevalue(store)(**settings)
    held.set(token="another")
    with pytest.raises(StoreFault, match="refuses the credentials.*renew them.*run again"):
        client.fetch(bucket, "a.jpg", 10)
    assert held.counts.faults["expired"] == 2


def test_object_that_is_refused_while_others_are_not_is_to_blame_itself(held, client, s3):
    held.set(failing="/bucket/b.jpg", fault="expired")
    bucket, done = s3(), threading.Event()

    def go_on():
        while not done.is_set():
            client.fetch(bucket, "a.jpg", 10)

    others = threading.Thread(target=go_on)
    others.start()
    try:
        with pytest.raises((ObjectFault, StoreFault), match="ExpiredToken"):
            client.fetch(bucket, "b.jpg", 10)
    finally:
        done.set()
        others.join()


def test_credentials_that_cannot_be_renewed_end_in_a_sentence(held, client, gs):
    held.set(token="another")
    with pytest.raises(StoreFault, match="cannot be had .*no more.*; renew them"):
        client.fetch(gs(token=Renewable()), "a.jpg", 10)


def test_missing_credentials_end_in_a_sentence(held, client, s3, monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(StoreFault, match="credentials cannot be had"):
        client.fetch(s3(), "a.jpg", 10)


def test_anonymous_requests_name_nobody(held, client, s3, gs):
    held.set(token="any")
    bucket = s3(anon=True)
    assert bucket.meaning(answer(403, code="AccessDenied"))[0] is Meaning.DENIED
    with pytest.raises(PermissionError):
        client.fetch(gs(), "a.jpg", 10)  # 401 without a token is a refusal
    held.set()
    assert client.fetch(bucket, "a.jpg", 10) == b"bytes"


def answer(status, code="", headers=()):
    body = f"<Error><Code>{code}</Code></Error>".encode()
    return Answer(status, CIMultiDictProxy(CIMultiDict(headers)), body)


@pytest.mark.parametrize(
    ("status", "code", "meaning"),
    [
        (400, "ExpiredToken", Meaning.EXPIRED),
        (400, "InvalidToken", Meaning.EXPIRED),
        (400, "TokenRefreshRequired", Meaning.EXPIRED),
        (403, "InvalidAccessKeyId", Meaning.EXPIRED),
        (403, "SignatureDoesNotMatch", Meaning.EXPIRED),
        (403, "RequestTimeTooSkewed", Meaning.EXPIRED),
        (403, "AccessDenied", Meaning.DENIED),
        (403, "InvalidObjectState", Meaning.DENIED),
        (404, "NoSuchBucket", Meaning.MISSING),
        (400, "InvalidArgument", Meaning.REFUSED),
        (400, "RequestTimeout", Meaning.PASSING),
        (503, "SlowDown", Meaning.BUSY),
        (500, "InternalError", Meaning.PASSING),
        (301, "PermanentRedirect", Meaning.MOVED),
        (400, "AuthorizationHeaderMalformed", Meaning.MOVED),
    ],
)
def test_answers_of_s3_mean(s3, status, code, meaning):
    assert s3().meaning(answer(status, code)) == (meaning, f"HTTP {status} {code}")


def test_access_is_asked_for_once_by_all_and_again_in_the_background():
    asked, clock = [], SimpleNamespace(now=0.0)
    renewing = Renewing(lambda anew: asked.append(anew) or len(asked), lambda: clock.now)

    async def together():
        return await asyncio.gather(*[renewing.get() for _ in range(50)])

    assert set(asyncio.run(together())) == {(1, 1)}
    clock.now = 61.0
    asyncio.run(together())
    while len(asked) < 2:
        threading.Event().wait(0.001)
    assert asked == [False, False]
