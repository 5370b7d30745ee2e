"""Settings of the registry, from INCL_REGISTRY_…"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, field_validator
from pydantic_settings import SettingsConfigDict

from incl_registry.address import parse
from incl_shared.service_settings import ServiceSettings


class RegistrySettings(ServiceSettings):
    """Times in seconds, amounts in bytes."""

    model_config = SettingsConfigDict(
        env_prefix="INCL_REGISTRY_", env_nested_delimiter="__", frozen=True, extra="forbid"
    )

    data: Path = Field(description="The folder of the blobs, and of the key that signs grants.")
    store: str | None = Field(None, description="gs://bucket or gs://bucket/prefix: the blobs lie there, not in data.")
    store_endpoint: str | None = Field(
        None, pattern=r"^https?://[^/?#@]+$", description="Of Cloud Storage, where it is not the public one."
    )
    store_owner: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9._-]{1,64}$",
        description="Whose bucket it is; several registries of one database share it.",
    )
    take_store: bool = Field(False, description="For one start: the bucket is ours, whoever had it.")
    signed: bool = Field(
        True, description="Bytes go to and come from the bucket itself, by signed addresses where they can be signed."
    )
    signer: str | None = Field(
        None, pattern=r"^[^@/\s]+@[^@/\s]+$", description="The account for which IAM signs, where there is no key file."
    )
    signed_ttl_s: float = Field(600.0, ge=10, le=3600, description="How long such an address is good.")
    direct_from: int = Field(1 << 20, ge=0, description="Smaller files are uploaded through the registry all the same.")
    host: str = "127.0.0.1"
    port: int = Field(0, ge=0, le=65_535, description="Of the HTTP door; 0 takes a free one.")
    public_url: str | None = Field(None, description="How others reach the HTTP door; its own address by default.")
    grant_ttl_s: float = Field(3600.0, gt=0, description="How long a grant is good.")
    min_free: int = Field(64 << 20, ge=0, description="Room that uploads leave on the disk.")
    max_blob: int = Field(1 << 40, gt=0, description="The largest blob that is taken.")
    idle_s: float = Field(30.0, gt=0, description="An upload that sends nothing for longer is cut; it can go on later.")
    sweep_every_s: float = Field(3600.0, gt=0, description="How often blobs that nobody refers to are looked for.")
    sweep_grace_s: float = Field(86_400.0, gt=0, description="How old such a blob must be to be deleted.")
    purge_every_s: float = Field(20.0, gt=0, description="How often the files of purged experiments are looked at.")
    purge_grace_s: float = Field(900.0, gt=0, description="How old such a file must be to be deleted.")

    @field_validator("store")
    @classmethod
    def _address(cls, store: str | None) -> str | None:
        """Empty is none; a broken one is refused with its reason."""
        if store:
            parse(store)
        return store or None
