"""Images: names and digests, a login that lives only as long as its pull, and what a tool's last words mean."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from incl_agent.runtimes.base import RuntimeFailure
from incl_shared.states import EndReason

_HUB = "docker.io"
_HUB_KEY = "https://index.docker.io/v1/"
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_MEMORY = Path("/dev/shm")  # noqa: S108 - a folder of ours is made below it


@dataclass(frozen=True)
class Login:
    """For the registry of an image. secret: the name under which the project keeps it."""

    secret: str
    user: str
    password: str = field(repr=False)

    @staticmethod
    def parse(secret: str, value: str) -> Login:
        """From `user:password`; a password may have colons.

        Raises:
            RuntimeFailure: it is no login.
        """
        user, found, password = value.strip("\r\n").partition(":")
        if not user or not found or not password:
            raise RuntimeFailure(
                EndReason.IMAGE,
                f"the secret {secret} is no login for a registry",
                f"store it as user:password: incl secret set {secret}",
            )
        return Login(secret, user, password)

    def hide(self, text: str) -> str:
        """The text without it."""
        return text.replace(self.password, "…").replace(self._basic, "…")

    @property
    def _basic(self) -> str:
        return base64.b64encode(f"{self.user}:{self.password}".encode()).decode()

    def document(self, image: str) -> str:
        """As the tools' own files of logins have it."""
        registry = registry_of(image)
        names = (registry, _HUB_KEY) if registry == _HUB else (registry,)
        return json.dumps({"auths": {name: {"auth": self._basic} for name in names}})


@contextmanager
def kept(login: Login, image: str) -> Iterator[Path]:
    """A folder with config.json for one pull: in memory where the machine has that, for nobody else, then removed."""
    folder = Path(tempfile.mkdtemp(prefix="incl-login-", dir=_MEMORY if os.access(_MEMORY, os.W_OK) else None))
    try:
        path = folder / "config.json"
        path.touch(mode=0o600)
        path.write_text(login.document(image), encoding="utf-8")
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def registry_of(image: str) -> str:
    """The registry that an image's name means."""
    first, more, _ = image.partition("/")
    return first if more and (first == "localhost" or "." in first or ":" in first) else _HUB


def untagged(image: str) -> str:
    """Its name without the tag; a port of the registry stays."""
    folder, slash, last = image.rpartition("/")
    return f"{folder}{slash}{last.partition(':')[0]}"


def digest_of(image: str) -> str | None:
    """The digest that a name pins.

    Raises:
        RuntimeFailure: what is behind the @ is none.
    """
    _, pinned, digest = image.partition("@")
    if not pinned:
        return None
    if _DIGEST.fullmatch(digest) is None:
        raise RuntimeFailure(
            EndReason.IMAGE, f"{image} has no digest behind its @", "write name@sha256: and 64 hexadecimal digits"
        )
    return digest


_MEANINGS: tuple[tuple[str, EndReason, str, str], ...] = (
    (
        r"no space left on device|disk quota exceeded", EndReason.INFRA,
        "the disk of the machine is full while the image {image} is pulled",
        "make room there ({tool} image prune); machines of a cloud: INCL_PROVISIONER_CLOUD__BOOT_GIB",
    ),
    (
        r"did not match|does not match|mismatch|verification failed|unexpected commit digest", EndReason.IMAGE,
        "what the registry has for the image {image} does not match its digest",
        "the registry is broken, or somebody changed it: push the image again, and name its new digest",
    ),
    (
        r"unauthorized|authentication required|invalid username/password|denied|forbidden|no basic auth",
        EndReason.IMAGE,
        "the registry {registry} refuses the login for the image {image}", "{login}",
    ),
    (
        r"manifest unknown|name unknown|not found|repository does not exist|\b404\b", EndReason.IMAGE,
        "there is no image {image}", "is its name spelled right, and was it pushed? a private one needs image_login",
    ),
    (
        r"server gave http response to https client", EndReason.IMAGE,
        "the registry {registry} speaks no TLS", "give it a certificate, or name it as insecure in registries.conf",
    ),
    (
        r"connection refused|no such host|no route to host|network is unreachable|name resolution", EndReason.IMAGE,
        "the registry {registry} cannot be reached from the machine",
        "is its name spelled right, is it up, and is there a way to it? try it there: {tool} pull {image}",
    ),
    (
        r"timeout|timed out|did not end within|connection reset|unexpected eof|\b50[0234]\b", EndReason.INFRA,
        "the registry {registry} does not answer", "it is tried again by the experiment's retry policy",
    ),
)  # fmt: skip
"""(what the tool says, reason, message, hint), the first that fits."""


def failure(tool: str, image: str, words: str, login: Login | None) -> RuntimeFailure:
    """What the last words of a pull mean."""
    said = login.hide(words) if login is not None else words
    how = (
        f"check the secret {login.secret} (user:password), and that {login.user} may read the image"
        if login is not None
        else "store a login, user:password, by incl secret set NAME, and name it: image_login: NAME"
    )
    values = {"tool": tool, "image": image, "registry": registry_of(image), "login": how}
    for pattern, reason, message, hint in _MEANINGS:
        if re.search(pattern, said, re.IGNORECASE) is not None:
            return RuntimeFailure(reason, f"{message.format(**values)}: {said}", hint.format(**values))
    return RuntimeFailure(
        EndReason.IMAGE, f"the image {image} cannot be had: {said}", f"try it on that machine: {tool} pull {image}"
    )
