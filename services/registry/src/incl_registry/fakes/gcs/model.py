"""Buckets and objects: generations, metagenerations, preconditions, compose. All of it in memory, under one lock."""

from __future__ import annotations

import base64
import hashlib
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Final

import google_crc32c

from incl_registry.fakes.gcs.problems import JSON, ApiError, invalid, no_bucket, no_object, unmet

MOST_SOURCES: Final = 32
WRITABLE: Final = frozenset({"customTime", "contentType", "metadata", "cacheControl", "contentDisposition"})
Query = dict[str, str]


@dataclass(frozen=True)
class Thing:
    """One generation of an object. Times in seconds since the epoch."""

    name: str
    data: bytes
    generation: int
    metageneration: int
    created: float
    updated: float
    fields: JSON = field(default_factory=dict)
    components: int | None = None

    @property
    def crc32c(self) -> str:
        """As the API writes it."""
        return base64.b64encode(google_crc32c.value(self.data).to_bytes(4, "big")).decode()


class Model:
    """What is stored.

    Args:
        clock: the server's; seconds since the epoch.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self.clock = clock
        self.buckets: dict[str, dict[str, Thing]] = {}
        self.changes_a_second: int | None = None
        """How often one object may change in a second (the provider allows about one); None: as often as one likes."""
        self._changes: dict[str, deque[float]] = {}
        self._generation = int(time.time() * 1e6)
        self._lock = threading.RLock()

    def bucket(self, name: str) -> dict[str, Thing]:
        """A bucket's objects."""
        if name not in self.buckets:
            raise no_bucket()
        return self.buckets[name]

    def get(self, bucket: str, name: str, query: Query) -> Thing:
        """An object, if the preconditions hold."""
        with self._lock:
            thing = self.bucket(bucket).get(name)
            if thing is None or query.get("generation", str(thing.generation)) != str(thing.generation):
                raise no_object(bucket, name)
            _check(query, thing)
            return thing

    def insert(self, bucket: str, name: str, data: bytes, fields: JSON, query: Query) -> Thing:
        """A new generation."""
        _compare(data, fields)
        with self._lock:
            things = self.bucket(bucket)
            _check(query, things.get(name))
            self._pace(name)
            things[name] = self._new(name, data, fields)
            return things[name]

    def patch(self, bucket: str, name: str, fields: JSON, query: Query) -> Thing:
        """New metadata, same bytes."""
        with self._lock:
            thing = self.get(bucket, name, query)
            changed = {**thing.fields, **{key: value for key, value in fields.items() if key in WRITABLE}}
            old, new = thing.fields.get("customTime"), changed.get("customTime")
            if old is not None and (new is None or seconds(new) < seconds(old)):
                raise invalid("Custom time cannot be removed or set to an earlier time.")
            self._pace(name)
            thing = replace(
                thing, fields=changed, metageneration=thing.metageneration + 1, updated=self.clock()
            )  # fmt: skip
            self.buckets[bucket][name] = thing
            return thing

    def delete(self, bucket: str, name: str, query: Query) -> None:
        """Gone for good: no versioning, no soft delete."""
        with self._lock:
            self.get(bucket, name, query)
            del self.buckets[bucket][name]

    def compose(self, bucket: str, name: str, body: JSON, query: Query) -> Thing:
        """One object of up to 32."""
        wanted = body.get("sourceObjects", [])
        if not 0 < len(wanted) <= MOST_SOURCES:
            raise invalid(f"The number of source components provided ({len(wanted)}) is not in [1, {MOST_SOURCES}].")
        with self._lock:
            things = self.bucket(bucket)
            _check(query, things.get(name))
            sources = []
            for one in wanted:
                precondition = one.get("objectPreconditions", {})
                found = {key: str(value) for key, value in precondition.items()}
                if one.get("generation") is not None:
                    found["generation"] = str(one["generation"])
                sources.append(self.get(bucket, one["name"], found))
            self._pace(name)
            data = b"".join(source.data for source in sources)
            components = sum(source.components or 1 for source in sources)
            things[name] = replace(self._new(name, data, body.get("destination", {})), components=components)
            return things[name]

    def list(self, bucket: str, query: Query) -> tuple[list[Thing], str | None]:
        """A page in the order of names, and the token of the next one."""
        with self._lock:
            names = sorted(name for name in self.bucket(bucket) if name.startswith(query.get("prefix", "")))
            after = base64.urlsafe_b64decode(query["pageToken"]).decode() if query.get("pageToken") else ""
            left = [name for name in names if name > after and name >= query.get("startOffset", "")]
            count = min(int(query.get("maxResults", 1000)), 1000)
            page = [self.buckets[bucket][name] for name in left[:count]]
        more = base64.urlsafe_b64encode(page[-1].name.encode()).decode() if len(left) > count else None
        return page, more

    def _new(self, name: str, data: bytes, fields: JSON) -> Thing:
        self._generation += 1
        now = self.clock()
        kept = {key: value for key, value in fields.items() if key in WRITABLE}
        return Thing(name, data, self._generation, 1, now, now, kept)

    def _pace(self, name: str) -> None:
        if self.changes_a_second is None:
            return
        now, changes = time.monotonic(), self._changes.setdefault(name, deque())
        while changes and changes[0] <= now - 1.0:
            changes.popleft()
        if len(changes) >= self.changes_a_second:
            message = f"The object {name} exceeded the rate limit for object mutation operations."
            raise ApiError(429, "rateLimitExceeded", message, "SlowDown")
        changes.append(now)


