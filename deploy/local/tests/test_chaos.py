"""The tools of the chaos rounds: a gate that holds requests, ledgers that are read back, blows that seeds draw."""

from __future__ import annotations

import http.client
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from incl_local.chaos.gates import Gate
from incl_local.chaos.ledger import read
from incl_local.chaos.phases import PHASES, WITH_PROCESS
from incl_local.chaos.seeds import draw
from incl_local.chaos.victims import Fault
from incl_shared.testing.invariants import Logged, point
from incl_shared.testing.wait import until_sync


class Echo(http.server.BaseHTTPRequestHandler):
    """Answers with the size of what came."""

    def do_PUT(self) -> None:
        size = len(self.rfile.read(int(self.headers["Content-Length"])))
        answer = str(size).encode()
        self.send_response(201)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *words: object) -> None:
        pass


@pytest.fixture
def gate() -> Iterator[Gate]:
    store = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    serving = threading.Thread(target=store.serve_forever)
    serving.start()
    try:
        with Gate().running() as made:
            made.lead_to(store.server_address[1])
            yield made
    finally:
        store.shutdown()
        serving.join()
        store.server_close()


def put(gate: Gate, path: str, body: bytes, timeout: float = 10.0) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", gate.port, timeout=timeout)
    try:
        connection.request("PUT", path, body=body)
        return connection.getresponse().read().decode()
    finally:
        connection.close()


def test_a_gate_holds_what_matches_and_lets_all_else_through(gate: Gate) -> None:
    hold = gate.hold(lambda line: line.startswith("PUT /held"))
    answers: list[str] = []
    held = threading.Thread(target=lambda: answers.append(put(gate, "/held", b"x" * 300_000)))
    held.start()
    assert hold.seen.wait(10)
    assert put(gate, "/other", b"y" * 10) == "10"
    assert answers == []
    assert not hold.answered.is_set()
    gate.release()
    held.join(10)
    assert answers == ["300000"]
    assert hold.answered.wait(10)
    assert put(gate, "/held", b"z") == "1"


def test_who_gave_up_at_the_gate_is_forgotten(gate: Gate) -> None:
    hold = gate.hold(lambda line: "/held" in line)
    with pytest.raises(TimeoutError):
        put(gate, "/held", b"", timeout=0.2)
    assert hold.seen.is_set()
    until_sync(lambda: not gate.busy, what="the gate to forget")
    gate.release(hold)
    assert put(gate, "/held", b"z") == "1"


def test_a_ledger_tells_what_is_sure_and_what_is_not(tmp_path: Path) -> None:
    entries = [
        {"k": "began", "t": 10.0, "resumed": 4, "attempt": 2},
        {"k": "try", "t": 10.5, "step": 5},
        {"k": "point", "t": 10.6, "step": 5},
        {"k": "line", "t": 10.7, "step": 5},
        {"k": "try", "t": 11.0, "step": 6},
        {"k": "point", "t": 11.1, "step": 6},
    ]
    (tmp_path / "x-2-0-77.jsonl").write_text("".join(json.dumps(e) + "\n" for e in entries) + '{"k": "li')
    (book,) = read(tmp_path)
    assert (book.experiment, book.attempt, book.rank, book.steps) == ("x", 2, 0, [5])
    assert (book.ran().began, book.ran().ended, book.ran().resumed) == (10.0, 11.1, 4)
    assert (book.first_after(10.6), book.first_after(11.1)) == (6, None)
    assert list(book.logged()) == [
        Logged("x", 2, 0, "metrics", point("loss", 5, 1.75), "5", sure=True),
        Logged("x", 2, 0, "logs", "step 5", sure=True),
        Logged("x", 2, 0, "metrics", point("loss", 6, 2.0), "6", sure=True),
        Logged("x", 2, 0, "logs", "step 6", sure=False),
    ]


def test_a_seed_is_one_blow_and_many_seeds_are_all_of_them() -> None:
    blows = [draw(seed) for seed in range(400)]
    assert blows == [draw(seed) for seed in range(400)]
    assert {blow.fault for blow in blows} == set(Fault)
    assert {phase for blow in blows for phase in blow.phases} == set(PHASES)
    for blow in blows:
        assert blow.phases
        if blow.victim in ("shim", "job"):
            assert blow.fault is not Fault.RESTART
            assert set(blow.phases) <= set(WITH_PROCESS)
