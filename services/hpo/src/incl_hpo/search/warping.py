"""Values of any scale and shape, made into ones that a Gaussian process is at home with.

Yeo & Johnson (2000): a power with the exponent of the greatest likelihood. Snoek et al. (2014) and HEBO (Cowen-Rivers
et al. 2022) showed how much warping is worth in this place.
"""

from __future__ import annotations

import numpy as np

from incl_hpo.search.parameters import Array

_EXPONENTS = np.linspace(-2.0, 2.0, 33)
_MOST = 1e6


def standardise(values: Array) -> Array:
    """(n,) finite values with mean 0 and deviation 1; all 0 where they do not differ."""
    peak = np.abs(values).max(initial=0.0)
    if not peak:
        return np.zeros_like(values)
    small = values / peak
    centred = small - small.mean()
    deviation = float(np.sqrt(np.mean(centred**2)))
    return centred / deviation if deviation > 1e-13 else np.zeros_like(values)


def yeo_johnson(values: Array, exponent: float) -> Array:
    """(n,) values under the power transformation with this exponent; 1 changes nothing."""
    positive = values >= 0
    up, down = np.where(positive, values, 0.0), np.where(positive, 0.0, -values)
    risen = np.log1p(up) if abs(exponent) < 1e-9 else np.expm1(exponent * np.log1p(up)) / exponent
    other = 2.0 - exponent
    sunk = np.log1p(down) if abs(other) < 1e-9 else np.expm1(other * np.log1p(down)) / other
    return np.where(positive, risen, -sunk)


def warp(values: Array, strength: float = 1.0, bad: float = 1.0) -> Array:
    """(n,) values, bent towards a normal distribution, and standardised; their order stays.

    They are measured from the least, in steps to the median, so that the good half decides and no tail is too long.
    `strength`: 0 does not bend, 1 takes the likeliest exponent. `bad`: what is worse than the median is drawn together
    to this share: how bad it is tells little of where the best lies.
    """
    if len(values) < 3 or not strength:
        return standardise(values)
    small = values / max(np.abs(values).max(initial=0.0), 1e-300)
    risen = small - small.min()
    step = float(np.median(risen))
    if step < 1e-12:
        return standardise(_cut(small))
    risen = np.minimum(risen / step, _MOST)
    logs = float(np.sum(np.log1p(risen)))
    likelihood = [
        -0.5 * len(risen) * np.log(max(float(np.var(yeo_johnson(risen, e))), 1e-300)) + (e - 1.0) * logs
        for e in _EXPONENTS
    ]
    exponent = float(_EXPONENTS[int(np.argmax(likelihood))])
    bent = yeo_johnson(risen, 1.0 + strength * (exponent - 1.0))
    middle = float(np.median(bent))
    return standardise(np.where(bent > middle, middle + bad * (bent - middle), bent))


def _cut(values: Array) -> Array:
    """(n,) values in [-1, 1]; those that tower over all others are brought near: they would press the rest together."""
    if len(values) < 5:
        return values
    low, high = np.quantile(values, [0.0, 0.9])
    return np.asarray(np.minimum(values, high + 5.0 * (high - low))) if high > low else values
