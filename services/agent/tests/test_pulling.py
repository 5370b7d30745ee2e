"""Images from a registry: by tag and by digest, with a login of the project, and everything that can be wrong."""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import shutil
import subprocess
import tarfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from incl_agent.runtimes import Plan, RuntimeFailure
from incl_agent.runtimes.containers import ContainerRuntime
from incl_agent.runtimes.fake_registry import Registry, conf
from incl_agent.runtimes.pulling import Login, digest_of, failure, kept, registry_of, untagged
from incl_shared.ids import job_id, new_id
from incl_shared.states import EndReason

NAME = "team/train"
PASSWORD = "hush:colon"
LOGIN = Login("REGISTRY", "ann", PASSWORD)


def layer(text: str) -> bytes:
    """A file system of one file."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        info = tarfile.TarInfo("note.txt")
        info.size = len(text)
        archive.addfile(info, io.BytesIO(text.encode()))
    return out.getvalue()


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    with Registry(f"ann:{PASSWORD}") as running:
        yield running


@pytest.fixture
async def podman(
    tmp_path: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[ContainerRuntime]:
    """podman with a storage of its own."""
    if shutil.which("podman") is None:
        pytest.skip("podman is not installed")
    storage = tmp_path / "storage.conf"
    storage.write_text(
        f'[storage]\ndriver = "vfs"\ngraphroot = "{tmp_path / "graph"}"\nrunroot = "{tmp_path / "run"}"\n'
    )
    monkeypatch.setenv("CONTAINERS_STORAGE_CONF", str(storage))
    monkeypatch.setenv("CONTAINERS_REGISTRIES_CONF", str(conf(tmp_path, registry)))
    runtime = ContainerRuntime("podman", tmp_path / "conf")
    if not await runtime.available():
        pytest.skip("podman does not work here")
    yield runtime
    await runtime._run("rmi", "--all", "--force", seconds=60)


async def failed(podman: ContainerRuntime, image: str, login: Login | None = LOGIN) -> RuntimeFailure:
    with pytest.raises(RuntimeFailure) as caught:
        await podman.prepare(image, login)
    assert PASSWORD not in f"{caught.value.message} {caught.value.hint}"
    return caught.value


@pytest.mark.podman
async def test_a_tag_becomes_the_digest_that_it_is_now(podman: ContainerRuntime, registry: Registry) -> None:
    first = registry.put(NAME, "v1", layer("one"))
    image = f"{registry.host}/{NAME}:v1"
    found = await podman.prepare(image, LOGIN)
    assert found.digest == first
    assert found.pulling is not None
    assert found.pulled is not None
    assert found.pulling <= found.pulled
    second = registry.put(NAME, "v1", layer("two"))
    assert (await podman.prepare(image, LOGIN)).digest == second
    pinned = await podman.prepare(f"{registry.host}/{NAME}@{first}", LOGIN)
    assert (pinned.digest, pinned.image) == (first, found.image)


@pytest.mark.podman
async def test_a_later_attempt_runs_what_the_first_one_found(podman: ContainerRuntime, registry: Registry) -> None:
    """Also on another machine, where nothing is here yet; and where the tag means something else by now."""
    first = registry.put(NAME, "v1", layer("one"))
    image = f"{registry.host}/{NAME}:v1"
    found = await podman.prepare(image, LOGIN)
    second = registry.put(NAME, "v1", layer("two"))
    again = await podman.prepare(image, LOGIN, first)
    assert (again.digest, again.image) == (first, found.image)
    await podman._run("rmi", "--all", "--force", seconds=60)
    elsewhere = await podman.prepare(image, LOGIN, first)
    assert (elsewhere.digest, elsewhere.image) == (first, found.image)
    by_digest = await podman.prepare(f"{registry.host}/{NAME}@{second}", LOGIN, first)
    assert by_digest.digest == second, "who names a digest gets that"
    with pytest.raises(RuntimeFailure, match=f"@sha256:{'0' * 64}"):
        await podman.prepare(image, LOGIN, f"sha256:{'0' * 64}")


@pytest.mark.podman
async def test_an_image_that_no_registry_has_is_found_again_by_its_id(
    podman: ContainerRuntime, registry: Registry
) -> None:
    registry.put(NAME, "v1", layer("one"))
    image = f"{registry.host}/{NAME}:v1"
    await podman.prepare(image, LOGIN)
    assert (await podman._run("tag", image, "localhost/mine:dev", seconds=20)).code == 0
    assert (await podman._run("rmi", image, seconds=20)).code == 0
    local = await podman.prepare("localhost/mine:dev")
    assert local.digest is not None
    asked = len(registry.requests)
    assert (await podman.prepare("localhost/mine:dev", None, local.digest)).image == local.image
    assert len(registry.requests) == asked


@pytest.mark.parametrize(
    ("image", "name"),
    [
        ("x", "x"), ("x:v1", "x"), ("a.b:5000/x", "a.b:5000/x"), ("a.b:5000/x/y:v1", "a.b:5000/x/y"),
    ],
)  # fmt: skip
def test_a_name_without_its_tag(image: str, name: str) -> None:
    assert untagged(image) == name


@pytest.mark.podman
async def test_what_is_here_is_given_to_nobody_whose_login_is_refused(
    podman: ContainerRuntime, registry: Registry
) -> None:
    image = f"{registry.host}/{NAME}@{registry.put(NAME, 'v1', layer('one'))}"
    await podman.prepare(image, LOGIN)
    asked = len(registry.requests)
    assert (await podman.prepare(image)).pulling is None
    assert len(registry.requests) == asked, "it is here: nothing is asked"
    refusal = await failed(podman, image, Login("OTHER", "bob", "wrong"))
    assert "refuses the login" in refusal.message
    assert "secret OTHER" in refusal.hint


@pytest.mark.podman
async def test_each_fault_is_told_with_the_next_step(podman: ContainerRuntime, registry: Registry) -> None:
    digest = registry.put(NAME, "v1", layer("one"))
    here = f"{registry.host}/{NAME}"
    refusal = await failed(podman, f"{here}:v1", None)
    assert (refusal.reason, "image_login" in refusal.hint) == (EndReason.IMAGE, True)
    unknown = await failed(podman, f"{here}:v9")
    assert unknown.reason is EndReason.IMAGE
    assert unknown.message.startswith(f"there is no image {here}:v9")
    absent = await failed(podman, f"{here}@sha256:{'0' * 64}")
    assert absent.message.startswith("there is no image")
    registry.blobs[digest] += b" "
    changed = await failed(podman, f"{here}@{digest}")
    assert changed.reason is EndReason.IMAGE
    assert "does not match its digest" in changed.message
    registry.status = 503
    away = await failed(podman, f"{here}:v1")
    assert away.reason is EndReason.INFRA


@pytest.mark.podman
async def test_a_layer_that_was_changed_is_not_taken(podman: ContainerRuntime, registry: Registry) -> None:
    digest = registry.put(NAME, "v1", layer("one"))
    manifest = json.loads(registry.blobs[digest])
    registry.blobs[manifest["layers"][0]["digest"]] = layer("six")
    changed = await failed(podman, f"{registry.host}/{NAME}:v1")
    assert "does not match its digest" in changed.message


@pytest.mark.podman
async def test_a_login_is_in_no_command_line_and_nothing_is_left_of_it(
    podman: ContainerRuntime, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in before podman notes how it is called, and what is in the file that it is given."""
    real, seen = shutil.which("podman"), tmp_path / "seen"
    wrapper = tmp_path / "bin" / "podman"
    wrapper.parent.mkdir()
    wrapper.write_text(
        f'#!/bin/sh\nprintf "%s\\n" "$*" >> "{seen}.words"\nenv >> "{seen}.words"\n'
        f'[ "$2" = --authfile ] && stat -c "%a %n" "$3" >> "{seen}.files"\nexec {real} "$@"\n'
    )
    wrapper.chmod(0o755)
    monkeypatch.setitem(podman._env, "PATH", f"{wrapper.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("PATH", f"{wrapper.parent}:{os.environ['PATH']}")
    registry.put(NAME, "v1", layer("one"))
    await podman.prepare(f"{registry.host}/{NAME}:v1", LOGIN)
    words = Path(f"{seen}.words").read_text()
    assert "pull --authfile" in words
    assert PASSWORD not in words
    assert LOGIN._basic not in words
    mode, _, name = Path(f"{seen}.files").read_text().strip().partition(" ")
    assert mode == "600"
    assert not Path(name).exists()
    assert not Path(name).parent.exists()
    left = [path for path in tmp_path.rglob("*") if path.is_file() and not path.is_symlink()]
    assert not [path for path in left if LOGIN._basic.encode() in path.read_bytes()]


@pytest.mark.podman
async def test_a_full_disk_is_told_as_one(
    podman: ContainerRuntime, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The storage lies on a file system of 4 MB."""
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(small)], capture_output=True).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        storage = tmp_path / "small.conf"
        storage.write_text(
            f'[storage]\ndriver = "vfs"\ngraphroot = "{small / "graph"}"\nrunroot = "{tmp_path / "run2"}"\n'
        )
        monkeypatch.setitem(podman._env, "CONTAINERS_STORAGE_CONF", str(storage))
        monkeypatch.setitem(podman._env, "TMPDIR", str(small))
        registry.put(NAME, "big", layer("x" * (12 << 20)))
        full = await failed(podman, f"{registry.host}/{NAME}:big")
        assert full.reason is EndReason.INFRA
        assert "disk of the machine is full" in full.message
        assert "BOOT_GIB" in full.hint
    finally:
        subprocess.run(["umount", "--lazy", str(small)], check=True)


@pytest.mark.podman
@pytest.mark.skipif(shutil.which("docker-registry") is None, reason="docker-registry is not installed")
async def test_the_registry_of_debian(
    podman: ContainerRuntime, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was pushed there by podman is pulled by its digest."""
    pushed = registry.put(NAME, "v1", layer("one"))
    await podman.prepare(f"{registry.host}/{NAME}:v1", LOGIN)
    settings = tmp_path / "registry.yml"
    settings.write_text(
        f"version: 0.1\nlog: {{level: info}}\nstorage: {{filesystem: {{rootdirectory: {tmp_path / 'kept'}}}}}\n"
        "http: {addr: '127.0.0.1:0'}\n"
    )
    process = await asyncio.create_subprocess_exec(
        "docker-registry", "serve", str(settings), stderr=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.DEVNULL
    )
    try:
        assert process.stderr is not None
        said = await asyncio.wait_for(process.stderr.readuntil(b"listening on "), 20)
        where = (await process.stderr.readuntil(b'"')).decode().strip('"')
        assert said
        away = f"{where}/copy/train"
        insecure = ("--tls-verify=false",)
        copied = await podman._run("push", *insecure, f"{registry.host}/{NAME}:v1", f"{away}:v1", seconds=60)
        assert copied.code == 0, copied.err
        await podman._run("rmi", "--all", "--force", seconds=60)
        text = Path(os.environ["CONTAINERS_REGISTRIES_CONF"]).read_text()
        Path(os.environ["CONTAINERS_REGISTRIES_CONF"]).write_text(
            f'{text}[[registry]]\nlocation = "{where}"\ninsecure = true\n'
        )
        by_tag = await podman.prepare(f"{away}:v1")
        assert by_tag.digest is not None
        await podman._run("rmi", "--all", "--force", seconds=60)
        assert (await podman.prepare(f"{away}@{by_tag.digest}")).digest == by_tag.digest
        assert re.fullmatch(r"sha256:[0-9a-f]{64}", pushed)
    finally:
        process.terminate()
        await process.wait()


@pytest.mark.parametrize(
    ("tool", "words", "reason", "said"),
    [
        ("docker", "Error response from daemon: pull access denied for x: requested access to the resource is denied",
         EndReason.IMAGE, "refuses the login"),
        ("docker", "Error response from daemon: manifest for x:v9 not found: manifest unknown: manifest unknown",
         EndReason.IMAGE, "there is no image"),
        ("docker", "failed to register layer: write /lib/x: no space left on device", EndReason.INFRA, "disk of the"),
        ("docker", "filesystem layer verification failed for digest sha256:0", EndReason.IMAGE, "does not match"),
        ("podman", "Error: pinging container registry x: dial tcp: no such host", EndReason.IMAGE, "cannot be reached"),
        ("podman", "podman pull did not end within 3600 s", EndReason.INFRA, "does not answer"),
        ("podman", "something new", EndReason.IMAGE, "cannot be had: something new"),
    ],
)  # fmt: skip
def test_what_tools_say(tool: str, words: str, reason: EndReason, said: str) -> None:
    found = failure(tool, "r.example/x:v9", words, None)
    assert found.reason is reason
    assert said in found.message
    assert found.hint


def test_a_login_is_never_shown() -> None:
    login = Login.parse("REG", "ann:a:b\n")
    assert (login.user, login.password) == ("ann", "a:b")
    assert "a:b" not in repr(login)
    assert "a:b" not in failure("podman", "x", "unauthorized: a:b is wrong", login).message
    for wrong in ("", "ann", ":x", "ann:"):
        with pytest.raises(RuntimeFailure, match="no login for a registry"):
            Login.parse("REG", wrong)
    with kept(login, "r.example:5000/x") as folder:
        assert list(json.loads((folder / "config.json").read_text())["auths"]) == ["r.example:5000"]
    assert not folder.exists()


def test_names() -> None:
    assert [registry_of(each) for each in ("debian", "a/b", "localhost/a", "h:5/a", "ghcr.io/a/b@sha256:0")] == [
        "docker.io", "docker.io", "localhost", "h:5", "ghcr.io",
    ]  # fmt: skip
    assert digest_of("a/b:v1") is None
    assert digest_of(f"a@sha256:{'a' * 64}") == f"sha256:{'a' * 64}"
    with pytest.raises(RuntimeFailure, match="no digest behind its @"):
        digest_of("a@v1")


@pytest.mark.parametrize(
    ("tool", "words"),
    [
        ("podman", ["--device", "nvidia.com/gpu=0", "--device", "nvidia.com/gpu=3"]),
        ("docker", ["--gpus", '"device=0,3"']),
    ],
)
def test_gpus_and_shared_memory_are_on_the_command_line(tool: str, words: list[str], tmp_path: Path) -> None:
    """There is no GPU here: what is looked at is the command."""
    plan = Plan(
        name=job_id(new_id(), 1, 0), argv=("python", "train.py"), env={}, cwd=tmp_path, writable=(), gpus=(0, 3),
        memory=64 << 30,
    )  # fmt: skip
    argv = list(ContainerRuntime(tool, tmp_path)._devices(plan))
    assert argv == words
    assert ContainerRuntime(tool, tmp_path)._limits(plan)[:2] == ["--shm-size", str(32 << 30)]
    small = Plan(name=plan.name, argv=("true",), env={}, cwd=tmp_path, writable=())
    assert ContainerRuntime(tool, tmp_path)._limits(small) == ["--shm-size", str(1 << 30)]
    assert ContainerRuntime(tool, tmp_path)._devices(small) == []
