"""One thread of linear algebra while a question is answered, and as many as before afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Thread

import pytest
from threadpoolctl import ThreadpoolController

from incl_hpo.search.threads import one_thread


def threads() -> set[int]:
    return {one["num_threads"] for one in ThreadpoolController().info() if one["user_api"] == "blas"}


@pytest.fixture
def two() -> Iterator[None]:
    """Two threads, whatever the machine has; set by a thread that is gone, so that nobody owns the limit."""
    before = _set(2)
    yield
    _set(before)


def _set(count: int) -> int:
    """Returns what it was."""
    before = max(threads())

    def work() -> None:
        for library in ThreadpoolController().select(user_api="blas").lib_controllers:
            library.set_num_threads(count)

    thread = Thread(target=work)
    thread.start()
    thread.join()
    return before


@pytest.mark.usefixtures("two")
def test_one_inside_and_as_before_outside() -> None:
    assert threads() == {2}
    with one_thread():
        assert threads() == {1}
        with one_thread():
            assert threads() == {1}
    assert threads() == {2}


@pytest.mark.usefixtures("two")
def test_several_threads_leave_no_limit_behind() -> None:
    inside, out = Barrier(2), Barrier(2)

    def quick() -> None:
        with one_thread():
            inside.wait(10)
        out.wait(10)

    def slow() -> None:
        with one_thread():
            inside.wait(10)
            out.wait(10)

    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(slow), pool.submit(quick)]:
            done.result(20)
    assert threads() == {2}


@pytest.mark.usefixtures("two")
def test_an_error_takes_it_back_too() -> None:
    with pytest.raises(ValueError, match="as asked"), one_thread():
        raise ValueError("as asked")
    assert threads() == {2}
