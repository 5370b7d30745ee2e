"""Key files, creds files: private, whole, and refused where they are not."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from incl_shared.auth.creds import parse_info, read_info
from incl_shared.auth.files import private_dir, read_private, write_private
from incl_shared.auth.jwt import ACCOUNT, USER, Key
from incl_shared.auth.keys import PlatformKeys, SigningKeys
from incl_shared.auth.mint import Minter
from incl_shared.auth.names import Role, check_user, user_name_of
from incl_shared.errors import DeniedError, InvalidInput, NotFoundError


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_all_that_create_makes_is_private(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        PlatformKeys.create(tmp_path / "k e y s")
    finally:
        os.umask(old)
    made = [tmp_path / "k e y s", *(tmp_path / "k e y s").rglob("*")]
    assert len(made) == 1 + 1 + 4 + 2 + len(Role)
    assert {mode(path) for path in made if path.is_file()} == {0o600}
    assert {mode(path) for path in made if path.is_dir()} == {0o700}


def test_create_keeps_what_is_there_and_adds_what_is_missing(tmp_path: Path) -> None:
    first = PlatformKeys.create(tmp_path)
    (tmp_path / "signing" / "run.seed").unlink()
    with pytest.raises(NotFoundError):
        PlatformKeys.load(tmp_path)
    second = PlatformKeys.create(tmp_path)
    assert second.operator.seed == first.operator.seed
    assert second.signing[Role.NODE].seed == first.signing[Role.NODE].seed
    assert second.signing[Role.RUN].seed != first.signing[Role.RUN].seed
    assert PlatformKeys.load(tmp_path).signing[Role.RUN].seed == second.signing[Role.RUN].seed


@pytest.mark.parametrize("bits", [0o640, 0o604, 0o660, 0o601])
def test_a_key_that_others_can_touch_is_refused(tmp_path: Path, bits: int) -> None:
    PlatformKeys.create(tmp_path)
    (tmp_path / "signing" / "person.seed").chmod(bits)
    with pytest.raises(DeniedError) as caught:
        PlatformKeys.load(tmp_path)
    assert "chmod 600" in caught.value.hint
    SigningKeys.load(tmp_path, (Role.ATTEMPT,))
    with pytest.raises(DeniedError):
        PlatformKeys.create(tmp_path)


def test_a_link_is_no_key_file(tmp_path: Path) -> None:
    write_private(tmp_path / "real", b"x")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(DeniedError):
        read_private(tmp_path / "link")


def test_an_open_directory_is_closed(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir(mode=0o755)
    (tmp_path / "open").chmod(0o755)
    assert mode(private_dir(tmp_path / "open")) == 0o700


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    write_private(tmp_path / "a", b"old")
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "full").mkdir()
    with pytest.raises(OSError):
        write_private(tmp_path / "d", b"new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "d"]
    write_private(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"new"


@pytest.mark.parametrize("text", ["", "SAABC", "garbage\n", "ä" * 58])
def test_a_file_without_a_key_is_named(tmp_path: Path, text: str) -> None:
    PlatformKeys.create(tmp_path)
    write_private(tmp_path / "operator.seed", text.encode())
    with pytest.raises(InvalidInput, match=r"operator\.seed"):
        PlatformKeys.load(tmp_path)


def test_a_key_shows_no_seed() -> None:
    key = Key.new(USER)
    assert key.seed not in repr(key)
    assert key.public.startswith("U")
    assert Key.new(ACCOUNT).public.startswith("A")


def test_a_creds_file_tells_who_it_is(tmp_path: Path) -> None:
    minter = Minter(PlatformKeys.create(tmp_path / "keys").signers())
    credential = minter.person("Ann-B", ("default", "Vision_2"), 600)
    path = credential.write(tmp_path / "me" / "person.creds")
    info = read_info(path)
    assert mode(path) == 0o600
    assert (info.role, info.name, info.projects) == (Role.PERSON, "Ann-B", ("default", "Vision_2"))
    assert info.expires == credential.expires
    assert info.inbox == credential.inbox == "_INBOX.person.Ann-B"
    assert parse_info(credential.jwt) == info
    assert credential.seed not in repr(credential)
    assert credential.jwt not in repr(credential)


@pytest.mark.parametrize("text", ["", "x", "a.b.c", "a.e30.c", "-----BEGIN NATS USER JWT-----\n"])
def test_what_is_no_credential_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.creds").write_text(text)
    with pytest.raises(InvalidInput):
        read_info(tmp_path / "x.creds")


def test_a_missing_credential_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError) as caught:
        read_info(tmp_path / "x.creds")
    assert "incl up" in caught.value.hint


@pytest.mark.parametrize(
    "name", ["", "a.b", "*", ">", "a b", "job_x", "_nodes", "_system", "tracker", "gateway", "admin", "x" * 64, "é"]
)
def test_names_that_no_person_has(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidInput):
        check_user(name)
    with pytest.raises(InvalidInput):
        Minter(PlatformKeys.create(tmp_path).signers()).person(name, ("default",), 60)


@pytest.mark.parametrize("project", ["_nodes", "_system", "*", ">", "a.b", "", "a:b c"])
def test_projects_that_no_credential_has(tmp_path: Path, project: str) -> None:
    with pytest.raises(InvalidInput):
        Minter(PlatformKeys.create(tmp_path).signers()).person("ann", (project,), 60)


@pytest.mark.parametrize(
    ("login", "name"),
    [("ann", "ann"), ("Ann B.", "Ann-B"), ("corp\\ann", "corp-ann"), ("_ann_", "ann"), ("ünï", "n"), ("", "user"),
     ("job_1", "u-job_1"), ("node", "u-node"), ("a" * 200, "a" * 56), ("...", "user")],
)  # fmt: skip
def test_a_login_becomes_a_user_name(login: str, name: str) -> None:
    assert user_name_of(login) == name
    assert check_user(name) == name


def test_a_signer_mints_only_what_it_holds_keys_for(tmp_path: Path) -> None:
    PlatformKeys.create(tmp_path)
    minter = Minter(SigningKeys.load(tmp_path, (Role.ATTEMPT,)))
    assert minter.attempt("default", "e", 1, 0, 60).name == "job_e-1-0"
    with pytest.raises(DeniedError):
        minter.person("ann", ("default",), 60)
    with pytest.raises(DeniedError):
        minter.service(Role.ADMIN)


def test_a_credential_needs_the_tags_of_its_role(tmp_path: Path) -> None:
    minter = Minter(PlatformKeys.create(tmp_path).signers())
    with pytest.raises(InvalidInput, match="project"):
        minter.mint(Role.PERSON, "ann")
    with pytest.raises(InvalidInput):
        minter.person("ann", (), 60)
    with pytest.raises(InvalidInput):
        minter.mint(Role.NODE, "n1", {"project": "default"})
    with pytest.raises(InvalidInput):
        minter.service(Role.NODE)
