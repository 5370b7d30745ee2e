"""The artifacts lie in a bucket: the whole way of an experiment, and a provider that fails on it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from incl_local.aftermath import assert_right
from incl_local.layout import Layout
from incl_local.testing import Home, wait
from incl_registry.fakes.gcs import FakeStorage

BUCKET = "incl-e2e"
MEGABYTES = 11
SCRIPT = f"""
import os, signal, incl
size = {MEGABYTES} << 20
brought = incl.latest_checkpoint()
incl.log({{"loss": 0.5}}, step=int(os.environ["INCL_ATTEMPT"]))
print("attempt", os.environ["INCL_ATTEMPT"], flush=True)
if brought is None:
    incl.checkpoint(bytes(range(256)) * (size // 256), step=1, name="model.bin")
    os.kill(os.getpid(), signal.SIGKILL)
data = brought.read_bytes()
assert data == bytes(range(256)) * (size // 256)
with open(os.path.join(os.environ["INCL_OUTPUT_DIR"], "out.bin"), "wb") as file:
    file.write(data[::-1])
"""
LARGE = f"""
import os
with open(os.path.join(os.environ["INCL_OUTPUT_DIR"], "out.bin"), "wb") as file:
    file.write(os.urandom({3 * MEGABYTES} << 20))
"""


def objects(storage: FakeStorage) -> list[str]:
    """All but the one that says whose bucket it is."""
    return [name for name in storage.names(BUCKET) if not name.endswith("/owner")]


@pytest.fixture
def storage() -> Iterator[FakeStorage]:
    with FakeStorage(BUCKET, guarded=True) as running:
        yield running


@pytest.fixture
def home(fresh: Home, storage: FakeStorage) -> Home:
    """A platform whose artifacts lie in the bucket; what is purged goes at once."""
    key = fresh.folder / "key.json"
    key.touch(0o600)
    key.write_text(storage.key_file)
    fresh.environment |= {
        "GOOGLE_APPLICATION_CREDENTIALS": str(key),
        "INCL_REGISTRY_STORE": f"gs://{BUCKET}/all/of/it",
        "INCL_REGISTRY_STORE_ENDPOINT": storage.url,
        "INCL_REGISTRY_PURGE_EVERY_S": "0.5",
        "INCL_REGISTRY_PURGE_GRACE_S": "1",
    }
    started = fresh.incl("up", "--detach", timeout=90)
    assert started.code == 0, started.err
    return fresh


def finished(home: Home, experiment: str) -> None:
    view = home.until(experiment, ["finished", "failed"], 120)
    assert view["row"]["state"] == "finished", view
    wait(lambda: home.show(experiment)["settled"], 60, "settled")


@pytest.mark.timeout(400)
def test_the_whole_way(home: Home, storage: FakeStorage, project: Path) -> None:
    (project / "train.py").write_text(SCRIPT)
    experiment = home.submit("--set", "retry.on=[error]", "--", "python", "train.py", cwd=project)
    finished(home, experiment)
    assert len(home.show(experiment)["attempts"]) == 2
    fetched = home.incl("download", experiment, "-o", str(project / "out"))
    assert fetched.code == 0, fetched.err
    [model] = (project / "out").rglob("model.bin")
    [out] = (project / "out").rglob("out.bin")
    assert model.read_bytes() == bytes(range(256)) * (MEGABYTES << 12)
    assert out.read_bytes() == model.read_bytes()[::-1]
    assert home.incl("download", experiment, "--kind", "code", "-o", str(project / "code")).code == 0
    assert storage.faults.calls["signed.get"] >= 4
    assert storage.faults.calls["signed.put"] >= 2, "the checkpoint and the output went there directly"
    assert not list((home.data / "artifacts" / "sha256").glob("*"))
    assert all(re.fullmatch(r"all/of/it/sha256/../[0-9a-f]{64}", name) for name in objects(storage))
    examined = home.incl("doctor")
    assert "artifacts in gs://incl-e2e/all/of/it" in examined.out, examined.out
    assert_right(Layout(home.data))
    kept = len(objects(storage))
    archived(home, experiment)
    assert len(objects(storage)) == kept + 1
    assert home.incl("rm", experiment, "--purge", "--yes").code == 0
    wait(lambda: not objects(storage), 60, "the purge has deleted every object")
    log = (home.data / "logs" / "platform.log").read_text()
    assert "X-Goog-Signature" not in log
    assert "PRIVATE KEY" not in log


def archived(home: Home, experiment: str) -> None:
    """After the next start its points and lines go into a file in the bucket, and come back. The start needs no word
    of the bucket: the choice is kept."""
    assert home.incl("down", timeout=60).code == 0
    for name in ("INCL_REGISTRY_STORE", "INCL_REGISTRY_STORE_ENDPOINT"):
        del home.environment[name]
    home.environment |= {
        "INCL_TRACKER_RETENTION": '[{"after_days": 0.0001, "action": "archive"}]',
        "INCL_TRACKER_RETENTION_CHECK_S": "1",
    }
    assert home.incl("up", "--detach", timeout=90).code == 0
    wait(lambda: home.incl("logs", experiment).code != 0, 60, "the lines are archived")
    assert home.incl("restore", experiment).code == 0
    lines = wait(lambda: (said := home.incl("logs", experiment)).code == 0 and said.out, 60, "the lines are back")
    assert "attempt 1" in lines
    assert "attempt 2" in lines


@pytest.mark.timeout(400)
def test_the_provider_fails_during_an_upload(home: Home, storage: FakeStorage, project: Path) -> None:
    """Away for a while, answers cut before and after the effect, 429, 503, 412: nothing is lost, and no part stays."""
    (project / "train.py").write_text(LARGE)
    for kind, method, effect in (
        ("cut", "signed.put", True), ("cut", "objects.insert", True), ("cut", "objects.insert", False),
        ("cut", "objects.compose", True), ("error", "objects.list", False), ("partial", "signed.get", False),
    ):  # fmt: skip
        storage.fault(kind=kind, method=method, effect=effect, nth=2, times=2)
    storage.fault(kind="error", status=429, reason="rateLimitExceeded", method="objects.*", nth=9, times=3)
    experiment = home.submit("--", "python", "train.py", cwd=project)
    wait(lambda: storage.faults.calls["signed.put"] >= 2, 60, "parts go up")
    storage.stop()
    wait(lambda: "store.away" in home.incl("admin", "stuck", "--after", "1s").out, 60, "it is missed")
    storage.start()
    finished(home, experiment)
    fetched = home.incl("download", experiment, "-o", str(project / "out"))
    assert fetched.code == 0, fetched.err
    [out] = (project / "out").rglob("out.bin")
    assert out.stat().st_size == 3 * MEGABYTES << 20
    assert not [name for name in objects(storage) if "/partial/" in name or "/direct/" in name]
    assert_right(Layout(home.data))


def test_a_bucket_that_is_not_there_is_said_at_the_start(fresh: Home, storage: FakeStorage) -> None:
    env = {"INCL_REGISTRY_STORE": "gs://no-such-bucket", "INCL_REGISTRY_STORE_ENDPOINT": storage.url}
    key = fresh.folder / "key.json"
    key.write_text(storage.key_file)
    started = fresh.incl("up", "--detach", env={**env, "GOOGLE_APPLICATION_CREDENTIALS": str(key)}, timeout=90)
    assert started.code == 7
    assert "gs://no-such-bucket cannot be used" in started.err
    assert "create the bucket" in started.err
    away = {**env, "GOOGLE_APPLICATION_CREDENTIALS": str(fresh.folder / "none.json")}
    without = fresh.incl("up", "--detach", env=away, timeout=90)
    assert without.code != 0
    assert "no credentials for Cloud Storage" in without.err
    assert not list((fresh.data / "artifacts" / "sha256").glob("*"))
