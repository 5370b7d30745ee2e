"""Packing a directory that somebody changes to get at what they may not read themselves."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from incl_shared.archive.beneath import open_beneath
from incl_shared.archive.pack import pack
from incl_shared.archive.unpack import unpack
from incl_shared.errors import InvalidInput

SECRET = b"what only the agent may read"


@contextmanager
def hostile(change: Callable[[], None]) -> Iterator[list[int]]:
    """A thread that makes a change over and over; the number of times is in the list."""
    stop, done = threading.Event(), [0]

    def again() -> None:
        while not stop.is_set():
            change()
            done[0] += 1

    thread = threading.Thread(target=again)
    thread.start()
    try:
        yield done
    finally:
        stop.set()
        thread.join()


def content(folder: Path) -> bytes:
    """All bytes of all files below."""
    return b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


@pytest.mark.parametrize("everything", [True, False])
@pytest.mark.parametrize("swapped", ["deep", "deep/er", "root"])
def test_a_component_that_becomes_a_link_leads_nowhere(tmp_path: Path, swapped: str, everything: bool) -> None:
    """The directory is exchanged for a link to a secret one as fast as a thread can, before, while and after it is
    listed and read: what is packed are its own files, or nothing."""
    root, secret, aside = tmp_path / "root", tmp_path / "secret", tmp_path / "aside"
    for folder, text in ((root, b"own"), (secret, SECRET)):
        (folder / "deep" / "er").mkdir(parents=True)
        for name in ("a", "deep/b", "deep/er/c", "er/c", "b", "c"):
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(text)
    victim = root if swapped == "root" else root / swapped
    held = os.open(root, os.O_RDONLY | os.O_DIRECTORY)

    def swap() -> None:
        victim.rename(aside)
        victim.symlink_to(secret)
        victim.unlink()
        aside.rename(victim)

    packed = 0
    try:
        with hostile(swap) as changes:
            for number in range(60):
                archive = tmp_path / f"{number}.tar.zst"
                source = Path(f"/proc/self/fd/{held}") if swapped == "root" else root
                try:
                    pack(source, archive, everything=everything)
                except InvalidInput:
                    continue
                packed += 1
                unpack(archive, tmp_path / f"out{number}")
                assert SECRET not in content(tmp_path / f"out{number}")
    finally:
        os.close(held)
    assert changes[0] > 10
    assert packed > 0


def test_a_file_that_becomes_a_link_is_not_followed(tmp_path: Path) -> None:
    root, secret = tmp_path / "root", tmp_path / "secret"
    root.mkdir()
    secret.write_bytes(SECRET)
    (root / "model.bin").write_bytes(b"own")

    def swap() -> None:
        (tmp_path / "link").symlink_to(secret)
        (tmp_path / "link").rename(root / "model.bin")
        (tmp_path / "file").write_bytes(b"own")
        (tmp_path / "file").rename(root / "model.bin")

    with hostile(swap) as changes:
        for number in range(60):
            try:
                pack(root, tmp_path / "x.tar.zst", everything=True)
            except InvalidInput:
                continue
            unpack(tmp_path / "x.tar.zst", tmp_path / f"out{number}")
            assert SECRET not in content(tmp_path / f"out{number}")
    assert changes[0] > 10


def test_open_beneath(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "file").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    (tmp_path / "a" / "out").symlink_to("/")
    root = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for path, directory in ((b"a/b/file", False), (b"a//./b", True), (b"", True)):
            os.close(open_beneath(root, path, directory=directory))
        for wrong in (b"link/b/file", b"a/out/etc", b"a/b/file/x", b"missing", b"a/out"):
            with pytest.raises(OSError, match=r"."):
                open_beneath(root, wrong)
        for upwards in (b"../x", b"a/../..", b"/etc"):
            with pytest.raises(ValueError, match="below"):
                open_beneath(root, upwards)
    finally:
        os.close(root)


def test_a_checkpoint_is_packed_as_it_is(tmp_path: Path) -> None:
    """In a repository that ignores weights, with files that are never packed as code: nothing of it is left out."""
    (tmp_path / ".git").mkdir()
    (tmp_path / ".gitignore").write_text("*.pt\nckpt/\n")
    root = tmp_path / "ckpt" / "step-5"
    for name in (
        "model.pt",
        "node_modules/x",
        ".env",
        "env/pyvenv.cfg",
        "old/.incl-download",
        "sub/.gitignore",
        "sub/y",
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("*")
    pack(root, tmp_path / "code.tar.zst")
    unpack(tmp_path / "code.tar.zst", tmp_path / "as code")
    assert not (tmp_path / "as code" / "model.pt").exists()
    result = pack(root, tmp_path / "whole.tar.zst", everything=True)
    assert result.files == 7
    unpack(tmp_path / "whole.tar.zst", tmp_path / "whole")
    assert {p.relative_to(tmp_path / "whole") for p in (tmp_path / "whole").rglob("*")} == {
        p.relative_to(root) for p in root.rglob("*")
    }
