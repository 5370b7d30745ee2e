"""INCL on one machine: `incl up`, `down`, `status`, `doctor`."""

__version__ = "0.1.0"
