"""Packing 50 MB in 5,000 files, as `incl run` does, beside the straightforward way of doing it, and unpacking them.

The tree: 100 directories, half of each file text of Python's own library, half random bytes, a .gitignore of 60 lines,
and 500 ignored files. Peer: pathspec's GitIgnoreSpec over every file and the library's tarfile into zstd at the same
level and number of threads. Both read the same files with a warm cache, one after the other in each round.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import statistics
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

import zstandard
from pathspec import GitIgnoreSpec

from incl_shared.archive.pack import pack
from incl_shared.archive.unpack import unpack

FILES, BYTES, IGNORED, ROUNDS = 5_000, 10_000, 500, 5
TARGET_S = 2.0


def bench() -> dict[str, Any]:
    """Medians, in seconds."""
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        root = _tree(base / "tree")
        ours, peer, out = [], [], []
        for _ in range(ROUNDS):
            began = time.perf_counter()
            result = pack(root, base / "ours.tar.zst")
            ours.append(time.perf_counter() - began)
            began = time.perf_counter()
            _straightforward(root, base / "peer.tar.zst")
            peer.append(time.perf_counter() - began)
            began = time.perf_counter()
            unpack(result.path, base / "out", sha256=result.sha256)
            out.append(time.perf_counter() - began)
            shutil.rmtree(base / "out")
        assert result.files == FILES + 1
        sizes = {"ours": result.size, "peer": (base / "peer.tar.zst").stat().st_size}
    taken = statistics.median(ours)
    return {
        "name": "pack",
        "unit": "s",
        "ours": round(taken, 3),
        "peers": {"pathspec + tarfile": round(statistics.median(peer), 3)},
        "unpack": round(statistics.median(out), 3),
        "archive_bytes": sizes,
        "ratio": round(taken / TARGET_S, 3),
        "target": TARGET_S,
        "ok": taken <= TARGET_S,
    }


def _tree(root: Path) -> Path:
    chance = random.Random(7)
    text = Path(os.__file__).read_bytes() + Path(random.__file__).read_bytes()
    for number in range(FILES + IGNORED):
        name = f"m{number}.py" if number < FILES else f"m{number}.log"
        path = root / f"d{number % 100:02}" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        at = chance.randrange(len(text) - BYTES)
        path.write_bytes(text[at : at + BYTES // 2] + chance.randbytes(BYTES // 2))
    patterns = ["*.log", *(line for i in range(20) for line in (f"*.x{i}", f"build{i}/", f"/data{i}/**/*.bin"))]
    (root / ".gitignore").write_text("\n".join(patterns))
    return root


def _straightforward(root: Path, target: Path) -> str:
    spec = GitIgnoreSpec.from_lines((root / ".gitignore").read_text().splitlines())
    names = sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())
    compressor = zstandard.ZstdCompressor(level=3, threads=min(4, os.cpu_count() or 1))
    with (
        target.open("wb") as out,
        compressor.stream_writer(out) as sink,
        tarfile.open(fileobj=sink, mode="w|", format=tarfile.PAX_FORMAT) as tar,
    ):
        for name in names:
            if not spec.match_file(name):
                tar.add(root / name, arcname=name, filter=_plain)
    return hashlib.sha256(target.read_bytes()).hexdigest()


def _plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.mtime = member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member
