"""Machine types: the package's table holds together, wrong tables are refused by line, instances are understood."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from incl_provisioner.catalog import Catalog, load_catalog
from incl_provisioner.domain.cloud.instances import Need, resolve
from incl_provisioner.domain.cloud.machines import GIB, MachineTable, Shape, read_machines, region_of
from incl_shared.errors import InclError, InvalidInput

SMALL = """\
provider: other
date: 2026-01-02
zones: {north: [a, b], south: [a]}
gpus:
  big: {names: [b], memory_gib: 80, zones: {north: [a]}}
  add: {names: [t], memory_gib: 16, zones: {south: [a]},
        guest: {families: [f], cores_each: 4, gib_each: 8, counts: {1: {cores: 8, memory_gib: 64}}}}
families:
  f: {zones: all, boot_disks: [ssd], shapes: {m: {gib_each: 4, cores: [2, 8, 16]}}}
machines:
  big-1: {family: big, cores: 10, memory_gib: 100, gpu: big, gpus: 1, boot_disks: [fast]}
"""


def names(text: str | None, need: Need, catalog: Catalog, *, spot: bool = False) -> list[str]:
    price = lambda shape: catalog.prices.cheapest(shape, spot=spot)  # noqa: E731
    return [shape.name for shape in resolve(text, need, catalog.machines, price)]


def test_what_the_facts_say_of_the_package_table(catalog: Catalog) -> None:
    machines = catalog.machines.machines
    for name, machine in machines.items():
        brings = name.startswith(("a2", "a3", "a4", "g2"))
        assert (machine.gpu is not None) == brings
        assert Shape(machine, machine.gpu, machine.gpus).terminates == brings
        assert Shape(machine, machine.gpu, machine.gpus).guest is None
        assert machine.zones <= catalog.machines.zones
        assert machine.boot_disks
    for name in ("a4-highgpu-8g", "a3-ultragpu-8g", "c4-standard-8", "n4-standard-8"):
        assert machines[name].boot_disks == ("hyperdisk-balanced",)
    assert machines["a2-highgpu-8g"].memory == 680 * GIB
    assert machines["a2-megagpu-16g"].gpus == 16
    assert machines["n1-standard-4"].memory == 15 * GIB
    assert {"us-central1", "europe-west4"} <= catalog.machines.regions


def test_another_providers_table_fits_the_same_form() -> None:
    table = read_machines(SMALL, "other.yaml")
    assert (table.provider, table.date, table.zones) == ("other", "2026-01-02", {"north-a", "north-b", "south-a"})
    assert table.machines["f-m-8"].memory == 32 * GIB
    assert [shape.name for shape in resolve("t", Need(), table, lambda _: None)] == ["f-m-8+t"]
    assert resolve("f-m-8+t", Need(), table, lambda _: None)[0].zones == {"south-a"}
    assert resolve("big-1", Need(), table, lambda _: None)[0].zones == {"north-a"}


@pytest.mark.parametrize(
    ("before", "after", "line", "words"),
    [
        ("date: 2026-01-02", "date: yesterday", 2, "is not a date"),
        ("date: 2026-01-02\n", "", 1, "'date' is missing"),
        ("date: 2026-01-02", "dates: 2026-01-02", 2, "unknown key"),
        ("south: [a]}\n", "south: []}\n", 3, "at least one entry"),
        ("memory_gib: 80", "memory_gib: many", 5, "is not a number"),
        ("memory_gib: 80", "memory_gib: .nan", 5, "is not a number"),
        ("zones: {north: [a]}", "zones: {north: [z]}", 5, "north-z is not among the zones"),
        ("names: [t]", "names: [b]", 4, "stands for big and for add"),
        ("cores: [2, 8, 16]", "cores: [2, -8]", 9, "is not a whole number"),
        ("counts: {1:", "counts: {some:", 7, "is not a number of GPUs"),
        ("gpu: big, gpus: 1", "gpu: small, gpus: 1", 11, "is not among the gpus"),
        ("gpu: big, gpus: 1", "gpu: big", 11, "belong together"),
        (", gpu: big, gpus: 1", "", 11, "'zones' is missing"),
        ("  big-1: {", "  f-m-2: {", 11, "is in a family already"),
        ("  big-1: {", "  big-1: [", 11, ""),
    ],
)  # fmt: skip
def test_a_wrong_table_is_refused_with_its_line(before: str, after: str, line: int, words: str) -> None:
    assert before in SMALL
    with pytest.raises(InvalidInput) as caught:
        read_machines(SMALL.replace(before, after, 1), "own.yaml")
    assert caught.value.message.startswith(f"own.yaml:{line}:")
    assert words in caught.value.message
    assert caught.value.hint


def test_gpus_that_no_machine_has_are_refused() -> None:
    wrong = SMALL.replace("gpu: big, gpus: 1,", "").replace("big-1: {", "big-1: {zones: all, ")
    with pytest.raises(InvalidInput, match="no machine brings big"):
        read_machines(wrong, "own.yaml")


@pytest.mark.parametrize(
    ("text", "need", "first"),
    [
        ("a2-highgpu-1g", Need(), "a2-highgpu-1g"),
        ("A100", Need(), "a2-highgpu-1g"),
        ("a100:8", Need(), "a2-highgpu-8g"),
        ("h100x8", Need(), "a3-highgpu-8g"),
        ("8xh100", Need(), "a3-highgpu-8g"),
        ("a100-80gb", Need(), "a2-ultragpu-1g"),
        ("nvidia-a100-80gb:2", Need(), "a2-ultragpu-2g"),
        ("t4", Need(), "n1-standard-4+t4"),
        ("t4", Need(gpus=4), "n1-standard-16+t4:4"),
        ("v100:2", Need(), "n1-standard-16+v100:2"),
        ("l4", Need(cpu=10), "g2-standard-12"),
        ("n1-highmem-8+t4:2", Need(), "n1-highmem-8+t4:2"),
        ("b200:8", Need(), "a4-highgpu-8g"),
        (None, Need(cpu=4, memory=16 * GIB), "e2-standard-4"),
        ("auto", Need(cpu=4, memory=16 * GIB), "e2-standard-4"),
        (None, Need(cpu=1, gpus=1), "n1-standard-4+t4"),
    ],
)
def test_what_people_write(catalog: Catalog, text: str | None, need: Need, first: str) -> None:
    assert names(text, need, catalog)[0] == first


@pytest.mark.parametrize(
    ("text", "need", "message", "hint"),
    [
        ("a10", Need(), "there is no instance 'a10'", "did you mean a100?"),
        ("n2-standrd-8", Need(), "no instance", "n2-standard-8"),
        ("a100:3", Need(), "machines of 1, 2, 4, 8 or 16, not of 3", "a100:4"),
        ("a2-highgpu-1g", Need(gpus=4), "has 12 cores, 85 GiB, 1 GPU, but 1 core, 4 GPUs", "larger"),
        ("t4:1", Need(gpus=2), "resources.gpu is 2, but the instance has 1 of t4", "t4:2"),
        ("t4", Need(cpu=90), "no machine with t4:1 has 90 cores", "the largest: 32 cores"),
        ("n1-standard-32+v100", Need(), "too large for 1 of v100", "at most 12 cores"),
        ("e2-standard-4+t4", Need(), "cannot be attached to e2-standard-4; n1", "name a machine type"),
        ("e2-standard-4+l4", Need(), "machines that bring it", ""),
        ("n1-standard-4+t4:3", Need(), "3 of t4 cannot be attached", "1, 2 or 4"),
        ("n1-standard-4+x9", Need(), "no instance", ""),
        ("", Need(), "there is no instance ''", "name a machine type"),
        ("; rm -rf /", Need(), "no instance", ""),
        (None, Need(cpu=500), "no machine has 500 cores", "288 cores"),
        (None, Need(gpus=32), "no machine has 1 core, 32 GPUs", "a2-megagpu-16g"),
        (None, Need(memory=9000 * GIB), "no machine has 1 core, 9000 GiB", "a4-highgpu-8g"),
    ],
)
def test_what_cannot_be_is_told(catalog: Catalog, text: str | None, need: Need, message: str, hint: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        names(text, need, catalog)
    assert message in caught.value.message
    assert hint in caught.value.hint
    assert caught.value.hint


def test_the_cheapest_first_and_what_has_no_price_last(catalog: Catalog) -> None:
    shapes = resolve(None, Need(cpu=4), catalog.machines, lambda shape: catalog.prices.cheapest(shape, spot=False))
    prices = [catalog.prices.cheapest(shape, spot=False) for shape in shapes]
    known = [price for price in prices if price is not None]
    assert known == sorted(known)
    assert None not in prices[: len(known)]
    assert None in prices


needs = st.builds(Need, st.floats(0.1, 300), st.integers(0, 4000).map(lambda gib: gib * GIB), st.integers(0, 17))
texts = st.none() | st.text(max_size=30) | st.sampled_from(["t4", "a100", "h100", "l4", "n1-standard-8", "v100"])


@given(texts, st.integers(0, 20), needs)
def test_whatever_is_written_it_fits_or_is_refused_with_a_hint(text: str | None, count: int, need: Need) -> None:
    word = f"{text}:{count}" if text and count else text
    try:
        shapes = resolve(word, need, TABLE.machines, lambda shape: TABLE.prices.cheapest(shape, spot=True))
    except InclError as error:
        assert error.hint
        return
    for shape in shapes:
        assert shape.machine.cores >= need.cpu
        assert shape.machine.memory >= need.memory
        assert shape.gpus >= need.gpus
        assert shape.guest is None or shape.gpus in shape.gpu.guest
        assert resolve(shape.name, need, TABLE.machines, lambda _: None) == (shape,)


TABLE = load_catalog()


def test_zones_have_a_region(catalog: Catalog) -> None:
    assert region_of("us-central1-a") == "us-central1"
    assert region_of("us-south1-ai1b") == "us-south1"
    table: MachineTable = catalog.machines
    assert all(region_of(zone) in table.regions for zone in table.zones)


def test_own_tables_of_machines_replace_the_package(tmp_path: Path) -> None:
    own = tmp_path / "mine.yaml"
    own.write_text(SMALL.replace("provider: other", "provider: gce"), encoding="utf-8")
    assert set(load_catalog(machines=own).machines.machines) == {"f-m-2", "f-m-8", "f-m-16", "big-1"}
    with pytest.raises(InclError, match="there is no file"):
        load_catalog(machines=tmp_path / "none.yaml")
    with pytest.raises(InclError, match="no table of machines"):
        load_catalog("nimbus")
