"""incl admin stuck: what is told of findings, and how it looks."""

from __future__ import annotations

import io

import pytest

from incl_cli.admin.stuck import _seconds, show
from incl_cli.arguments import UsageProblem
from incl_cli.output import Output
from incl_cli.stuck import Found
from incl_shared.disk import room
from incl_shared.queries.stuck import Finding

WORDS = "waits for the database: database is locked; 1234 more wait, and the words go on for longer than a line is"


def finding(kind: str, severity: str = "error", subject: str = "tracker EVENTS/tracker", since: float = 5.0) -> Finding:
    return Finding.model_validate(
        {
            "kind": kind,
            "severity": severity,
            "subject": subject,
            "since_s": since,
            "reason": WORDS,
            "hint": "incl status   " + WORDS,
        }
    )


class Terminal(io.StringIO):
    """A stream that says it is one."""

    def isatty(self) -> bool:
        return True


def shown(found: Found, columns: int, monkeypatch: pytest.MonkeyPatch) -> tuple[list[str], str]:
    monkeypatch.setenv("COLUMNS", str(columns))
    out, err = Terminal(), Terminal()
    show(Output(out, err, color=False), found)
    return out.getvalue().splitlines(), err.getvalue()


def test_the_worst_comes_first_and_each_once() -> None:
    found = Found()
    found.add([finding("b.b", "note"), finding("a.a", "warning", since=1), finding("a.a", "warning", "x", since=9)])
    found.add([finding("c.c"), finding("a.a", "warning", since=100)])
    assert [(one.kind, one.subject, one.since_s) for one in found.findings] == [
        ("c.c", "tracker EVENTS/tracker", 5.0),
        ("a.a", "x", 9.0),
        ("a.a", "tracker EVENTS/tracker", 1.0),
        ("b.b", "tracker EVENTS/tracker", 5.0),
    ]
    assert found.stuck == 3, "a note asks for nothing"
    found.more["a.a"] = 7
    assert found.stuck == 10


@pytest.mark.parametrize("columns", [40, 80, 140])
def test_it_fits_the_terminal(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    found = Found()
    found.add([finding("consumer.paused", subject="a very long subject " * 9), finding("x.y", "warning")])
    found.more["x.y"] = 3
    lines, said = shown(found, columns, monkeypatch)
    assert max(map(len, lines)) <= columns
    text = " ".join(" ".join(lines).split())
    assert "✗ consumer.paused" in text and "! x.y" in text and "→ incl status" in text
    assert "· 3 more of x.y" in text
    assert WORDS in text
    assert said.startswith("1 error and 1 warning")


def test_words_of_others_do_nothing_to_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    found = Found()
    found.add([finding("x.y", subject="evil\x1b[2J\nname")])
    lines, _ = shown(found, 80, monkeypatch)
    assert "\x1b" not in "".join(lines)
    assert lines[0].startswith("✗ x.y  evil")


@pytest.mark.parametrize(("text", "seconds"), [("30s", 30), ("5m", 300), ("2h", 7200), ("1d", 86_400), ("7", 7)])
def test_times(text: str, seconds: float) -> None:
    assert _seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "-1s", "nan", "inf", "s", "1e99d"])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(UsageProblem):
        _seconds(text)


@pytest.mark.parametrize(
    ("free", "total", "kinds"),
    [
        (2 << 30, 100 << 30, []),
        (900 << 20, 100 << 30, ["disk.nearly-full"]),
        (50 << 20, 100 << 30, ["disk.full"]),
        (100 << 20, 1 << 30, []),
        (40 << 20, 1 << 30, ["disk.nearly-full"]),
        (4 << 20, 1 << 30, ["disk.full"]),
    ],
)
def test_room_on_a_disk(free: int, total: int, kinds: list[str]) -> None:
    assert [one.kind for one in room("/data", free, total)] == kinds
