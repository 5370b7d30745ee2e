"""A machine gets its credential: once, for a key of its own, whatever becomes of the first answers."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from incl_agent import enrolling
from incl_agent.enrolling import Refused, enroll
from incl_shared.auth import jwt
from incl_shared.errors import UnavailableError

TOKEN = "t" * 43


class Platform:
    """A gateway that answers what it is told to, in order; the last answer again and again."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, Any]] = [(201, {"jwt": "a.b.c", "expires": 1.0})]
        self.asked: list[dict[str, Any]] = []
        self.tokens: list[str] = []
        platform = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                platform.asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                platform.tokens.append(self.headers["Authorization"])
                status, said = platform.answers.pop(0) if len(platform.answers) > 1 else platform.answers[0]
                body = said if isinstance(said, bytes) else json.dumps(said).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}/api/v1/nodes/enroll"

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def platform() -> Iterator[Platform]:
    made = Platform()
    yield made
    made.close()


@pytest.fixture
def token(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text(TOKEN)
    return path


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(enrolling, "_FIRST_S", 0.01)


def test_the_token_is_traded_once_and_goes(platform: Platform, token: Path, tmp_path: Path) -> None:
    creds = tmp_path / "node.creds"
    enroll(platform.url, token, creds, "vm-1")
    (asked,) = platform.asked
    assert asked["node"] == "vm-1"
    assert platform.tokens == [f"Bearer {TOKEN}"]
    text = creds.read_text()
    seed = next(line for line in text.splitlines() if line.startswith("SU"))
    assert jwt.Key(seed).public == asked["key"], "the seed stays here"
    assert "a.b.c" in text
    assert creds.stat().st_mode & 0o777 == 0o600
    assert not token.exists()
    assert not (tmp_path / "node.seed").exists()
    enroll(platform.url, token, creds, "vm-1")
    assert len(platform.asked) == 1


def test_an_answer_that_got_lost_is_asked_for_with_the_same_key(
    platform: Platform, token: Path, tmp_path: Path
) -> None:
    good = platform.answers[0]
    platform.answers = [(503, {"title": "starting"}), (200, b"not json"), good]
    enroll(platform.url, token, tmp_path / "node.creds", "vm-1")
    assert len({asked["key"] for asked in platform.asked}) == 1
    assert len(platform.asked) == 3


def test_a_crash_in_between_keeps_the_key(platform: Platform, token: Path, tmp_path: Path) -> None:
    platform.answers = [(503, {})]
    with pytest.raises(UnavailableError):
        enroll(platform.url, token, tmp_path / "node.creds", "vm-1", patience_s=0.0)
    assert token.exists()
    platform.answers = [(201, {"jwt": "a.b.c"})]
    enroll(platform.url, token, tmp_path / "node.creds", "vm-1")
    assert platform.asked[0]["key"] == platform.asked[1]["key"]


@pytest.mark.parametrize("status", [401, 403, 404, 422])
def test_a_refusal_is_final_and_told(platform: Platform, token: Path, tmp_path: Path, status: int) -> None:
    platform.answers = [(status, {"title": "the token of vm-1 was used before"})]
    with pytest.raises(Refused, match="used before"):
        enroll(platform.url, token, tmp_path / "node.creds", "vm-1")
    assert len(platform.asked) == 1
    assert not (tmp_path / "node.creds").exists()


def test_without_a_token_there_is_nothing_to_trade(platform: Platform, tmp_path: Path) -> None:
    with pytest.raises(Refused, match="no token"):
        enroll(platform.url, tmp_path / "token", tmp_path / "node.creds", "vm-1")
    assert platform.asked == []


def test_a_platform_that_is_away_is_waited_for(token: Path, tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="did not let this machine in"):
        enroll("http://127.0.0.1:9/enroll", token, tmp_path / "node.creds", "vm-1", patience_s=0.1)
    assert token.exists()
