"""Who holds a lease, and whether he is gone for sure."""

from __future__ import annotations

import subprocess
import sys

from incl_shared.holders import is_gone, own_holder

_SAY = "from incl_shared.holders import own_holder; print(own_holder(), flush=True); input()"


def test_a_process_is_gone_once_it_has_ended() -> None:
    process = subprocess.Popen([sys.executable, "-c", _SAY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    holder = process.stdout.readline().strip()
    assert not is_gone(holder)
    process.kill()
    process.wait(10)
    assert is_gone(holder)
    process.communicate()


def test_nothing_is_known_of_other_machines_and_names() -> None:
    machine, pid, start, rest = own_holder().split(":")
    assert not is_gone(f"{machine}:{pid}:{start}:{rest}")
    assert is_gone(f"{machine}:{pid}:{int(start) + 1}:{rest}")
    assert not is_gone(f"elsewhere:{pid}:{int(start) + 1}:{rest}")
    assert not is_gone("scheduler-1")
    assert not is_gone("")


def test_two_of_one_process_are_two() -> None:
    assert own_holder() != own_holder()
