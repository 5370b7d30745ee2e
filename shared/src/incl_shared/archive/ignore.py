"""What .gitignore and .inclignore leave out, by git's own rules (https://git-scm.com/docs/gitignore, wildmatch.c).

Everything is bytes, as git compares bytes: a `?` is one byte of a name, and a name need not be UTF-8. Of the patterns
of one file the last that matches decides; the file of a deeper directory decides before that of a higher one; all
.inclignore files decide before all .gitignore files, so that `!data/` in an .inclignore brings back what git leaves
out. Below a directory that is left out nothing can come back: the walk never enters it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from incl_shared.archive import DOWNLOAD_MARKER

IGNORE_FILES: Final = (b".inclignore", b".gitignore")
"""Names of the files with patterns; an earlier one decides before a later one."""

_CLASSES: Final[dict[bytes, str]] = {
    b"alnum": "0-9A-Za-z",
    b"alpha": "A-Za-z",
    b"blank": " \\t",
    b"cntrl": "\\x00-\\x1f\\x7f",
    b"digit": "0-9",
    b"graph": "\\x21-\\x7e",
    b"lower": "a-z",
    b"print": "\\x20-\\x7e",
    b"punct": "!-/:-@\\[-`{-~",
    b"space": " \\t-\\r",
    b"upper": "A-Z",
    b"xdigit": "0-9A-Fa-f",
}
_NEVER_NAMES: Final = frozenset({b".git", b".env", b".incl", b"__pycache__", b"node_modules", DOWNLOAD_MARKER.encode()})
_SECRET_NAMES: Final = frozenset(
    {b".aws", b".azure", b".docker", b".git-credentials", b".gnupg", b".kube", b".my.cnf", b".netrc", b".pgpass"}
    | {b".pypirc", b".ssh", b".vault-token", b"application_default_credentials.json"}
    | {b"id_dsa", b"id_ecdsa", b"id_ed25519", b"id_rsa"}
)
_SECRET_PLACES: Final = (b".config/gcloud", b".config/incl")


class _Unmatchable(Exception):  # noqa: N818
    """A pattern that git lets match nothing, such as one with an open bracket."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One pattern: its regular expression matches a name (by_name) or a path from the file's directory."""

    negated: bool
    directories_only: bool
    by_name: bool
    expression: str
    pattern: re.Pattern[bytes]


class RuleFile:
    """The patterns of one ignore file.

    Args:
        text: the content of the file.
        strip: how many leading bytes of a path of the walk lie above this file's directory.
        prefix: what stands before a path of the walk when the file lies above the root of the walk.
    """

    def __init__(self, text: bytes, strip: int = 0, prefix: bytes = b"") -> None:
        self.rules = tuple(rule for line in _lines(text) if (rule := parse_rule(line)) is not None)
        self._strip = strip
        self._prefix = prefix
        self._any_name = _any_of(rule for rule in self.rules if rule.by_name)
        self._any_path = _any_of(rule for rule in self.rules if not rule.by_name)

    def decide(self, path: bytes, name: bytes, is_directory: bool) -> bool | None:
        """True: leave it out; False: a negated pattern keeps it; None: nothing here matches.

        Args:
            path: from the root of the walk, without a leading slash.
            name: its last part.
            is_directory: whether it is a directory itself (a link to one is not).
        """
        by_path = self._any_path is not None
        local = self._prefix + path[self._strip :] if by_path else b""
        hit = self._any_name is not None and self._any_name.fullmatch(name) is not None
        if not hit and not (self._any_path is not None and self._any_path.fullmatch(local)):
            return None
        for rule in reversed(self.rules):
            if rule.directories_only and not is_directory:
                continue
            if rule.pattern.fullmatch(name if rule.by_name else local):
                return not rule.negated
        return None


def always_left_out(path: bytes, name: bytes, is_directory: bool) -> bool:
    """What is never packed, whatever the ignore files say: secrets, history, caches. path: from the walk's root."""
    if name in _NEVER_NAMES or name in _SECRET_NAMES or path.endswith(_SECRET_PLACES):
        return True
    if name.startswith(b".env."):
        return name != b".env.example"
    return not is_directory and name.endswith(b".pyc")


