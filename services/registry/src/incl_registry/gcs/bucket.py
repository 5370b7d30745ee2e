"""One bucket: the few calls that the store needs, each with its deadline, its preconditions and a bounded retry.

What the provider answers comes out as errors of the platform; a precondition that does not hold is `Unmet`, never an
accident. Nothing here waits longer than about half a minute, however the provider fails.
"""

from __future__ import annotations

import base64
import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from google.api_core import exceptions as api
from google.api_core.retry import Retry
from google.auth import exceptions as auth
from google.cloud.storage.exceptions import DataCorruption, InvalidResponse
from google.cloud.storage.retry import DEFAULT_RETRY

from incl_registry.gcs import lost
from incl_shared.errors import UnavailableError

if TYPE_CHECKING:
    from google.cloud.storage import Blob, Client

MOST_SOURCES: Final = 32
"""Of one compose."""
_FIELDS: Final = "items(name,size,generation,metageneration,crc32c,customTime,timeCreated,updated),nextPageToken"
_PAGE: Final = 1000


class Unmet(Exception):  # noqa: N818
    """A precondition does not hold: somebody else was quicker, or we were, and did not hear of it."""


class Missing(Exception):  # noqa: N818
    """There is no such object (the bucket is there)."""


class BucketRefusedError(UnavailableError):
    """The bucket is not there, or not ours: waiting does not help."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long one call may take: connect_s and read_s of each try, retry_s for all tries together; away_s where all
    calls before it failed as well."""

    connect_s: float = 4.0
    read_s: float = 15.0
    retry_s: float = 8.0
    away_s: float = 1.0


@dataclass(frozen=True, slots=True)
class Stat:
    """One generation of an object. crc32c: of its bytes. touched: seconds since the epoch."""

    name: str
    size: int
    generation: int
    metageneration: int
    crc32c: int
    touched: float


