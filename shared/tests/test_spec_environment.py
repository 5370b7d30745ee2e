"""What may be in the environment of an experiment."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from incl_shared.spec import ExperimentSpec


@pytest.mark.parametrize("text", ["\udcff", "a\x00b", "é\ud800"])
def test_a_value_that_cannot_be_sent_is_refused(text: str) -> None:
    with pytest.raises(ValidationError, match="the value of A"):
        ExperimentSpec(command=["true"], env={"A": text})


def test_other_values_stay() -> None:
    assert ExperimentSpec(command=["true"], env={"A": "é 漢 \U0001f600\x1b\n"}).env["A"] == "é 漢 \U0001f600\x1b\n"
