"""Packing: what is in the archive, that it is the same twice, and what is refused."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import zstandard

from incl_shared.archive.pack import pack
from incl_shared.archive.tree import scan
from incl_shared.archive.unpack import unpack
from incl_shared.errors import InclError, InvalidInput
from incl_shared.testing.wait import until_sync


def write(root: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def members(archive: Path) -> dict[str, tarfile.TarInfo]:
    data = zstandard.ZstdDecompressor().stream_reader(archive.read_bytes(), read_across_frames=True).read()
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return {member.name: member for member in tar.getmembers()}


@pytest.fixture
def readable() -> Iterator[Path]:
    """A directory that any user can enter, outside of pytest's private one."""
    folder = Path(tempfile.mkdtemp(prefix="incl test "))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def test_what_tar_reads_is_what_was_there(tmp_path: Path) -> None:
    root = write(tmp_path / "w", {"a.py": b"print(1)", "d/b.sh": b"#!/bin/sh\n", "empty": b"", "d/ü n\n": b"u"})
    (root / "d/b.sh").chmod(0o4775)
    (root / "a.py").chmod(0o600)
    (root / "hollow").mkdir()
    (root / "link").symlink_to("d/b.sh")
    result = pack(root, tmp_path / "code.tar.zst")
    found = members(result.path)
    assert list(found) == sorted(found) == ["a.py", "d", "d/b.sh", "d/ü n\n", "empty", "hollow", "link"]
    assert {(m.mtime, m.uid, m.gid, m.uname, m.gname) for m in found.values()} == {(0, 0, 0, "", "")}
    assert (found["d/b.sh"].mode, found["a.py"].mode, found["d"].mode) == (0o755, 0o644, 0o755)
    assert found["link"].linkname == "d/b.sh"
    assert (result.files, result.bytes, result.size) == (5, 8 + 10 + 1, result.path.stat().st_size)
    assert result.sha256 == hashlib.sha256(result.path.read_bytes()).hexdigest()
    assert result.largest[:2] == (("d/b.sh", 10), ("a.py", 8))


def test_names_of_any_length_and_bytes(tmp_path: Path) -> None:
    root = tmp_path / "w"
    names = ["n" * 99, "n" * 100, "n" * 101, "n" * 255, "d" * 150 + "/" + "f" * 100, "d" * 200 + "/" + "e" * 200 + "/f"]
    write(root, {name: name.encode() for name in names})
    (root / os.fsdecode(b"not utf-8 \xff" + b"x" * 120)).write_bytes(b"raw")
    (root / "long link").symlink_to("d" * 200 + "/" + "e" * 200 + "/f")
    result = pack(root, tmp_path / "code.tar.zst")
    assert set(names) <= set(members(result.path))
    unpack(result.path, tmp_path / "out", sha256=result.sha256)
    assert {e.path: e.size for e in scan(tmp_path / "out").entries} == {e.path: e.size for e in scan(root).entries}
    assert (tmp_path / "out" / "long link").read_bytes() == names[-1].encode()


def test_the_same_files_give_the_same_bytes(tmp_path: Path) -> None:
    files = {f"d{i % 7}/f{i}": os.urandom(20_000) + b"x" * 30_000 for i in range(150)}
    first = pack(write(tmp_path / "one", files), tmp_path / "1")
    second_root = write(tmp_path / "two", dict(reversed(files.items())))
    for path in second_root.rglob("*"):
        os.utime(path, (1, 1))
    assert pack(second_root, tmp_path / "2").sha256 == first.sha256
    write(second_root, {"d0/f0": b"y"})
    assert pack(second_root, tmp_path / "2").sha256 != first.sha256


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs affinity")
def test_the_same_bytes_on_any_number_of_cores(tmp_path: Path) -> None:
    write(tmp_path / "w", {f"f{i}": os.urandom(1 << 20) for i in range(12)})
    code = (
        "import os, sys, pathlib; count = int(sys.argv[3]); os.cpu_count = lambda: count\n"
        "from incl_shared.archive.pack import pack\n"
        "print(pack(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])).sha256)"
    )
    arguments = [sys.executable, "-c", code, str(tmp_path / "w"), str(tmp_path / "x")]
    found = {subprocess.check_output([*arguments, str(count)], text=True) for count in (1, 2, 4)}
    assert len(found) == 1


def test_links_stay_inside(tmp_path: Path) -> None:
    outside = write(tmp_path / "outside", {"secret": b"s"})
    root = write(tmp_path / "w", {"a": b"1", "d/b": b"2", "d/e/c": b"3"})
    (root / "absolute").symlink_to(root / "d" / "b")
    (root / "d" / "up").symlink_to("../a")
    (root / "d" / "round").symlink_to("../../w/a")
    (root / "dangling").symlink_to("not/there")
    (root / "folder").symlink_to("d")
    (root / "chain").symlink_to("folder/e/../b")
    (root / "out").symlink_to(outside / "secret")
    (root / "d" / "out2").symlink_to("../../outside")
    result = pack(root, tmp_path / "code.tar.zst")
    found = {name: member.linkname for name, member in members(result.path).items() if member.issym()}
    assert found == {
        "absolute": "d/b",
        "d/up": "../a",
        "d/round": "../a",
        "dangling": "not/there",
        "folder": "d",
        "chain": "d/b",
    }
    assert result.skipped["link out of the tree"] == 2
    assert sorted(warning.split(":")[0] for warning in result.warnings) == ["left out d/out2", "left out out"]
    unpack(result.path, tmp_path / "there")
    assert (tmp_path / "there" / "chain").read_bytes() == b"2"