def resource(bucket: str, thing: Thing) -> JSON:
    """An object as the JSON API shows it."""
    shown: JSON = {
        "kind": "storage#object",
        "id": f"{bucket}/{thing.name}/{thing.generation}",
        "name": thing.name,
        "bucket": bucket,
        "generation": str(thing.generation),
        "metageneration": str(thing.metageneration),
        "size": str(len(thing.data)),
        "crc32c": thing.crc32c,
        "timeCreated": stamp(thing.created),
        "updated": stamp(thing.updated),
        "storageClass": "STANDARD",
        "etag": f"{thing.generation}/{thing.metageneration}",
        **thing.fields,
    }
    if thing.components is None:
        shown["md5Hash"] = base64.b64encode(hashlib.md5(thing.data, usedforsecurity=False).digest()).decode()
    else:
        shown["componentCount"] = thing.components
    return shown


def stamp(moment: float) -> str:
    """RFC 3339, in milliseconds as the API gives it."""
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def seconds(text: str) -> float:
    """The moment of an RFC 3339 time."""
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        raise invalid(f"Invalid value for customTime: {text}") from None


def _check(query: Query, thing: Thing | None) -> None:
    generation = 0 if thing is None else thing.generation
    wanted = query.get("ifGenerationMatch")
    if wanted is not None and int(wanted) != generation:
        raise unmet()
    if query.get("ifGenerationNotMatch") is not None and int(query["ifGenerationNotMatch"]) == generation:
        raise unmet()
    meta = query.get("ifMetagenerationMatch")
    if meta is not None and (thing is None or int(meta) != thing.metageneration):
        raise unmet()


def _compare(data: bytes, fields: JSON) -> None:
    """The checksums that the sender gave are those of the bytes that came."""
    crc = base64.b64encode(google_crc32c.value(data).to_bytes(4, "big")).decode()
    if fields.get("crc32c", crc) != crc:
        raise invalid(f'Provided CRC32C "{fields["crc32c"]}" doesn\'t match calculated CRC32C "{crc}".')
    md5 = base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()
    if fields.get("md5Hash", md5) != md5:
        raise invalid(f'Provided MD5 hash "{fields["md5Hash"]}" doesn\'t match calculated MD5 hash "{md5}".')
