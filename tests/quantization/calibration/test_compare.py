from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twin.nets import Case

from trt_facefusion.quantization.calibration import CalibrationTable, assign_ranges, compare_tables

ranges = st.dictionaries(st.text(min_size=1, max_size=3), st.floats(1e-6, 1e6), max_size=8)


def test_the_largest_change_comes_first_in_either_direction() -> None:
    found = compare_tables({"a": 1.0, "b": 4.0, "c": 1.0, "x": 1.0}, {"a": 2.0, "b": 1.0, "c": 1.0, "y": 1.0})
    assert [(change.name, change.ratio) for change in found.changes] == [("b", 0.25), ("a", 2.0), ("c", 1.0)]
    assert (found.only_first, found.only_second) == (("x",), ("y",))


@given(ranges, ranges)
def test_every_tensor_is_in_exactly_one_place(first: dict[str, float], second: dict[str, float]) -> None:
    found = compare_tables(first, second)
    names = [change.name for change in found.changes]
    assert sorted([*names, *found.only_first]) == sorted(first)
    assert sorted([*names, *found.only_second]) == sorted(second)


@pytest.fixture(scope="module")
def case() -> Case:
    return Case()


def test_our_own_table_fits_its_model(case: Case) -> None:
    found = assign_ranges(case.table, case.view)
    assert dict(found.amax) == dict(case.table)
    assert found.missing == found.unknown == found.constants == ()


def test_a_copy_takes_over_the_range_of_its_original_and_the_other_way_round(case: Case) -> None:
    for gone, source in (("s_wide:0", "s:0"), ("s:0", "s_wide:0")):
        table = {name: amax for name, amax in case.table.items() if name != gone}
        found = assign_ranges(table, case.view)
        assert dict(found.derived) == {gone: source}
        assert found.amax[gone] == case.table[source]


def test_names_of_tensorrts_own_are_told_apart(case: Case) -> None:
    table = {name: amax for name, amax in case.table.items() if name != "sum:0"}
    table |= {"a.w_output": 1.0, "(Unnamed Layer* 7) [Shuffle]_output": 2.0}
    found = assign_ranges(CalibrationTable(table, "TRT-8601-EntropyCalibration2"), case.view)
    assert found.missing == ("sum:0",)
    assert found.constants == ("a.w_output",)
    assert found.unknown == ("(Unnamed Layer* 7) [Shuffle]_output",)
