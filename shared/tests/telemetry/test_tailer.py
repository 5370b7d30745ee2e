"""Output becomes numbered lines once and for ever: whatever bytes come, whenever they are read, whoever crashes."""

from __future__ import annotations

import resource
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from incl_shared.telemetry.lines import PART, REPLACES, between, cut, split
from incl_shared.telemetry.tailer import ERR, OUT, SAID, LogTailer
from incl_shared.telemetry.wire import MAX_LINE_CHARACTERS, Line

chunks = st.lists(
    st.tuples(
        st.sampled_from([OUT, ERR]),
        st.lists(st.sampled_from([b"a", b"bc", b"\n", b"\r", b"\xff", "ä".encode(), b" 5%", b"\x1b[0m"]), max_size=6),
        st.sampled_from(["nothing", "poll", "late poll", "crash", "torn crash", "ship"]),
    ),
    max_size=25,
)


def shown(lines: list[Line]) -> list[str]:
    """What a terminal shows of one stream's lines."""
    screen: list[str] = []
    joined = False
    for line in lines:
        if joined:
            screen[-1] += line.text
        elif line.flags & REPLACES:
            screen[-1] = line.text
        else:
            screen.append(line.text)
        joined = bool(line.flags & PART)
    return screen


def expected(raw: bytes) -> list[str]:
    lines = raw.split(b"\n")
    if lines[-1] == b"":
        lines.pop()
    return [line.rstrip(b"\r").split(b"\r")[-1].decode("utf-8", "replace") for line in lines]


class Shipped:
    """Takes lines from tailers over the same files, however often they are born again."""

    def __init__(self) -> None:
        self.offset = 0
        self.lines: list[Line] = []

    def take(self, tailer: LogTailer) -> None:
        while True:
            first, lines, self.offset = tailer.lines(self.offset, max_lines=3, max_bytes=20)
            if not lines:
                return
            assert first == len(self.lines) + 1
            self.lines += lines


