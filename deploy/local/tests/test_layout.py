"""Where things lie, the lock, and the ports."""

from __future__ import annotations

import json
import os
import shutil
import socket
from dataclasses import asdict
from pathlib import Path

import pytest

from incl_local.layout import PORT_NAMES, Layout, is_free
from incl_shared.archive.tree import scan
from incl_shared.bus.topology import Limits
from incl_shared.errors import ConflictError, InvalidInput, UnavailableError


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
