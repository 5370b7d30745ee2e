"""What a connection that was lost, or never came to be, means in a few words; never an address with its query."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from typing import Final
from urllib.parse import urlsplit

import requests
from google.auth import exceptions as auth

LOST: Final = (requests.RequestException, auth.TransportError, ConnectionError, TimeoutError)
"""What no answer at all is raised as."""


def words(error: BaseException) -> str:
    """ "" where it is none of these."""
    found = list(_inside(error))
    if not any(isinstance(one, LOST) for one in found):
        return ""
    place = next((at for one in found if (at := _place(one))), "the provider")
    text = " ".join(str(one) for one in found)
    if any(isinstance(one, requests.ConnectTimeout) for one in found):
        return f"no connection to {place} came to be in time"
    if any(isinstance(one, requests.Timeout | TimeoutError) for one in found):
        return f"{place} did not answer in time"
    if any(isinstance(one, socket.gaierror) for one in found) or "Failed to resolve" in text:
        return f"the name of {place} is not known here"
    if any(isinstance(one, ConnectionRefusedError) for one in found) or "Connection refused" in text:
        return f"{place} refuses the connection: nobody listens there"
    if "unreachable" in text or "No route to host" in text:
        return f"there is no way to {place} from here"
    if any(isinstance(one, ssl.SSLError | requests.exceptions.SSLError) for one in found):
        return f"there is no trusted TLS with {place}"
    if any(isinstance(one, requests.ConnectionError | ConnectionError) for one in found):
        return f"{place} ended the connection without an answer"
    return ""


def _place(error: BaseException) -> str:
    url = str(getattr(getattr(error, "request", None), "url", "") or "")
    return urlsplit(url).netloc.rpartition("@")[2]


def _inside(error: BaseException, depth: int = 6) -> Iterator[BaseException]:
    """An error and those that it was made of."""
    yield error
    inner = (error.__cause__, error.__context__, getattr(error, "reason", None), *error.args)
    for one in inner if depth else ():
        if isinstance(one, BaseException):
            yield from _inside(one, depth - 1)
