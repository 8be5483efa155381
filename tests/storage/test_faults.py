"""Each fault that passes, in the middle of a run: it is tried again, and no row is lost."""

import pytest

from bench.stand_in_store import StandIn
from bench.store_faults import PASSING, SCHEMES, asked_by, run_through
from small_runs import ROWS, run, write_jsonl

CASES = [(fault, {"first": 1}) for fault in PASSING if fault != "expired"]
CASES += [("expired", {"token_after": 12})]  # while the output is looked at


@pytest.fixture(scope="module")
def server():
    store = StandIn().start()
    yield store
    store.stop()


@pytest.fixture(scope="module", params=SCHEMES)
def manifest(request, server):
    with asked_by(request.param, server, stall_s=0.3):
        yield f"{request.param}://faults-{request.param}/data/m.jsonl"


@pytest.fixture(scope="module")
def undisturbed(server, model_dir, tmp_path_factory):
    """The output of a run from the disk; its data are in the buckets."""
    folder = tmp_path_factory.mktemp("undisturbed")
    local = write_jsonl(folder / "data", mended=True)
    for path in local.parent.iterdir():
        for scheme in SCHEMES:
            server.objects.put(f"/faults-{scheme}/data/{path.name}", path.read_bytes())
    assert run(local, folder / "out", model_dir) == 0
    return folder / "out"


@pytest.mark.parametrize("fault, settings", CASES)
def test_tables_are_those_of_the_undisturbed_run(
    server, manifest, undisturbed, model_dir, impatient, fault, settings
):
    flags = ("--model", str(model_dir), "--rows_per_unit", "5")
    found = run_through(fault, manifest, server, undisturbed, *flags, **settings)
    assert found.faults >= (1 if fault == "expired" else ROWS)
    assert found.differences == []