def test_what_is_no_file_is_left_out_with_a_warning(tmp_path: Path) -> None:
    root = write(tmp_path / "w", {"a": b"1"})
    os.mkfifo(root / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        here = Path.cwd()
        os.chdir(root)
        try:
            listener.bind("socket")
        finally:
            os.chdir(here)
        result = pack(root, tmp_path / "code.tar.zst")
    assert list(members(result.path)) == ["a"]
    assert result.skipped["special"] == 2
    assert set(result.warnings) == {"left out pipe: a named pipe", "left out socket: a socket"}


def as_nobody(root: Path, target: Path) -> InvalidInput:
    """Pack as a user who is not the owner, when this is root; root itself can read everything."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65_534)
    try:
        with pytest.raises(InvalidInput) as caught:
            pack(root, target)
    finally:
        os.seteuid(user)
    return caught.value


def test_an_unreadable_file_is_named(readable: Path) -> None:
    root = write(readable / "w", {"d/secret.bin": b"1", "a": b"2"})
    (root / "d" / "secret.bin").chmod(0)
    (readable / "out").mkdir()
    (readable / "out").chmod(0o777)
    error = as_nobody(root, readable / "out" / "code.tar.zst")
    assert error.message == "cannot read d/secret.bin"
    assert ".inclignore" in error.hint
    assert "chmod" in error.hint
    assert list((readable / "out").iterdir()) == []


def test_an_unreadable_directory_is_named(readable: Path) -> None:
    root = write(readable / "w", {"closed/x": b"1"})
    (root / "closed").chmod(0)
    try:
        assert as_nobody(root, readable / "code.tar.zst").message == "cannot read closed"
    finally:
        (root / "closed").chmod(0o755)


def test_no_directory(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for wrong in (tmp_path / "missing", tmp_path / "file"):
        with pytest.raises(InvalidInput, match="is not a directory"):
            pack(wrong, tmp_path / "code.tar.zst")


def refusal(root: Path, archive: Path) -> InvalidInput | None:
    """Why it cannot be packed now; none when it could: nothing was written in that moment."""
    try:
        pack(root, archive)
    except InvalidInput as error:
        return error
    archive.unlink()
    return None


def test_a_file_that_does_not_hold_still_is_refused(tmp_path: Path) -> None:
    root = write(tmp_path / "w", {"grows.log": b"x" * (5 << 20)})
    stop = threading.Event()

    def grow() -> None:
        with (root / "grows.log").open("ab") as log:
            while not stop.is_set():
                log.write(b"more\n")
                log.flush()

    thread = threading.Thread(target=grow)
    thread.start()
    try:
        refused = until_sync(lambda: refusal(root, tmp_path / "code.tar.zst"), 30)
    finally:
        stop.set()
        thread.join()
    assert "grows.log changes while it is packed" in refused.message
    assert ".inclignore" in refused.hint
    assert [path.name for path in tmp_path.iterdir()] == ["w"]
    assert pack(root, tmp_path / "code.tar.zst").files == 1


def test_the_archive_may_lie_in_the_directory_itself(tmp_path: Path) -> None:
    root = write(tmp_path / "w", {"a": b"1"})
    first = pack(root, root / "code.tar.zst")
    assert pack(root, root / "code.tar.zst").sha256 == first.sha256


def test_too_much_is_refused_and_the_largest_are_named(tmp_path: Path) -> None:
    root = write(tmp_path / "w", {"data/x": b"1" * 900, "data/y": b"2" * 900, "a.py": b"3" * 300})
    with pytest.raises(InvalidInput) as caught:
        pack(root, tmp_path / "code.tar.zst", max_bytes=1000)
    assert caught.value.cause.startswith("the largest: data/ (1.8 kB), a.py (300 bytes)")
    assert ".inclignore" in caught.value.hint
    assert (
        pack(root, tmp_path / "code.tar.zst", warn_bytes=1000)
        .warnings[0]
        .startswith("packed 2.1 kB; the largest: data/")
    )


def test_no_room_for_the_archive(tmp_path: Path) -> None:
    root = write(tmp_path / "w", {"a": os.urandom(100_000)})
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InclError, match="cannot write the archive"):
        pack(root, tmp_path / "file" / "code.tar.zst")


def test_an_empty_directory(tmp_path: Path) -> None:
    (tmp_path / "w").mkdir()
    result = pack(tmp_path / "w", tmp_path / "code.tar.zst")
    assert (result.files, result.bytes) == (0, 0)
    assert unpack(result.path, tmp_path / "out").files == 0
    assert list((tmp_path / "out").iterdir()) == []
