"""The pure parts: grants, access, retention."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from incl_registry.access import Claim, check, check_entries, job_of
from incl_registry.errors import UnauthorizedError
from incl_registry.grants import GrantScope, Verb, load_key, sign, verify
from incl_registry.retention import Kept, superseded, unwanted
from incl_registry.testing.running import KEY, entry
from incl_shared.auth.names import job_principal
from incl_shared.errors import DeniedError, InvalidInput, NotFoundError, UnavailableError
from incl_shared.ids import new_id
from incl_shared.subjects import Asker

MINE, OTHER = new_id(), new_id()
SCOPE = GrantScope("default", MINE, Verb.GET, 1000.0)
JOB = Asker("default", job_principal(MINE, 2, 1))


def test_a_grant_says_what_was_signed() -> None:
    assert verify(KEY, sign(KEY, SCOPE), 999.9) == SCOPE


@pytest.mark.parametrize("now", [1000.0, 1e12])
def test_an_expired_grant(now: float) -> None:
    with pytest.raises(UnauthorizedError, match="expired"):
        verify(KEY, sign(KEY, SCOPE), now)


def test_another_key() -> None:
    with pytest.raises(UnauthorizedError, match="not one of this artifact store"):
        verify(b"x" * 32, sign(KEY, SCOPE), 0)


@given(st.text(max_size=80))
def test_any_text_is_refused(text: str) -> None:
    with pytest.raises(UnauthorizedError):
        verify(KEY, text, 0)


@given(at=st.integers(0, 200), char=st.sampled_from("abcXYZ019-_.="))
def test_any_change_is_refused(at: int, char: str) -> None:
    token = sign(KEY, SCOPE)
    at %= len(token)
    changed = token[:at] + char + token[at + 1 :]
    try:
        assert verify(KEY, changed, 0) == SCOPE
    except UnauthorizedError:
        assert changed != token


def test_the_key_is_made_once_and_for_its_owner(tmp_path: Path) -> None:
    path = tmp_path / "grants.key"
    key = load_key(path)
    assert len(key) == 32
    assert path.stat().st_mode & 0o777 == 0o600
    assert load_key(path) == key
    path.chmod(0o640)
    with pytest.raises(InvalidInput, match="others can read") as caught:
        load_key(path)
    assert caught.value.hint == f"chmod 600 {path}"
    path.chmod(0o600)
    path.write_bytes(os.urandom(5))
    with pytest.raises(InvalidInput, match="is no key"):
        load_key(path)


ALLOWED = [
    (Asker("default", "ann"), Verb.PUT, None),
    (Asker("default", "ann"), Verb.PUT, Claim("default", "ann")),
    (Asker("default", "ann"), Verb.PUT, Claim("default", None)),
    (Asker("default", "bob"), Verb.GET, Claim("default", "ann")),
    (JOB, Verb.PUT, None),
    (JOB, Verb.PUT, Claim("default", "ann")),
    (JOB, Verb.GET, Claim("default", "ann")),
]
DENIED = [
    (Asker("other", "ann"), Verb.PUT, Claim("default", "ann")),
    (Asker("other", "ann"), Verb.GET, Claim("default", "ann")),
    (Asker("default", "bob"), Verb.PUT, Claim("default", "ann")),
    (Asker("other", JOB.user), Verb.GET, Claim("default", "ann")),
    (Asker("default", job_principal(OTHER, 1, 0)), Verb.GET, Claim("default", "ann")),
    (Asker("default", job_principal(OTHER, 1, 0)), Verb.PUT, None),
    (Asker("default", "job_nonsense"), Verb.GET, Claim("default", "ann")),
    (Asker("default", "job_a-b-c-d"), Verb.PUT, None),
]


@pytest.mark.parametrize(("asker", "verb", "claim"), ALLOWED)
def test_allowed(asker: Asker, verb: Verb, claim: Claim | None) -> None:
    check(asker, MINE, verb, claim)


@pytest.mark.parametrize(("asker", "verb", "claim"), DENIED)
def test_denied(asker: Asker, verb: Verb, claim: Claim | None) -> None:
    with pytest.raises(DeniedError):
        check(asker, MINE, verb, claim)


def test_what_nobody_stored() -> None:
    with pytest.raises(NotFoundError):
        check(Asker("default", "ann"), MINE, Verb.GET, None)
    with pytest.raises(UnavailableError, match="yet"):
        check(JOB, MINE, Verb.GET, None)  # it was assigned, so the event of its experiment is on the way
    assert job_of(Asker("default", "ann")) is None


@pytest.mark.parametrize("path", ["/etc/passwd", "../x", "a/../../x", "a//b", "a/./b", "a/", ".", "..", "nul\0"])
def test_paths_that_no_client_could_keep(path: str) -> None:
    with pytest.raises(InvalidInput, match="not a path inside"):
        check_entries(Asker("default", "ann"), (entry(b"x", path),))


@pytest.mark.parametrize("kind", ["", "Output", "a b", "-x", "../x"])
def test_kinds(kind: str) -> None:
    with pytest.raises(InvalidInput, match="not a kind"):
        check_entries(Asker("default", "ann"), (entry(b"x", kind=kind),))


def test_a_job_speaks_for_its_own_rank_alone() -> None:
    check_entries(JOB, (entry(b"x", attempt=2, rank=1),))
    for attempt, rank in ((1, 1), (3, 1), (2, 0), (0, 0)):
        with pytest.raises(DeniedError, match="cannot list files of attempt"):
            check_entries(JOB, (entry(b"x", attempt=attempt, rank=rank),))


def test_the_newest_checkpoint_of_every_rank_is_kept() -> None:
    rank0 = [Kept(1, 1, 0, 10), Kept(2, 1, 0, 20), Kept(3, 1, 0, 20), Kept(4, 2, 0, 5)]
    assert superseded([]) == []
    assert superseded(rank0[:1]) == []
    assert superseded(rank0[:3]) == [1]
    assert superseded(rank0) == [1, 2, 3]
    late = Kept(9, 1, 1, 20)
    assert superseded([*rank0[:3], late]) == [1]
    assert superseded([*rank0, late]) == [1]


@given(
    st.lists(st.tuples(st.integers(1, 3), st.integers(0, 2), st.integers(-1, 4)), max_size=30).map(
        lambda rows: [Kept(index, *row) for index, row in enumerate(rows)]
    )
)
def test_no_rank_loses_its_newest(files: list[Kept]) -> None:
    gone = set(superseded(files))
    for rank in {file.rank for file in files}:
        newest = max((file.attempt, file.step) for file in files if file.rank == rank)
        assert not any(file.id in gone for file in files if file.rank == rank and (file.attempt, file.step) == newest)


def test_the_best_checkpoint_is_wanted() -> None:
    assert unwanted([]) == []
    assert unwanted([Kept(1, 1, 0, 1), Kept(2, 1, 0, 2)]) == []
    alone = [Kept(1, 1, 0, 1, 0.5), Kept(2, 1, 0, 2, 0.9), Kept(3, 1, 0, 3), Kept(4, 2, 0, 1, 0.1)]
    assert unwanted(alone) == [1, 3]
    parts = [Kept(1, 1, 0, 1, 0.5), Kept(2, 1, 0, 1), Kept(3, 1, 0, 2, 0.4), Kept(4, 1, 0, 3)]
    assert unwanted(parts) == [3]


def test_the_best_checkpoint_is_one_that_every_rank_wrote() -> None:
    whole = [Kept(1, 1, 0, 1, 0.5), Kept(2, 1, 1, 1)]
    part = Kept(3, 1, 0, 2, 0.9)
    assert unwanted([*whole, part]) == []
    newest = [Kept(4, 2, 0, 1, 0.1), Kept(5, 2, 1, 1)]
    assert unwanted([*whole, part, *newest]) == [3]
