"""A model's way on the real platform: registered, pointed at, fetched, verified; its experiment deleted; purged."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

from incl_cli.context import load_context, save_context
from incl_local.layout import Layout
from incl_local.testing import Home
from incl_shared.auth.keys import PlatformKeys
from incl_shared.auth.mint import Minter
from incl_shared.auth.names import Role, inbox_prefix

SCRIPT = """
import incl, os
(incl.output_dir / "best.pt").write_bytes(b"weights of " + os.environ["WHO"].encode())
(incl.output_dir / "out.pt").symlink_to("/etc/passwd")
incl.log({"acc": 0.9}, step=1)
"""


def made(home: Home, project: Path, who: str) -> str:
    """The id of an experiment that has ended, with best.pt."""
    (project / "train.py").write_text(SCRIPT)
    ran = home.incl("run", "--env", f"WHO={who}", "--env", "SEED=1", "--json", "--", "python", "train.py", cwd=project)
    assert ran.code == 0, ran.err
    return str(home.incl("show", "@last", "--json").json["row"]["id"])


def test_a_model_outlives_its_experiment(home: Home, project: Path) -> None:
    first, second = made(home, project, "one"), made(home, project, "two")
    for experiment in (first, second):
        registered = home.incl("model", "register", experiment, "--name", "e2e-net", "--path", "best.pt")
        assert registered.code == 0, registered.err
    refused = home.incl("model", "register", first, "--name", "e2e-net", "--path", "out.pt")
    assert refused.code == 4
    assert "links that lead out" in refused.err
    assert home.incl("model", "alias", "e2e-net", "production", "1").code == 0
    shown = home.incl("model", "show", "e2e-net@production", "--json").json
    assert (shown["number"], shown["experiment"], shown["lineage"]["seed"]) == (1, first, "1")
    assert shown["lineage"]["metrics"]["acc"]["last"] == 0.9
    assert home.incl("rm", first, "--purge", "--yes").code == 0
    got = home.incl("model", "get", "e2e-net@production", "-o", "got", cwd=project)
    assert got.code == 0, got.err
    content = (project / "got" / "best.pt").read_bytes()
    assert content == b"weights of one"
    assert shown["listed"][0]["sha256"] == hashlib.sha256(content).hexdigest()
    again = home.incl("rerun", "e2e-net:1", "--env", "WHO=three", "--json", cwd=project)
    assert again.code == 0, again.err
    assert home.incl("model", "register", "@last", "--name", "e2e-net", "--path", "best.pt").out == "e2e-net:3\n"
    differing = home.incl("model", "compare", "e2e-net:1", "e2e-net:3", "--json").json["rows"]
    assert differing["env WHO"] == ["one", "three"]
    assert "code" not in differing
    whole = home.incl("model", "verify", "e2e-net")
    assert whole.code == 0, whole.out + whole.err
    assert home.incl("model", "verify", "e2e-net", "--head", whole.out.strip()).code == 0
    assert home.incl("model", "verify", "e2e-net", "--head", "0" * 64).code == 8


def test_only_what_lies_in_the_trash_is_purged(home: Home, project: Path) -> None:
    experiment = made(home, project, "three")
    for _ in range(2):
        assert home.incl("model", "register", experiment, "--name", "e2e-gone", "--path", "best.pt").code == 0
    assert home.incl("admin", "purge-model", "e2e-gone:1", "--yes").code == 5
    assert home.incl("model", "rm", "e2e-gone:1").code == 0
    purged = home.incl("admin", "purge-model", "e2e-gone:1", "--yes")
    assert purged.code == 0, purged.err
    assert home.incl("model", "restore", "e2e-gone:1").code == 4
    again = home.incl("model", "register", experiment, "--name", "e2e-gone", "--path", "best.pt")
    assert again.out == "e2e-gone:3\n"
    assert home.incl("model", "verify", "e2e-gone").code == 0


REGISTERING = """
import incl, pathlib
incl.init()
for step in range(5):
    incl.log({"acc": step / 5}, step=step)
pathlib.Path("export").mkdir()
pathlib.Path("export/a").write_text("a")
pathlib.Path("export/b").write_text("b")
assert incl.register_model("e2e-script", "export", note="from a script")
"""


def test_a_script_registers_what_it_made(home: Home, project: Path) -> None:
    """With the metrics that it had logged by then; in the platform, and outside of it."""
    (project / "train.py").write_text(REGISTERING)
    ran = home.incl("run", "--json", "--", "python", "train.py", cwd=project)
    assert ran.code == 0, ran.err
    shown = home.incl("model", "show", "e2e-script:1", "--json").json
    assert ([file["path"] for file in shown["listed"]], shown["note"]) == (["a", "b"], "from a script")
    assert shown["lineage"]["metrics"]["acc"]["last"] == 0.8
    assert shown["lineage"]["experiment"] == home.incl("show", "@last", "--json").json["row"]["id"]
    assert home.incl("model", "verify", "e2e-script").code == 0
    cached = home.incl("model", "get", "e2e-script", "--cache")
    assert (Path(cached.out.strip()) / "b").read_text() == "b"


def second_person(home: Home, folder: Path) -> dict[str, str]:
    """The environment of somebody else of the project, with a credential of her own."""
    layout = Layout(home.data)
    minter = Minter(PlatformKeys.load(layout.nats / "keys").signers())
    creds = minter.person("grace", ("default",), 600).write(folder / "grace.creds")
    ours = load_context(home.folder / ".config" / "incl" / "context.json")
    theirs = replace(ours, user="grace", creds=str(creds), inbox_prefix=inbox_prefix(Role.PERSON, "grace"))
    return {"INCL_CONTEXT_FILE": str(save_context(theirs, folder / "grace.json"))}


def test_two_people_move_a_protected_alias(home: Home, project: Path, tmp_path: Path) -> None:
    experiment, grace = made(home, project, "four"), second_person(home, tmp_path)
    for _ in range(2):
        assert home.incl("model", "register", experiment, "--name", "e2e-eyes", "--path", "best.pt").code == 0
    assert home.incl("model", "alias", "e2e-eyes", "production", "1").code == 0
    assert home.incl("model", "protect", "e2e-eyes", "production").code == 0
    asked = home.incl("model", "alias", "e2e-eyes", "production", "2", "--reason", "better", "--json").json
    assert (asked["number"], asked["request"]) == (1, 1)
    alone = home.incl("model", "approve", "e2e-eyes", "1")
    assert (alone.code, "asked for himself" in alone.err) == (6, True)
    assert [one["number"] for one in home.incl("model", "requests", "--json", env=grace).json] == [2]
    approved = home.incl("model", "approve", "e2e-eyes", "1", "--reason", "looked", env=grace)
    assert approved.code == 0, approved.err
    assert home.incl("model", "show", "e2e-eyes@production", "--json").json["number"] == 2
    trail = home.incl("model", "history", "e2e-eyes", "--json").json
    assert [(one["action"], one["by"] == "grace") for one in trail[:3]] == [
        ("alias", False), ("approved", True), ("asked", False),
    ]  # fmt: skip
    assert home.incl("model", "verify", "e2e-eyes").code == 0
