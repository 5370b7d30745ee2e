"""The hyper-parameters: what the platform gave (INCL_HPARAMS), over what the script named as defaults."""

from __future__ import annotations

import json
import os
from typing import Any, Dict, Iterator, Mapping, MutableMapping, Optional

from incl import _state
from incl._values import to_plain
from incl._warn import warn


def _typed(value: Any, like: Any = None) -> Any:
    """A text as the number or boolean that it spells, unless the default it replaces is text."""
    if not isinstance(value, str) or isinstance(like, str):
        return value
    lowered = value.strip().lower()
    if lowered in ("true", "false"):
        return lowered == "true"
    if lowered in ("none", "null"):
        return None
    for kind in (int, float):
        try:
            number = kind(value)
        except ValueError:
            continue
        return float(number) if isinstance(like, float) else number
    return value


def _given() -> Dict[str, Any]:
    text = os.environ.get("INCL_HPARAMS", "")
    if not text:
        return {}
    try:
        values = json.loads(text)
    except ValueError:
        values = None
    if not isinstance(values, dict):
        warn("hparams", "INCL_HPARAMS is not a JSON object: ignored")
        return {}
    return values


class Config(MutableMapping[str, Any]):
    """A dict whose keys are attributes too. Names are found whatever their case (LR and lr), so that a value given as
    an environment variable meets the script's default. Every change is recorded."""

    _values: Dict[str, Any]

    def __init__(self, values: Optional[Mapping[str, Any]] = None) -> None:
        object.__setattr__(self, "_values", {key: _typed(value) for key, value in _given().items()})
        if values:
            self.defaults(values)

    def defaults(self, values: Mapping[str, Any]) -> None:
        """Add values for names that the platform did not give; a given text takes the type of its default."""
        for key, value in dict(values).items():
            name = self._name(str(key))
            if name is None:
                self._values[str(key)] = value
                continue
            raw = {k.lower(): v for k, v in _given().items()}.get(name.lower(), self._values[name])
            del self._values[name]
            self._values[str(key)] = _typed(raw, like=value)

    def _name(self, key: str) -> Optional[str]:
        if key in self._values:
            return key
        folded = key.lower()
        return next((name for name in self._values if name.lower() == folded), None)

    def __getitem__(self, key: str) -> Any:
        name = self._name(key)
        if name is None:
            raise KeyError(key)
        return self._values[name]

    def __setitem__(self, key: str, value: Any) -> None:
        self.update({key: value})

    def __delitem__(self, key: str) -> None:
        del self._values[self._name(key) or key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __getattr__(self, key: str) -> Any:
        if key.startswith("_"):
            raise AttributeError(key)
        try:
            return self[key]
        except KeyError:
            known = ", ".join(sorted(self._values)) or "nothing"
            raise AttributeError(f"the configuration has no {key!r} (it has {known})") from None

    def __setattr__(self, key: str, value: Any) -> None:
        self[key] = value

    def __repr__(self) -> str:
        return f"Config({self._values!r})"

    def update(self, *args: Any, **kwargs: Any) -> None:
        """As dict.update(); one record of what changed."""
        changed = dict(*args, **kwargs)
        for key, value in changed.items():
            self._values[self._name(str(key)) or str(key)] = value
        if changed:
            record(changed)


def record(values: Mapping[str, Any]) -> None:
    """Write a configuration record."""
    if _state.current().writer is not None:
        _state.current().record({"k": "p", "v": to_plain(dict(values))})