@given(chunks)
@settings(max_examples=100, deadline=None)
def test_every_line_has_one_number_through_all_crashes(history: list[tuple[int, list[bytes], str]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        files = {OUT: Path(folder) / "stdout.log", ERR: Path(folder) / "stderr.log"}
        index = Path(folder) / "index"
        tailer, shipped, now = LogTailer(files, index), Shipped(), 1000.0
        for stream, parts, then in history:
            with files[stream].open("ab") as file:
                file.write(b"".join(parts))
            now += 5.0 if then == "late poll" else 0.01
            if then.endswith("poll"):
                tailer.poll(now)
            elif then.endswith("crash"):
                tailer.close()
                if then == "torn crash":
                    with index.open("ab") as file:
                        file.write(b"[9,1,2.0,")
                tailer = LogTailer(files, index)
            elif then == "ship":
                shipped.take(tailer)
        tailer.finish(now)
        shipped.take(tailer)
        assert tailer.poll(now + 9) == 0
        tailer.close()
        for stream, path in files.items():
            raw = path.read_bytes() if path.exists() else b""
            assert shown([line for line in shipped.lines if line.stream == stream]) == expected(raw)
        assert [line.time for line in shipped.lines] == sorted(line.time for line in shipped.lines)


@pytest.fixture
def files(tmp_path: Path) -> dict[int, Path]:
    return {OUT: tmp_path / "stdout.log", ERR: tmp_path / "stderr.log"}


def all_lines(tailer: LogTailer) -> list[Line]:
    shipped = Shipped()
    while True:
        first, lines, shipped.offset = tailer.lines(shipped.offset, max_lines=2000, max_bytes=200_000)
        if not lines:
            return shipped.lines
        assert first == len(shipped.lines) + 1
        assert sum(len(line.text.encode()) for line in lines) < 650_000
        shipped.lines += lines


@pytest.mark.parametrize("grown", [True, False], ids=["as it grows", "at once"])
@pytest.mark.parametrize("character", ["x", "ä", "€"])
def test_a_line_of_ten_megabytes_comes_in_parts(files: dict[int, Path], grown: bool, character: str) -> None:
    tailer = LogTailer(files, files[OUT].with_name("index"))
    text = character * (10_000_000 // len(character.encode()))
    data = b"before\n" + text.encode() + b"\nafter\n"
    step = 999_983 if grown else len(data)
    with files[OUT].open("ab", buffering=0) as file:
        for at in range(0, len(data), step):
            file.write(data[at : at + step])
            tailer.poll(1.0)
    lines = all_lines(tailer)
    assert all(len(line.text) <= MAX_LINE_CHARACTERS for line in lines)
    assert shown(lines) == ["before", text, "after"]
    assert len(lines) < 170
    tailer.close()


def test_ten_megabytes_without_an_end_end_with_the_job(files: dict[int, Path]) -> None:
    tailer = LogTailer(files, files[OUT].with_name("index"))
    text = "y" * (2 * MAX_LINE_CHARACTERS)
    files[OUT].write_text(text)
    tailer.poll(1.0)
    tailer.poll(1.0)
    tailer.finish(2.0)
    assert tailer.finish(3.0) == 0
    assert shown(all_lines(tailer)) == [text]
    assert all_lines(tailer)[-1].flags & PART == 0
    tailer.close()


def test_a_progress_bar_says_one_state_a_second_and_its_last(files: dict[int, Path]) -> None:
    tailer = LogTailer(files, files[OUT].with_name("index"))
    with files[ERR].open("ab", buffering=0) as file:
        for step in range(301):
            file.write(f"\r{step}/300 it".encode())
            tailer.poll(100.0 + step / 100)
        file.write(b"\ndone\n")
        tailer.poll(103.01)
    lines = all_lines(tailer)
    assert shown(lines) == ["300/300 it", "done"]
    assert 4 <= len(lines) <= 6
    assert lines[0].flags == 0
    assert all(line.flags == REPLACES for line in lines[1:-1])
    assert lines[-1].flags == 0
    tailer.close()


def test_an_endless_progress_bar_read_late_is_its_last_state(files: dict[int, Path]) -> None:
    tailer = LogTailer(files, files[OUT].with_name("index"))
    files[OUT].write_bytes(b"start\n" + b"".join(b"\r%d/100000 [====]" % step for step in range(100_001)) + b"\rend\n")
    tailer.poll(5.0)
    assert shown(all_lines(tailer)) == ["start", "end"]
    files[ERR].write_bytes(b"x" + b"\r" * 1_000_000 + b"\n")
    tailer.poll(6.0)
    assert shown([line for line in all_lines(tailer) if line.stream == ERR])[0] == "x"
    tailer.close()


def test_what_is_no_utf8_is_kept_as_well_as_can_be(files: dict[int, Path]) -> None:
    tailer = LogTailer(files, files[OUT].with_name("index"))
    files[OUT].write_bytes(b"caf\xe9 \x00 \x1b[31mred\x1b[0m\n\xff\xfe\n")
    tailer.poll(1.0)
    assert [line.text for line in all_lines(tailer)] == ["caf\ufffd \x00 \x1b[31mred\x1b[0m", "\ufffd\ufffd"]
    tailer.close()


def test_a_hundred_thousand_lines_are_cut_into_frames_that_fit(files: dict[int, Path]) -> None:
    tailer = LogTailer(files, files[OUT].with_name("index"))
    files[OUT].write_bytes(b"\n" * 50_000 + b"".join(b"line %d\n" % i for i in range(50_000)))
    assert tailer.poll(1.0) == 100_000
    lines = all_lines(tailer)
    assert [line.text for line in lines[:3] + lines[-1:]] == ["", "", "", "line 49999"]
    assert len(lines) == 100_000
    tailer.close()


def test_words_of_the_platform_stand_between_the_lines(files: dict[int, Path]) -> None:
    tailer = LogTailer(files, files[OUT].with_name("index"))
    files[OUT].write_text("one\n")
    tailer.poll(1.0)
    tailer.say("stopped: asked for by ann\nmore \ud800", 2.0)
    with files[OUT].open("a") as file:
        file.write("two\n")
    tailer.poll(3.0)
    tailer.close()
    again = LogTailer(files, files[OUT].with_name("index"))
    assert [(line.stream, line.text, line.time) for line in all_lines(again)] == [
        (OUT, "one", 1.0),
        (SAID, "stopped: asked for by ann", 2.0),
        (SAID, "more ?", 2.0),
        (OUT, "two", 3.0),
    ]
    assert again.sequence == 4
    again.close()


def test_lines_keep_their_numbers_when_the_file_is_cut_behind_our_back(files: dict[int, Path]) -> None:
    tailer = LogTailer(files, files[OUT].with_name("index"))
    files[OUT].write_text("one\ntwo\nthree\n")
    tailer.poll(1.0)
    files[OUT].write_text("one\n")
    tailer.poll(2.0)
    assert [line.text for line in all_lines(tailer)] == ["one", "", "", "one"]
    files[OUT].unlink()
    tailer.poll(3.0)
    assert [line.text for line in all_lines(tailer)] == ["", "", "", ""]
    tailer.close()


def test_a_full_disk_takes_nothing_in_and_loses_nothing(files: dict[int, Path]) -> None:
    index = files[OUT].with_name("index")
    tailer = LogTailer(files, index)
    files[OUT].write_text("one\n")
    tailer.poll(1.0)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with files[OUT].open("a") as file:
        file.write("two\n")
    resource.setrlimit(resource.RLIMIT_FSIZE, (index.stat().st_size + 5, before[1]))
    try:
        with pytest.raises(OSError):
            tailer.poll(2.0)
        assert tailer.sequence == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    tailer.poll(3.0)
    assert [(line.text, line.time) for line in all_lines(tailer)] == [("one", 1.0), ("two", 3.0)]
    tailer.close()


@given(st.binary(max_size=50), st.integers(4, 50))
def test_between_never_cuts_a_character(data: bytes, at: int) -> None:
    place = between(data, at)
    assert at - 3 <= place <= at
    text = ("€ä" * 20).encode()
    text[: between(text, min(at, len(text)))].decode()


@given(st.lists(st.sampled_from([b"ab", b"\n", b"\r", b"\r\n", b"c" * 30]), max_size=12).map(b"".join))
def test_a_cut_always_moves_on_or_waits(data: bytes) -> None:
    piece = cut(data, final=False)
    if piece is not None:
        assert 0 <= piece.start <= piece.end <= len(data)
        assert piece.lines >= 1
    final = cut(data, final=True)
    assert (final is None) == (data == b"")
    if final is not None:
        assert final.lines == len(split(data[final.start : final.end]))
