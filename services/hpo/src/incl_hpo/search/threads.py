"""One thread of linear algebra while a question is answered.

The matrices are small: several threads spend their time waiting for each other, and take the cores of other work (with
OpenBLAS on two cores twice the time by the clock, and four times that of the CPU).
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import cache

from threadpoolctl import ThreadpoolController


@cache
def _controller() -> ThreadpoolController:
    """Made once: looking for the loaded libraries takes longer than the rest."""
    return ThreadpoolController()


def one_thread() -> AbstractContextManager[object]:
    """As said, and as before afterwards.

    The limit is the process's. Where several threads ask at once, threadpoolctl lets one of them set it and take it
    back, so that none is left over.
    """
    limited: AbstractContextManager[object] = _controller().limit(limits=1, user_api="blas")
    return limited
