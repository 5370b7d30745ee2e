"""Batches of telemetry on METRICS and LOGS, and the lines of a spool file.

Spool file (written by the SDK, one per process, `<writer>.jsonl`): one JSON object a line, UTF-8, ended by a newline.
The sequence of a record is its line number, from 1. A last line without its newline is not there yet.
NaN, Infinity and -Infinity are written as these bare words, as Python's json does. A line that is no record (torn by
a full disk, or foreign) still takes its number and carries nothing. A record has at most 1,000 values. By "k":

    m  {"k":"m","t":<epoch s>,"s":<step>,"v":{"loss":0.3,…}}          scalars
    m  {"k":"m","t":…,"s":…,"n":["loss",…],"b":"<base64>"}              the same, values packed: little-endian float64
    c  {"k":"c","t":…,"s":…,"path":"ckpt/5.pt","file":"<absolute path of the spooled copy or link>","metrics":{…}}
                                                                       a checkpoint
    f  {"k":"f","t":…,"s":…,"kind":"image|table|text|file","key":"samples","file":"<absolute path>","name":"x.png"}
    a  {"k":"a","t":…,"title":"…","text":"…","level":"info|warn|error"} an alert
    p  {"k":"p","t":…,"v":{"lr":0.1}}                                   configuration
    d  {"k":"d","t":…,"n":<count>}                                      records dropped before this one (disk full)

A batch carries consecutive records of one writer: first, first+1, … first+count-1. The message's subject says
experiment, attempt and rank; its Nats-Msg-Id is '<job>:<stream>:<writer>:<first>:<count>' (`message_id`): with the
count in it a batch that was cut differently after a crash is never taken for the one before; a number follows when the
bus lost what it had confirmed. The payload is msgpack (arrays, see the structs); steps are little-endian int64, times
and values little-endian float64. Records that have the same names are one group, so that the steps and times of
metrics that are logged together travel once.
"""

from __future__ import annotations

import msgspec


class Group(msgspec.Struct, array_like=True, frozen=True):
    """The n records of a batch that have these k names, in the order of the records.

    names: k, each once. steps: n int64. times: n float64, seconds since the epoch. values: n * k float64, record by
    record. offsets: which record each is (record - first of the batch), n uint32, rising; empty when the group has
    every record of the batch. They let a batch that overlaps what is stored be cut exactly.
    """

    names: list[str]
    steps: bytes
    times: bytes
    values: bytes
    offsets: bytes = b""


class Extra(msgspec.Struct, array_like=True, frozen=True):
    """A record that is no scalar: its sequence and its spool line."""

    sequence: int
    line: bytes


class MetricBatch(msgspec.Struct, array_like=True, frozen=True):
    """Consecutive records of one writer."""

    version: int
    writer: str
    first: int
    count: int
    groups: list[Group]
    extras: list[Extra]


class Line(msgspec.Struct, array_like=True, frozen=True):
    """One line of output. stream: 0 stdout, 1 stderr, 2 said by the platform. Text is UTF-8, without the newline.

    flags: 1 the text is a part of a longer line (its continuation follows), 2 it replaces the line of this stream
    before it, a progress bar's state.
    """

    time: float
    stream: int
    text: str
    flags: int = 0


class LogBatch(msgspec.Struct, array_like=True, frozen=True):
    """Consecutive lines of one writer (the node's tailer of one job)."""

    version: int
    writer: str
    first: int
    lines: list[Line]


BATCH_VERSION = 2
MAX_NAMES = 10_000
"""Metrics that a batch names at most, over all its groups."""
MAX_LINE_CHARACTERS = 65_536
"""A longer line is cut into parts of at most this many characters (flag 1 on all but the last)."""


def message_id(job: str, stream: str, writer: str, first: int, count: int, resend: int = 0) -> str:
    """The Nats-Msg-Id of a batch; stream is 'metrics' or 'logs'.

    resend: how often this writer's records were sent again because the bus had lost what it had confirmed. It is part
    of the id then, so that the bus does not take them for the repeats that they are.
    """
    identifier = f"{job}:{stream}:{writer}:{first}:{count}"
    return f"{identifier}:{resend}" if resend else identifier
