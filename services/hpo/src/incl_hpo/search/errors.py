"""What can be wrong with a space, a point or a question."""

from __future__ import annotations

import sys


class SearchError(ValueError):
    """Root of the tree. `code` is for programs, `message` says what is wrong, `hint` the next step."""

    code = "SEARCH"

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message

    def __reduce__(self) -> tuple[type[SearchError], tuple[str, ...]]:
        return type(self), (self.message, self.hint)


class SpaceError(SearchError):
    """The space is empty or contradicts itself."""

    code = "SPACE_INVALID"


class PointError(SearchError):
    """A point is none of the space."""

    code = "POINT_INVALID"


class SpaceExhaustedError(SearchError):
    """Every point of a finite space has been asked for."""

    code = "SPACE_EXHAUSTED"


class SamplerUnknownError(SearchError):
    """There is no sampler of this name."""

    code = "SAMPLER_UNKNOWN"


class SamplerUnusableError(SearchError):
    """The sampler cannot be used for this search: what it needs is missing, or an option is wrong."""

    code = "SAMPLER_UNUSABLE"

    def __init__(self, message: str, hint: str = "", cause: str = "") -> None:
        super().__init__(message, hint)
        self.cause = cause

    def __str__(self) -> str:
        return f"{self.message}: {self.cause} ({self.hint})" if self.cause else super().__str__()

    def __reduce__(self) -> tuple[type[SearchError], tuple[str, ...]]:
        return type(self), (self.message, self.hint, self.cause)

    @classmethod
    def not_installed(cls, sampler: str, package: str, why: str) -> SamplerUnusableError:
        """It needs a package that is not there. why: what Python said."""
        needs = {"optuna": "'optuna>=5,<6'", "cmaes": "'cmaes>=0.12'"}.get(package, package)
        return cls(
            f"{sampler} needs the package {package}, which is not installed where the service of sweeps runs",
            f"there: {sys.executable} -m pip install {needs}",
            why,
        )
