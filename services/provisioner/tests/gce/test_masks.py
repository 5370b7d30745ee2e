"""Lists without the fields that nobody reads: the mask of the fake, the client's, and a provider that takes none."""

from __future__ import annotations

from typing import Any

import pytest

from incl_provisioner.backends.gce.client import open_compute
from incl_provisioner.backends.gce.library import Library
from incl_provisioner.fakes.gce import masks
from incl_provisioner.fakes.gce.problems import ApiError
from incl_shared.clock import SystemClock

from .conftest import PROJECT, Serve

PAGE = {
    "items": {
        "zones/a": {"instances": [{"name": "x", "zone": "a", "tags": {"items": ["t"]}}, {"name": "y"}]},
        "zones/b": {"warning": {"code": "NO_RESULTS_ON_PAGE", "message": "none"}},
    },
    "nextPageToken": "t",
    "kind": "list",
}


@pytest.mark.parametrize(
    ("mask", "left"),
    [
        ("*", PAGE),
        ("kind,nextPageToken", {"kind": "list", "nextPageToken": "t"}),
        ("items/*/warning/code", {"items": {"zones/a": {}, "zones/b": {"warning": {"code": "NO_RESULTS_ON_PAGE"}}}}),
        (
            "items/*/instances(name,tags.items),items/*/warning(code)",
            {
                "items": {
                    "zones/a": {"instances": [{"name": "x", "tags": {"items": ["t"]}}, {"name": "y"}]},
                    "zones/b": {"warning": {"code": "NO_RESULTS_ON_PAGE"}},
                }
            },
        ),
        ("what/ever", {}),
    ],
)
def test_a_mask_leaves_what_it_names(mask: str, left: Any) -> None:
    assert masks.apply(masks.parse(mask), PAGE) == left


@pytest.mark.parametrize("mask", ["", "a,", "a(", "a(b", "a)b", "a//b", "(a)"])
def test_what_is_no_mask_is_refused(mask: str) -> None:
    with pytest.raises(ApiError):
        masks.parse(mask)


async def test_a_provider_that_takes_no_mask_is_asked_for_all(serve: Serve) -> None:
    cloud = serve()
    compute = await open_compute(PROJECT, SystemClock(), endpoint=cloud.running.url)
    lists = "instances.aggregatedList"
    try:
        cloud.switch("fault", kind="error", status=400, reason="invalidParameter", method=lists)
        assert (await compute.vms("labels.incl-platform=p")).items == ()
        assert compute.calls.made[lists] == 2
        assert (await compute.vms("labels.incl-platform=p")).items == ()
        assert compute.calls.made[lists] == 3, "it is remembered"
    finally:
        await compute.close()


def test_proxies_and_authorities_of_the_environment_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def session() -> Any:
        method: Any = Library("https://compute.example").method("instances.get")
        return method.__self__.transport._session

    for name in ("https_proxy", "HTTPS_PROXY", "no_proxy", "NO_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("https_proxy", "http://proxy.example:3128")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/etc/ssl/ours.pem")
    made = session()
    assert (made.proxies["https"], made.verify, made.trust_env) == (
        "http://proxy.example:3128",
        "/etc/ssl/ours.pem",
        False,
    )
    monkeypatch.setenv("no_proxy", "compute.example")
    assert "https" not in session().proxies
