"""Containers on fake VMs: an image of a registry with a login, by tag and by digest; what is wrong with it is told."""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from incl_agent.runtimes.fake_registry import Registry, conf, shell_layer
from incl_local.aftermath import assert_right
from incl_local.layout import Layout
from incl_local.testing import CloudSwitches, Home, wait

from .conftest import end_all, left_of

PASSWORD = "hush-hush-1234"
MACHINE = "e2-standard-2"

pytestmark = [
    pytest.mark.podman,
    pytest.mark.timeout(300),
    pytest.mark.skipif(shutil.which("podman") is None, reason="podman is not installed"),
]


@pytest.fixture
def registry() -> Iterator[Registry]:
    with Registry(f"ann:{PASSWORD}") as running:
        yield running


@pytest.fixture
def site(fresh: Home, registry: Registry, tmp_path: Path) -> Iterator[Home]:
    """A platform whose VMs are process groups: they have the network of this machine, and so the registry."""
    storage = tmp_path / "storage.conf"
    storage.write_text(
        f'[storage]\ndriver = "vfs"\ngraphroot = "{tmp_path / "graph"}"\nrunroot = "{tmp_path / "run"}"\n'
    )
    fresh.environment |= {
        "INCL_FAKE_VMS": "groups", "CONTAINERS_STORAGE_CONF": str(storage),
        "CONTAINERS_REGISTRIES_CONF": str(conf(tmp_path, registry)), "INCL_PROVISIONER_CLOUD__DRAIN_S": "15",
    }  # fmt: skip
    started = fresh.incl("up", "--detach", "--cloud", "fake", timeout=90)
    assert started.code == 0, started.err
    secret(fresh, "REGISTRY", f"ann:{PASSWORD}")
    yield fresh
    end_all(fresh)
    wait(CloudSwitches(fresh).empty, 60, "an empty cloud")
    assert_right(Layout(fresh.data))
    assert fresh.incl("down", timeout=60).code == 0
    assert left_of(fresh.data) == []


def secret(home: Home, name: str, value: str) -> None:
    done = subprocess.run(
        ["incl", "secret", "set", name], input=value, env=home.environment, text=True, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr


def said(home: Home) -> bytes:
    """Everything that the platform and its VMs have written; what goes meanwhile is left out."""
    found = b""
    for path in home.data.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            found += path.read_bytes() if path.is_file() and path.suffix not in (".py", ".so") else b""
    return found


def test_an_image_is_pulled_by_the_login_of_the_project(site: Home, registry: Registry, project: Path) -> None:
    digest = registry.put("team/train", "v1", shell_layer())
    image = f"{registry.host}/team/train"
    (project / "exp.yaml").write_text(
        f"command: [sh, -c, 'echo in a box; echo kept > $INCL_OUTPUT_DIR/note.txt; env; exec sleep 1']\n"
        f"image: {image}:v1\nimage_login: REGISTRY\ninstance: {MACHINE}\n"
    )
    done = site.incl("run", "exp.yaml", cwd=project, timeout=120)
    assert done.code == 0, done.err + done.out
    view = site.show()
    assert (view["row"]["state"], view["gaps"], view["settled"]) == ("finished", 0, True)
    assert view["attempts"][0]["images"] == [digest]
    assert digest in site.incl("show", "@last").out
    pull = next(stage for stage in view["stages"] if stage["name"] == "pulling")
    assert pull["end"] > pull["start"]
    assert digest in pull["note"]
    out = site.incl("logs", "@last").out
    assert "in a box" in out
    assert PASSWORD not in out
    assert "REGISTRY" not in out, "the job itself has no login"
    assert PASSWORD.encode() not in said(site)

    pinned = site.incl(
        *("run", "--instance", MACHINE, "--set", "image_login=REGISTRY", "--image", f"{image}@{digest}"),
        *("--", "sh", "-c", "echo again"), cwd=project, timeout=120,
    )  # fmt: skip
    assert pinned.code == 0, pinned.err
    assert site.show()["attempts"][0]["images"] == [digest]


def test_what_is_wrong_with_an_image_is_told(site: Home, registry: Registry, project: Path) -> None:
    registry.put("team/train", "v1", shell_layer(("sh",)))
    secret(site, "WRONG", "ann:wrong-5678")
    (project / "exp.yaml").write_text(f"command: [sh, -c, 'true']\ninstance: {MACHINE}\n")
    for login, tag, words in (("WRONG", "v1", "refuses the login"), ("REGISTRY", "v9", "there is no image")):
        options = ("--image", f"{registry.host}/team/train:{tag}", "--set", f"image_login={login}")
        done = site.incl("run", "exp.yaml", *options, cwd=project, timeout=120)
        assert done.code != 0
        view = site.show()
        assert (view["row"]["state"], len(view["attempts"])) == ("failed", 1)
        assert words in view["message"], view["message"]
        assert view["hint"]
        assert not re.search(f"{PASSWORD}|wrong-5678", done.err + view["message"] + view["hint"])
    unknown = site.incl("run", "exp.yaml", "--image", "x", "--set", "image_login=NOBODY", cwd=project)
    assert "there is no secret NOBODY" in unknown.err
