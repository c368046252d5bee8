"""A few of the hardships that `tests/hardships.py` tries at length."""

import pytest

import hardships

pytestmark = pytest.mark.long


@pytest.mark.parametrize("only", ["bad_input", "hostile"])
def test_nothing_is_silent_a_page_or_lost(only):
    said = []
    for name, counts in hardships.counted(3, seed=1, only=only, say=said.append):
        assert sum(counts.values()) == counts["same"] + counts["said"] == 3, (name, said)
