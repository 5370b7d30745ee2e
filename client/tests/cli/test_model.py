"""incl model."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from incl_cli.model_cache import root
from incl_cli.model_names import Reference, parse
from incl_cli.testing import FakePlatform, Run
from incl_cli.testing_models import FakeModels
from incl_shared.events import CodeRef, ExperimentSubmitted
from incl_shared.ids import new_id
from incl_shared.queries.models import ChangeModel, Lineage, Measured, ModelFile, RegisterModel, TrashModel
from incl_shared.spec import ExperimentSpec


@pytest.fixture
def models(fake: FakePlatform) -> FakeModels:
    return FakeModels(fake)


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "a cache"))
    return tmp_path / "a cache"


def test_how_versions_are_named() -> None:
    assert parse("chest-xray") == Reference("chest-xray")
    assert parse("a:12") == Reference("a", 12)
    assert parse("a@b-c") == Reference("a", None, "b-c")
    assert [str(parse(text)) for text in ("a", "a:3", "a@b")] == ["a", "a:3", "a@b"]


@pytest.mark.parametrize(
    "text", ["", "a:", "a:0", "a:x", "a@", "a@b:1", "a:1@b", "a b", "a/b", "ü", "a:١", "-a", "a\n"]
)
def test_what_names_no_version(text: str, models: FakeModels, cli: Run) -> None:
    shown = cli("model", "show", "--", text) if text.startswith("-") else cli("model", "show", text)
    assert shown.code == 2
    assert "hint" in shown.err


def test_register_sends_what_was_said(models: FakeModels, fake: FakePlatform, cli: Run) -> None:
    view = fake.add(name="digits")
    Path("note.md").write_text("# good\n")
    Path("more.json").write_text('{"site": ["a"], "dice": 1}')
    words = ("--note", "@note.md", "--tag", "x", "--metadata", "@more.json", "--metadata", "dice=0.9")
    made = cli("model", "register", "@last", "--name", "chest-xray", "--path", "best.pt", *words, "--metadata", "by=me")
    assert (made.code, made.out) == (0, "chest-xray:1\n")
    assert "not known of it: seed" in made.err
    [query] = models.asked
    assert isinstance(query, RegisterModel)
    assert (query.experiment, query.path, query.note, query.tags) == (view.row.id, "best.pt", "# good\n", ("x",))
    assert query.metadata == {"site": ["a"], "dice": 0.9, "by": "me"}
    again = cli("model", "register", "@last", "--name", "chest-xray", "--path", "best.pt", "--json").json
    assert again["number"] == 2
    assert models.asked[0].registration != models.asked[1].registration


def test_register_refuses_what_cannot_be(models: FakeModels, fake: FakePlatform, cli: Run) -> None:
    fake.add(name="digits")
    Path("long").write_text("x" * 20_001)
    Path("list.json").write_text("[1]")
    start = ("model", "register", "@last", "--path", "best.pt", "--name")
    for name in ("chest xray", "a:1", "", "x" * 64):
        assert "is not a name" in cli(*start, name).err
    refused = (
        ("--note", "@long"), ("--note", "@missing"), ("--metadata", "@list.json"), ("--metadata", "x"),
        ("--metadata", "=1"), ("--tag", "a,b"), ("--attempt", "-1"), ("--note", "y" * 20_001),
    )  # fmt: skip
    for words in refused:
        result = cli(*start, "m", *words)
        assert result.code == 2, words
        assert "hint" in result.err or "cause" in result.err or "too long" in result.err, words
    assert cli("model", "register", "nobody", "--path", "x", "--name", "m").code == 4
    assert models.asked == []


def test_show_and_ls(models: FakeModels, cli: Run) -> None:
    assert "incl model register" in cli("model", "ls").err
    for number in range(5):
        models.add({"best.pt": b"%d" % number}, note="\x1b[2Jnote")
    assert cli("model", "alias", "chest-xray", "production", "3").code == 0
    assert "production → 3" in cli("model", "ls").out
    shown = cli("model", "show", "chest-xray")
    assert "5 versions" in shown.out
    assert "\x1b" not in shown.out
    assert len(cli("model", "show", "chest-xray", "-n", "3", "--json").json["versions"]) == 3
    one = cli("model", "show", "chest-xray@production")
    assert "chest-xray:3" in one.out
    assert "not known    seed: none" in one.out
    assert "\x1b" not in one.out
    assert [file["path"] for file in cli("model", "show", "chest-xray:3", "--json").json["listed"]] == ["best.pt"]
    assert cli("model", "show", "chest-xray:9").code == 4


def test_an_alias_goes_where_the_asker_means(models: FakeModels, cli: Run) -> None:
    for number in range(3):
        models.add({"best.pt": b"%d" % number})
    assert "points at chest-xray:1" in cli("model", "alias", "chest-xray", "production", "1", "--expect", "none").err
    assert "it was chest-xray:1" in cli("model", "alias", "chest-xray", "production", "2", "--reason", "better").err
    assert models.asked[-1].reason == "better"
    assert cli("model", "alias", "chest-xray", "staging", "@production", "--json").json["number"] == 2
    refused = cli("model", "alias", "chest-xray", "production", "3", "--expect", "1")
    assert refused.code == 5
    assert "points at chest-xray:2, not at 1" in refused.err
    assert "is taken away" in cli("model", "alias", "chest-xray", "production", "--remove").err
    assert cli("model", "alias", "chest-xray", "production", "3").code == 0, "its revision goes on"
    assert models.aliases["production"].revision == 4
    for words in (("x",), ("1", "--remove"), (), ("0",), ("99999999999",)):
        assert cli("model", "alias", "chest-xray", "production", *words).code == 2


def test_words_and_trash(models: FakeModels, cli: Run) -> None:
    models.add({"best.pt": b"1"})
    assert cli("model", "set", "chest-xray:1").code == 2
    assert cli("model", "set", "chest-xray:1", "--tag", "x", "--untag", "y", "--metadata", "a=null").code == 0
    change = models.asked[-1]
    assert isinstance(change, ChangeModel)
    assert (change.number, change.note, change.add_tags, change.remove_tags) == (1, None, ("x",), ("y",))
    assert change.metadata == {"a": None}
    assert "incl model restore chest-xray:1" in cli("model", "rm", "chest-xray:1").err
    assert models.asked[-1] == TrashModel(model="chest-xray", number=1)
    assert cli("model", "restore", "chest-xray", "--json").json == {
        "model": "chest-xray", "number": None, "trashed": False,
    }  # fmt: skip


def test_get_fetches_what_is_not_there(models: FakeModels, cli: Run, fake: FakePlatform) -> None:
    models.add({"a.json": b"{}", "deep/b.bin": b"bb", "c": b"c"})
    got = cli("model", "get", "chest-xray", "-o", "here", "--json").json
    assert {one["path"]: one["new"] for one in got} == {"a.json": True, "c": True, "deep/b.bin": True}
    assert Path("here/deep/b.bin").read_bytes() == b"bb"
    assert not Path("here/of its lineage").exists(), "the lineage's files are not the model's"
    Path("here/c").write_bytes(b"mine")
    assert cli("model", "get", "chest-xray:1", "-o", "here").code == 5
    assert cli("model", "get", "chest-xray:1", "-o", "here", "--force").code == 0
    assert Path("here/c").read_bytes() == b"c"
    assert len(fake.sources) == 2
    assert cli("model", "get", "chest-xray").code == 0
    assert Path("chest-xray-1/c").exists()


def test_the_cache_holds_each_content_once(models: FakeModels, cli: Run, fake: FakePlatform, cached: Path) -> None:
    models.add({"best.pt": b"weights"})
    models.add({"best.pt": b"weights"})
    models.add({"a": b"a", "b": b"b"})
    first = cli("model", "get", "chest-xray:1", "--cache", "--json").json
    assert Path(first["path"]).read_bytes() == b"weights"
    assert Path(first["path"]).is_relative_to(cached)
    assert first["fetched"]
    again = cli("model", "get", "chest-xray:2", "--cache", "--json").json
    assert (again["path"], again["fetched"]) == (first["path"], False)
    folder = Path(cli("model", "get", "chest-xray:3", "--cache").out.strip())
    assert (folder.is_dir(), (folder / "b").read_bytes()) == (True, b"b")
    assert len(fake.sources) == 2
    assert cli("model", "get", "chest-xray:3", "--cache", "-o", "x").code == 2


@pytest.mark.parametrize("damage", ["changed", "gone", "put in", "no list", "a list that agrees"])
def test_what_is_damaged_in_the_cache_is_fetched_again(
    damage: str, models: FakeModels, cli: Run, fake: FakePlatform, cached: Path
) -> None:
    models.add({"a": b"aaaa", "b": b"b"})
    folder = Path(cli("model", "get", "chest-xray", "--cache").out.strip())
    listed = folder / ".incl-files.json"
    if damage in ("changed", "a list that agrees"):
        (folder / "a").write_bytes(b"aaab")
    if damage == "gone":
        (folder / "a").unlink()
    if damage == "put in":
        (folder / "c").write_bytes(b"c")
    if damage == "no list":
        listed.write_text("[]")
    if damage == "a list that agrees":
        listed.write_text(json.dumps(json.loads(listed.read_text()) | {"a": hashlib.sha256(b"aaab").hexdigest()}))
    again = cli("model", "get", "chest-xray", "--cache", "--json").json
    assert again["fetched"]
    assert sorted(path.name for path in folder.iterdir()) == [".incl-files.json", "a", "b"]
    assert (folder / "a").read_bytes() == b"aaaa"
    assert not cli("model", "get", "chest-xray", "--cache", "--json").json["fetched"]


def test_bytes_that_are_others_are_refused(models: FakeModels, cli: Run, fake: FakePlatform, cached: Path) -> None:
    view = models.add({"best.pt": b"weights"})
    fake.blobs[models.files[1][0].sha256] = b"evil"
    refused = cli("model", "get", "chest-xray", "--cache")
    assert refused.code == 8
    assert not (root() / view.manifest).exists()


def test_a_protected_alias_is_moved_by_two(models: FakeModels, cli: Run) -> None:
    models.add({"best.pt": b"1"})
    models.add({"best.pt": b"2"})
    assert "nothing waits" in cli("model", "requests").err
    assert cli("model", "alias", "chest-xray", "production", "1").code == 0
    assert "is protected" in cli("model", "protect", "chest-xray", "production").err
    assert "(protected)" in cli("model", "ls").out
    asked = cli("model", "alias", "chest-xray", "production", "2", "--reason", "better\x1b[2J")
    assert (asked.code, asked.out) == (0, "")
    assert "nothing has changed yet" in asked.err
    assert "incl model approve chest-xray 1" in asked.err
    listed = cli("model", "requests", "chest-xray")
    assert "production → 2" in listed.out
    assert "\x1b" not in listed.out
    assert cli("model", "requests", "--json").json[0]["state"] == "open"
    assert "approved, and done" in cli("model", "approve", "chest-xray", "1", "--reason", "fine").err
    assert (models.asked[-1].approve, models.asked[-1].reason) == (True, "fine")
    assert cli("model", "refuse", "chest-xray", "1", "--json").json["state"] == "refused"
    assert "request 9 waits" in cli("model", "protect", "chest-xray", "production", "--remove").err
    for words in (("approve", "chest-xray", "0"), ("approve", "chest-xray"), ("refuse", "chest-xray", "x")):
        assert cli("model", *words).code == 2
    assert cli("model", "approve", "chest-xray", "1", "--reason", "x" * 2001).code == 2


def test_compare_shows_what_differs(models: FakeModels, cli: Run) -> None:
    def made(lr: str, acc: float) -> Lineage:
        metrics = {"acc": Measured(last=acc, best=acc + 0.01)}
        return Lineage(experiment=new_id(), python="3.11", environment={"LR": lr, "B": "1"}, metrics=metrics)

    models.add({"best.pt": b"1", "same": b"s"}, lineage=made("0.1", 0.8))
    models.add({"best.pt": b"2", "same": b"s"}, lineage=made("0.2", 0.9), metadata={"site": "x"})
    rows = cli("model", "compare", "chest-xray:1", "chest-xray:2", "--json").json["rows"]
    assert rows["metric acc"] == [0.81, 0.91]
    assert rows["env LR"] == ["0.1", "0.2"]
    assert rows["metadata site"] == [None, "x"]
    assert {"file best.pt", "experiment"} <= rows.keys()
    assert not {"env B", "python", "file same"} & rows.keys()
    assert "env B" in cli("model", "compare", "chest-xray:1", "chest-xray:2", "--all").out
    assert "0.91" in cli("model", "compare", "chest-xray:1", "chest-xray:2").out
    assert "do not differ" in cli("model", "compare", "chest-xray:1", "chest-xray:1").err
    assert cli("model", "compare", "chest-xray:1").code == 2
    assert cli("model", "compare", "chest-xray:1", "chest-xray:9").code == 4


def test_a_card_is_markdown_that_nobody_else_writes(models: FakeModels, cli: Run) -> None:
    """What a script said cannot become markup."""
    evil = "x`<script>alert(1)</script>`|\n# Title\x1b[2J"
    lineage = Lineage(
        experiment=new_id(), command=evil, environment={"A": evil}, metrics={evil: Measured(last=0.5)},
        missing=("seed: none",),
    )  # fmt: skip
    models.add({"best.pt": b"1"}, lineage=lineage)
    card = cli("model", "card", "chest-xray").out
    assert card.startswith("# chest-xray, version 1\n")
    assert "\x1b" not in card
    assert [line for line in card.splitlines() if line.startswith("# ")] == ["# chest-xray, version 1"]
    for line in card.splitlines():
        outside = "".join(line.split("`")[::2])
        assert "<script>" not in outside, line
    assert "seed: none" in card
    assert cli("model", "card", "chest-xray", "--json").json["card"] in card


def test_what_made_a_version_runs_again(models: FakeModels, fake: FakePlatform, cli: Run) -> None:
    """By its record alone: its experiment is not there any more."""
    spec = ExperimentSpec(command=["python", "train.py"], env={"LR": "0.1"})
    code = hashlib.sha256(b"code").hexdigest()
    fake.blobs[code] = b"code"
    gone = new_id()
    lineage = Lineage(experiment=gone, name="digits", spec=spec, code=code, code_files=3, git_commit="abc")
    view = models.add({"best.pt": b"1"}, lineage=lineage, experiment=gone)
    models.files[1].append(ModelFile(kind="code", path="code.tar.zst", sha256=code, size=4))
    assert cli("rerun", "chest-xray:1", "-e", "B=2", "-d").code == 0
    [(event, _)] = fake.published
    assert isinstance(event, ExperimentSubmitted)
    assert (event.spec.command, event.spec.env) == (["python", "train.py"], {"LR": "0.1", "B": "2"})
    assert (event.code, event.provenance.rerun_of) == (CodeRef(sha256=code, size=4, files=3), view.experiment)
    assert event.provenance.git_commit == "abc"
    models.add({"best.pt": b"1"})
    refused = cli("rerun", "chest-xray:2", "-d")
    assert (refused.code, "cannot be run again" in refused.err) == (5, True)
    assert cli("rerun", "chest-xray@nothing", "-d").code == 4
