"""The reader sees every line of every writer once, in order, whatever is in the files and however it gets there."""

from __future__ import annotations

import json
import math
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from incl_shared.telemetry.batcher import build
from incl_shared.telemetry.records import as_extra, drops, scalars
from incl_shared.telemetry.spool import (
    READ_BYTES,
    Piece,
    Position,
    SpoolReader,
    after,
    spooled_file,
    spooled_files,
)
from incl_shared.testing.telemetry import points_of

line_bytes = st.binary(max_size=40).filter(lambda data: b"\n" not in data)


def read_all(reader: SpoolReader, writer: str, position: Position, **limits: int) -> tuple[list[Piece], Position]:
    pieces = []
    while (piece := reader.read(writer, position, **limits)) is not None:
        pieces.append(piece)
        position = after(position, piece)
    return pieces, position


@given(
    lines=st.lists(line_bytes, max_size=30),
    cuts=st.lists(st.integers(0, 1200), max_size=20),
    limit=st.integers(1, 7),
    restart=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_lines_come_once_in_order_however_they_are_written_and_read(
    lines: list[bytes], cuts: list[int], limit: int, restart: bool
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        data = b"".join(line + b"\n" for line in lines)
        places = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
        reader, position, seen = SpoolReader(Path(folder)), Position(), []
        with (Path(folder) / "w.jsonl").open("ab", buffering=0) as file:
            for start, end in zip(places, [*places[1:], len(data)], strict=True):
                file.write(data[start:end])
                pieces, position = read_all(reader, "w", position, max_records=limit)
                seen += [(piece.first + i, line) for piece in pieces for i, line in enumerate(piece.lines)]
                if restart:
                    reader = SpoolReader(Path(folder))
        assert seen == list(enumerate(lines, 1))
        assert position.sequence == len(lines)
        for sequence in range(len(lines) + 1):
            at = reader.seek("w", sequence)
            assert (at.sequence, at.offset) == (sequence, sum(len(line) + 1 for line in lines[:sequence]))


def test_a_last_line_without_newline_waits(tmp_path: Path) -> None:
    file = tmp_path / "w.jsonl"
    file.write_bytes(b'{"k":"m"')
    reader = SpoolReader(tmp_path)
    assert reader.read("w", Position()) is None
    assert reader.untold("w", Position()) == 1
    file.write_bytes(b'{"k":"m"}\nrest')
    piece = reader.read("w", Position())
    assert piece is not None
    assert (piece.lines, piece.offset) == ([b'{"k":"m"}'], 10)


def test_only_names_that_can_be_writers_are_writers(tmp_path: Path) -> None:
    for name in ("good-1.jsonl", "bad.name.jsonl", ".hidden.jsonl", "x.txt", "a b.jsonl"):
        (tmp_path / name).write_bytes(b"\n")
    assert SpoolReader(tmp_path).writers() == ["good-1"]
    assert SpoolReader(tmp_path / "missing").writers() == []


def test_an_overlong_line_is_one_record_and_costs_no_memory(tmp_path: Path) -> None:
    with (tmp_path / "w.jsonl").open("wb") as file:
        file.write(b"a\n" + b"x" * (3 * READ_BYTES + 5) + b"\nb\n")
    pieces, position = read_all(SpoolReader(tmp_path), "w", Position())
    assert [line for piece in pieces for line in piece.lines] == [b"a", b"", b"b"]
    assert position.sequence == 3


def test_an_emptied_file_is_read_from_its_beginning_and_numbers_go_on(tmp_path: Path) -> None:
    file = tmp_path / "w.jsonl"
    file.write_bytes(b'{"k":"m","t":1}\n{"k":"m","t":2}\n')
    reader = SpoolReader(tmp_path)
    _, position = read_all(reader, "w", Position())
    file.write_bytes(b"new\n")
    pieces, position = read_all(reader, "w", position)
    assert [(piece.first, piece.lines) for piece in pieces] == [(3, [b"new"])]
    assert position.sequence == 3


def test_a_file_cut_in_the_middle_is_not_read_again(tmp_path: Path) -> None:
    file = tmp_path / "w.jsonl"
    file.write_bytes(b"one\ntwo\nthree\n")
    reader = SpoolReader(tmp_path)
    _, position = read_all(reader, "w", Position())
    with file.open("r+b") as open_file:
        open_file.truncate(8)
    assert reader.read("w", position) is None
    with file.open("ab") as open_file:
        open_file.write(b"four\n")
    pieces, _ = read_all(reader, "w", position)
    assert [line for piece in pieces for line in piece.lines] == [b"four"]


def test_bare_words_are_numbers() -> None:
    found = scalars(b'{"k":"m","t":1.5,"s":-3,"v":{"a":NaN,"b":-Infinity,"c":Infinity,"d":7,"e":true}}')
    assert found is not None
    assert found.s == -3
    assert math.isnan(found.v["a"])
    assert (found.v["b"], found.v["c"], found.v["d"], found.v["e"]) == (-math.inf, math.inf, 7.0, 1.0)


def test_what_is_no_record_is_none() -> None:
    big = str(2**70)
    for line in (b"", b"\x00\xff", b"[1]", b"null", b'{"k":1}', b'{"t":1}', b"[" * 100_000, b'"m"'):
        assert scalars(line) is None
        assert as_extra(line) is None
        assert drops(line) == 0
    assert drops(b'{"k":"d","t":1,"n":%b}' % big.encode()) == 2**31 - 1, "counts of it fit every database"
    for broken in (
        b'{"k":"m"}',
        b'{"k":"m","t":1,"s":1.5,"v":{}}',
        b'{"k":"m","t":1,"s":1,"v":[]}',
        b'{"k":"m","t":"x","s":1,"v":{}}',
        f'{{"k":"m","t":1,"s":{big},"v":{{"a":1}}}}'.encode(),
    ):
        assert scalars(broken) is None
        assert as_extra(broken) is None


@pytest.mark.parametrize("depth", [900, 985, 990, 995, 1000, 1005, 100_000])
def test_what_has_no_end_costs_no_reader_its_life(depth: int, tmp_path: Path) -> None:
    """Nested deeper than a decoder goes, or a number longer than any: the line carries nothing, the others all."""
    deep, endless = b"[" * depth + b"]" * depth, b"1" + b"0" * min(depth, 4000)
    lines = [
        b'{"k":"m","t":1,"s":1,"v":{"a":1},"x":%b}' % deep,
        b'{"k":"m","t":1,"s":1,"b":"AAAAAAAAAAA=","n":%b}' % deep,
        b'{"k":"m","t":1,"s":1,"x":%b}' % deep,
        b'{"k":"p","t":1,"v":%b}' % deep,
        b'{"k":"f","t":1,"s":1,"key":%b,"file":"%b"}' % (deep, bytes(tmp_path)),
        b'{"k":"m","t":%b,"s":1,"v":{"a":1}}' % endless,
        b'{"k":"m","t":1,"s":%b,"v":{"a":1}}' % endless,
        b'{"k":"m","t":1,"s":1,"v":{"a":%b}}' % endless,
        b'{"k":"d","t":1,"n":%b}' % endless,
    ]
    good = b'{"k":"m","t":1,"s":7,"v":{"b":1}}'
    for line in lines:
        data = line + b"\n" + good + b"\n"
        piece = Piece("w", 1, 2, data, len(data))
        batch = build(piece)
        assert batch.count == 2
        assert points_of(batch)["b"] == [(1, 7, 1.0, 1.0)]
        assert after(Position(), piece).sequence == 2
        file = spooled_file(tmp_path, "w", 1, line)
        assert file is None or file.listed_as == f"media/1/{tmp_path.name}"


def test_a_record_glued_to_a_torn_one_is_found() -> None:
    whole = b'{"k":"m","t":2.0,"s":2,"v":{"loss":0.5}}'
    found = scalars(b'{"k":"m","t":1.0,"s":1,"v":{"lo' + whole)
    assert found is not None
    assert (found.s, found.v) == (2, {"loss": 0.5})
    assert as_extra(b'{"k":"a","title":"x' + b'{"k":"d","t":1.0,"n":3}') == b'{"k":"d","t":1.0,"n":3}'


def test_lone_surrogates_become_text_that_can_travel() -> None:
    found = scalars(b'{"k":"m","t":1,"s":1,"v":{"a\\ud800":1}}')
    assert found is not None
    assert list(found.v) == ["a?"]


def test_dropped_records_are_counted_by_the_position(tmp_path: Path) -> None:
    (tmp_path / "w.jsonl").write_bytes(b'{"k":"d","t":1,"n":4}\nx\n{"k":"d","t":1,"n":-4}\n{"k":"d","t":1,"n":2}\n')
    _, position = read_all(SpoolReader(tmp_path), "w", Position(), max_records=2)
    assert (position.sequence, position.dropped) == (4, 6)


def test_spooled_files_are_those_inside_that_are_still_there(tmp_path: Path) -> None:
    spool = tmp_path / "spool dir"
    inside = spool / "files" / "1-a" / "m.pt"
    inside.parent.mkdir(parents=True)
    inside.write_bytes(b"x")
    outside = tmp_path / "secret"
    outside.write_bytes(b"x")
    link = spool / "files" / "link"
    link.symlink_to(outside)
    records = [
        {"k": "c", "t": 1.0, "s": 5, "path": "5/m.pt", "file": str(inside), "metrics": {}},
        {"k": "f", "t": 1.0, "s": 6, "kind": "text", "key": "../../k", "file": str(inside), "name": "m.txt"},
        {"k": "c", "t": 1.0, "s": 5, "path": "x", "file": str(outside)},
        {"k": "c", "t": 1.0, "s": 5, "path": "x", "file": str(link)},
        {"k": "c", "t": 1.0, "s": 5, "path": "x", "file": str(inside) + "gone"},
        {"k": "c", "t": 1.0, "s": 5, "path": "x", "file": 7},
    ]
    lines = [json.dumps(record, separators=(",", ":")) for record in records]
    (spool / "w.jsonl").write_text("\n".join([*lines, "garbage", ""]))
    found = spooled_files(spool)
    assert [(file.sequence, file.path, file.listed_as) for file in found] == [
        (1, inside, "5/m.pt"),
        (2, inside, "k/6/m.txt"),
    ]


def test_what_a_writer_dropped_is_counted_once(tmp_path: Path) -> None:
    """The length of its .lost file is all of it; records tell of a part; a line that lacks its newline comes on top."""
    told = b'{"k":"d","t":0,"n":3}\n'
    (tmp_path / "w.lost").touch()
    for length, data, untold in [
        (0, told, 0),
        (3, told, 0),
        (5, told, 2),
        (5, told + b'{"k":"m","t":0,"s', 2),
        (5, told + b'{"k":"m","t":0,"s":1,"v":{"a":1.0}}', 3),
        (0, told + b'{"k":"m","t":0,"s":1,"v":{"a":1.0}}', 1),
        (2**40, b"", 2**31 - 1),
    ]:
        (tmp_path / "w.jsonl").write_bytes(data)
        os.truncate(tmp_path / "w.lost", length)
        reader = SpoolReader(tmp_path)
        assert reader.untold("w", reader.skip("w", Position())) == untold, (length, data)
        reader.close()
    (tmp_path / "w.lost").unlink()
    (tmp_path / "w.lost").symlink_to("/etc/passwd")
    assert SpoolReader(tmp_path).untold("w", Position()) == 0


@pytest.mark.parametrize(
    "spelled",
    [
        '{"k": "c", "t": 1.0, "file": FILE}',
        ' {"t":1.0,"file":FILE,"k":"f"}',
        '{\t"k"\t:\t"c"\t,"file":FILE}\r',
        '{"\\u006b":"\\u0063","file":FILE}',
        '{"k":"\\u0066","file":FILE}',
        '{"k":"m","t":1.0,"s":3,"v{"k":"c","file":FILE}',
    ],
)
def test_a_file_is_found_however_its_record_is_spelled(tmp_path: Path, spelled: str) -> None:
    file = tmp_path / "m.pt"
    file.write_bytes(b"x")
    line = spelled.replace("FILE", json.dumps(str(file)))
    other = '{"k":"m","t":1.0,"s":3,"v":{"c":1.0,"f":2.0}}\n'
    (tmp_path / "w.jsonl").write_text(f"{other}{line}\n{other}" + line.replace('"file"', '"metrics"') + "\n")
    assert [(found.sequence, found.path) for found in spooled_files(tmp_path)] == [(2, file)]


@pytest.mark.parametrize(
    "line", ['{"k": "d", "n": 4}', '{"n":4,"k":"d"}', '{"k":"\\u0064","n":4}', '{"k":"m","t":1{"k":"d","n":4}']
)
def test_dropped_records_are_counted_however_that_is_spelled(tmp_path: Path, line: str) -> None:
    (tmp_path / "w.jsonl").write_text(f'{line}\n{{"k":"m","t":1,"s":1,"v":{{"d":1,"n":9}}}}\n')
    _, position = read_all(SpoolReader(tmp_path), "w", Position())
    assert (position.sequence, position.dropped) == (2, 4)


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    """A pipe would make the reader wait, /dev/zero read for ever, a link show what the job may not see."""
    (tmp_path / "secret").write_text("secret\n")
    (tmp_path / "link.jsonl").symlink_to(tmp_path / "secret")
    (tmp_path / "zero.jsonl").symlink_to("/dev/zero")
    (tmp_path / "folder.jsonl").mkdir()
    os.mkfifo(tmp_path / "pipe.jsonl")
    reader = SpoolReader(tmp_path)
    assert [reader.read(writer, Position()) for writer in reader.writers()] == [None] * 4
    assert [reader.untold(writer, Position()) for writer in reader.writers()] == [0] * 4
    assert spooled_files(tmp_path) == []


def test_a_name_with_a_newline_is_no_writer(tmp_path: Path) -> None:
    (tmp_path / "w\n.jsonl").write_bytes(b"\n")
    assert SpoolReader(tmp_path).writers() == []


def test_a_spool_that_is_no_directory_has_no_writers(tmp_path: Path) -> None:
    (tmp_path / "spool").write_text("a file")
    reader = SpoolReader(tmp_path / "spool")
    assert reader.writers() == []
    assert reader.missing
    assert spooled_files(tmp_path / "spool") == []


def test_a_hole_of_terabytes_costs_no_time(tmp_path: Path) -> None:
    file = tmp_path / "w.jsonl"
    file.write_bytes(b"a\n")
    os.truncate(file, 8 << 40)
    reader = SpoolReader(tmp_path)
    pieces, position = read_all(reader, "w", Position())
    assert [line for piece in pieces for line in piece.lines] == [b"a"]
    with file.open("ab") as out:
        out.write(b"z\nb\n")
    pieces, position = read_all(reader, "w", position)
    assert [line for piece in pieces for line in piece.lines] == [b"", b"b"]
    assert position.sequence == 3


def test_an_endless_line_is_not_read_again_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "w.jsonl"
    file.write_bytes(b"x" * (3 * READ_BYTES))
    reader, read = SpoolReader(tmp_path), []
    true_pread = os.pread
    monkeypatch.setattr(os, "pread", lambda fd, size, at: read.append(at) or true_pread(fd, size, at))
    assert reader.read("w", Position()) is None
    read.clear()
    assert reader.read("w", Position()) is None
    assert max(read) == 0
    with file.open("ab") as out:
        out.write(b"x\nb\n")
    assert read_all(reader, "w", Position())[1].sequence == 2


def test_of_too_many_writers_the_first_are_taken_and_the_others_counted(tmp_path: Path) -> None:
    for number in range(5, 9):
        (tmp_path / f"w{number}.jsonl").write_bytes(b"\n")
    reader = SpoolReader(tmp_path, max_writers=6)
    assert reader.writers() == ["w5", "w6", "w7", "w8"]
    for number in range(5):
        (tmp_path / f"w{number}.jsonl").write_bytes(b"\n")
    assert reader.writers() == ["w0", "w1", "w5", "w6", "w7", "w8"]
    assert reader.refused() == 3
    again = SpoolReader(tmp_path, max_writers=6)
    again.know(["w8", "w7"])
    assert {"w7", "w8"} <= set(again.writers())


def test_records_of_files_that_nobody_could_list(tmp_path: Path) -> None:
    (tmp_path / "m").write_bytes(b"x")
    inside = str((tmp_path / "m").resolve())
    records = [
        {"k": "c", "s": 10**30, "path": "x\x00y\ud800/../z", "file": inside},
        {"k": "c", "s": True, "path": "///", "file": inside},
        {"k": "c", "s": 1, "path": "x", "file": inside + "\ud800"},
        {"k": "f", "s": "1", "key": ["a"], "name": {}, "file": inside},
        {"k": "c", "s": -5, "path": "a" * 9999, "file": inside},
    ]
    (tmp_path / "w.jsonl").write_text("".join(json.dumps(one, separators=(",", ":")) + "\n" for one in records))
    found = spooled_files(tmp_path)
    assert [(file.sequence, file.step) for file in found] == [(1, None), (2, None), (4, None), (5, -5)]
    for file in found:
        assert 0 < len(file.listed_as.encode()) <= 2000
        assert "\x00" not in file.listed_as
