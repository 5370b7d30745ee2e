"""The ignore rules against git itself."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from incl_shared.archive.ignore import RuleFile, parse_rule
from incl_shared.archive.tarformat import DIRECTORY
from incl_shared.archive.tree import scan
from incl_shared.errors import InvalidInput

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="git is the oracle")

_ENVIRONMENT = {
    **os.environ,
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_SYSTEM": os.devnull,
    "GIT_CEILING_DIRECTORIES": tempfile.gettempdir(),
}
NAMES = ["a", "b", "ab", "a.b", "x.c", "foo", "foo.o", "!z", "#h", "a b", "c ", "é", "[q]", "d-e", "\\w", "tab\t"]
PIECES = [
    "a",
    "b",
    "*",
    "?",
    "**",
    "/",
    "[ab]",
    "[!a]",
    "[a-c]",
    "[]a]",
    ".",
    "x",
    "foo",
    "c",
    "\\*",
    "!",
    " ",
    "[[:alpha:]]",
]

names = st.sampled_from(NAMES)
paths = st.lists(names, min_size=1, max_size=4).map("/".join)
patterns = st.one_of(
    st.lists(st.sampled_from(PIECES), min_size=1, max_size=6).map("".join),
    st.tuples(
        st.sampled_from(["", "!", "/", "!/", "**/"]), paths, st.sampled_from(["", "/", "/*", "/**", " ", "\\ "])
    ).map("".join),
    st.sampled_from(
        ["", "# note", "!", "/", "*", "!*", "*/", "!*/", "**", "/**", "a/**/b", "[", "a[", "\\", "x\\", "a\r"]
    ),
)
ignore_texts = st.lists(patterns, max_size=6).map(lambda lines: "\n".join(lines))


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An empty git repository that the examples fill and empty."""
    root = tmp_path_factory.mktemp("re po") / "tree"
    root.mkdir()
    subprocess.run(["git", "init", "-q"], cwd=root, env=_ENVIRONMENT, check=True)
    shutil.rmtree(root / ".git" / "info", ignore_errors=True)
    return root


def _fill(root: Path, files: set[str], ignores: dict[str, str]) -> None:
    for entry in root.iterdir():
        if entry.name != ".git":
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
    for folder, text in ignores.items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        (root / folder / ".gitignore").write_bytes(text.encode())
    for path in sorted(files):
        target = root / path
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(b"1")
        except (FileExistsError, IsADirectoryError, NotADirectoryError):
            continue


def _listed_by_git(root: Path) -> set[bytes]:
    command = ["git", "ls-files", "-co", "--exclude-standard", "-z"]
    out = subprocess.run(command, cwd=root, env=_ENVIRONMENT, check=True, capture_output=True).stdout
    return {name for name in out.split(b"\0") if name}


def _listed_by_us(root: Path) -> set[bytes]:
    return {entry.path for entry in scan(root).entries if entry.kind != DIRECTORY}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    files=st.sets(paths, max_size=12),
    ignores=st.dictionaries(st.sampled_from(["", "a", "foo", "a/b", "ab"]), ignore_texts, max_size=3),
)
@example(files={"a/b/c", "a/x.c"}, ignores={"": "a/*\n!a/b", "a": "!x.c"})
@example(files={"foo/a", "foo/b"}, ignores={"": "foo/\n!foo/a"})
@example(files={"a/ab/b", "a/b", "a/x/y/b"}, ignores={"": "a/**/b"})
@example(files={"c ", "c"}, ignores={"": "c\\ \nd "})
@example(files={"é", "ab"}, ignores={"": "??"})
@example(files={"a/foo/b"}, ignores={"": "*/foo"})
@example(files={"!z", "#h"}, ignores={"": "\\!z\n\\#h"})
def test_the_same_files_as_git(repository: Path, files: set[str], ignores: dict[str, str]) -> None:
    _fill(repository, files, ignores)
    assert _listed_by_us(repository) == _listed_by_git(repository)


def test_rules_of_the_directories_above_hold_in_a_subdirectory(repository: Path) -> None:
    _fill(repository, {"a/b/x.c", "a/b/foo.o", "a/b/deep/x.c", "a/b/keep"}, {"": "*.o\n/a/b/deep\n", "a": "x.c\n"})
    inside = repository / "a" / "b"
    assert _listed_by_us(inside) == _listed_by_git(inside) == {b"keep"}


def test_names_that_are_not_utf8(repository: Path) -> None:
    _fill(repository, set(), {"": "*.o\n"})
    for name in (b"\xff.o", b"\xff.c", b"new\nline"):
        (repository / os.fsdecode(name)).write_bytes(b"1")
    assert _listed_by_us(repository) == _listed_by_git(repository) == {b"\xff.c", b"new\nline", b".gitignore"}


