"""Walk a working directory: what belongs into its archive, what does not, and why.

The root is held open, and everything below is reached from it component by component: a directory that is exchanged for
a link while it is walked leads nowhere (a job may do so, to have its agent read what it may not read itself).
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from incl_shared.archive import DOWNLOAD_MARKER, PLATFORM_MARKER
from incl_shared.archive.beneath import is_link, open_beneath
from incl_shared.archive.ignore import IGNORE_FILES, RuleFile, always_left_out
from incl_shared.archive.tarformat import DIRECTORY, FILE, LINK, display
from incl_shared.errors import InvalidInput

_MAX_IGNORE_FILE: Final = 4 << 20
_DOWNLOADED: Final = DOWNLOAD_MARKER.encode()
_PLATFORM: Final = PLATFORM_MARKER.encode()
_SPECIAL: Final = {
    stat.S_IFSOCK: "a socket",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing to pack: `path` from the root, raw bytes; `size` bytes; `target` of a link."""

    path: bytes
    kind: bytes
    size: int = 0
    target: bytes = b""


@dataclass(slots=True)
class Tree:
    """What a walk found, in the order of the paths' bytes.

    `skipped` counts by reason ('ignored', 'never packed', 'virtual environment', 'earlier download', 'data of a
    platform', 'special', 'link out of the tree'); a directory that is left out counts once. `warnings` are sentences
    for the user.
    """

    root: bytes
    entries: list[Entry] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    warnings: list[str] = field(default_factory=list)

    @property
    def bytes(self) -> int:
        """Bytes of all files."""
        return sum(entry.size for entry in self.entries)

    @property
    def files(self) -> int:
        """Files and links."""
        return sum(entry.kind != DIRECTORY for entry in self.entries)

    def largest(self, count: int = 5) -> tuple[tuple[str, int], ...]:
        """(path, bytes) of the largest files, largest first."""
        files = sorted((entry for entry in self.entries if entry.kind == FILE), key=lambda e: (-e.size, e.path))
        return tuple((display(entry.path), entry.size) for entry in files[:count])

    def largest_directories(self, count: int = 3) -> tuple[tuple[str, int], ...]:
        """(top directory, bytes) of the largest directories of the root; files of the root count by themselves."""
        sizes: Counter[bytes] = Counter()
        for entry in self.entries:
            top, slash, _ = entry.path.partition(b"/")
            sizes[top + slash] += entry.size
        return tuple((display(name), size) for name, size in sizes.most_common(count) if size)


def open_root(root: Path) -> int:
    """A descriptor of the directory, which the caller closes.

    Raises:
        InvalidInput: it is none, or cannot be read.
    """
    try:
        return os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        raise InvalidInput(
            f"{root} is not a directory", hint="name the directory of your script (workdir, or cd there)"
        ) from None
    except OSError as error:
        raise unreadable(os.fsencode(root), error) from error


def scan(root: Path, exclude: frozenset[Path] = frozenset()) -> Tree:
    """Walk a directory by the rules of its ignore files; nothing is read but these.

    Args:
        root: the working directory.
        exclude: files that are left out silently (absolute paths), such as the archive being written.

    Raises:
        InvalidInput: the root is no directory, or something in it cannot be read.
    """
    held = open_root(root)
    try:
        return scan_held(held, root, exclude)
    finally:
        os.close(held)


def scan_held(held: int, root: Path, exclude: frozenset[Path] = frozenset(), *, everything: bool = False) -> Tree:
    """The same for a root that is held open. everything: nothing is ignored, a checkpoint is kept as it is."""
    walk = _Walk(held, _real(root), frozenset(_real(path) for path in exclude), everything)
    walk.directory(b"", tuple(() for _ in IGNORE_FILES) if everything else walk.rules_above())
    walk.tree.entries.sort(key=lambda entry: entry.path)
    return walk.tree


def _real(path: Path) -> bytes:
    try:
        return os.fsencode(os.path.realpath(path))
    except OSError:  # something on the way is exchanged at this moment
        return os.fsencode(os.path.abspath(path))  # noqa: PTH100


