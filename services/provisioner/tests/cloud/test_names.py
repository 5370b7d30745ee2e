"""Names, request ids and labels: within the provider's rules, unique, and read back."""

from __future__ import annotations

import re
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from incl_provisioner.domain.cloud.names import (
    Owner,
    Place,
    disk_name,
    escape,
    label_filter,
    labels,
    machine_name,
    parse_labels,
    parse_name,
    request_id,
    same_owner,
    unescape,
)
from incl_shared.ids import derived_id

GCE_NAME = re.compile(r"^[a-z](?:[-a-z0-9]{0,61}[a-z0-9])?$")
GCE_LABEL = re.compile(r"^[a-z0-9_-]{0,63}$")
GCE_LABEL_KEY = re.compile(r"^[a-z][a-z0-9_-]{0,62}$")

experiments = st.integers(0, 10**9).map(lambda number: derived_id("test", number))
places = st.builds(Place, experiments, st.integers(1, 999_999), st.integers(0, 99_999))
owners = st.builds(Owner, st.text(max_size=80), st.text(max_size=80), st.text(max_size=80), places)


@given(places, st.from_regex(r"[a-z0-9]{1,8}", fullmatch=True))
def test_names_obey_the_provider_and_are_read_back(place: Place, part: str) -> None:
    machine, disk = machine_name(place), disk_name(place, part)
    assert GCE_NAME.match(machine)
    assert GCE_NAME.match(disk)
    assert len(disk) <= 63
    assert parse_name(machine) == (place, "")
    assert parse_name(disk) == (place, part)


@given(places, places)
def test_different_places_have_different_names(one: Place, other: Place) -> None:
    assert (machine_name(one) == machine_name(other)) == (one == other)


@pytest.mark.parametrize(
    "place",
    [Place("x", 1, 0), Place("A" * 26, 1, 0), Place(derived_id(1), 0, 0), Place(derived_id(1), 1, -1)],
)
def test_what_is_no_place_has_no_name(place: Place) -> None:
    with pytest.raises(ValueError, match="no name"):
        machine_name(place)


@given(st.text(max_size=70) | st.from_regex(r"incl-[0-9a-z]{26}-a[0-9]{1,7}-n[0-9]{1,6}(-[a-z]{1,9})?"))
def test_a_name_that_is_read_is_one_that_would_be_made(name: str) -> None:
    found = parse_name(name)
    if found is not None:
        place, part = found
        assert name == (disk_name(place, part) if part else machine_name(place))


@given(places, places, st.sampled_from(["us-a", "us-b"]), st.integers(0, 3))
def test_a_request_id_is_the_same_for_the_same_call_only(one: Place, other: Place, where: str, turn: int) -> None:
    first = request_id("p", one, "insert", where, turn)
    assert uuid.UUID(first).int != 0
    assert first == request_id("p", one, "insert", where, turn)
    assert (first == request_id("p", other, "insert", where, turn)) == (one == other)
    assert first != request_id("p", one, "insert", where, turn + 1)
    assert first != request_id("p", one, "delete", where, turn)
    assert first != request_id("q", one, "insert", where, turn)


@given(st.text(max_size=200))
def test_a_label_is_in_the_alphabet_and_is_read_back_unless_it_was_cut(text: str) -> None:
    value = escape(text)
    assert GCE_LABEL.match(value)
    if "__" not in value:
        assert unescape(value) == text
    else:
        assert len(text.encode("utf-8", "surrogatepass")) > 20
        with pytest.raises(ValueError, match="label"):
            unescape(value)


@given(st.text(max_size=90), st.text(max_size=90))
def test_different_texts_have_different_labels(one: str, other: str) -> None:
    assert (escape(one) == escape(other)) == (one == other)


@given(st.text(alphabet="abc_-0123456789é", max_size=70))
def test_a_label_that_is_read_is_one_that_would_be_made(value: str) -> None:
    try:
        text = unescape(value)
    except ValueError:
        return
    assert escape(text) == value


@given(owners)
def test_labels_say_whose_it_is(owner: Owner) -> None:
    made = labels(owner)
    assert all(GCE_LABEL_KEY.match(key) and GCE_LABEL.match(value) for key, value in made.items())
    assert same_owner(made, owner)
    assert not same_owner({**made, "incl-rank": "100000"}, owner)
    found = parse_labels(made)
    if found is not None:
        assert found == owner
    else:
        assert any("__" in value for value in made.values())


def test_labels_of_others_are_nobody_of_ours() -> None:
    mine = labels(Owner("home", "p", "ann", Place(derived_id(1), 1, 0)))
    assert parse_labels({}) is None
    assert parse_labels({**mine, "incl-attempt": "0"}) is None
    assert parse_labels({**mine, "incl-rank": "-1"}) is None
    assert parse_labels({**mine, "incl-experiment": "x"}) is None
    assert label_filter("home") == "labels.incl-platform=home"
