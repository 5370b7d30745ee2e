"""incl share."""

from __future__ import annotations

import time
from typing import Any

import pytest

from incl_cli.commands.share import life
from incl_cli.testing import FakePlatform, Run
from incl_shared.errors import InvalidInput
from incl_shared.queries.registry import Entry


@pytest.fixture
def shared(fake: FakePlatform) -> Any:
    view = fake.add(name="digits")
    files = (("output", "report.html", 1, 0), ("output", "report.html", 2, 0), ("checkpoint", "model.npz", 2, 0),
             ("output", "log.txt", 2, 0), ("output", "log.txt", 2, 1), ("archive", "points", 2, 0))  # fmt: skip
    fake.entries[view.row.id] = [
        Entry(kind=kind, path=path, attempt=attempt, rank=rank, sha256=f"{number}" * 64, size=10)
        for number, (kind, path, attempt, rank) in enumerate(files)
    ]
    return view.row.id


def test_the_link_alone_is_data(shared: str, cli: Run) -> None:
    result = cli("share", shared, "report.html")
    assert (result.code, result.out) == (0, "https://incl.example/shared/x.y/report.html\n")
    assert "whoever has the link" in result.err
    said = cli("share", shared, "report.html", "--for", "7d", "--json").json
    assert (said["attempt"], said["sha256"]) == (2, "1" * 64)
    assert abs(said["expires"] - time.time() - 7 * 86_400) < 60
    assert cli("share", shared, "report.html", "--attempt", "1", "--json").json["sha256"] == "0" * 64


def test_a_link_to_this_machine_says_so(shared: str, fake: FakePlatform, cli: Run) -> None:
    fake.store_url = "http://127.0.0.1:4423"
    assert "INCL_REGISTRY_PUBLIC_URL" in cli("share", shared, "model.npz").err


def test_one_file_at_a_time(shared: str, cli: Run) -> None:
    several = cli("share", shared, "log.txt")
    assert several.code == 2
    assert "2 files" in several.err
    assert "--rank" in several.err
    assert cli("share", shared, "log.txt", "--rank", "1", "--json").json["sha256"] == "4" * 64
    assert cli("share", shared, "points").code == 4
    assert cli("share", shared, "no.txt").code == 4


def test_how_long() -> None:
    assert [life(text) for text in ("1m", "90m", "24h", "7d")] == [60, 5400, 86_400, 604_800]
    for text in ("", "0m", "8d", "1", "1w", "-1h", "1.5h", "99999999h"):
        with pytest.raises(InvalidInput, match=r"is no time|is too (short|long) for a link"):
            life(text)