class Bucket:
    """See above. Every name is below the prefix.

    Raises (all methods):
        UnavailableError: the provider is away.
        BucketRefusedError: it does not allow it, or there is no such bucket.
    """

    def __init__(self, client: Client, name: str, prefix: str = "", patience: Patience | None = None) -> None:
        self._client = client
        self._bucket = client.bucket(name)
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self._patience = patience or Patience()
        self.failing: tuple[float, str] | None = None
        """Since when (monotonic) every call fails, and how the first one did."""

    @property
    def url(self) -> str:
        """gs://bucket/prefix"""
        return f"gs://{self._bucket.name}/{self._prefix}".rstrip("/")

    def blob(self, name: str, generation: int | None = None) -> Blob:
        """The provider's own handle of an object."""
        return self._bucket.blob(self._prefix + name, generation=generation)

    def stat(self, name: str) -> Stat | None:
        """An object as it is now; None when there is none."""
        blob = self.blob(name)
        try:
            with self._told("look at"):
                blob.reload(projection="noAcl", **self._limits())
        except Missing:
            return None
        return self._stat(blob)

    def put(self, name: str, data: bytes, *, generation: int = 0, touched: float | None = None) -> Stat:
        """Store bytes, whose checksum is compared there.

        Args:
            generation: that it has now; 0: there must be none.

        Raises:
            Unmet: it has another one.
        """
        blob = self.blob(name)
        if touched is not None:
            blob.custom_time = _moment(touched)
        with self._told("store"):
            blob.upload_from_string(
                data, "application/octet-stream", if_generation_match=generation, checksum="crc32c", **self._limits()
            )
        return self._stat(blob)

    def read(self, stat: Stat, start: int, end: int) -> bytes:
        """The bytes [start, end) of exactly this generation; a whole object is compared with its checksum.

        Raises:
            Missing: it is gone, or another generation is there.
        """
        if start >= end:
            return b""
        whole = (start, end) == (0, stat.size)
        blob = self.blob(stat.name, stat.generation)
        with self._told("read"):
            return bytes(
                blob.download_as_bytes(
                    start=None if whole else start, end=None if whole else end - 1, raw_download=True,
                    checksum="crc32c" if whole else None, **self._limits(),
                )
            )  # fmt: skip

    def touch(self, stat: Stat, moment: float) -> Stat:
        """Make an object young.

        Raises:
            Unmet: it changed since; Missing: it is gone.
        """
        blob = self.blob(stat.name)
        blob.custom_time = _moment(moment)
        with self._told("touch"):
            blob.patch(
                if_generation_match=stat.generation, if_metageneration_match=stat.metageneration, **self._limits()
            )
        return self._stat(blob)

    def delete(self, stat: Stat) -> None:
        """Delete exactly this generation, unless its metadata changed.

        Raises:
            Unmet: it changed since; Missing: it is gone.
        """
        with self._told("delete"):
            self.blob(stat.name).delete(
                if_generation_match=stat.generation, if_metageneration_match=stat.metageneration, **self._limits()
            )

    def compose(self, name: str, sources: Sequence[Stat], *, generation: int = 0, touched: float | None = None) -> Stat:
        """Make an object of at most 32 others, of exactly these generations.

        Raises:
            Unmet: the target has another generation, or a source has; Missing: a source is gone.
        """
        blob = self.blob(name)
        blob.content_type = "application/octet-stream"
        if touched is not None:
            blob.custom_time = _moment(touched)
        with self._told("compose"):
            blob.compose(
                [self.blob(source.name) for source in sources],
                if_generation_match=generation,
                if_source_generation_match=[source.generation for source in sources],
                **self._limits(),
            )
        return self._stat(blob)

    def list(self, prefix: str, most: int | None = None) -> Iterator[Stat]:
        """Objects whose names begin so, in the order of their names."""
        with self._told("list"):
            pages = self._client.list_blobs(
                self._bucket, prefix=self._prefix + prefix, fields=_FIELDS, page_size=min(most or _PAGE, _PAGE),
                max_results=most, **self._limits(),
            )  # fmt: skip
            found = iter(pages)
        while True:
            with self._told("list"):
                blob = next(found, None)
            if blob is None:
                return
            yield self._stat(blob)

    def _stat(self, blob: Blob) -> Stat:
        touched = blob.custom_time or blob.updated or blob.time_created
        return Stat(
            blob.name.removeprefix(self._prefix), int(blob.size or 0), int(blob.generation or 0),
            int(blob.metageneration or 0), int.from_bytes(base64.b64decode(blob.crc32c or ""), "big"),
            touched.timestamp() if touched is not None else 0.0,
        )  # fmt: skip

    def _limits(self) -> dict[str, Any]:
        patience = self._patience
        retry: Retry = DEFAULT_RETRY.with_delay(0.1, 2.0, 2.0).with_timeout(
            patience.retry_s if self.failing is None else min(patience.away_s, patience.retry_s)
        )
        return {"timeout": (patience.connect_s, patience.read_s), "retry": retry}

    @contextlib.contextmanager
    def _told(self, what: str) -> Iterator[None]:
        """The provider's errors as ours; remembered while there is nothing else."""
        try:
            with self._translated(what):
                yield
        except UnavailableError as error:
            self.failing = self.failing or (time.monotonic(), f"{error.message}: {error.cause}")
            raise
        except (Unmet, Missing):
            self.failing = None
            raise
        else:
            self.failing = None

    @contextlib.contextmanager
    def _translated(self, what: str) -> Iterator[None]:
        try:
            yield
        except api.PreconditionFailed as error:
            raise Unmet(str(error)) from error
        except api.NotFound as error:
            if "bucket does not exist" in str(error).lower():
                raise self._refused(what, error, "create the bucket, or name another one") from error
            raise Missing(str(error)) from error
        except InvalidResponse as error:
            raise self._of_status(what, error) from error
        except api.RetryError as error:
            raise self._away(what, error.cause or error) from error
        except (api.Forbidden, api.Unauthorized) as error:
            raise self._refused(what, error, self._permission) from error
        except (auth.RefreshError, auth.DefaultCredentialsError) as error:
            raise self._refused(what, error, "see that the credentials of the registry are still valid") from error
        except (api.GoogleAPIError, DataCorruption, ValueError, *lost.LOST) as error:
            raise self._away(what, error) from error

    def _of_status(self, what: str, error: InvalidResponse) -> Exception:
        """An error of an upload or a download that the library did not translate."""
        status = _status(error)
        if status == 412:
            return Unmet(str(error))
        if status == 404:
            return Missing(str(error))
        return self._refused(what, error, self._permission) if status in (401, 403) else self._away(what, error)

    @property
    def _permission(self) -> str:
        return f"give the registry's account roles/storage.objectUser on gs://{self._bucket.name} (incl doctor checks)"

    def _refused(self, what: str, error: Exception, hint: str) -> BucketRefusedError:
        return BucketRefusedError(f"the bucket {self.url} cannot be used ({what})", cause=_short(error), hint=hint)

    def _away(self, what: str, error: BaseException) -> UnavailableError:
        return UnavailableError(
            f"the bucket {self.url} does not answer ({what})",
            cause=_short(error),
            hint="it is tried again; incl doctor says what is wrong with it",
        )


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _short(error: BaseException) -> str:
    """What the provider says, in one line, without addresses (a signed one is a key)."""
    if told := lost.words(error):
        return told
    said = str(getattr(error, "message", "") or error)
    status = f"HTTP {_status(error)}: " if _status(error) else ""
    line = " ".join(word for word in said.split() if "://" not in word)
    return f"{status}{line[:300]}" or type(error).__name__


def _status(error: BaseException) -> int:
    """Of the answer that the error was made of; 0: of none."""
    return int(getattr(getattr(error, "response", None), "status_code", 0))
