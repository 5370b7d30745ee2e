"""The parts: contexts, words and columns, charts, what is captured of Python and git."""

from __future__ import annotations

import io
import json
import math
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from incl_cli import text
from incl_cli.arguments import Formatter, Parser
from incl_cli.chart import Line, draw
from incl_cli.context import Context, exposed, load_context, save_context
from incl_cli.documents import page
from incl_cli.output import Output, jsonable
from incl_cli.provenance import git_state, python_state
from incl_cli.testing import Run
from incl_cli.waterfall import bar
from incl_shared.errors import InvalidInput, UnavailableError

CONTEXT = Context(("nats://127.0.0.1:4422",), "/somewhere/user.creds", "default", "ada", data_dir="/data")


def test_a_context_is_private_and_comes_back(tmp_path: Path) -> None:
    path = save_context(CONTEXT, tmp_path / "new" / "context.json")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert load_context(path) == CONTEXT
    assert exposed(CONTEXT, path) == []
    path.chmod(0o644)
    assert "chmod 600" in exposed(CONTEXT, path)[0]


def test_the_project_of_a_context_can_be_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save_context(CONTEXT, tmp_path / "context.json")
    monkeypatch.setenv("INCL_PROJECT", "vision")
    assert load_context(path).project == "vision"
    assert load_context(path, project="speech").project == "speech"
    with pytest.raises(InvalidInput, match="not a project name"):
        load_context(path, project="a.b")


def test_unknown_fields_of_a_newer_context_are_ignored(tmp_path: Path) -> None:
    path = save_context(CONTEXT, tmp_path / "context.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "later": 1}))
    assert load_context(path) == CONTEXT


@pytest.mark.parametrize("content", ["", "{", "[]", '{"urls": []}', '{"urls": [], "project": "a", "user": "b"}'])
def test_a_damaged_context_is_told(tmp_path: Path, content: str) -> None:
    path = tmp_path / "context.json"
    path.write_text(content)
    with pytest.raises(InvalidInput, match=r"context\.json"):
        load_context(path)


def test_no_context_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError) as caught:
        load_context(tmp_path / "none.json")
    assert "incl up" in caught.value.hint


def test_a_context_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidInput, match="cannot write"):
        save_context(CONTEXT, tmp_path / "file" / "context.json")


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "0.0s"), (59.94, "59.9s"), (59.96, "1m00s"), (3599.6, "1h00m"), (90_000, "1d01h"), (None, "-"), (-1, "0.0s")],
)
def test_durations(seconds: float | None, said: str) -> None:
    assert text.duration(seconds) == said


@pytest.mark.parametrize(
    ("count", "said"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (99_600, "100 kB"), (1.5e9, "1.5 GB"), (2e15, "2000 TB")],
)
def test_sizes(count: float, said: str) -> None:
    assert text.size(count) == said


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (3.0, "3"),
        (0.1 + 0.2, "0.3"),
        (1e-9, "1e-09"),
        (math.nan, "nan"),
        (-math.inf, "-inf"),
        (12345678.0, "1.2346e+07"),
    ],
)
def test_numbers(value: float, said: str) -> None:
    assert text.number(value) == said


def test_a_jobs_words_cannot_steer_the_terminal() -> None:
    said = "\x1b]0;title\x07\x1b[2J\x1b[31mred\x1b[0m\x1b[10Aup\x9b5A\x08"
    shown = text.harmless(said, colors=True)
    assert "\x1b[31mred" in shown
    assert shown.endswith("\x1b[0m")
    for bad in ("\x1b]", "\x1b[2J", "\x1b[10A", "\x9b", "\x08", "\x07"):
        assert bad not in shown
    assert "\x1b" not in text.harmless(said, colors=False)
    assert text.harmless("plain\ttext é 漢", colors=True) == "plain\ttext é 漢"


def test_wide_letters_are_cut_by_what_they_take() -> None:
    assert text.cells("漢字") == 4
    assert text.cells("e\u0301") == 1
    assert text.cells(text.fit("漢字漢字", 5)) <= 5
    assert text.fit("short", 5) == "short"


def test_a_list_breaks_between_its_items_only() -> None:
    lines = text.wrapped("next: ", ["incl show a", "incl logs a", "incl rm a"], " · ", 30)
    assert lines == ["next: incl show a ·", "  incl logs a · incl rm a"]
    assert text.wrapped("next: ", ["incl show a", "incl logs a"], " · ", 10_000) == ["next: incl show a · incl logs a"]


