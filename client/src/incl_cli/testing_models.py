"""Models in memory, for tests of the commands: what the registry would answer of versions that were put in."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from typing import Any

from incl_cli.testing import FakePlatform
from incl_shared.errors import ConflictError, NotFoundError
from incl_shared.ids import new_id
from incl_shared.queries.base import Answer, Done
from incl_shared.queries.models import (
    AliasView,
    ChangeModel,
    DecideRequest,
    FilePage,
    GetVersion,
    Lineage,
    ListModelFiles,
    ListModels,
    ListRequests,
    ListVersions,
    ModelFile,
    ModelPage,
    ModelRow,
    MoveAlias,
    ProtectAlias,
    RegisterModel,
    RequestPage,
    RequestView,
    RestoreModel,
    TrashModel,
    VersionPage,
    VersionView,
)


class FakeModels:
    """Answers for a `FakePlatform`; one model, chest-xray."""

    def __init__(self, platform: FakePlatform) -> None:
        self.platform = platform
        self.versions: dict[int, VersionView] = {}
        self.files: dict[int, list[ModelFile]] = {}
        self.aliases: dict[str, AliasView] = {}
        self.requests: dict[int, RequestView] = {}
        self.asked: list[Any] = []
        answers: dict[type, Callable[[Any], Answer]] = {
            GetVersion: self._version,
            ListModelFiles: self._files,
            ListModels: lambda query: ModelPage(models=(self._model(),) if self.versions else ()),
            ListVersions: self._versions,
            MoveAlias: self._move,
            RegisterModel: self._register,
            ProtectAlias: self._protect,
            ListRequests: lambda query: RequestPage(requests=tuple(self.requests.values())),
            DecideRequest: self._decide,
            ChangeModel: self._done,
            TrashModel: self._done,
            RestoreModel: self._done,
        }
        platform.more.update(answers)

    def add(self, files: dict[str, bytes], **fields: Any) -> VersionView:
        """A version with these files."""
        number = len(self.versions) + 1
        listed = []
        for path, content in sorted(files.items()):
            digest = hashlib.sha256(content).hexdigest()
            self.platform.blobs[digest] = content
            listed.append(ModelFile(kind="file", path=path, sha256=digest, size=len(content)))
        manifest = hashlib.sha256(json.dumps([[file.path, file.sha256] for file in listed]).encode()).hexdigest()
        experiment = new_id()
        view = VersionView(
            **{
                "model": "chest-xray", "number": number, "experiment": experiment, "attempt": 1, "by": "ada",
                "created": time.time(), "manifest": manifest, "files": len(listed),
                "size": sum(file.size for file in listed),
                "lineage": Lineage(experiment=experiment, missing=("seed: none",)), **fields,
            }
        )  # fmt: skip
        self.versions[number], self.files[number] = view, listed
        return view

    def _version(self, query: GetVersion) -> VersionView:
        number = query.number or max(self.versions, default=0)
        if query.alias is not None:
            alias = self.aliases.get(query.alias)
            if alias is None or alias.number is None:
                raise NotFoundError(f"chest-xray has no alias {query.alias}")
            number = alias.number
        if query.model != "chest-xray" or number not in self.versions:
            raise NotFoundError(f"there is no version {query.model}:{number}")
        return self.versions[number]

    def _files(self, query: ListModelFiles) -> FilePage:
        other = ModelFile(kind="other", path="of its lineage", sha256="0" * 64, size=1)
        listed = [other, *self.files[query.number]]
        start = 0 if query.cursor is None else 1 + [file.path for file in listed].index(query.cursor[1])
        shown = listed[start : start + 2]
        more = start + 2 < len(listed)
        return FilePage(files=tuple(shown), cursor=(shown[-1].kind, shown[-1].path) if more else None)

    def _model(self) -> ModelRow:
        there = tuple(one for one in self.aliases.values() if one.number is not None)
        return ModelRow(
            name="chest-xray", by="ada", created=1.0, changed=time.time(), newest=len(self.versions), aliases=there
        )

    def _versions(self, query: ListVersions) -> VersionPage:
        rest = [n for n in sorted(self.versions, reverse=True) if query.cursor is None or n < query.cursor]
        shown = rest[: min(query.limit, 2)]
        return VersionPage(
            model=self._model(), versions=tuple(self.versions[n] for n in shown),
            cursor=shown[-1] if len(shown) < len(rest) else None, every_alias=tuple(self.aliases.values()),
        )  # fmt: skip

    def _move(self, query: MoveAlias) -> AliasView:
        self.asked.append(query)
        before = self.aliases.get(query.alias)
        if query.revision != (before.revision if before else 0):
            raise ConflictError(f"bob has moved {query.alias} meanwhile")
        if before is not None and before.protected:
            number = len(self.requests) + 1
            self.requests[number] = RequestView(
                model="chest-xray", request=number, alias=query.alias, number=query.number, state="open",
                asked_by="ada", asked=time.time(), reason=query.reason,
            )  # fmt: skip
            return before.model_copy(update={"request": number})
        moved = AliasView(
            alias=query.alias, number=query.number, revision=query.revision + 1, by="ada", moved=time.time()
        )
        self.aliases[query.alias] = moved
        return moved

    def _protect(self, query: ProtectAlias) -> AliasView:
        self.asked.append(query)
        new = AliasView(alias=query.alias, number=None, revision=0, by="ada", moved=time.time())
        view = self.aliases.get(query.alias, new).model_copy(update={"protected": True})
        self.aliases[query.alias] = view
        return view if query.protected else view.model_copy(update={"request": 9})

    def _decide(self, query: DecideRequest) -> RequestView:
        self.asked.append(query)
        state = "approved" if query.approve else "refused"
        update = {"state": state, "decided_by": "bob", "answer": query.reason}
        self.requests[query.request] = self.requests[query.request].model_copy(update=update)
        return self.requests[query.request]

    def _register(self, query: RegisterModel) -> VersionView:
        self.asked.append(query)
        return self.add({query.path: b"weights"}, note=query.note, tags=query.tags, metadata=query.metadata)

    def _done(self, query: Any) -> Done:
        self.asked.append(query)
        return Done()