def test_a_link_to_a_directory_is_no_directory(repository: Path) -> None:
    _fill(repository, {"real/a"}, {"": "link/\n"})
    (repository / "link").symlink_to("real")
    assert _listed_by_us(repository) == _listed_by_git(repository) == {b".gitignore", b"real/a", b"link"}


def test_a_gitignore_that_is_a_link_is_not_followed(repository: Path) -> None:
    _fill(repository, {"rules", "a"}, {})
    (repository / "rules").write_text("a\n")
    (repository / ".gitignore").symlink_to("rules")
    assert _listed_by_us(repository) == {b"rules", b"a", b".gitignore"}


def test_inclignore_decides_before_gitignore(tmp_path: Path) -> None:
    _fill(tmp_path, {"data/big", "data/small", "out/x", "a"}, {"": "data/\n"})
    (tmp_path / ".inclignore").write_text("!data/\ndata/big\nout\n")
    found = {name for name in _listed_by_us(tmp_path) if not name.startswith(b".")}
    assert found == {b"data/small", b"a"}


def test_what_is_never_packed(tmp_path: Path) -> None:
    names = {
        ".env",
        ".env.local",
        ".env.example",
        "p/.env",
        "p/__pycache__/m.pyc",
        "m.pyc",
        "node_modules/x",
        ".incl/y",
    }
    _fill(tmp_path, names | {".git/config", "venv/pyvenv.cfg", "venv/lib/x", "a.py"}, {})
    (tmp_path / ".inclignore").write_text("!.env\n!.git\n!node_modules\n!*.pyc\n!__pycache__\n")
    tree = scan(tmp_path)
    assert {e.path for e in tree.entries if e.kind != DIRECTORY} == {b".env.example", b"a.py", b".inclignore"}
    assert tree.skipped["never packed"] == 8
    assert tree.skipped["virtual environment"] == 1


def test_secrets_of_a_home_directory_are_never_packed(tmp_path: Path) -> None:
    secrets = {
        ".ssh/id_ed25519",
        ".aws/credentials",
        ".netrc",
        ".config/incl/context.json",
        ".config/gcloud/x.db",
        "p/id_rsa",
    }
    _fill(tmp_path, secrets | {".config/other/x", "train.py", "incl/a.py", "gcloud"}, {})
    tree = scan(tmp_path)
    assert {e.path for e in tree.entries if e.kind != DIRECTORY} == {
        b".config/other/x",
        b"train.py",
        b"incl/a.py",
        b"gcloud",
    }
    assert tree.skipped["never packed"] == len(secrets)


def test_the_data_of_a_platform_is_never_packed(tmp_path: Path) -> None:
    """Whoever runs something from the home directory would hand out the keys of the platform otherwise."""
    _fill(tmp_path, {"share/incl/.incl-platform", "share/incl/keys/vault.key", "share/x", "a.py"}, {})
    tree = scan(tmp_path)
    assert [e.path for e in tree.entries] == [b"a.py", b"share", b"share/x"]
    assert tree.skipped == {"data of a platform": 1}
    assert tree.warnings == ["left out share/incl: the data folder of a platform, with its keys"]
    with pytest.raises(InvalidInput, match="data folder of a platform"):
        scan(tmp_path / "share" / "incl")


def test_a_folder_that_a_download_made_is_left_out_with_a_word(tmp_path: Path) -> None:
    made = {"incl-x/.incl-download", "incl-x/model.bin", "incl-x/sub/y", "in/z/.incl-download"}
    _fill(tmp_path, made | {".incl-download", "in/a.py"}, {})
    tree = scan(tmp_path)
    assert [e.path for e in tree.entries] == [b"in", b"in/a.py"]
    assert tree.skipped == {"earlier download": 2, "never packed": 1}
    assert sorted(tree.warnings)[1] == (
        "left out incl-x: incl download made it; to pack it, remove incl-x/.incl-download"
    )


@pytest.mark.parametrize("pattern", [b"[", b"a[b", b"x\\", b"[[:nope:]]", b"", b"# a", b"!", b"/"])
def test_patterns_that_match_nothing(pattern: bytes) -> None:
    assert parse_rule(pattern) is None


def test_a_pattern_cannot_be_made_slow() -> None:
    """A few stars, but nothing that takes seconds (a regular expression that backtracks without end would)."""
    rules = RuleFile(b"a*a*a*a*b\n**/x/**/y/**/z\n")
    assert rules.decide(b"a" * 60, b"a" * 60, False) is None
    assert rules.decide(b"x/" * 40 + b"q", b"q", False) is None
