"""incl data: what is listed, what is said while a disk is made, what is refused."""

from __future__ import annotations

from incl_cli.testing import FakePlatform, Run
from incl_shared.errors import ConflictError
from incl_shared.queries.provisioner import DataDisks, DataDiskView, PrepareData, RemoveData, SnapshotView

READY = DataDiskView(
    name="incl-data-0-1", snapshot="chest-ct-v3", zone="us-central1-a", kind="pd-balanced", gib=300, phase="ready",
    since=2.0, used=3.0, machines=4, experiments=("0" * 26,), others=2, month=30.0, currency="USD",
)  # fmt: skip
FAILED = READY.model_copy(
    update={"zone": "us-east1-b", "phase": "gone", "machines": 0, "experiments": (), "others": 0, "trouble": "no room"}
)
SNAPSHOTS = (SnapshotView(name="chest-ct-v3", gib=300, ready=True), SnapshotView(name="mri", gib=80, ready=False))


def test_snapshots_and_disks_are_listed(cli: Run, fake: FakePlatform) -> None:
    assert "no snapshots" in cli("data", "ls").err
    fake.data = [DataDisks(snapshots=SNAPSHOTS, disks=(READY, FAILED), trouble="the provider does not answer")]
    result = cli("data", "ls")
    for said in ("us-central1-a", "300 GiB", "30.00 USD", "(4 machines)", "2 experiments of other projects", "no room"):
        assert said in result.out
    assert "mri" in result.out
    assert "is not ready" in result.out
    assert "cannot be listed: the provider does not answer" in result.err
    assert len(cli("data", "ls", "--json").json["disks"]) == 2


def test_prepare_says_when_it_is_ready_and_when_it_never_will_be(cli: Run, fake: FakePlatform) -> None:
    planned = READY.model_copy(update={"phase": "planned", "gib": 0})
    fake.prepared = planned
    asked = READY.model_copy(update={"phase": "asked"})
    fake.data = [DataDisks(disks=(asked,)), DataDisks(disks=(READY,))]
    done = cli("data", "prepare", "chest-ct-v3", "--zone", "us-central1-a", "--instance", "a100", "--json")
    assert done.code == 0
    assert [line.rpartition(": ")[2] for line in done.err.splitlines()] == ["not asked for yet", "being made", "ready"]
    assert done.json["disks"][0]["phase"] == "ready"
    (query,) = (each for each in fake.asked if isinstance(each, PrepareData))
    assert (query.snapshot, query.zone, query.instance) == ("chest-ct-v3", "us-central1-a", "a100")
    fake.data = [DataDisks(disks=(FAILED,))]
    failed = cli("data", "prepare", "chest-ct-v3")
    assert failed.code == 3
    assert "gone: no room" in failed.err
    assert cli("data", "prepare", "chest-ct-v3", "--detach").code == 0


def test_rm_is_refused_while_somebody_has_it(cli: Run, fake: FakePlatform) -> None:
    fake.data = [DataDisks(disks=(READY,))]
    gone = cli("data", "rm", "chest-ct-v3", "--zone", "us-central1-a")
    assert (gone.code, "is being deleted" in gone.err) == (0, True)
    fake.refusals[RemoveData] = ConflictError("the disk of chest-ct-v3 is used by 01abc", hint="incl stop")
    refused = cli("data", "rm", "chest-ct-v3")
    assert refused.code != 0
    assert "is used by 01abc" in refused.err
