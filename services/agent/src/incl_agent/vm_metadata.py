"""What a machine of Compute Engine is told by its metadata server."""

from __future__ import annotations

import asyncio
import http.client
import logging
import os
import re
import time
from dataclasses import dataclass

_log = logging.getLogger("incl.agent")
_BASE = "/computeMetadata/v1/instance/"
_ADDRESS = re.compile(r"^\d{1,3}(?:\.\d{1,3}){3}$")
_TIMEOUT_S = 10.0
_WAIT_S = 60
_AGAIN_S = 5.0
_ASK_AGAIN_S = 1.0


@dataclass(frozen=True)
class Metadata:
    """host: with a port where it is not 80."""

    host: str = "metadata.google.internal"

    @staticmethod
    def here() -> Metadata:
        """Where Google's own libraries look for it, too."""
        return Metadata(os.environ.get("GCE_METADATA_HOST") or "metadata.google.internal")

    async def address(self, patience_s: float = 60.0) -> str:
        """The internal address of this machine; empty where nobody says for so long."""
        deadline = time.monotonic() + patience_s
        while True:
            try:
                text, _ = await asyncio.to_thread(self._get, "network-interfaces/0/ip", _TIMEOUT_S)
            except (OSError, http.client.HTTPException) as error:
                _log.warning("the metadata server does not say this machine's address: %s", error)
                if time.monotonic() + _ASK_AGAIN_S > deadline:
                    return ""
                await asyncio.sleep(_ASK_AGAIN_S)
            else:
                return text if _ADDRESS.match(text) else ""

    async def is_preempted(self) -> bool:
        """Whether the provider takes it back, as far as that can be asked."""
        try:
            text, _ = await asyncio.to_thread(self._get, "preempted", _TIMEOUT_S)
        except (OSError, http.client.HTTPException):
            return False
        return text == "TRUE"

    async def preempted(self) -> None:
        """Wait until the provider takes it back: one question that is answered when it changes, again and again."""
        etag = ""
        while True:
            query = f"preempted?wait_for_change=true&timeout_sec={_WAIT_S}&last_etag={etag}" if etag else "preempted"
            try:
                text, etag = await asyncio.to_thread(self._get, query, _WAIT_S + _TIMEOUT_S)
            except (OSError, http.client.HTTPException) as error:
                _log.debug("the metadata server does not answer: %s", error)
                await asyncio.sleep(_AGAIN_S)
                continue
            if text == "TRUE":
                return
            if not etag:
                await asyncio.sleep(_AGAIN_S)

    def _get(self, path: str, timeout: float) -> tuple[str, str]:
        """(value, etag). Never by a proxy."""
        connection = http.client.HTTPConnection(self.host, timeout=timeout)
        try:
            connection.request("GET", _BASE + path, headers={"Metadata-Flavor": "Google"})
            answer = connection.getresponse()
            text = answer.read(65_536).decode("utf-8", "replace").strip()
            if answer.status != 200:
                raise OSError(f"the metadata server answers {answer.status}")
            return text, re.sub(r"[^A-Za-z0-9_-]", "", answer.headers.get("ETag", ""))
        finally:
            connection.close()
