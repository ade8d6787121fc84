"""Cells of the comparison's tables, by hand."""

from __future__ import annotations

from benchmarks.compare.tables import difference_cells

ONE_SEED = {"diff": 0.012, "over_seeds": None, "over_both": None, "p_holm": None, "verdict": "undecided", "seeds": [10]}


def test_a_row_that_is_compared_with_another_one_than_l2l_names_it() -> None:
    assert difference_cells(ONE_SEED, 1, None) == ["+1.20", "too few seeds", "too few seeds", "", "undecided"]
    found = difference_cells(ONE_SEED, 2, "accept all")
    assert found[0] == "+1.20 (accept all minus this)" and found[-1] == "undecided (by 1 of 2 seeds)"
