"""Unpacking what somebody else packed: everything hostile is refused, and leaves nothing behind."""

from __future__ import annotations

import hashlib
import io
import os
import stat
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from incl_shared.archive.tarformat import FILE, Member, header, padding
from incl_shared.archive.unpack import Limits, unpack
from incl_shared.errors import ConflictError, InclError, IntegrityError, InvalidInput


def member(
    name: str, kind: bytes = tarfile.REGTYPE, data: bytes = b"", link: str = "", mode: int = 0o644
) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.size, info.linkname, info.mode = kind, len(data), link, mode
    info.pax_headers = {"data": data.decode("latin-1")} if data else {}
    return info


def archive(path: Path, *infos: tarfile.TarInfo, format: int = tarfile.PAX_FORMAT) -> Path:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format) as tar:
        for info in infos:
            data = info.pax_headers.pop("data", "").encode("latin-1")
            tar.addfile(info, io.BytesIO(data))
    path.write_bytes(zstandard.compress(out.getvalue()))
    return path


def link(name: str, target: str) -> tarfile.TarInfo:
    return member(name, tarfile.SYMTYPE, link=target)


def folder(name: str) -> tarfile.TarInfo:
    return member(name, tarfile.DIRTYPE, mode=0o755)


def forbidden(path: Path) -> list[str]:
    """Everything in the test's directory but the archive and what the test itself put there."""
    return sorted(str(found.relative_to(path)) for found in path.rglob("*") if found.name not in ("evil", "victim"))


