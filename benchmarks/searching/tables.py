"""Real tuning of scikit-learn and LightGBM on data that ships with scikit-learn, all points evaluated beforehand.

Each value is the cross-validated error (3 folds) of a model trained there and then; the tables stay in
.bench/cache/search/tables.
"""

from __future__ import annotations

import json
import math
import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from incl_hpo.search import Categorical, Float, Integer, Space

Fit = Callable[[Mapping[str, Any]], Any]
FOLDS = 3


def key(point: Mapping[str, Any]) -> str:
    """What a point is found by: exact to 9 digits."""
    return json.dumps({n: float(f"{v:.9g}") if isinstance(v, float) else v for n, v in sorted(point.items())})


def _powers(name: str, low: float, high: float, count: int, **more: Any) -> Float:
    """The exponent of 10 is searched, so that a table has all values."""
    return Float(name, low, high, step=(high - low) / (count - 1), **more)


def _svm() -> tuple[Space, Fit]:
    from sklearn.svm import SVC

    space = Space(
        (
            Categorical("kernel", ("rbf", "poly", "sigmoid")),
            _powers("C", -2, 4, 13),
            _powers("gamma", -5, 1, 13),
            Integer("degree", 2, 4, when={"kernel": ["poly"]}),
        )
    )
    return space, lambda p: SVC(
        kernel=p["kernel"], C=10 ** p["C"], gamma=10 ** p["gamma"], degree=p.get("degree", 3), max_iter=2000
    )


def _ridge() -> tuple[Space, Fit]:
    from sklearn.kernel_ridge import KernelRidge

    kernels = Categorical("kernel", ("rbf", "laplacian", "polynomial"))
    degree = Integer("degree", 1, 4, when={"kernel": ["polynomial"]})
    space = Space((kernels, _powers("alpha", -4, 2, 19), _powers("gamma", -4, 1, 16), degree))
    return space, lambda p: KernelRidge(
        kernel=p["kernel"], alpha=10 ** p["alpha"], gamma=10 ** p["gamma"], degree=p.get("degree", 3)
    )


def _sgd() -> tuple[Space, Fit]:
    from sklearn.linear_model import SGDClassifier

    space = Space(
        (
            Categorical("loss", ("hinge", "log_loss", "modified_huber")),
            Categorical("penalty", ("l1", "l2", "elasticnet")),
            _powers("alpha", -6, 0, 13),
            Categorical("rate", ("constant", "adaptive", "invscaling")),
            _powers("eta0", -4, 1, 9),
        )
    )
    return space, lambda p: SGDClassifier(
        loss=p["loss"], penalty=p["penalty"], alpha=10 ** p["alpha"], learning_rate=p["rate"], eta0=10 ** p["eta0"],
        max_iter=20, tol=None, random_state=0,
    )  # fmt: skip


def _models() -> tuple[Space, Fit]:
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.svm import SVC
    from sklearn.tree import DecisionTreeClassifier

    space = Space(
        (
            Categorical("model", ("svm", "near", "tree", "line")),
            _powers("C", -3, 3, 13, when={"model": ["svm", "line"]}),
            _powers("gamma", -5, 1, 13, when={"model": ["svm"]}),
            Integer("k", 1, 30, when={"model": ["near"]}),
            Categorical("weights", ("uniform", "distance"), when={"model": ["near"]}),
            Integer("depth", 1, 10, when={"model": ["tree"]}),
            Integer("leaf", 1, 12, when={"model": ["tree"]}),
        )
    )
    makers: dict[str, Fit] = {
        "svm": lambda p: SVC(C=10 ** p["C"], gamma=10 ** p["gamma"]),
        "near": lambda p: KNeighborsClassifier(p["k"], weights=p["weights"]),
        "tree": lambda p: DecisionTreeClassifier(max_depth=p["depth"], min_samples_leaf=p["leaf"], random_state=0),
        "line": lambda p: LogisticRegression(C=10 ** p["C"], max_iter=200),
    }
    return space, lambda p: makers[p["model"]](p)


def _boosting(kind: str) -> tuple[Space, Fit]:
    import lightgbm

    space = Space(
        (
            _powers("learning_rate", -2.5, 0, 8),
            Integer("num_leaves", 2, 32, log=False, step=6),
            Integer("min_child_samples", 5, 65, step=15),
            Float("feature_fraction", 0.25, 1.0, step=0.25),
        )
    )
    model = getattr(lightgbm, kind)
    return space, lambda p: model(
        n_estimators=30, n_jobs=1, verbose=-1, random_state=0, learning_rate=10 ** p["learning_rate"],
        num_leaves=p["num_leaves"], min_child_samples=p["min_child_samples"], colsample_bytree=p["feature_fraction"],
    )  # fmt: skip


_TABLES: dict[str, tuple[Callable[[], tuple[Space, Fit]], str, int]] = {
    "sklearn/svm-digits": (_svm, "digits", 450),
    "sklearn/ridge-diabetes": (_ridge, "diabetes", 442),
    "sklearn/sgd-cancer": (_sgd, "breast_cancer", 569),
    "sklearn/models-wine": (_models, "wine", 178),
    "lightgbm/cancer": (lambda: _boosting("LGBMClassifier"), "breast_cancer", 569),
    "lightgbm/diabetes": (lambda: _boosting("LGBMRegressor"), "diabetes", 442),
}
NAMES = tuple(_TABLES)


def load(name: str) -> tuple[Space, dict[str, float]]:
    """A table, made if need be (tens of seconds each)."""
    make, data, rows = _TABLES[name]
    space, build = make()
    place = Path(os.environ["INCL_SEARCH_CACHE"]) / "tables" / f"{name.replace('/', '-')}.json"
    if place.exists():
        return space, json.loads(place.read_text())
    x, y = _data(data, rows)
    folds = np.array_split(np.random.default_rng(0).permutation(len(x)), FOLDS)
    values = {}
    for row in np.unique(np.nan_to_num(space.grid(), nan=-9.0), axis=0):
        point = space.decode(np.where(row == -9.0, math.nan, row))
        values[key(point)] = _error(build(point), x, y, folds)
    place.parent.mkdir(parents=True, exist_ok=True)
    part = place.with_suffix(f".{os.getpid()}")
    part.write_text(json.dumps(values))
    part.rename(place)
    return space, values


def _data(name: str, rows: int) -> tuple[Any, Any]:
    from sklearn import datasets
    from sklearn.preprocessing import StandardScaler

    x, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    return StandardScaler().fit_transform(x)[:rows], (y / y.std() if name == "diabetes" else y)[:rows]


def _error(model: Any, x: Any, y: Any, folds: list[Any]) -> float:
    """Share of wrong answers, or the mean squared error."""
    from sklearn.base import clone, is_regressor

    wrong = []
    for fold in folds:
        rest = np.setdiff1d(np.arange(len(x)), fold)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fitted = clone(model).fit(x[rest], y[rest])
            told = fitted.predict(x[fold])
        wrong.append(np.mean((told - y[fold]) ** 2) if is_regressor(model) else np.mean(told != y[fold]))
    return float(min(np.mean(wrong), 1e6))
