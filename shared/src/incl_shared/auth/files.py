"""Private files: written whole, for their owner only, and refused where others could read them."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from incl_shared.errors import DeniedError, NotFoundError

_OTHERS = 0o077


def private_dir(path: Path) -> Path:
    """A directory for its owner only; made when it is missing, closed when it is open."""
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    if stat.S_IMODE(path.stat().st_mode) & _OTHERS:
        path.chmod(0o700)
    return path


def write_private(path: Path, content: bytes) -> None:
    """Write a file, 0600, so that a reader sees the old one or the whole new one, also after a power loss."""
    private_dir(path.parent)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_dir(path.parent)


def read_private(path: Path) -> bytes:
    """The content of a private file.

    Raises:
        NotFoundError: when there is none.
        DeniedError: when somebody else owns it, or others may read or write it.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except FileNotFoundError:
        raise NotFoundError(f"there is no key file {path}", hint="`incl up` makes the keys of a new platform") from None
    except OSError as error:
        raise DeniedError(f"cannot read the key file {path}", cause=error.strerror or "") from None
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(file.fileno())
        if status.st_uid != os.geteuid():
            raise DeniedError(f"the key file {path} belongs to somebody else", hint=f"chown it, or remove {path}")
        if stat.S_IMODE(status.st_mode) & _OTHERS:
            raise DeniedError(f"others may read the key file {path}", hint=f"chmod 600 {path}")
        return file.read()


def _sync_dir(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
