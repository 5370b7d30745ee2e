"""Backups as files: what is damaged, foreign or hostile is refused, and a swap that was cut short is finished."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import sqlite3
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from incl_local import bucket
from incl_local.backup import create, restore, sources, swap, targets
from incl_local.backup import manifest as m
from incl_local.backup.databases import Moment, pack, unpack
from incl_local.backup.manifest import Manifest, Member
from incl_local.layout import Layout
from incl_shared.errors import ConflictError, IntegrityError, NotFoundError, UnsupportedError

BLOB = b"weights" * 1000


def made(place: Path, tmp_path: Path) -> Path:
    """A small backup: one setting, one artifact."""
    store = tmp_path / "store"
    store.mkdir(exist_ok=True)
    source = store / "blob"
    source.write_bytes(BLOB)
    with source.open("rb") as file:
        sha256, size = m.sum_of(file)
    with targets.opened(place) as target:
        assert target.put_blob(sha256, source)
        assert target.put_blob(sha256, source)
        assert not target.put_blob("0" * 64, source), "other bytes than the name says"
        assert not target.put_blob("1" * 64, store / "gone")
        members = []
        for name, text in (("settings/ports.json", b"{}"), (m.BLOBS, f"{sha256} {size}\n".encode())):
            path = target.staging / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(text)
            with path.open("rb") as file:
                members.append(Member(name, len(text), m.sum_of(file)[0], len(text)))
        return target.finish(Manifest("0.1.0", 1000.0, False, True, True, tuple(members), 1, size))


@pytest.fixture(params=["folder", "backup.tar"])
def backup(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return made(tmp_path / request.param, tmp_path)


def verified(place: Path) -> int:
    with sources.opened(place) as source:
        return sources.verify(source)


def test_a_backup_is_private_and_verified(backup: Path, tmp_path: Path) -> None:
    assert verified(backup) > len(BLOB)
    files = [backup] if backup.is_file() else [path for path in backup.parent.rglob("*") if path.is_file()]
    assert files
    assert [path for path in files if path.stat().st_mode & 0o077 and path.name != ".lock"] == []
    assert not list(tmp_path.glob("**/.incomplete*"))
    assert not list(tmp_path.glob(".incl-backup*"))


def test_backups_of_a_folder_share_their_artifacts(tmp_path: Path) -> None:
    first, second = made(tmp_path / "folder", tmp_path), made(tmp_path / "folder", tmp_path)
    assert first != second
    assert len([path for path in (tmp_path / "folder" / "blobs").rglob("*") if path.is_file()]) == 1
    with sources.opened(tmp_path / "folder") as source:
        assert source.place == second, "the newest"


def test_any_byte_that_changed_is_seen(backup: Path) -> None:
    paths = [backup] if backup.is_file() else [p for p in backup.parent.rglob("*") if p.is_file() and p.stat().st_size]
    for path in paths:
        whole = path.read_bytes()
        for at in range(0, len(whole), 97):
            if path.suffix == ".tar" and not whole[at]:
                continue  # padding
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
            if _matters(backup, whole, path.read_bytes()):
                with pytest.raises((IntegrityError, UnsupportedError)):
                    verified(backup)
        path.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(IntegrityError):
            verified(backup)
        path.write_bytes(whole)
    assert verified(backup)


def _matters(backup: Path, before: bytes, after: bytes) -> bool:
    """Whether a change is one of what is read: of a tar, times and owners are not."""
    if backup.is_dir():
        return True

    def read(data: bytes) -> object:
        try:
            with tarfile.open(fileobj=io.BytesIO(data)) as tar:
                return [(e.name, e.type, e.size, f.read() if (f := tar.extractfile(e)) else b"") for e in tar]
        except (tarfile.TarError, OSError, ValueError, EOFError):
            return None

    return read(before) != read(after)


def test_a_newer_form_is_named(tmp_path: Path) -> None:
    backup = made(tmp_path / "folder", tmp_path)
    text = (backup / m.NAME).read_text().replace('"version": 1', '"version": 2')
    (backup / m.NAME).write_text(text)
    with pytest.raises(UnsupportedError, match="form 2"):
        verified(backup)


def test_there_is_none(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        verified(tmp_path)
    (tmp_path / "x.tar").write_bytes(b"no tar")
    with pytest.raises(IntegrityError):
        verified(tmp_path / "x.tar")


def hostile_tar(path: Path, *entries: tarfile.TarInfo) -> None:
    with tarfile.open(path, "w") as tar:
        for entry in entries:
            tar.addfile(entry, io.BytesIO(b"x" * entry.size))


def entry(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, 1 if kind == tarfile.REGTYPE else 0
    return info


@pytest.mark.parametrize(
    "entries",
    [
        [entry("../../etc/passwd")],
        [entry("/etc/passwd")],
        [entry("keys/bus/../../../x")],
        [entry("blobs/" + "z" * 64)],
        [entry("db", tarfile.SYMTYPE, "/etc")],
        [entry("manifest.json", tarfile.LNKTYPE, "x")],
        [entry("db/tracker.db.zst", tarfile.CHRTYPE)],
        [entry("blobs.txt"), entry("blobs.txt")],
    ],
)
def test_a_hostile_archive_is_refused_and_nothing_is_written(tmp_path: Path, entries: list[tarfile.TarInfo]) -> None:
    good = made(tmp_path / "good.tar", tmp_path)
    with sources.opened(good) as source:
        manifest = source.manifest.text()
    path = tmp_path / "bad.tar"
    hostile_tar(path, *entries)
    with tarfile.open(path, "a") as tar:
        info = tarfile.TarInfo(m.NAME)
        info.size = len(manifest)
        if all(one.name != m.NAME for one in entries):
            tar.addfile(info, io.BytesIO(manifest))
    layout = Layout(tmp_path / "data")
    with pytest.raises(IntegrityError):
        restore.restore(path, layout, lambda _: None)
    assert not (layout.root / "db" / "tracker.db").exists()
    assert not list(layout.root.glob(".restoring*"))


@pytest.mark.parametrize(
    "name", ["../x", "db/../../x.db.zst", "keys/bus/.ssh", "db/tracker.db", "settings/a.json/b", ""]
)
def test_a_manifest_names_only_what_a_backup_may_have(tmp_path: Path, name: str) -> None:
    backup = made(tmp_path / "folder", tmp_path)
    with sources.opened(backup) as source:
        bad = dataclasses.replace(source.manifest, members=(Member(name, 1, "0" * 64, 1),))
    (backup / m.NAME).write_bytes(bad.text())
    with pytest.raises(IntegrityError):
        verified(backup)


def test_a_link_in_a_folder_is_refused(tmp_path: Path) -> None:
    backup = made(tmp_path / "folder", tmp_path)
    real = backup / "settings" / "ports.json"
    real.rename(tmp_path / "elsewhere")
    real.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(IntegrityError):
        verified(backup)
    real.unlink()
    (backup / "settings").rmdir()
    (tmp_path / "folder2").mkdir()
    (tmp_path / "elsewhere").rename(tmp_path / "folder2" / "ports.json")
    (backup / "settings").symlink_to(tmp_path / "folder2")
    with pytest.raises(IntegrityError):
        verified(backup)


def test_what_grows_beyond_its_size_is_refused(tmp_path: Path) -> None:
    (tmp_path / "zeros").write_bytes(bytes(10_000_000))
    pack(tmp_path / "zeros", tmp_path / "zeros.zst")
    with pytest.raises(IntegrityError):
        unpack(tmp_path / "zeros.zst", tmp_path / "out", 1_000_000)
    assert not (tmp_path / "out").exists()


def test_two_backups_at_once_are_refused(tmp_path: Path) -> None:
    with targets.opened(tmp_path / "folder"), pytest.raises(ConflictError), targets.opened(tmp_path / "folder"):
        pass
    made(tmp_path / "a.tar", tmp_path)
    with pytest.raises(ConflictError), targets.opened(tmp_path / "a.tar"):
        pass


def test_all_databases_are_copied_as_they_were_at_one_moment(tmp_path: Path) -> None:
    """Writers move a number from one database to the other: the sum of the copies is right, whatever they do."""
    paths = [tmp_path / "a.db", tmp_path / "b.db"]
    for path in paths:
        connection = sqlite3.connect(path)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.executescript("CREATE TABLE n (v INTEGER); INSERT INTO n VALUES (0);")
        connection.close()
    stop = threading.Event()

    def write() -> None:
        first, second = (sqlite3.connect(path, isolation_level=None, timeout=10) for path in paths)
        while not stop.is_set():
            first.execute("UPDATE n SET v = v + 1")
            second.execute("UPDATE n SET v = v + 1")
        first.close()
        second.close()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for attempt in range(20):
            with Moment(paths) as moment:
                moment.release()
                for path in paths:
                    moment.copy(path, tmp_path / f"copy{attempt}" / path.name)
            values = []
            for path in paths:
                copied = sqlite3.connect(tmp_path / f"copy{attempt}" / path.name)
                values.append(copied.execute("SELECT v FROM n").fetchone()[0])
                copied.close()
            assert values[0] - values[1] in (0, 1), "the second one is never ahead"
    finally:
        stop.set()
        writer.join()


class Cut(Exception):
    """As if it were killed here."""


@pytest.mark.parametrize("after", range(7))
def test_a_swap_that_was_cut_short_is_finished(tmp_path: Path, after: int, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = Layout(tmp_path / "data")
    layout.prepare()
    fresh = layout.root / ".restoring-1"
    names = ["db", "nats", "limits.json"]
    for root, text in ((layout.root, "old"), (fresh, "new")):
        for name in names:
            folder = root / name
            if name.endswith(".json"):
                folder.write_text(text)
            else:
                folder.mkdir(parents=True, exist_ok=True)
                (folder / "what").write_text(text)
    (layout.root / swap.PLAN).write_text(json.dumps({"fresh": fresh.name, "aside": "before", "names": names}))
    count = 0
    rename = Path.rename

    def cutting(self: Path, target: Path) -> Path:
        nonlocal count
        count += 1
        if count > after:
            raise Cut
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", cutting)
    try:
        swap.finish(layout)
    except Cut:
        monkeypatch.setattr(Path, "rename", rename)
        assert swap.finish(layout)
    monkeypatch.setattr(Path, "rename", rename)
    for root, text in ((layout.root, "new"), (layout.root / "before", "old")):
        assert (root / "db" / "what").read_text() == text
        assert (root / "nats" / "what").read_text() == text
        assert (root / "limits.json").read_text() == text
    assert not swap.finish(layout)
    assert not fresh.exists()


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write: Callable[..., int] = os.fsync

    def full(descriptor: int) -> None:
        write(descriptor)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    for name in ("folder", "a.tar"):
        with pytest.raises(OSError, match="No space"):
            made(tmp_path / name, tmp_path)
    assert not (tmp_path / "a.tar").exists()
    assert not list((tmp_path / "folder").glob("*/manifest.json"))
    assert not list(tmp_path.glob(".incl-backup*"))


def test_artifacts_in_a_bucket_are_in_no_backup(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "data")
    (layout.root / "db").mkdir(parents=True)
    bucket.choose(layout, {"INCL_REGISTRY_STORE": "gs://some-bucket"})
    with pytest.raises(UnsupportedError) as caught:
        create.create(layout, tmp_path / "backups", create.Options(), print)
    assert "gs://some-bucket" in caught.value.cause
    assert "--no-artifacts" in caught.value.hint
    assert not (tmp_path / "backups").exists()
