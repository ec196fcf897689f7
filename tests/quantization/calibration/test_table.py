from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trt_facefusion.errors import CalibrationCacheError
from trt_facefusion.quantization.calibration.table import HEADER, CalibrationTable

names = st.text(st.characters(exclude_characters="\n", exclude_categories=["Cs"]), min_size=1)
scales = st.floats(0, 2.0**100, width=32, exclude_min=True)


@given(st.dictionaries(names, scales))
def test_round_trip(scale_of):
    table = CalibrationTable({name: scale * 127 for name, scale in scale_of.items()})
    assert CalibrationTable.loads(table.dumps()) == table
    assert list(CalibrationTable.loads(table.dumps())) == list(scale_of)


def test_text_is_tensorrts_format():
    text = CalibrationTable({"input": 1.0, "conv: 1 x": 127.0}).dumps()
    assert text == f"TRT-101601-EntropyCalibration2\ninput: {struct.pack('>f', 1 / 127).hex()}\nconv: 1 x: 3f800000\n"


@pytest.mark.parametrize("header", ["TRT-8601-EntropyCalibration2", "TRT-7000-MinMaxCalibration", HEADER])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_tables_of_other_versions_are_read(header, newline):
    table = CalibrationTable.loads(newline.join([header, "a: 3f800000", "(Unnamed Layer* 3): b: 3F800000", ""]))
    assert dict(table) == {"a": 127.0, "(Unnamed Layer* 3): b": 127.0}
    assert table.header == header


@pytest.mark.parametrize(
    "header", ["TRT-8XXX-EntropyCalibration2", "TRT-8401-EntropyCalibration2", f"\ufeff{HEADER} \t"]
)
def test_what_editors_and_old_versions_do_to_a_table_is_read(header):
    table = CalibrationTable.loads(f"{header}\r\n a b: 3f800000  \r\n \r\na: 1000000\na: 1000000\n")
    assert dict(table) == {" a b": 127.0, "a": struct.unpack(">f", bytes.fromhex("01000000"))[0] * 127}
    assert table.header == header.strip("\ufeff \t")


@pytest.mark.parametrize("blank", [" ", "\t", " \t  "])
def test_any_blank_may_follow_the_colon(blank):
    assert CalibrationTable.loads(f"{HEADER}\na: b{blank}:{blank}3c010a14\n").keys() == {f"a: b{blank}"}


@pytest.mark.parametrize("zero", ["0", "00000000", "80000000"])
def test_a_tensor_that_is_always_zero_has_no_range_and_is_named(zero):
    table = CalibrationTable.loads(f"{HEADER}\nx: 3f800000\n366: {zero}\ny: 3f800000\n")
    assert dict(table) == {"x": 127.0, "y": 127.0}
    assert table.zeros == ("366",)


def test_a_table_that_ends_in_the_middle_of_a_scale_is_refused():
    with pytest.raises(CalibrationCacheError, match="line 2"):
        CalibrationTable.loads(f"{HEADER}\na: 3f80000")


def test_a_table_saved_as_utf_16_is_read(tmp_path):
    (tmp_path / "a.cache").write_bytes(f"{HEADER}\r\na: 3f800000\r\n".encode("utf-16"))
    assert dict(CalibrationTable.read(tmp_path / "a.cache")) == {"a": 127.0}


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("b: 3f80", "line 3: the scale of 'b' is not eight hex digits"),
        ("b: 3f80000g", "not eight hex digits"),
        ("b: 3f8000000", "not eight hex digits"),
        ("b:", "expected 'name: hex'"),
        (": 3f800000", "expected 'name: hex'"),
        ("b: 7f800000", "not positive and finite"),
        ("b: 7fc00000", "not positive and finite"),
        ("b: bf800000", "not positive and finite"),
        ("a: 3f900000", "'a' occurs twice, with two scales"),
    ],
)
def test_damage_is_reported_with_its_line(line, complaint):
    with pytest.raises(CalibrationCacheError, match="line 3") as caught:
        CalibrationTable.loads(f"{HEADER}\na: 3f800000\n{line}\n", "calib.cache")
    assert caught.value.message.startswith("calib.cache, line 3: ")
    assert complaint in caught.value.message
    assert caught.value.remedy


@pytest.mark.parametrize("text", ["", "\n", "a: 3f800000\n", "TRT-x-EntropyCalibration2\n", "TRT-8401\n"])
def test_a_missing_header_is_refused(text):
    with pytest.raises(CalibrationCacheError, match="line 1"):
        CalibrationTable.loads(text)


@pytest.mark.parametrize("amax", [0.0, -1.0, float("nan"), float("inf"), 1e300, 1e-60])
def test_ranges_that_the_format_cannot_hold_are_refused(amax):
    with pytest.raises(CalibrationCacheError, match="positive"):
        CalibrationTable({"a": amax}).dumps()


@pytest.mark.parametrize("name", ["", "two\nlines"])
def test_names_that_the_format_cannot_hold_are_refused(name):
    with pytest.raises(CalibrationCacheError, match="name"):
        CalibrationTable({name: 1.0}).dumps()


def test_files_that_are_no_text_or_not_there_are_refused(tmp_path):
    (tmp_path / "binary.cache").write_bytes(b"\xff\xfe\x00")
    for name in ("binary.cache", "missing.cache", "."):
        with pytest.raises(CalibrationCacheError):
            CalibrationTable.read(tmp_path / name)
