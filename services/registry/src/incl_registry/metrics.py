"""What the registry counts beside its bus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter


class RegistryMetrics:
    """The metrics of the artifact store, by the name incl_registry_…"""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str) -> Counter:
            return Counter(f"incl_registry_{name}", text, registry=registry)

        self.uploaded_bytes = counter("uploaded_bytes_total", "Bytes of finished uploads, as they were sent.")
        self.direct_bytes = counter("direct_bytes_total", "Bytes of finished uploads that went to the bucket directly.")
        self.downloaded_bytes = counter("downloaded_bytes_total", "Bytes that were sent out.")
        self.sent_on = counter("sent_on_total", "Downloads that were sent to the bucket by a signed address.")
        self.uploads_cut = counter("uploads_cut_total", "Uploads whose connection was lost or silent.")
        self.refused = Counter(
            "incl_registry_http_errors_total", "Requests that were refused, by status.", ["status"], registry=registry
        )
        self.swept_blobs = counter("swept_blobs_total", "Blobs deleted because nothing refers to them.")
        self.swept_bytes = counter("swept_bytes_total", "Their bytes.")
        self.sweep_failures = counter("sweep_failures_total", "Sweeps that failed.")
        self.purged_blobs = counter("purged_blobs_total", "Blobs deleted because their experiments were purged.")
        self.purged_bytes = counter("purged_bytes_total", "Their bytes.")
        self.purge_failures = counter("purge_failures_total", "Rounds of the purge that failed.")
