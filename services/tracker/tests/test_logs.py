"""Pages of log lines: cursors, tails, filters, very long lines, pages that fit a message."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from incl_shared import subjects
from incl_shared.bus.delivery import Delivery
from incl_shared.bus.errors import Early
from incl_shared.errors import InvalidInput, NotFoundError
from incl_shared.ids import new_id
from incl_shared.queries.tracker import GetLogs, LogLine
from incl_shared.subjects import Origin
from incl_shared.telemetry.wire import MAX_LINE_CHARACTERS, Line
from incl_tracker import tables as t
from incl_tracker.domain.loglines import decompressed, joined, pack
from incl_tracker.domain.search import ODD_LETTERS, Needle
from incl_tracker.store_logs import logs


async def everything(bench: Any, query: GetLogs) -> list[LogLine]:
    """All pages after one another."""
    lines: list[LogLine] = []
    while True:
        page = await bench.ask(query)
        lines += page.lines
        assert page.cursor > query.after or not page.more
        assert len(page.model_dump_json()) < 256_000
        query = query.model_copy(update={"after": page.cursor})
        if not page.more:
            return lines


@pytest.fixture
async def talk(lite: Any, make: Any) -> str:
    """An experiment of two ranks and two attempts which said 0, 1, … 99, ten lines a batch."""
    experiment = new_id()
    for begin in range(0, 100, 10):
        origin = Origin("default", experiment, 1 + begin // 50, begin // 10 % 2)
        texts = [f"line {n}" for n in range(begin, begin + 10)]
        await lite.batch(origin, make.log_batch(f"t{begin}", 1, texts))
    return experiment


@pytest.mark.parametrize("limit", [1, 7, 10, 1000])
async def test_pages_join_without_a_seam(lite: Any, talk: str, limit: int) -> None:
    lines = await everything(lite, GetLogs(experiment=talk, limit=limit))
    assert [line.text for line in lines] == [f"line {n}" for n in range(100)]


async def test_filters(lite: Any, talk: str) -> None:
    ranked = await everything(lite, GetLogs(experiment=talk, rank=1, limit=3))
    assert [line.text for line in ranked] == [f"line {n}" for n in range(100) if n // 10 % 2]
    second = await everything(lite, GetLogs(experiment=talk, attempt=2))
    assert [line.text for line in second] == [f"line {n}" for n in range(50, 100)]
    found = await everything(lite, GetLogs(experiment=talk, search="LINE 7", limit=4))
    assert [line.text for line in found] == [f"line {n}" for n in (7, *range(70, 80))]


@pytest.mark.parametrize(("tail", "first"), [(0, 100), (1, 99), (15, 85), (1000, 0)])
async def test_tails(lite: Any, talk: str, tail: int, first: int) -> None:
    page = await lite.ask(GetLogs(experiment=talk, tail=tail))
    assert [line.text for line in page.lines] == [f"line {n}" for n in range(first, 100)]
    assert (page.cursor, page.more) == (100, False)


async def test_the_tail_of_one_rank(lite: Any, talk: str) -> None:
    page = await lite.ask(GetLogs(experiment=talk, tail=12, rank=0, search="line"))
    assert [line.text for line in page.lines] == [f"line {n}" for n in (68, 69, *range(80, 90))]


async def test_a_cursor_at_the_end_waits_there(lite: Any, talk: str) -> None:
    page = await lite.ask(GetLogs(experiment=talk, after=100))
    assert (page.lines, page.cursor, page.more) == ((), 100, False)
    with pytest.raises(InvalidInput):
        await lite.ask(GetLogs(experiment=talk, after=3, tail=3))


async def test_a_line_of_ten_megabytes(bench: Any, make: Any) -> None:
    experiment = new_id()
    origin = Origin("default", experiment, 1, 0)
    whole = "".join(f"{n:07d}|" for n in range(10_000_000 // 8))
    cut = [whole[i : i + MAX_LINE_CHARACTERS] for i in range(0, len(whole), MAX_LINE_CHARACTERS)]
    parts = [Line(1.0, 0, text, 1 if place < len(cut) - 1 else 0) for place, text in enumerate(cut)]
    for place in range(0, len(parts), 10):
        await bench.batch(origin, make.log_batch("t", 1 + place, parts[place : place + 10]))
    await bench.batch(origin, make.log_batch("t", len(parts) + 1, ["the next"]))
    lines = await everything(bench, GetLogs(experiment=experiment))
    assert "".join(line.text for line in lines) == whole + "the next"
    assert [line.part for line in lines] == [True] * (len(lines) - 2) + [False, False]
    assert len(lines) < len(parts), "parts of a page are joined"


async def test_lines_that_come_together_are_rows_that_can_be_read(lite: Any, make: Any) -> None:
    origin = Origin("default", new_id(), 1, 0)
    batches = [make.log_batch("log", number * 4 + 1, ["x" * 60_000] * 4) for number in range(50)]
    subject = subjects.logs(origin.project, origin.experiment, origin.attempt, origin.rank)
    sent = [
        Delivery(subject, msgspec.msgpack.encode(batch), {}, str(n), "", 1.0, 0, "TEST", n, 1, None)
        for n, batch in enumerate(batches, 1)
    ]
    await lite.database.write(lambda tx: lite.handlers.log_batches(tx, sent))
    counts = await lite.read(lambda c: c.execute(sa.select(t.log_batches.c.count)).scalars().all())
    assert sum(counts) == 200
    assert max(counts) <= 20, "about a megabyte of text, not twelve"


async def test_lines_wait_a_moment_for_the_ones_before_them(lite: Any, make: Any) -> None:
    origin = Origin("default", new_id(), 1, 0)
    await lite.batch(origin, make.log_batch("t", 1, ["1", "2"]))
    with pytest.raises(Early):
        await lite.batch(origin, make.log_batch("t", 4, ["4"]), patient=False)
    await lite.batch(origin, make.log_batch("t", 3, ["3"]), patient=False)
    await lite.batch(origin, make.log_batch("t", 6, ["6"]))
    lines = await everything(lite, GetLogs(experiment=origin.experiment))
    assert [line.text for line in lines] == ["1", "2", "3", "6"], "but not for ever"
    await lite.batch(origin, make.log_batch("t", 7, ["7"]), patient=False)
    await lite.batch(origin, make.log_batch("t", 4, ["4"]), patient=False)
    lines = await everything(lite, GetLogs(experiment=origin.experiment))
    assert [line.text for line in lines][4:] == ["7", "4"], "nor again for a hole that was given up"


async def test_odd_texts(bench: Any, make: Any) -> None:
    origin = Origin("default", new_id(), 1, 0)
    texts = ["", "\x00nul", "tab\t\x1b[31mred", "😀 é", "q" * 65_536, '"\\' * 30_000]
    await bench.batch(origin, make.log_batch("t", 1, [Line(1.0, n % 4, text) for n, text in enumerate(texts)]))
    lines = await everything(bench, GetLogs(experiment=origin.experiment))
    assert [line.text for line in lines] == texts
    assert [line.stream for line in lines] == ["out", "err", "sys", "sys", "out", "err"]


async def test_streams_and_times(bench: Any, make: Any) -> None:
    experiment = new_id()
    for place in range(4):
        origin = Origin("default", experiment, 1, 0)
        lines = [Line(100.0 * place + n, n % 3, f"{place}.{n}") for n in range(6)]
        await bench.batch(origin, make.log_batch(f"t{place}", 1, lines))

    async def said(**which: Any) -> list[str]:
        lines = [line.text for line in await everything(bench, GetLogs(experiment=experiment, limit=2, **which))]
        tail = (await bench.ask(GetLogs(experiment=experiment, tail=100, **which))).lines
        assert [line.text for line in tail] == lines
        return lines

    assert await said(stream="err") == [f"{place}.{n}" for place in range(4) for n in (1, 4)]
    assert await said(since=103.0, until=202.0) == ["1.3", "1.4", "1.5", "2.0", "2.1"]
    assert await said(since=302.0, stream="sys", attempt=1) == ["3.2", "3.5"]
    assert await said(until=0.0) == []
    assert await said(since=1e9) == []
    assert await said(until=3.0, search="0.2", rank=0) == ["0.2"]


async def test_a_search_that_has_no_time_left_says_how_far_it_came(lite: Any, make: Any) -> None:
    experiment = new_id()
    for place in range(100):
        await lite.batch(Origin("default", experiment, 1, 0), make.log_batch(f"t{place}", 1, ["x", f"hit {place}"]))

    def page(**which: Any) -> Any:
        query = GetLogs(experiment=experiment, **which)
        return lite.read(lambda connection: logs(connection, "default", query, scan_s=-1.0))

    found, after, pages = [], 0, 0
    while True:
        answer = await page(search="hit 9", after=after)
        found += [line.text for line in answer.lines]
        pages += 1
        if not answer.more:
            break
        assert answer.cursor > after
        after = answer.cursor
    assert found == ["hit 9", *(f"hit {place}" for place in range(90, 100))]
    assert pages > 20
    last = await page(search="hit 3", tail=5)
    assert (last.lines, last.more) == ((), True)
    assert (await page(tail=1)).lines[0].text == "hit 99"


async def test_lines_in_the_archive_are_said_to_be_there(lite: Any, talk: str) -> None:
    away = sa.update(t.log_batches).values(lines=None)
    await lite.database.write(lambda tx: tx.connection.execute(away))
    with pytest.raises(NotFoundError, match="archive"):
        await lite.ask(GetLogs(experiment=talk))
    assert (await lite.ask(GetLogs(experiment=talk, rank=7))).lines == ()


texts = st.text(st.one_of(st.sampled_from("aksStTfiKß" + ODD_LETTERS), st.characters(codec="utf-8")), max_size=12)


@given(st.lists(texts, min_size=1, max_size=30), texts.filter(bool), st.booleans(), st.data())
@settings(max_examples=300, deadline=None)
def test_a_blob_that_is_passed_over_has_no_line_with_the_text(
    lines: list[str], sought: str, inside: bool, data: st.DataObject
) -> None:
    if inside:
        text = data.draw(st.sampled_from(lines))
        begin = data.draw(st.integers(0, len(text)))
        sought = text[begin : begin + data.draw(st.integers(1, 5))].swapcase() or sought
    plain = decompressed(pack([Line(data.draw(st.floats()), 0, text, place % 2) for place, text in enumerate(lines)]))
    needle = Needle(sought)
    assert any(needle.is_in(line) for line in lines) == any(sought.casefold() in line.casefold() for line in lines)
    if any(needle.is_in(line) for line in lines):
        assert needle.may_be_in(plain)


def test_all_letters_that_fold_into_ascii_are_known() -> None:
    every = [chr(code) for code in range(0x80, 0x1FFFF) if not 0xD800 <= code < 0xE000]
    assert "".join(c for c in every if any(f.isascii() for f in c.casefold())) == ODD_LETTERS


def test_a_blob_without_the_text_is_passed_over() -> None:
    plain = decompressed(pack([Line(float(n), 0, f"epoch {n} loss 0.5 μ") for n in range(100)]))
    assert not Needle("Traceback").may_be_in(plain)
    assert not Needle("größer").may_be_in(plain)
    assert Needle("EPOCH 57").may_be_in(plain)
    assert Needle("Μ").may_be_in(plain)


def test_parts_of_different_streams_are_not_mixed() -> None:
    def part(stream: Any, text: str, more: bool) -> LogLine:
        return LogLine(attempt=1, rank=0, stream=stream, time=0.0, text=text, part=more)

    given = [part("out", "a", True), part("err", "x", False), part("out", "b", True), part("out", "c", False)]
    assert [(line.text, line.part) for line in joined(given)] == [("a", True), ("x", False), ("bc", False)]
