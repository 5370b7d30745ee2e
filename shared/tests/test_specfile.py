"""The experiment file: every complaint with its line, every shorthand, every limit."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from incl_shared.errors import InvalidInput, NotFoundError
from incl_shared.spec import ExperimentSpec, duration_text, parse_duration, parse_size, size_text
from incl_shared.specfile import (
    MAX_BYTES,
    Override,
    experiment_schema,
    load_document,
    override,
    parse_document,
    read_spec,
    schema_text,
    spec_text,
    validate,
)
from incl_shared.yamltext import plain_value


def spec(text: str, *overrides: Override) -> ExperimentSpec:
    return validate(override(parse_document(text, "train.yaml"), overrides))


def complaint(text: str, *overrides: Override) -> InvalidInput:
    with pytest.raises(InvalidInput) as caught:
        spec(text, *overrides)
    return caught.value


def test_a_whole_file_is_read() -> None:
    found = spec("""
name: digits
command: [python, train.py]
env: {LR: 1e-3, VERSION: 1.10, FLAG: true, WORD: on, HEX: 0x10}
nodes: 2
resources: {cpu: 0.5, memory: 2GiB, gpu: 1}
retry: {on: [error, lost], attempts: 5}
checkpoint: best
metrics: {val_acc: max}
max_duration: 1h30m
tags: [a, 2026-01-01]
data: [{source: /data/x}]
""")
    assert found.env == {"LR": "1e-3", "VERSION": "1.10", "FLAG": "true", "WORD": "on", "HEX": "0x10"}
    assert found.resources.memory == 2 * 1024**3
    assert [reason.value for reason in found.retry.on] == ["error", "lost"]
    assert found.checkpoint.keep.value == "best"
    assert found.max_duration == 5400
    assert found.tags == ("a", "2026-01-01")


def test_text_as_command_is_for_the_shell() -> None:
    assert spec("command: python train.py | tee log").command == ["sh", "-c", "python train.py | tee log"]


@pytest.mark.parametrize(
    ("text", "line", "words", "hint"),
    [
        ("command: x\nresorces:\n  cpu: 1\n", 2, "unknown key 'resorces'", "did you mean 'resources'?"),
        ("command: x\nresources:\n  cpu: 1\n  gpus: 1\n", 4, "unknown key 'gpus'", "did you mean 'gpu'?"),
        ("command: x\ndata:\n  - source: /x\n  - sorce: /y\n    source: /y\n", 4, "unknown key 'sorce'", "'source'"),
        ("command: x\nzzz: 1\n", 2, "unknown key 'zzz'", "the file has the keys"),
        ("name: x\n", 0, "there is no command", "command: python train.py"),
        ("command: x\nresources:\n  cpu: two\n", 3, "resources.cpu: expected a number, found 'two'", ""),
        ("command: x\nnodes: 1.5\n", 2, "nodes: expected a whole number, found the number 1.5", ""),
        ("command: x\nnodes: 0\n", 2, "greater than or equal to 1, found the number 0", ""),
        ("command: x\nname: 12\n", 2, "expected text, found the number 12; put it in quotes", ""),
        ("command: x\nenv: [a]\n", 2, "env: expected a mapping", ""),
        ("command: x\nenv:\n  A: b\n  N:\n", 4, "env.N: expected text, found nothing", ""),
        ("command: x\nenv:\n  A: b\n  INCL_RANK: 1\n", 4, "INCL_RANK is set by the platform", ""),
        ("command: x\nspot: maybe\n", 2, "expected true or false", ""),
        ("command: x\ntags: one\n", 2, "tags: expected a list, found 'one'", ""),
        ("command: x\nresources:\n  memory: 3x\n", 3, "'3x' is not a size", ""),
        ("command: x\nmax_duration: soon\n", 2, "'soon' is not a duration", ""),
        ("command: x\nretry:\n  on: [preemted]\n", 3, "found 'preemted'", "did you mean 'preempted'?"),
        ("command: x\nmetrics:\n  acc: higher\n", 3, "expected one of 'max' or 'min'", ""),
        ("command: x\nimage: a\nsandbox: true\n", 3, "sandbox: an image is isolated already", ""),
        ("command: x\noutputs:\n  - ok\n  - ../up\n", 4, "must lie inside the working directory", ""),
        ("command: x\nenv: {A: b}\nsecrets: [A]\n", 3, "A is in env too", ""),
        ("command: []\n", 1, "command", ""),
        ("command: ''\n", 1, "command", ""),
        ("command: x\nproject: a.b\n", 2, "project: 'a.b' has characters that are not allowed", ""),
        ("command: x\ncommand: y\n", 2, "'command' is here twice; the first is in line 1", ""),
        ("command: x\nenv: {A: 1, A: 2}\n", 2, "'A' is here twice", ""),
        ("- a\n", 1, "an experiment file is a mapping", "command:"),
        ("just words\n", 1, "an experiment file is a mapping", "command:"),
        ("command: x\nname: !!python/name:os.system x\n", 2, "the tag", ""),
        ("command: x\n? [a, b]\n: c\n", 2, "a key must be a word", ""),
        ("a: &a [*a]\n", 1, "an alias that contains itself", ""),
        ("command: x\nname: a\x07b\n", 2, "the character U+0007 is not allowed", ""),
        ("command: x\n<<: [1]\n", 2, "<< needs a mapping", ""),
    ],
)
def test_complaints_have_line_and_hint(text: str, line: int, words: str, hint: str) -> None:
    error = complaint(text)
    assert error.message.startswith(f"train.yaml:{line}: " if line else "train.yaml: ")
    assert words in error.message
    assert hint in error.hint


def test_syntax_errors_show_the_line_with_a_caret() -> None:
    error = complaint("command: [x\nname: y\n")
    assert error.message.startswith("train.yaml:2: ")
    shown, caret = error.cause.splitlines()
    assert shown == "name: y"
    assert caret.index("^") == 4


def test_a_tab_is_named() -> None:
    assert "tabs" in complaint("command: x\n\tname: y\n").hint


def test_two_documents_are_refused() -> None:
    assert "train.yaml" in complaint("command: x\n---\ncommand: y\n").message


def test_every_problem_is_told_in_the_order_of_the_file() -> None:
    lines = complaint("resorces: {}\nnodes: 0\nspott: true\n").message.splitlines()
    assert [line.split(": ")[0] for line in lines] == ["train.yaml", "train.yaml:1", "train.yaml:2", "train.yaml:3"]
    assert "(did you mean 'spot'?)" in lines[3]


def test_a_name_of_ten_thousand_characters_is_refused_shortly() -> None:
    error = complaint(f"command: x\nname: {'n' * 10_000}\n")
    assert error.message == "train.yaml:2: name: is too long: 10000 characters, at most 128 allowed"


def test_an_unknown_key_of_ten_thousand_characters_is_not_repeated() -> None:
    assert len(complaint(f"command: x\n{'k' * 900}: 1\n").message) < 200


def test_laughing_aliases_are_stopped() -> None:
    text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
    text += "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12))
    assert "aliases count each time" in complaint(text).message


def test_depth_is_limited() -> None:
    assert "deep" in complaint("a: " + "[" * 5000 + "]" * 5000).message


def test_aliases_and_merge_keys_work_and_own_keys_win() -> None:
    found = spec("x-base: &base {cpu: 2, gpu: 1}\ncommand: x\nresources:\n  <<: *base\n  gpu: 3\n")
    assert (found.resources.cpu, found.resources.gpu) == (2.0, 3)


def test_overrides_replace_and_are_named_in_complaints() -> None:
    found = spec(
        "command: x\nresources: {cpu: 1, gpu: 1}\nenv: {A: a}\n",
        Override(("resources", "cpu"), 2.5, "--cpu"),
        Override(("env", "B"), "b", "--env B"),
        Override(("name",), "n", "--name"),
    )
    assert (found.resources.cpu, found.resources.gpu, found.env, found.name) == (2.5, 1, {"A": "a", "B": "b"}, "n")
    error = complaint("command: x\nnodes: 1\n", Override(("nodes",), "many", "--nodes"))
    assert error.message == "--nodes: nodes: expected a whole number, found 'many'"


def test_an_override_through_a_scalar_is_refused() -> None:
    assert "nodes is not a mapping" in complaint("command: x\nnodes: 1\n", Override(("nodes", "a"), 1, "--set")).message


def test_overrides_leave_the_document_alone() -> None:
    document = parse_document("command: x\nresources: {cpu: 1}\n", "train.yaml")
    override(document, [Override(("resources", "cpu"), 9, "--cpu")])
    assert document.values["resources"] == {"cpu": 1}


def test_files_missing_large_or_not_text(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="there is no file"):
        load_document(tmp_path / "none.yaml")
    with pytest.raises(InvalidInput, match="cannot read"):
        load_document(tmp_path)
    large = tmp_path / "large.yaml"
    large.write_text("#" * (MAX_BYTES + 1))
    with pytest.raises(InvalidInput, match="larger than"):
        load_document(large)
    latin = tmp_path / "latin.yaml"
    latin.write_bytes(b"command: x\nname: caf\xe9\n")
    with pytest.raises(InvalidInput, match=r"latin\.yaml:2: not UTF-8"):
        load_document(latin)


def test_a_file_is_read_with_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "train.yaml"
    path.write_bytes(b"\xef\xbb\xbfcommand: x\n")
    assert read_spec(path).command == ["sh", "-c", "x"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("-0.5", -0.5),
        ("1e-3", 0.001),
        ("true", True),
        ("on", "on"),
        ("1:30", "1:30"),
        ("~", None),
        ("0x1F", 31),
        ("012", 12),
        ("0o17", 15),
        ("1_000", 1000),
        ("-.inf", float("-inf")),
        ("'3'", "3"),
        ("[a, 1]", ["a", 1]),
        ("{a: {b: 2}}", {"a": {"b": 2}}),
    ],
)
def test_plain_values(text: str, value: object) -> None:
    assert plain_value(text) == value


def test_the_schema_for_editors_is_current() -> None:
    stored = resources.files("incl_shared.contracts").joinpath("experiment.schema.json").read_text(encoding="utf-8")
    assert stored == schema_text(), "run: incl schema > shared/src/incl_shared/contracts/experiment.schema.json"


@pytest.mark.parametrize(
    ("document", "good"),
    [
        ({"command": "x"}, True),
        ({"command": ["x"], "resources": {"memory": "2GB"}, "max_duration": "2h", "checkpoint": "latest"}, True),
        ({"command": "x", "env": {"A": 1, "B": True}, "x-own": 3, "checkpoint": {"grace": "10s"}}, True),
        ({"command": "x", "sweep": {"parameters": {}}}, True),
        ({}, False),
        ({"command": "x", "resorces": {}}, False),
        ({"command": "x", "nodes": "two"}, False),
        ({"command": "x", "metrics": {"a": "up"}}, False),
    ],
)
def test_the_schema_says_what_the_reader_says(document: dict[str, object], good: bool) -> None:
    checker = jsonschema.Draft202012Validator(experiment_schema())
    assert checker.is_valid(document) is good
    text = json.dumps(document)
    if good:
        assert spec(text).command
    else:
        complaint(text)


def test_command_is_text_or_words() -> None:
    assert complaint("command: true\n").message.endswith("command: expected text or a list of words, found true")


@given(
    memory=st.one_of(st.integers(0, 2**60), st.integers(0, 2000).map(lambda n: n * 10**9), st.just(2**60 + 2**20)),
    seconds=st.one_of(st.floats(1e-9, 365 * 86_400), st.integers(1, 365 * 86_400).map(float)),
)
def test_what_is_shown_of_a_spec_is_the_same_spec(memory: int, seconds: float) -> None:
    made = ExperimentSpec.model_validate(
        {"command": "x", "env": {"A": "1.10"}, "resources": {"memory": memory}, "max_duration": seconds,
         "checkpoint": {"grace": seconds}}
    )  # fmt: skip
    assert spec(spec_text(made)) == made


def test_sizes_and_durations_are_shown_as_people_write_them() -> None:
    sizes = ("512MiB", "2GB", "1KB", "3TiB", "1500MB", 1_000_001, 0)
    assert tuple(size_text(parse_size(text)) for text in sizes) == sizes
    durations = ("1m", "1h30m", "1d2h", "30s", "0.5s", "1m0.5s")
    assert tuple(duration_text(parse_duration(text)) for text in durations) == durations
    text = spec_text(spec("command: x\nresources: {memory: 512MiB}\nmax_duration: 60\ncheckpoint: {grace: 1h30m}"))
    assert "memory: 512MiB\n" in text and "max_duration: 1m\n" in text and "grace: 1h30m\n" in text
    assert "max_duration" not in spec_text(spec("command: x"))


def test_to_keep_the_best_needs_a_metric() -> None:
    wanted = "train.yaml:2: checkpoint.keep: best needs a metric with its goal, e.g. metrics: {val_acc: max}"
    assert complaint("command: x\ncheckpoint: best\n").message.endswith(wanted.partition(":")[2])
    assert complaint("command: x\ncheckpoint:\n  grace: 1s\n  keep: best\n").message.endswith(
        wanted.replace("yaml:2", "yaml:4").partition(":")[2]
    )
    assert spec("command: x\ncheckpoint: best\nmetrics: {loss: min}\n").checkpoint.keep.value == "best"


DATA = """command: python t.py
instance: n2-standard-4
image: x
data:
- {snapshot: chest-ct-v3, mount: /data}
- {nfs: "10.0.0.2:/vol1/share"}
- {bucket: gs://my-bucket/a/b, mount: /b}
- {scratch: local-ssd, size: 700GB, mount: /scratch}
- {source: /srv/data, target: s, mount: /srv/x}
"""


def test_data_of_every_kind_is_read_and_written() -> None:
    spec = validate(parse_document(DATA))
    assert [(each.kind, each.text, each.target) for each in spec.data] == [
        ("snapshot", "chest-ct-v3", "chest-ct-v3"), ("nfs", "10.0.0.2:/vol1/share", "share"),
        ("bucket", "gs://my-bucket/a/b", "b"), ("scratch", "local-ssd", "scratch"), ("source", "/srv/data", "s"),
    ]  # fmt: skip
    assert spec.snapshots == ("chest-ct-v3",)
    assert validate(parse_document(spec_text(spec))) == spec


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        ("[{snapshot: Chest}]", "data.0.snapshot: 'Chest' has characters"),
        ("[{snapshot: a, nfs: 'h:/b'}]", "this one names snapshot and nfs"),
        ("[{mount: /data}]", "this one names none"),
        ("[{snapshot: a, mount: data}]", "write an absolute path such as /data"),
        ("[{snapshot: a, mount: /a/../etc}]", "is not a place to mount"),
        ("[{snapshot: a, mount: /etc/x}]", "belongs to the system"),
        ("[{snapshot: a, mount: /home}]", "belongs to the system"),
        ("[{snapshot: a, mount: '/a:rw'}]", "is not a place to mount"),
        ("[{bucket: s3://x}]", "write gs://bucket"),
        ("[{bucket: gs://abc/../d}]", "write gs://bucket"),
        ("[{nfs: server}]", "write host:/export"),
        ("[{nfs: '-o:/x'}]", "write host:/export"),
        ("[{scratch: nvme}]", "expected one of 'local-ssd'"),
        ("[{snapshot: a, size: 3GB}]", "size is that of scratch"),
        ("[{snapshot: a}, {snapshot: a, target: b}]", "the snapshot a is named twice"),
        ("[{snapshot: a, mount: /d}, {snapshot: b, mount: /d/x}, {snapshot: c, mount: /d-x}]", "'/d' and '/d/x'"),
        ("[{source: /a}, {source: /b}]", "give each a target of its own"),
        ("[{scratch: local-ssd}, {scratch: local-ssd, target: b}]", "has one scratch"),
        ("[{source: /a, mount: /b}]", "in a container only"),
        ("[{snapsot: a}]", "unknown key 'snapsot'"),
    ],
)
def test_data_that_makes_no_sense_is_told(entries: str, says: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        validate(parse_document(f"command: x\ndata: {entries}\n"))
    assert says in caught.value.message
