"""Who may do what on this machine's bus: one credential for each party, made at every start."""

from __future__ import annotations

from incl_cli.context import Context, save_context
from incl_local.place import NODE, PROJECT, Place, local_user
from incl_shared.auth.mint import Minter
from incl_shared.auth.names import SERVICES, Role, inbox_prefix

PERSON_TTL_S = 365 * 86_400.0


def issue(place: Place, minter: Minter) -> None:
    """Write the credentials of the services, the node, the local person and the administrator; 0600."""
    for role in SERVICES:
        minter.service(role).write(place.creds(str(role)))
    minter.service(Role.ADMIN).write(place.creds("admin"))
    minter.node(NODE).write(place.creds("agent"))
    minter.person(local_user(), (PROJECT,), PERSON_TTL_S).write(place.creds("user"))


def write_context(place: Place) -> None:
    """Point the user's command line here."""
    save_context(
        Context(
            urls=(place.bus_url,),
            creds=str(place.creds("user")),
            project=PROJECT,
            user=local_user(),
            gateway_url=place.gateway_url,
            data_dir=str(place.layout.root),
            inbox_prefix=inbox_prefix(Role.PERSON, local_user()),
            registry=place.registry_url,
        )
    )