HOSTILE: dict[str, tuple[Callable[[], list[tarfile.TarInfo]], str]] = {
    "up": (lambda: [member("../evil.txt", data=b"x")], r"path out of its tree: \.\./evil.txt"),
    "up inside": (lambda: [member("a/../../evil.txt", data=b"x")], "path out of its tree"),
    "up and back": (lambda: [member("a/../b", data=b"x")], "path out of its tree"),
    "absolute": (lambda: [member("/tmp/evil.txt", data=b"x")], "absolute path: /tmp/evil.txt"),
    "link out": (lambda: [link("l", "../victim")], r"link out of its tree: l -> \.\./victim"),
    "absolute link": (lambda: [link("l", "/etc/passwd")], "link out of its tree: l -> /etc/passwd"),
    "deep link out": (lambda: [folder("a/b"), link("a/b/l", "../../../victim")], "link out of its tree"),
    "through a link": (lambda: [link("l", "."), member("l/x", data=b"x")], "below something that is not a directory"),
    "through a link out": (lambda: [link("l", "../victim"), member("l/x", data=b"x")], "link out of its tree"),
    "over a link": (lambda: [link("l", "x"), member("l", data=b"x")], "has l twice"),
    "link over a file": (lambda: [member("l", data=b"x"), link("l", "x")], "has l twice"),
    "directory over a link": (lambda: [link("l", "x"), folder("l")], "has l twice"),
    "chain of links": (
        lambda: [folder("d"), link("x", "d"), link("y", "x/.."), link("z", "y/..")],
        r"link out of its tree: z -> y/\.\.",
    ),
    "dot link chain": (lambda: [link("x", "."), link("y", "x/..")], r"link out of its tree: y -> x/\.\."),
    "hard link": (lambda: [member("h", tarfile.LNKTYPE, link="/etc/passwd")], "a hard link: h"),
    "inner hard link": (
        lambda: [member("a", data=b"1"), member("h", tarfile.LNKTYPE, link="a")],
        "a hard link: h",
    ),
    "character device": (lambda: [member("c", tarfile.CHRTYPE)], "a character device: c"),
    "block device": (lambda: [member("b", tarfile.BLKTYPE)], "a block device: b"),
    "named pipe": (lambda: [member("p", tarfile.FIFOTYPE)], "a named pipe: p"),
    "unknown kind": (lambda: [member("k", b"Z")], "of the unknown kind b'Z': k"),
    "twice": (lambda: [member("a", data=b"1"), member("a", data=b"2")], "has a twice"),
    "twice by another name": (lambda: [member("a", data=b"1"), member("./a", data=b"2")], "has a twice"),
    "below a file": (lambda: [member("a", data=b"1"), member("a/b", data=b"2")], "below something"),
    "no name": (lambda: [member("./", data=b"1")], "without a name"),
    "long part": (lambda: [member("x" * 300, data=b"1")], "cannot be a path"),
    "empty link": (lambda: [link("l", "")], "without a usable target"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_archives(tmp_path: Path, name: str) -> None:
    make, message = HOSTILE[name]
    (tmp_path / "victim").mkdir()
    path = archive(tmp_path / "evil", member("before", data=b"fine"), *make())
    with pytest.raises(InvalidInput, match=message):
        unpack(path, tmp_path / "out")
    assert forbidden(tmp_path) == []


def test_what_is_allowed(tmp_path: Path) -> None:
    path = archive(
        tmp_path / "a",
        folder("./"),
        folder("./d"),
        folder("d"),
        member("d/run.sh", data=b"#!", mode=0o6777),
        member("implied/parents/x", data=b"x" * 3_000_000, mode=0o600),
        link("d/up", "../implied/./parents//x"),
        link("dangling", "nowhere"),
        format=tarfile.GNU_FORMAT,
    )
    result = unpack(path, tmp_path / "out")
    out = tmp_path / "out"
    assert (result.files, result.bytes) == (4, 3_000_002)
    assert (out / "d" / "up").read_bytes() == b"x" * 3_000_000
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE((out / "d/run.sh").stat().st_mode) == 0o755 & ~umask
    assert stat.S_IMODE((out / "implied/parents/x").stat().st_mode) == 0o644 & ~umask
    assert stat.S_IMODE(out.stat().st_mode) == 0o755
    assert (out / "dangling").is_symlink()


@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
def test_the_dialects_of_tar(tmp_path: Path, format: int) -> None:
    long = "d" * 120 + "/" + "f" * 90
    infos = [member(long, data=b"1"), member("ü", data=b"2")]
    if format != tarfile.USTAR_FORMAT:
        infos += [member("x" * 200, data=b"3"), link("l", "x" * 200)]
    unpack(archive(tmp_path / "a", *infos, format=format), tmp_path / "out")
    assert (tmp_path / "out" / long).read_bytes() == b"1"
    assert (tmp_path / "out" / "ü").read_bytes() == b"2"


def test_a_wrong_checksum(tmp_path: Path) -> None:
    path = archive(tmp_path / "evil", member("a", data=b"1"))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(IntegrityError, match="not the one that was stored"):
        unpack(path, tmp_path / "out", sha256="0" * 64)
    assert forbidden(tmp_path) == []
    assert unpack(path, tmp_path / "out", sha256=digest).files == 1


def test_every_cut_is_noticed(tmp_path: Path) -> None:
    path = archive(tmp_path / "evil", member("a", data=os.urandom(3000)), member("b", data=os.urandom(3000)))
    whole = path.read_bytes()
    for cut in (0, 1, 10, len(whole) // 2, len(whole) - 20):
        path.write_bytes(whole[:cut])
        with pytest.raises(IntegrityError, match=r"cut short|damaged"):
            unpack(path, tmp_path / "out")
        assert forbidden(tmp_path) == []


def test_a_tar_without_its_end(tmp_path: Path) -> None:
    tar = header(Member(b"a", FILE, 1)) + b"1" + padding(1)
    (tmp_path / "evil").write_bytes(zstandard.compress(tar))
    with pytest.raises(IntegrityError, match="cut short"):
        unpack(tmp_path / "evil", tmp_path / "out")
    (tmp_path / "evil").write_bytes(zstandard.compress(tar + bytes(1024) + b"hidden"))
    with pytest.raises(InvalidInput, match="data after its end"):
        unpack(tmp_path / "evil", tmp_path / "out")
    assert forbidden(tmp_path) == []


def test_no_archive_at_all(tmp_path: Path) -> None:
    (tmp_path / "evil").write_bytes(b"PK\x03\x04 something else")
    with pytest.raises(IntegrityError, match="damaged"):
        unpack(tmp_path / "evil", tmp_path / "out")
    with pytest.raises(InclError, match="cannot unpack missing"):
        unpack(tmp_path / "missing", tmp_path / "out")


def test_bombs(tmp_path: Path) -> None:
    block = bytes(1 << 20)
    compressor = zstandard.ZstdCompressor(level=19).compressobj()
    data = compressor.compress(header(Member(b"zeros", FILE, 400 << 20)))
    data += (
        b"".join(compressor.compress(block) for _ in range(400)) + compressor.compress(bytes(1024)) + compressor.flush()
    )
    assert len(data) < 100_000
    (tmp_path / "evil").write_bytes(data)
    with pytest.raises(InvalidInput, match="grows more than 1000 times"):
        unpack(tmp_path / "evil", tmp_path / "out")
    with pytest.raises(InvalidInput, match="more than 1000000 bytes, with zeros"):
        unpack(tmp_path / "evil", tmp_path / "out", limits=Limits(max_bytes=1_000_000))
    many = archive(tmp_path / "evil", *(member(f"f{i}") for i in range(30)))
    with pytest.raises(InvalidInput, match="more than 20 members"):
        unpack(many, tmp_path / "out", limits=Limits(max_members=20))
    assert forbidden(tmp_path) == []


def test_a_window_that_would_eat_the_memory(tmp_path: Path) -> None:
    parameters = zstandard.ZstdCompressionParameters.from_level(1, window_log=29)
    compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    (tmp_path / "evil").write_bytes(compressor.compress(bytes(1024)) + compressor.flush())
    with pytest.raises(IntegrityError, match="damaged"):
        unpack(tmp_path / "evil", tmp_path / "out")


def test_the_destination_must_be_free(tmp_path: Path) -> None:
    path = archive(tmp_path / "a", member("x", data=b"1"))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_bytes(b"kept")
    with pytest.raises(ConflictError, match="not an empty directory"):
        unpack(path, tmp_path / "out")
    assert (tmp_path / "out" / "mine").read_bytes() == b"kept"
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(ConflictError):
        unpack(path, tmp_path / "link")
    (tmp_path / "empty").mkdir()
    assert unpack(path, tmp_path / "empty").files == 1


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_archive_is_refused_or_stays_inside(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Any bytes of the tar may be changed: the outcome is a clear error, or a tree inside of the destination."""
    base = tmp_path_factory.mktemp("fuzz")
    whole = bytearray()
    for name, body in ((b"a", b"1" * 600), (b"x" * 130, b"2"), (b"d/e", b"")):
        whole += header(Member(name, FILE, len(body))) + body + padding(len(body))
    whole += header(Member(b"l", b"2", target=b"d/e")) + bytes(1024)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(whole) - 1))
        patch = data.draw(st.binary(min_size=1, max_size=6))
        whole[at : at + len(patch)] = patch
        _mend_checksums(whole)
    (base / "evil").write_bytes(zstandard.compress(bytes(whole)))
    try:
        unpack(base / "evil", base / "out")
    except InclError:
        assert sorted(path.name for path in base.iterdir()) == ["evil"]
    else:
        assert {path.name for path in base.iterdir()} == {"evil", "out"}
        root = os.path.realpath(base / "out")
        for path in (base / "out").rglob("*"):
            assert os.path.realpath(path).startswith(root)


def _mend_checksums(tar: bytearray) -> None:
    for at in range(0, len(tar) - 511, 512):
        if tar[at + 257 : at + 262] == b"ustar":
            tar[at + 148 : at + 156] = b" " * 8
            tar[at + 148 : at + 156] = b"%06o\0 " % (sum(tar[at : at + 512]) & 0o777777)