def parse_rule(line: bytes) -> Rule | None:
    """The rule of one line; None for a comment, an empty line and a pattern that cannot match."""
    if not line or line.startswith(b"#"):
        return None
    line = _trim(line)
    negated = line.startswith(b"!")
    if negated:
        line = line[1:]
    directories_only = line.endswith(b"/")
    if directories_only:
        line = line[:-1]
    by_name = b"/" not in line
    if line.startswith(b"/"):
        line = line[1:]
    if not line:
        return None
    try:
        expression = translate(line)
        return Rule(negated, directories_only, by_name, expression, _compile(expression))
    except _Unmatchable:
        return None


def translate(pattern: bytes) -> str:
    """A regular expression (over Latin-1, one character a byte) that matches what git's wildmatch does."""
    out: list[str] = []
    at = 0
    while at < len(pattern):
        byte = pattern[at : at + 1]
        if byte == b"*":
            at = _stars(pattern, at, out)
        elif byte == b"?":
            out.append("[^/]")
            at += 1
        elif byte == b"[":
            at = _bracket(pattern, at + 1, out)
        else:
            if byte == b"\\":
                at += 1
                if at == len(pattern):
                    raise _Unmatchable
            out.append(re.escape(pattern[at : at + 1].decode("latin-1")))
            at += 1
    return "".join(out)


def _lines(text: bytes) -> list[bytes]:
    text = text.removeprefix(b"\xef\xbb\xbf")
    return [line.removesuffix(b"\r") for line in text.split(b"\n")]


def _trim(line: bytes) -> bytes:
    end, at = len(line), 0
    blank: int | None = None
    while at < end:
        if line[at] == 0x20:
            blank = at if blank is None else blank
        else:
            blank = None
            at += line[at] == 0x5C
        at += 1
    return line if blank is None else line[:blank]


def _stars(pattern: bytes, at: int, out: list[str]) -> int:
    end = at
    while pattern[end : end + 1] == b"*":
        end += 1
    opens = at == 0 or pattern[at - 1 : at] == b"/"
    rest = pattern[end:]
    slash = 1 if rest.startswith(b"/") else 2 if rest.startswith(b"\\/") else 0
    if end - at < 2 or not opens or (rest and not slash):
        out.append("[^/]*")
    elif slash:
        out.append("(?:.*/)?")
        end += slash
    else:
        out.append(".*")
    return end


def _bracket(pattern: bytes, at: int, out: list[str]) -> int:
    negated = pattern[at : at + 1] in (b"!", b"^")
    at += negated
    members: list[str] = []
    before: int | None = None
    first = True
    while first or pattern[at : at + 1] != b"]":
        first = False
        if at >= len(pattern):
            raise _Unmatchable
        following = pattern[at + 1 : at + 2]
        if pattern[at : at + 1] == b"-" and before is not None and following not in (b"", b"]"):
            high, at = _literal(pattern, at + 1)
            if before <= high:
                members.append(f"\\x{before:02x}-\\x{high:02x}")
            before = None
        elif pattern[at : at + 2] == b"[:" and (found := _named_class(pattern, at, members)):
            at, before = found, None
        else:
            before, at = _literal(pattern, at)
            members.append(f"\\x{before:02x}")
    if members:
        out.append(f"(?!/)[{'^' if negated else ''}{''.join(members)}]")
    else:
        out.append("[^/]" if negated else "(?!)")
    return at + 1


def _literal(pattern: bytes, at: int) -> tuple[int, int]:
    if pattern[at : at + 1] == b"\\":
        at += 1
    if at >= len(pattern):
        raise _Unmatchable
    return pattern[at], at + 1


def _named_class(pattern: bytes, at: int, members: list[str]) -> int:
    """Position after '[:name:]', or 0 when this bracket is an ordinary character."""
    end = pattern.find(b"]", at + 2)
    if end < 0:
        raise _Unmatchable
    if end == at + 2 or pattern[end - 1 : end] != b":":
        return 0
    ranges = _CLASSES.get(pattern[at + 2 : end - 1])
    if ranges is None:
        raise _Unmatchable
    members.append(ranges)
    return end + 1


def _compile(expression: str) -> re.Pattern[bytes]:
    return re.compile(expression.encode("latin-1"), re.DOTALL)


def _any_of(rules: Iterable[Rule]) -> re.Pattern[bytes] | None:
    expressions = [f"(?:{rule.expression})" for rule in rules]
    return _compile("|".join(expressions)) if expressions else None
