"""What can be wrong with a space, a point or a question."""

from __future__ import annotations


class SearchError(ValueError):
    """Root of the tree. `code` is for programs, `message` says what is wrong, `hint` the next step."""

    code = "SEARCH"

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message

    def __reduce__(self) -> tuple[type[SearchError], tuple[str, str]]:
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
