"""From the settings to a store in a bucket that was looked at once."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from incl_registry.gcs.bucket import BucketRefusedError
from incl_registry.gcs.connect import SCOPES, SIGNING_SCOPES, connect, credentials
from incl_registry.gcs.links import Links
from incl_registry.gcs.owner import Ownership, own_name
from incl_registry.gcs.store import GcsBlobs
from incl_registry.settings import RegistrySettings
from incl_shared.errors import UnavailableError

if TYPE_CHECKING:
    from google.auth.credentials import Credentials

_log = logging.getLogger("incl.registry.gcs")
_FRESH_S: Final = 60.0


def credentials_for(signer: str | None) -> Credentials:
    """As connect.credentials; where IAM is to sign, they are good for that too."""
    return credentials(SIGNING_SCOPES if signer else SCOPES)


def open_store(settings: RegistrySettings) -> GcsBlobs:
    """The store. A provider that is away now is no reason not to start; one that refuses is.

    Raises:
        InvalidInput: no credentials.
        BucketRefusedError: there is no such bucket, or we may not use it.
        ConflictError: it belongs to another platform.
    """
    if settings.store is None:
        raise ValueError("no bucket was chosen")
    found = credentials_for(settings.signer)
    bucket = connect(settings.store, settings.store_endpoint, found=found)
    links = Links(found, settings.store_endpoint, settings.signer) if settings.signed else None
    owner = Ownership(bucket, settings.store_owner or own_name(settings.data))
    try:
        owner.take() if settings.take_store else owner.check()
    except BucketRefusedError:
        raise
    except UnavailableError as error:
        _log.warning("%s: %s; the registry starts all the same", error.message, error.cause)
    _log.info(
        "artifacts lie in %s; their bytes go %s", bucket.url,
        "there by signed addresses" if links is not None and links.can else "through this registry",
    )  # fmt: skip
    fresh_s = min(_FRESH_S, settings.purge_grace_s / 4, settings.sweep_grace_s / 4)
    return GcsBlobs(bucket, fresh_s=fresh_s, links=links, owner=owner)
