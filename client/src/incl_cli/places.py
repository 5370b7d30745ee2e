"""Where the command line keeps its own files (XDG; INCL_HOME puts all of it in one folder)."""

from __future__ import annotations

import os
from pathlib import Path


def _place(kind: str, variable: str, default: str) -> Path:
    home = os.environ.get("INCL_HOME")
    if home:
        return Path(home) / kind
    base = os.environ.get(variable)
    return (Path(base) if base and Path(base).is_absolute() else Path.home() / default) / "incl"


def config_dir() -> Path:
    """Settings: ~/.config/incl."""
    return _place("config", "XDG_CONFIG_HOME", ".config")


def state_dir() -> Path:
    """What may be looked at later: ~/.local/state/incl."""
    return _place("state", "XDG_STATE_HOME", ".local/state")


def cache_dir() -> Path:
    """What can be made again: ~/.cache/incl."""
    return _place("cache", "XDG_CACHE_HOME", ".cache")


def context_file() -> Path:
    """Where the platform is: context.json of config_dir, or INCL_CONTEXT_FILE."""
    named = os.environ.get("INCL_CONTEXT_FILE")
    return Path(named) if named else config_dir() / "context.json"
