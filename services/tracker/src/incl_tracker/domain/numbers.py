"""Numbers as answers carry them: seven digits for charts, and names for what JSON has no number for."""

from __future__ import annotations

import math

import numpy as np

from incl_tracker.domain.samples import Floats, Mask

DIGITS = 7
_POWERS = 10.0 ** np.arange(23)
"""Powers of ten that are exact."""


def significant(values: Floats) -> Floats:
    """Values to seven significant digits, so that they take few bytes as text; what is not finite stays as it is."""
    result = values.copy()
    real = np.isfinite(values) & (values != 0)
    some = values[real]
    shift = DIGITS - 1 - np.floor(np.log10(np.abs(some))).astype(np.int64)
    scale = _POWERS[np.minimum(np.abs(shift), len(_POWERS) - 1)]
    with np.errstate(over="ignore"):
        rounded = np.where(shift >= 0, np.rint(some * scale) / scale, np.rint(some / scale) * scale)
    beyond: Mask = np.abs(shift) >= len(_POWERS)
    rounded[beyond] = [float(f"{value:.{DIGITS}g}") for value in some[beyond].tolist()]
    result[real] = rounded
    return result


def number_or_name(value: float) -> float | str:
    """A value as JSON can carry it: NaN and the infinities by their names."""
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def named(values: Floats) -> list[float | str]:
    """The same of many."""
    found: list[float | str] = values.tolist()
    for place in np.flatnonzero(~np.isfinite(values)).tolist():
        found[place] = number_or_name(float(values[place]))
    return found
