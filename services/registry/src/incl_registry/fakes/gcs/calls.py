"""What each method of the API does. No HTTP here: a call comes in, an answer goes out."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import parse_qsl, unquote

from incl_registry.fakes.gcs.identity import Identity
from incl_registry.fakes.gcs.model import Model, Query, Thing, resource
from incl_registry.fakes.gcs.problems import JSON, ApiError, invalid, no_object

_QUANTUM: Final = 262_144
_OBJECT = re.compile(r"/(?:download/)?storage/v1/b/([^/]+)/o(?:/(.+))?")


@dataclass
class Call:
    """One request. `text`: of the query, as it came."""

    verb: str
    path: str
    text: str
    body: bytes
    header: Callable[[str], str | None]
    method: str = ""
    bucket: str = ""
    name: str = ""

    @property
    def query(self) -> Query:
        """The parameters."""
        return dict(parse_qsl(self.text, keep_blank_values=True))


@dataclass
class Reply:
    """One answer."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class _Session:
    bucket: str
    name: str
    fields: JSON
    query: Query
    data: bytearray = field(default_factory=bytearray)
    done: Thing | None = None


def json_reply(body: JSON, status: int = 200) -> Reply:
    """An answer in JSON."""
    return Reply(status, json.dumps(body).encode(), {"Content-Type": "application/json; charset=UTF-8"})


class Calls:
    """The methods, by name."""

    def __init__(self, model: Model, identity: Identity, url: Callable[[], str]) -> None:
        self._model, self._identity, self._url = model, identity, url
        self._sessions: dict[str, _Session] = {}
        self._handlers: dict[str, Callable[[Call], Reply]] = {
            "buckets.get": self._bucket, "objects.list": self._list, "objects.get": self._get,
            "objects.media": self._media, "objects.patch": self._patch, "objects.delete": self._delete,
            "objects.compose": self._compose, "objects.insert": self._insert, "objects.resumable": self._resumable,
            "objects.resume": self._resume, "signed.get": self._signed, "signed.put": self._stored,
            "oauth.token": self._token, "iam.signBlob": self._sign,
        }  # fmt: skip

    def run(self, call: Call, *, guarded: bool) -> Reply:
        """The answer; guarded: nothing without an access token.

        Raises:
            ApiError: what the API refuses.
        """
        if call.method.startswith("signed."):
            self._identity.verify(call.verb, call.path, call.text, call.header)
        elif guarded and call.method != "oauth.token":
            self._identity.admit(call.header("authorization") or "")
        return self._handlers[call.method](call)

    def _bucket(self, call: Call) -> Reply:
        self._model.bucket(call.bucket)
        return json_reply({"kind": "storage#bucket", "name": call.bucket, "id": call.bucket, "location": "EU"})

    def _list(self, call: Call) -> Reply:
        page, more = self._model.list(call.bucket, call.query)
        body: JSON = {"kind": "storage#objects", "items": [resource(call.bucket, thing) for thing in page]}
        return json_reply(body | ({"nextPageToken": more} if more else {}))

    def _get(self, call: Call) -> Reply:
        return json_reply(resource(call.bucket, self._model.get(call.bucket, call.name, call.query)))

    def _media(self, call: Call) -> Reply:
        thing = self._model.get(call.bucket, call.name, call.query)
        size, status, body = len(thing.data), 200, thing.data
        headers = {
            "Content-Type": thing.fields.get("contentType", "application/octet-stream"),
            "ETag": f'"{thing.generation}"', "Accept-Ranges": "bytes", "X-Goog-Hash": f"crc32c={thing.crc32c}",
            "X-Goog-Generation": str(thing.generation), "X-Goog-Metageneration": str(thing.metageneration),
            "X-Goog-Stored-Content-Length": str(size), "X-Goog-Stored-Content-Encoding": "identity",
        }  # fmt: skip
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", (call.header("range") or "").strip())
        if asked is not None:
            start, end = int(asked[1]), min(int(asked[2]) + 1, size) if asked[2] else size
            if start >= size:
                return Reply(416, b"", {"Content-Range": f"bytes */{size}"})
            status, body = 206, thing.data[start:end]
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
        return Reply(status, body, headers)

    def _patch(self, call: Call) -> Reply:
        thing = self._model.patch(call.bucket, call.name, json.loads(call.body), call.query)
        return json_reply(resource(call.bucket, thing))

    def _delete(self, call: Call) -> Reply:
        self._model.delete(call.bucket, call.name, call.query)
        return Reply(204)

    def _compose(self, call: Call) -> Reply:
        thing = self._model.compose(call.bucket, call.name, json.loads(call.body), call.query)
        return json_reply(resource(call.bucket, thing))

    def _insert(self, call: Call) -> Reply:
        fields, data = _multipart(call) if call.query.get("uploadType") == "multipart" else ({}, call.body)
        name = fields.get("name") or call.query.get("name", "")
        return json_reply(resource(call.bucket, self._model.insert(call.bucket, name, data, fields, call.query)))

    def _resumable(self, call: Call) -> Reply:
        fields = json.loads(call.body or b"{}")
        key = secrets.token_hex(16)
        self._model.bucket(call.bucket)
        name = fields.get("name") or call.query.get("name", "")
        self._sessions[key] = _Session(call.bucket, name, fields, call.query)
        where = f"{self._url()}/upload/storage/v1/b/{call.bucket}/o?uploadType=resumable&upload_id={key}"
        return Reply(200, b"", {"Location": where, "X-GUploader-UploadID": key})

    def _resume(self, call: Call) -> Reply:
        session = self._sessions.get(call.query.get("upload_id", ""))
        if session is None:
            raise no_object(call.bucket, "upload session")
        if session.done is None:
            asked = re.fullmatch(r"bytes (?:\*|(\d+)-(\d+))/(\d+|\*)", call.header("content-range") or "")
            if asked is not None and not self._take(session, call.body, asked):
                kept = {"Range": f"bytes=0-{len(session.data) - 1}"} if session.data else {}
                return Reply(308, b"", kept)
            if asked is None:
                session.data += call.body
            session.done = self._model.insert(
                session.bucket, session.name, bytes(session.data), session.fields, session.query
            )
        return json_reply(resource(session.bucket, session.done))

    def _take(self, session: _Session, body: bytes, asked: re.Match[str]) -> bool:
        """A chunk into its place; whether it was the last one."""
        if asked[1] is not None and body:
            if int(asked[1]) != len(session.data):
                raise invalid("A chunk does not begin where the last one ended.")
            if asked[3] == "*" and len(body) % _QUANTUM:
                raise invalid(f"A chunk that is not the last one has a multiple of {_QUANTUM} bytes.")
            session.data += body
        return asked[3] != "*" and len(session.data) == int(asked[3])

    def _signed(self, call: Call) -> Reply:
        reply = self._media(call)
        for key, header in (("disposition", "Content-Disposition"), ("type", "Content-Type")):
            if (value := call.query.get(f"response-content-{key}")) is not None:
                reply.headers[header] = value
        return reply

    def _stored(self, call: Call) -> Reply:
        """PUT of the XML API. What x-goog- headers ask for counts only where they are signed."""
        signed = call.query.get("X-Goog-SignedHeaders", "").split(";")
        generation, lengths = call.header("x-goog-if-generation-match"), call.header("x-goog-content-length-range")
        if (generation is not None and "x-goog-if-generation-match" not in signed) or (
            lengths is not None and "x-goog-content-length-range" not in signed
        ):
            raise ApiError(403, "forbidden", "An x-goog- header is not signed.", "SignatureDoesNotMatch")
        least, _, most = (lengths or "0,").partition(",")
        if len(call.body) < int(least) or (most and len(call.body) > int(most)):
            code = "EntityTooSmall" if len(call.body) < int(least) else "EntityTooLarge"
            raise ApiError(400, "invalid", "The body's length is not in the range that was signed.", code)
        fields = {"md5Hash": md5} if (md5 := call.header("content-md5")) else {}
        query = {"ifGenerationMatch": generation} if generation is not None else {}
        thing = self._model.insert(call.bucket, call.name, call.body, fields, query)
        headers = {"ETag": f'"{thing.generation}"', "X-Goog-Generation": str(thing.generation),
                   "X-Goog-Hash": f"crc32c={thing.crc32c}"}  # fmt: skip
        return Reply(200, b"", headers)

    def _token(self, call: Call) -> Reply:
        fields = dict(parse_qsl(call.body.decode()))
        return json_reply(self._identity.exchange(fields.get("assertion", "")))

    def _sign(self, call: Call) -> Reply:
        return json_reply(self._identity.sign_blob(json.loads(call.body)["payload"]))