_Rules = tuple[tuple[RuleFile, ...], ...]


class _Walk:
    def __init__(self, held: int, root: bytes, exclude: frozenset[bytes], everything: bool) -> None:
        self.tree = Tree(root)
        self._held = held
        self._root = root
        self._exclude = exclude
        self._everything = everything

    def rules_above(self) -> _Rules:
        """The ignore files between the root of the git repository, should there be one, and the walk's root."""
        above: list[tuple[bytes, bytes]] = []
        at, prefix = self._root, b""
        while not os.path.lexists(os.path.join(at, b".git")):  # noqa: PTH118
            parent, name = os.path.split(at)
            if not name:
                return tuple(() for _ in IGNORE_FILES)
            prefix = name + b"/" + prefix
            at = parent
            above.append((at, prefix))
        groups = []
        for name in IGNORE_FILES:
            texts = [(self._ignore_file(os.path.join(folder, name), None), prefix) for folder, prefix in above]  # noqa: PTH118
            groups.append(tuple(RuleFile(text, 0, prefix) for text, prefix in texts if text is not None))
        return tuple(groups)

    def directory(self, path: bytes, rules: _Rules) -> None:
        """Everything below one directory; `path` ends with a slash, or is empty for the root."""
        folder = self._open(path)
        if folder is None:
            return
        try:
            found = self._list(path, folder)
            if not self._everything:
                if self._left_out(path, {name for name, _ in found}):
                    return
                rules = self._rules(path, folder, {name for name, _ in found}, rules)
            inner = [name for name, entry in found if self._entry(path + name, name, entry, rules, folder)]
        finally:
            os.close(folder)
        for name in inner:
            self.tree.entries.append(Entry(path + name, DIRECTORY))
            self.directory(path + name + b"/", rules)

    def _left_out(self, path: bytes, names: set[bytes]) -> bool:
        """Whether the whole directory is, as what is in it says; the entry of itself is taken back then."""
        if b"pyvenv.cfg" in names and path:
            self.tree.skipped["virtual environment"] += 1
            self.tree.entries.pop()
            return True
        if _PLATFORM in names:
            self._leave_out_platform(path)
            return True
        if _DOWNLOADED in names and path:
            self.tree.skipped["earlier download"] += 1
            self.tree.entries.pop()
            folder = display(path.rstrip(b"/"))
            self.tree.warnings.append(
                f"left out {folder}: incl download made it; to pack it, remove {folder}/{DOWNLOAD_MARKER}"
            )
            return True
        return False

    def _leave_out_platform(self, path: bytes) -> None:
        if not path:
            raise InvalidInput(
                "this directory is the data folder of a platform",
                cause="it holds the platform's keys and databases, which are never packed",
                hint="cd to the directory of your script",
            )
        self.tree.skipped["data of a platform"] += 1
        self.tree.entries.pop()
        self.tree.warnings.append(
            f"left out {display(path.rstrip(b'/'))}: the data folder of a platform, with its keys"
        )

    def _rules(self, path: bytes, folder: int, names: set[bytes], rules: _Rules) -> _Rules:
        for index, name in enumerate(IGNORE_FILES):
            text = self._ignore_file(name, folder, path) if name in names else None
            if text is not None:
                group = (RuleFile(text, len(path)), *rules[index])
                rules = (*rules[:index], group, *rules[index + 1 :])
        return rules

    def _open(self, path: bytes) -> int | None:
        """The directory; none when it is gone, or is none any more."""
        try:
            return open_beneath(self._held, path, directory=True)
        except OSError as error:
            if isinstance(error, FileNotFoundError) or is_link(error):
                return None
            raise unreadable(path.rstrip(b"/") or b".", error) from error

    def _list(self, path: bytes, folder: int) -> list[tuple[bytes, os.DirEntry[str]]]:
        try:
            with os.scandir(folder) as entries:
                return [(os.fsencode(entry.name), entry) for entry in entries]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise unreadable(path.rstrip(b"/") or b".", error) from error

    def _entry(self, path: bytes, name: bytes, entry: os.DirEntry[str], rules: _Rules, folder: int) -> bool:
        """Note one thing; whether it is a directory to go into."""
        is_directory = entry.is_dir(follow_symlinks=False)
        if not self._everything and always_left_out(path, name, is_directory):
            self.tree.skipped["never packed"] += 1
        elif _ignored(rules, path, name, is_directory):
            self.tree.skipped["ignored"] += 1
        elif is_directory:
            return True
        elif entry.is_symlink():
            self._link(path, name, folder)
        elif entry.is_file(follow_symlinks=False):
            if not self._exclude or self._root + b"/" + path not in self._exclude:
                self._file(path, entry)
        else:
            self._special(path, entry)
        return False

    def _file(self, path: bytes, entry: os.DirEntry[str]) -> None:
        try:
            self.tree.entries.append(Entry(path, FILE, entry.stat(follow_symlinks=False).st_size))
        except FileNotFoundError:
            return
        except OSError as error:
            raise unreadable(path, error) from error

    def _special(self, path: bytes, entry: os.DirEntry[str]) -> None:
        try:
            kind = stat.S_IFMT(entry.stat(follow_symlinks=False).st_mode)
        except OSError:
            return
        self.tree.skipped["special"] += 1
        self.tree.warnings.append(f"left out {display(path)}: {_SPECIAL.get(kind, 'not a regular file')}")

    def _link(self, path: bytes, name: bytes, folder: int) -> None:
        try:
            target = os.readlink(name, dir_fd=folder)
            inner = self._inner_target(path, target)
        except OSError:  # it is gone, or no link any more
            return
        if inner is None:
            self.tree.skipped["link out of the tree"] += 1
            self.tree.warnings.append(f"left out {display(path)}: it links to {display(target)}, out of the directory")
        else:
            self.tree.entries.append(Entry(path, LINK, target=inner))

    def _inner_target(self, path: bytes, target: bytes) -> bytes | None:
        """The link's target as a relative path that stays in the tree by its text alone; None when it leaves it."""
        real = os.path.realpath(self._root + b"/" + path)
        if real != self._root and not real.startswith(self._root + b"/"):
            return None
        parts = [part for part in target.split(b"/") if part not in (b"", b".")]
        ups = 0
        while ups < len(parts) and parts[ups] == b"..":
            ups += 1
        if target.startswith(b"/") or b".." in parts[ups:] or ups > path.count(b"/"):
            return os.path.relpath(real, os.path.dirname(self._root + b"/" + path))  # noqa: PTH120
        return target

    def _ignore_file(self, path: bytes, folder: int | None, below: bytes = b"") -> bytes | None:
        """Its content; None when there is none. Like git, a link is not followed. folder: that a name is in."""
        try:
            handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
        except FileNotFoundError:
            return None
        except OSError as error:
            if is_link(error):
                return None
            raise unreadable(below + path, error) from error
        try:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                return None
            text = os.read(handle, _MAX_IGNORE_FILE)
        finally:
            os.close(handle)
        if len(text) == _MAX_IGNORE_FILE:
            raise InvalidInput(f"{display(path)} is larger than 4 MiB", hint="an ignore file holds patterns, not data")
        return text


def _ignored(rules: _Rules, path: bytes, name: bytes, is_directory: bool) -> bool:
    for group in rules:
        for rule_file in group:
            decision = rule_file.decide(path, name, is_directory)
            if decision is not None:
                return decision
    return False


def unreadable(path: bytes, error: OSError) -> InvalidInput:
    """The error of a file or directory that cannot be read, with what to do."""
    name = display(path)
    return InvalidInput(
        f"cannot read {name}",
        cause=error.strerror or str(error),
        hint=f"add it to .inclignore if the experiment does not need it, or: chmod u+rX {name}",
    )
