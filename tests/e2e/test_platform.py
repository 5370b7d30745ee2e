"""incl up, down, status, doctor: on a fresh machine, with jobs that outlive it, in one process and in many."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from incl_local.testing import Home, wait

PATIENT = (
    "import incl, pathlib, time\n"
    "for i in range(10_000):\n"
    "    incl.log({'i': i}, step=i)\n"
    "    print('tick', i, flush=True)\n"
    "    if pathlib.Path(incl.config['GO']).exists():\n        break\n"
    "    time.sleep(0.05)\n"
)


def ticks(home: Home, ref: str) -> list[int]:
    """The numbers that the log of a patient job has."""
    return [int(line.split()[-1]) for line in home.incl("logs", ref).out.splitlines() if "tick" in line]


@pytest.mark.parametrize("flags", [(), ("--processes",)])
def test_jobs_go_on_without_the_platform_and_are_found_again(fresh: Home, flags: tuple[str, ...]) -> None:
    work = fresh.folder / "work"
    work.mkdir()
    (work / "train.py").write_text(PATIENT)
    go = fresh.folder / "go"
    assert fresh.incl("up", "--detach", *flags, timeout=90).code == 0
    identifier = fresh.submit("--env", f"GO={go}", "--", "python", "train.py", cwd=work)
    wait(lambda: len(ticks(fresh, identifier)) > 5, 30, "some ticks")
    assert fresh.incl("down").code == 0
    assert fresh.incl("up", "--detach", *flags, timeout=90).code == 0
    before = len(ticks(fresh, identifier))
    wait(lambda: len(ticks(fresh, identifier)) > before + 5, 30, "more ticks")
    go.touch()
    view = wait(lambda: (v := fresh.show(identifier)) and v["settled"] and v, 40, "settled")
    assert view["row"]["state"] == "finished"
    assert view["row"]["attempts"] == 1
    seen = ticks(fresh, identifier)
    assert seen == list(range(len(seen)))
    assert view["gaps"] == 0
    assert view["metrics"][0]["points"] == len(seen) or any(m["points"] == len(seen) for m in view["metrics"])


def test_status_and_doctor_say_what_is(fresh: Home) -> None:
    assert fresh.incl("status").code == 4
    sick = fresh.incl("doctor")
    assert sick.code == 1
    assert "incl up" in sick.out
    assert fresh.incl("up", "--detach", timeout=90).code == 0
    status = fresh.incl("status", "--json")
    assert status.code == 0, status.err
    assert all(service["ready"] for service in status.json["services"])
    well = fresh.incl("doctor", "--json")
    assert well.code == 0, well.out
    assert not [finding for finding in well.json if finding["level"] in ("error", "warning")]
    second = fresh.incl("up")
    assert second.code == 5
    assert "incl status" in second.err


def test_a_service_that_dies_is_started_again(fresh: Home) -> None:
    assert fresh.incl("up", "--detach", "--processes", timeout=90).code == 0
    before = {s["name"]: s for s in fresh.incl("status", "--json").json["services"]}
    for name in ("tracker", "provisioner", "agent", "registry", "gateway", "hpo"):
        os.kill(before[name]["pid"], signal.SIGKILL)

    def back() -> bool:
        services = {s["name"]: s for s in fresh.incl("status", "--json").json["services"]}
        return all(s["ready"] and s["restarts"] == 1 and s["pid"] != before[n]["pid"] for n, s in services.items())

    wait(back, 60, "every service to be back")
    work = fresh.folder / "work"
    work.mkdir()
    (work / "t.py").write_text("import incl\nincl.log({'x': 1})\n")
    done = fresh.incl("run", "--", "python", "t.py", cwd=work)
    assert done.code == 0, done.err


def test_a_bus_that_dies_is_started_again_and_nothing_is_lost(fresh: Home) -> None:
    work = fresh.folder / "work"
    work.mkdir()
    (work / "train.py").write_text(PATIENT)
    go = fresh.folder / "go"
    assert fresh.incl("up", "--detach", timeout=90).code == 0
    identifier = fresh.submit("--env", f"GO={go}", "--", "python", "train.py", cwd=work)
    wait(lambda: len(ticks(fresh, identifier)) > 3, 30, "some ticks")
    run_file = fresh.data / "run.json"
    first = json.loads(run_file.read_text())["children"]["nats"]["pid"]
    os.kill(first, signal.SIGKILL)
    wait(
        lambda: json.loads(run_file.read_text())["children"].get("nats", {}).get("pid", first) != first, 20, "a new bus"
    )
    before = wait(lambda: len(ticks(fresh, identifier)), 30, "ticks after the bus came back")
    wait(lambda: len(ticks(fresh, identifier)) > before + 3, 30, "more ticks")
    go.touch()
    view = wait(lambda: (v := fresh.show(identifier)) and v["settled"] and v, 40, "settled")
    seen = ticks(fresh, identifier)
    assert seen == list(range(len(seen)))
    assert (view["row"]["state"], view["row"]["attempts"], view["gaps"]) == ("finished", 1, 0)


def test_a_killed_platform_starts_again(fresh: Home) -> None:
    assert fresh.incl("up", "--detach", timeout=90).code == 0
    run_file = fresh.data / "run.json"
    os.kill(json.loads(run_file.read_text())["pid"], signal.SIGKILL)
    wait(lambda: fresh.incl("status").code == 4, 10, "the platform to be gone")
    assert fresh.incl("up", "--detach", timeout=90).code == 0
    assert fresh.incl("status").code == 0


def test_everything_of_the_platform_is_private(fresh: Home) -> None:
    assert fresh.incl("up", "--detach", timeout=90).code == 0
    seen = [p for p in fresh.data.rglob("*") if p.suffix in (".creds", ".seed", ".key") or "keys" in p.parts]
    assert len(seen) > 8
    assert [p for p in [fresh.data, *seen] if p.stat().st_mode & 0o077] == []


def test_the_default_folder_is_that_of_the_user(fresh: Home, tmp_path: Path) -> None:
    home = {"INCL_DATA": "", "XDG_DATA_HOME": ""}
    try:
        assert fresh.incl("up", "--detach", timeout=90, env=home).code == 0
        assert (fresh.folder / ".local" / "share" / "incl" / "run.json").exists()
        assert (fresh.folder / ".config" / "incl" / "context.json").exists()
    finally:
        assert fresh.incl("down", env=home).code == 0
