"""What each role may publish and hear on the bus: the whole permission table, as data.

`{{name()}}` and `{{tag(project)}}` are filled in by the server from the credential's JWT, which only the signing key
of the role can sign. docs/mechanisms/credentials.md shows this table; a test compares the two.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from incl_shared.auth.names import INBOXES, Role
from incl_shared.bus import topology
from incl_shared.events import REGISTER
from incl_shared.subjects import NODES_PROJECT, SYSTEM_PROJECT

NAME = "{{name()}}"
PROJECT = "{{tag(project)}}"
USER = "{{tag(user)}}"
EXPERIMENT = "{{tag(experiment)}}"
ATTEMPT = "{{tag(attempt)}}"
RANK = "{{tag(rank)}}"

_EDGE_REPLIES = "_R_.>"
"""Where the server leads answers back over the border between the accounts."""
_JOB = f"{PROJECT}.{EXPERIMENT}.{ATTEMPT}.{RANK}"


@dataclass(frozen=True)
class Scope:
    """The permissions of one role. `tags` are those that its credentials must carry."""

    role: Role
    about: str
    publish: tuple[str, ...]
    subscribe: tuple[str, ...]
    tags: tuple[str, ...] = ()


def _inbox(role: Role) -> str:
    return f"{INBOXES}.{role}.{NAME}.>"


def _service(
    role: Role, about: str, *, serves: Iterable[str], publish: tuple[str, ...], hears: tuple[str, ...] = ()
) -> Scope:
    askers = [Role.ADMIN] if role is Role.GATEWAY else [Role.ADMIN, Role.GATEWAY]
    answers = (_EDGE_REPLIES, *(f"{INBOXES}.{asker}.>" for asker in askers))
    return Scope(
        role,
        about,
        publish=(*publish, *answers, *_durables(role)),
        subscribe=(*(f"incl.query.*.*.{name}.>" for name in serves), *hears, _inbox(role)),
    )


def _durables(role: Role) -> tuple[str, ...]:
    """What a service needs to make and read its own durables, and to bury what it cannot handle.

    A durable with one owner at a time is made anew by its next owner, who may therefore delete it.
    The second form of the acknowledgement is that of the server's flag js_ack_fc_v2.
    """
    subjects: list[str] = []
    for durable in topology.DURABLES:
        if durable.service != role:
            continue
        place = f"{durable.stream}.{durable.name}"
        if durable.owner:
            subjects.append(f"$JS.API.CONSUMER.DELETE.{place}")
        subjects += [
            f"$JS.API.CONSUMER.MSG.NEXT.{place}",
            f"$JS.API.CONSUMER.INFO.{place}",
            f"$JS.API.CONSUMER.CREATE.{place}",
            f"$JS.API.CONSUMER.DURABLE.CREATE.{place}",
            f"$JS.API.STREAM.INFO.{durable.stream}",
            f"$JS.ACK.{place}.>",
            f"$JS.ACK.*.*.{place}.>",
            f"incl.dead.{place}",
        ]
    return tuple(dict.fromkeys(subjects))


def _own_events() -> tuple[str, ...]:
    """What a service that says events needs to find out that the bus has lost some, and what all have handled."""
    durables = [durable.name for durable in topology.DURABLES if durable.stream == topology.EVENTS]
    infos = (f"$JS.API.CONSUMER.INFO.{topology.EVENTS}.{name}" for name in durables)
    return (f"$JS.API.DIRECT.GET.{topology.EVENTS}", *infos)


def _compared() -> tuple[str, ...]:
    """What the tracker needs to find out that its database is older than the bus, and to have events again."""
    events = topology.TRACKER_EVENTS
    return (
        f"$JS.API.CONSUMER.DELETE.{events.stream}.{events.name}",
        *(f"$JS.API.DIRECT.GET.{stream}" for stream in (topology.METRICS, topology.LOGS)),
    )


def _job_queries(user: str) -> tuple[str, ...]:
    base = f"incl.query.{PROJECT}.{user}"
    return (f"{base}.tracker.watermarks", f"{base}.registry.>", f"{base}.gateway.read_secrets")


def _requests() -> tuple[str, ...]:
    """The kinds that somebody consumes: any other would lie in the work queue for ever."""
    kinds = sorted({event.aggregate for event in REGISTER.values() if event.stream == topology.REQUESTS})
    return tuple(f"incl.request.{PROJECT}.{NAME}.{kind}.*" for kind in kinds)


def _telemetry() -> tuple[str, ...]:
    return (f"incl.metrics.{_JOB}", f"incl.logs.{_JOB}")


_SCOPES = (
    _service(
        Role.PROVISIONER,
        "Owns the managed execution of experiments, and the wanted state of nodes.",
        serves=("provisioner",),
        publish=(
            "incl.event.*.experiment.*",
            "incl.event.*.node.*",
            "incl.control.*",
            "$JS.API.DIRECT.GET.CONTROL.incl.control.*",
            "$JS.API.DIRECT.GET.REPORTS.incl.report.*",
            f"{INBOXES}.{Role.HPO}.>",
            *_own_events(),
        ),
    ),
    _service(
        Role.TRACKER,
        "Stores what runs say, and tells of it.",
        serves=("tracker",),
        publish=(
            "incl.event.*.settlement.*",
            "incl.event.*.alert.*",
            "incl.event.*.trash.*",
            "incl.live.*.*",
            "incl.stored.*.*.*.*",
            f"incl.query.*.{Role.TRACKER}.registry.*",
            f"{INBOXES}.{Role.HPO}.>",
            f"{INBOXES}.{Role.REGISTRY}.>",
            *_own_events(),
            *_compared(),
        ),
    ),
    _service(
        Role.REGISTRY,
        "Keeps artifacts and models; asks the tracker what made them.",
        serves=("registry",),
        publish=(
            "incl.event.*.artifact.*",
            "incl.event.*.model.*",
            f"incl.query.*.{Role.REGISTRY}.tracker.experiment",
            f"{INBOXES}.{Role.TRACKER}.>",
            *_own_events(),
        ),
    ),
    _service(
        Role.GATEWAY,
        "Users, tokens, secrets; the signer of credentials.",
        serves=("gateway", "signer"),
        publish=(
            f"incl.query.*.{Role.GATEWAY}.tracker.experiment",
            f"incl.query.{NODES_PROJECT}.{Role.GATEWAY}.provisioner.enroll",
            "$JS.API.DIRECT.GET.CONTROL.incl.control.*",
        ),
    ),
    _service(
        Role.HPO,
        "Owns sweeps: submits and stops their trials in the name of whoever asked for the sweep.",
        serves=("hpo",),
        publish=(
            "incl.event.*.sweep.*",
            "incl.request.*.*.experiment.*",
            "incl.request.*.*.stop.*",
            f"incl.query.*.{Role.HPO}.tracker.metrics",
            f"incl.query.*.{Role.HPO}.tracker.points",
            f"incl.query.*.{Role.HPO}.provisioner.costs",
            *_own_events(),
        ),
        hears=("incl.live.*.*",),
    ),
    Scope(
        Role.ADMIN,
        "Declares streams and durables; looks at dead letters and sends them again; asks what is stuck. The platform's "
        "operator only.",
        publish=(
            "$JS.API.>",
            "$JS.ACK.>",
            "incl.request.>",
            "incl.event.>",
            "incl.report.*",
            "incl.metrics.>",
            "incl.logs.>",
            f"incl.query.{SYSTEM_PROJECT}.{Role.ADMIN}.*.stuck",
            f"incl.query.{SYSTEM_PROJECT}.{Role.ADMIN}.registry.purge_model",
        ),
        subscribe=(_inbox(Role.ADMIN),),
    ),
    Scope(
        Role.PERSON,
        "Asks and requests under its own name in its own projects; hears what happens there.",
        publish=(*_requests(), f"incl.query.{PROJECT}.{NAME}.>"),
        subscribe=(f"incl.live.{PROJECT}.>", f"incl.event.{PROJECT}.>", _inbox(Role.PERSON)),
        tags=("project",),
    ),
    Scope(
        Role.NODE,
        "Reports, reads its own wanted state, and asks for the credentials of the attempts that it is to run.",
        publish=(
            f"incl.report.{NAME}",
            f"incl.query._nodes.{NAME}.signer.attempt",
            f"$JS.API.DIRECT.GET.CONTROL.incl.control.{NAME}",
        ),
        subscribe=(f"incl.control.{NAME}", _inbox(Role.NODE)),
    ),
    Scope(
        Role.ATTEMPT,
        "One rank of one attempt: ships its telemetry, stores its files, reads the secrets that it was promised.",
        publish=(*_telemetry(), *_job_queries(NAME)),
        subscribe=(f"incl.stored.{_JOB}", _inbox(Role.ATTEMPT)),
        tags=("project", "experiment", "attempt", "rank"),
    ),
    Scope(
        Role.RUN,
        "A run outside the platform: as an attempt, and may say that it ended.",
        publish=(*_telemetry(), *_job_queries(NAME), f"incl.request.{PROJECT}.{USER}.runend.{EXPERIMENT}"),
        subscribe=(f"incl.stored.{_JOB}", _inbox(Role.RUN)),
        tags=("project", "user", "experiment", "attempt", "rank"),
    ),
)

SCOPES: dict[Role, Scope] = {scope.role: scope for scope in _SCOPES}
"""The permission table."""