@pytest.mark.parametrize("columns", [60, 80, 100, 200])
def test_help_fits_the_terminal(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr(Formatter, "columns", None)
    parser = Parser(prog="incl")
    parser.add_argument("--word", help="word " * 60)
    widths = [len(line) for line in parser.format_help().splitlines()]
    assert min(columns, 100) - 8 < max(widths) <= min(columns, 100)


def test_json_has_no_nan() -> None:
    assert jsonable({"a": [math.nan, math.inf, -math.inf, 1.5]}) == {"a": ["NaN", "Infinity", "-Infinity", 1.5]}


def chart(*lines: Line, log: bool = False) -> list[str]:
    return draw(Output(io.StringIO(), io.StringIO()), "loss", lines, width=60, height=8, log=log)


def test_a_chart_goes_from_corner_to_corner() -> None:
    rows = chart(Line("a", [0, 10], [0.0, 1.0]))
    plot = [row.split("┤")[-1].split("│")[-1] for row in rows[1:9]]
    assert plot[0].rstrip() != ""
    assert len(plot[0].rstrip()) > 40
    assert plot[-1].strip() != ""
    assert plot[-1].rstrip() == plot[-1].rstrip()[:8]
    assert rows[1].split()[0] == "1"
    assert rows[8].split()[0] == "0"
    assert rows[-1].split() == ["0", "step", "10"]


def test_a_single_point_a_constant_and_nothing() -> None:
    assert any("⠁" <= letter <= "⣿" for row in chart(Line("a", [5], [2.0])) for letter in row)
    assert len(chart(Line("a", [0, 1, 2], [3.0, 3.0, 3.0]))) == 11
    assert "no finite values" in chart(Line("a", [0], [math.nan]))[1]
    assert "above 0" in chart(Line("a", [0], [-1.0]), log=True)[1]


def test_a_logarithmic_axis_has_labels_in_values() -> None:
    rows = chart(Line("a", [0, 1], [1e-4, 1.0]), log=True)
    assert rows[1].split()[0] == "1"
    assert float(rows[8].split()[0]) == pytest.approx(1e-4)


def test_bars_have_their_place_and_never_vanish() -> None:
    assert bar(0, 10, 10) == "█" * 10
    assert bar(5, 7, 10) == "     ██   "
    assert bar(9.99, 10, 10).strip() != ""
    assert bar(3, 3, 10).strip() == "▏"
    assert all(len(bar(start / 7, end / 3, 10)) == 10 for start in range(70) for end in range(30))


def test_the_users_python_is_asked_once_until_its_packages_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INCL_HOME", str(tmp_path / "home"))
    site = tmp_path / "site-packages"
    (site / "some_thing-1.2.dist-info").mkdir(parents=True)
    (site / "some_thing-1.2.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: some-thing\nVersion: 1.2\n"
    )
    calls = tmp_path / "calls"
    program = tmp_path / "bin" / "python"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\necho x >> "{calls}"\nPYTHONPATH="{site}" exec "{sys.executable}" "$@"\n')
    program.chmod(0o755)
    first = python_state(str(program.parent))
    assert first.version == ".".join(map(str, sys.version_info[:3]))
    assert b"some-thing==1.2\n" in first.packages
    assert python_state(str(program.parent)) == first
    assert calls.read_text() == "x\n"
    (site / "some_thing-1.2.dist-info").rename(site / "some_thing-1.3.dist-info")
    (site / "some_thing-1.3.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: some-thing\nVersion: 1.3\n"
    )
    os.utime(site, (1, 1))
    assert b"some-thing==1.3\n" in python_state(str(program.parent)).packages


def test_no_python_and_a_broken_one_are_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INCL_HOME", str(tmp_path / "home"))
    assert python_state(str(tmp_path)).version == ""
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\nexit 3\n")
    program.chmod(0o755)
    assert python_state(str(tmp_path)).packages == b""


def test_git_outside_and_without_a_commit(tmp_path: Path) -> None:
    assert git_state(tmp_path).commit is None
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    state = git_state(tmp_path)
    assert (state.commit, state.note) == (None, "git: no commit yet")


# --- login, against a real HTTP server


class Gateway(BaseHTTPRequestHandler):
    """Knows one token."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        good = self.path == "/api/v1/credentials" and self.headers["Authorization"] == "Bearer incl_good"
        body: dict[str, Any] = {"code": "denied", "message": "a valid API token is needed", "title": "x", "status": 401}
        if good:
            body = {
                "user": "ada", "projects": ["vision", "speech"], "urls": ["nats://127.0.0.1:4422"], "expires": 1.0,
                "creds": "-----BEGIN NATS USER JWT-----\n", "inbox_prefix": "_INBOX.person.ada",
            }  # fmt: skip
        content = json.dumps(body).encode()
        self.send_response(201 if good else 401)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def gateway() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Gateway)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_login_writes_a_context_and_a_private_credential(
    cli: Run, gateway: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INCL_TOKEN", "incl_good")
    result = cli("login", gateway, "--json")
    assert result.code == 0, result.err
    assert (result.json["user"], result.json["project"]) == ("ada", "vision")
    context = load_context()
    assert (context.urls, context.inbox) == (("nats://127.0.0.1:4422",), "_INBOX.person.ada")
    assert context.creds is not None
    assert stat.S_IMODE(Path(context.creds).stat().st_mode) == 0o600
    assert cli("login", gateway, "--project", "speech").code == 0
    assert load_context().project == "speech"
    assert cli("login", gateway, "--project", "other").code == 6


def test_login_with_a_bad_token_or_no_gateway(cli: Run, gateway: str, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("incl_bad\n")
    result = cli("login", gateway, "--token-file", str(token))
    assert result.code == 6
    assert "token" in result.err
    assert "incl_bad" not in result.err
    assert cli("login", "http://127.0.0.1:9", "--token", "x").code == 7
    assert cli("login", "ftp://x", "--token", "x").code == 2
    assert cli("login", gateway, "--token", "two words\nhere").code in (2, 6)
    with pytest.raises(UnavailableError):
        load_context()


def test_a_subcommand_says_usage_once() -> None:
    assert "Usage: Usage" not in page()
    assert "Usage: incl secret set" in page()