def route(call: Call) -> bool:
    """Find out which method is asked for, and of what; whether there is one."""
    path, verb = call.path, call.verb
    if verb == "POST" and path == "/token":
        call.method = "oauth.token"
    elif verb == "POST" and path.endswith(":signBlob"):
        call.method = "iam.signBlob"
    elif found := re.fullmatch(r"/upload/storage/v1/b/([^/]+)/o", path):
        call.bucket, call.name = found[1], unquote(call.query.get("name", ""))
        begins = call.query.get("uploadType") == "resumable"
        call.method = "objects.resume" if verb == "PUT" else "objects.resumable" if begins else "objects.insert"
        call.name = call.name or _named(call)
    elif verb == "GET" and (found := re.fullmatch(r"/storage/v1/b/([^/]+)", path)):
        call.method, call.bucket = "buckets.get", found[1]
    elif found := _OBJECT.fullmatch(path):
        call.bucket, rest = found[1], found[2]
        call.method = _method(verb, path, rest, call.query)
        call.name = unquote((rest or "").removesuffix("/compose") if verb == "POST" else rest or "")
    elif verb in ("GET", "PUT") and (found := re.fullmatch(r"/([^/]+)/(.+)", path)):
        call.method, call.bucket, call.name = f"signed.{verb.lower()}", found[1], unquote(found[2])
    return bool(call.method)


def _method(verb: str, path: str, rest: str | None, query: Query) -> str:
    if rest is None:
        return "objects.list" if verb == "GET" else ""
    if verb == "POST":
        return "objects.compose" if rest.endswith("/compose") else ""
    if verb == "GET":
        return "objects.media" if path.startswith("/download/") or query.get("alt") == "media" else "objects.get"
    return {"PATCH": "objects.patch", "DELETE": "objects.delete"}.get(verb, "")


def _named(call: Call) -> str:
    """The object's name, where the body has it."""
    found = re.search(rb'"name":\s*"([^"]*)"', call.body[:4096])
    return found[1].decode() if found else ""


def _multipart(call: Call) -> tuple[JSON, bytes]:
    """(metadata, bytes) of a multipart/related body."""
    found = re.search(r'boundary="?([^";]+)"?', call.header("content-type") or "")
    if found is None:
        raise invalid("A multipart upload needs a boundary.")
    mark = b"--" + found[1].strip("'").encode()
    _, first, rest = call.body.split(mark, 2)
    fields = json.loads(first.partition(b"\r\n\r\n")[2])
    end = rest.rindex(b"\r\n" + mark + b"--")
    return fields, rest[:end].partition(b"\r\n\r\n")[2]
