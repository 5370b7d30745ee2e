"""Where things lie, the lock, and the ports."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import pytest

from incl_local import bucket, doctor
from incl_local.layout import PORT_NAMES, Layout, is_free
from incl_provisioner.domain.cloud.names import Place, machine_name
from incl_registry.fakes.gcs import FakeStorage
from incl_shared.archive.tree import scan
from incl_shared.bus.topology import Limits
from incl_shared.errors import ConflictError, InvalidInput, UnavailableError
from incl_shared.ids import new_id
from incl_shared.queries.provisioner import Cluster, Machines, NodeView


def test_everything_is_for_its_owner_alone(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "a place")
    layout.prepare()
    assert [p for p in (layout.root, *layout.root.iterdir()) if p.stat().st_mode & 0o077] == []


def test_its_keys_are_never_packed_with_a_working_directory(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("")
    layout = Layout(tmp_path / "share" / "incl")
    layout.prepare()
    (layout.keys / "vault.key").write_text("secret")
    assert [entry.path for entry in scan(tmp_path).entries] == [b"share", b"train.py"]


def test_a_place_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidInput) as caught:
        Layout(tmp_path / "file" / "data").prepare()
    assert str(tmp_path / "file") in caught.value.message + caught.value.cause
    assert "--data" in caught.value.hint


def test_only_one_platform_holds_a_folder(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    with layout.locked(), pytest.raises(ConflictError), layout.locked():
        pass
    with layout.locked():
        pass


def test_ports_are_kept_and_differ(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    first = layout.ports({})
    assert set(first) == set(PORT_NAMES)
    assert len(set(first.values())) == len(PORT_NAMES)
    assert layout.ports({}) == first


def test_a_port_that_is_taken_is_left_unless_it_was_asked_for(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    kept = layout.ports({})["bus"]
    with socket.socket() as other:
        other.bind(("127.0.0.1", kept))
        other.listen()
        assert not is_free(kept)
        assert layout.ports({})["bus"] != kept
        with pytest.raises(ConflictError) as caught:
            layout.ports({"bus": kept})
    assert str(kept) in caught.value.message


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(InvalidInput):
            Layout(tmp_path / "data").prepare()
    finally:
        tmp_path.chmod(0o700)


def test_the_limits_of_the_streams_fit_the_disk_and_stay(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    first = layout.limits()
    assert first.file_bytes <= shutil.disk_usage(tmp_path).free
    (tmp_path / "limits.json").write_text(json.dumps(asdict(Limits().within(2 * 10**9))))
    kept = layout.limits()
    assert kept.file_bytes <= 2 * 10**9
    assert kept.metrics_bytes == kept.logs_bytes > kept.requests_bytes
    with pytest.raises(UnavailableError, match="the bus needs"):
        Limits().within(300 * 2**20)


def test_a_database_that_was_chosen_is_kept_until_another_is(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    assert layout.database("tracker") == f"sqlite:///{tmp_path / 'db' / 'tracker.db'}"
    url = "postgresql+psycopg://incl:secret@127.0.0.1/tracker"
    layout.choose_databases({"INCL_TRACKER_DATABASE_URL": url})
    layout.choose_databases({})
    assert layout.database("tracker") == url
    assert layout.database("registry").startswith("sqlite:///")
    assert (tmp_path / "databases.json").stat().st_mode & 0o077 == 0
    layout.choose_databases({"INCL_TRACKER_DATABASE_URL": ""})
    assert layout.database("tracker").startswith("sqlite:///")
    assert not (tmp_path / "databases.json").exists()


def test_a_bucket_that_was_chosen_is_kept_until_the_folder_is_again(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    assert bucket.chosen(layout) == {}
    bucket.choose(layout, {"INCL_REGISTRY_STORE": "gs://bkt/p", "INCL_REGISTRY_STORE_ENDPOINT": "http://127.0.0.1:1"})
    bucket.choose(layout, {"INCL_REGISTRY_STORE_ENDPOINT": "http://elsewhere"})
    assert bucket.chosen(layout) == {"store": "gs://bkt/p", "store_endpoint": "http://127.0.0.1:1"}
    assert (tmp_path / "store.json").stat().st_mode & 0o077 == 0
    with pytest.raises(InvalidInput, match="not the address"):
        bucket.choose(layout, {"INCL_REGISTRY_STORE": "s3://b"})
    bucket.choose(layout, {"INCL_REGISTRY_STORE": "gs://another"})
    assert bucket.chosen(layout) == {"store": "gs://another"}
    bucket.choose(layout, {"INCL_REGISTRY_STORE": ""})
    assert bucket.chosen(layout) == {}


def test_doctor_tries_the_bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout, moved = Layout(tmp_path), [0.0]
    assert list(bucket.look(layout)) == []
    with FakeStorage("bkt", guarded=True, clock=lambda: time.time() + moved[0]) as storage:
        (tmp_path / "key.json").write_text(storage.key_file)
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "key.json"))
        bucket.choose(layout, {"INCL_REGISTRY_STORE": "gs://bkt/p", "INCL_REGISTRY_STORE_ENDPOINT": storage.url})
        assert [level for level, _, _ in bucket.look(layout)] == ["ok"]
        (layout.artifacts / "sha256" / "aa").mkdir(parents=True)
        (layout.artifacts / "sha256" / "aa" / "x").touch()
        moved[0] = 200.0
        found = list(bucket.look(layout))
        assert [level for level, _, _ in found] == ["warning", "ok", "warning"]
        assert "200 s behind" in found[0][1]
        storage.fault(kind="error", status=403, reason="forbidden", method="objects.insert", times=None)
        with pytest.raises(UnavailableError) as caught:
            list(bucket.look(layout))
        assert "storage.objectUser" in caught.value.hint
        assert storage.names("bkt") == []
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "no.json"))
    with pytest.raises(InvalidInput, match="no credentials"):
        list(bucket.look(layout))


def test_without_a_bucket_its_library_is_not_imported() -> None:
    """`incl up` starts as quickly as before."""
    code = "import sys, incl_registry.app, incl_local.platform, incl_local.services, incl_local.doctor\n"
    code += "sys.exit(any(name.startswith(('google.cloud', 'google.auth')) for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_doctor_tells_of_a_cloud_that_cannot_be_used() -> None:
    assert list(doctor.of_cloud(Machines(gangs=()))) == []
    refused = Machines(gangs=(), trouble="the provider does not accept the platform's credentials", hint="renew them")
    (found,) = doctor.of_cloud(refused)
    assert (found.level, found.mend) == ("error", "renew them")
    assert "does not accept the platform's credentials" in found.text


def test_doctor_does_not_have_the_platform_ended_for_a_lost_machine_of_a_cloud() -> None:
    def node(name: str, alive: bool) -> NodeView:
        return NodeView(
            node=name, alive=alive, address="", cpu=2, cpu_used=0, memory=1, memory_used=0, gpus=0, gpus_used=0,
            runtimes=("host",), jobs=0, seen_s=70,
        )  # fmt: skip

    lost = machine_name(Place(new_id(), 1, 0))
    nodes = (node("local", True), node(lost, False), node("n1", False))
    found = doctor.of_nodes(Cluster(nodes=nodes, queue=(), queued=0, running=0))
    assert [(one.level, one.mend) for one in found] == [("ok", ""), ("note", ""), ("error", "incl down && incl up")]
