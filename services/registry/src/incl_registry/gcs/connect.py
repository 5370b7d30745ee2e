"""From an address gs://bucket/prefix to a bucket that can be used: credentials, the client, a first look."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Final

from incl_registry.address import parse
from incl_registry.gcs.bucket import Bucket, Missing, Patience, Unmet
from incl_shared.errors import InvalidInput, UnavailableError

if TYPE_CHECKING:
    from google.auth.credentials import Credentials

SCOPES: Final = ("https://www.googleapis.com/auth/devstorage.read_write",)
SIGNING_SCOPES: Final = ("https://www.googleapis.com/auth/cloud-platform",)
"""Where IAM is to sign as well."""
_POOL: Final = 32


def credentials(scopes: tuple[str, ...] = SCOPES) -> Credentials:
    """Application Default Credentials: a key file (GOOGLE_APPLICATION_CREDENTIALS), or the account of the machine.

    With STORAGE_EMULATOR_HOST, as the provider's own libraries have it, none are needed.

    Raises:
        InvalidInput: there are none, or they cannot be read.
    """
    import google.auth
    from google.auth.credentials import AnonymousCredentials
    from google.auth.exceptions import GoogleAuthError

    if os.environ.get("STORAGE_EMULATOR_HOST"):
        return AnonymousCredentials()  # type: ignore[no-untyped-call]
    try:
        found, _ = google.auth.default(scopes=list(scopes))
    except (GoogleAuthError, OSError, ValueError) as error:
        raise InvalidInput(
            "there are no credentials for Cloud Storage",
            cause=" ".join(str(error).split())[:300],
            hint="set GOOGLE_APPLICATION_CREDENTIALS to a key file, or run where a service account is attached",
        ) from error
    return found


def connect(
    url: str, endpoint: str | None = None, *, found: Credentials | None = None, patience: Patience | None = None
) -> Bucket:
    """A bucket; nothing is asked of it yet.

    Args:
        endpoint: of the API, where it is not the provider's public one.
        found: the credentials; `credentials()` by default.

    Raises:
        InvalidInput: no address of a bucket, or no credentials.
    """
    import requests.adapters
    from google.auth.transport.requests import AuthorizedSession
    from google.cloud.storage import Client

    address = parse(url)
    found = found or credentials()
    session = AuthorizedSession(found)  # type: ignore[no-untyped-call]
    for scheme in ("https://", "http://"):
        session.mount(scheme, requests.adapters.HTTPAdapter(pool_connections=4, pool_maxsize=_POOL))
    options = {"api_endpoint": endpoint} if endpoint else None
    client = Client(project="-", credentials=found, client_options=options, _http=session)
    client._bucket_metadata_cache = None  # noqa: SLF001 - it asks for the bucket in threads that nobody waits for
    return Bucket(client, address.bucket, address.prefix, patience)


def probe(bucket: Bucket) -> float:
    """Write an object, read it, change it, list it, delete it.

    Returns:
        How many seconds the provider's clock is ahead of ours.

    Raises:
        UnavailableError: one of these cannot be done.
    """
    name, text = f"probe/{os.urandom(8).hex()}", b"incl"
    try:
        before = time.time()
        made = bucket.put(name, text)
        ahead = made.touched - (before + time.time()) / 2
        if bucket.read(made, 0, len(text)) != text or name not in {stat.name for stat in bucket.list(name)}:
            raise UnavailableError(f"the bucket {bucket.url} does not give back what was stored")
        bucket.delete(bucket.touch(made, time.time()))
    except (Unmet, Missing) as error:
        raise UnavailableError(
            f"the bucket {bucket.url} does not keep what was stored",
            cause="an object that nobody else knows was changed or deleted",
            hint="look at the bucket's lifecycle rules, and who else writes below this prefix",
        ) from error
    return ahead
