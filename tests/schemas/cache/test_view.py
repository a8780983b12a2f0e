import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from richsem_schemas.cache.view import REGION_DTYPE, TILE_DTYPE, VIEW_KINDS, View, parse_member


def empty_view(kind, pass_index):
    return View(kind, pass_index, (8, 8), np.zeros(0, TILE_DTYPE), np.zeros(0, REGION_DTYPE))


def test_members_are_named_by_kind_and_pass():
    assert empty_view("mosaic", 3).member == "mosaic-3.npy"
    assert empty_view("crop", 0).member == "crop-0.npy"
    assert empty_view("window", 12).member == "window-12.npy"


@given(kind=st.sampled_from(VIEW_KINDS), pass_index=st.integers(0, 10**6))
def test_a_member_parses_back(kind, pass_index):
    assert parse_member(empty_view(kind, pass_index).member) == (kind, pass_index)


OTHERS = """
crop crop-0 crop-.npy crop.npy -0.npy Crop-0.npy crops-0.npy crop-0.NPY crop-0.pyd crop-0.npy.gz a.crop-0.npy
crop-00.npy crop-01.npy crop--1.npy crop-+1.npy crop-1_0.npy crop-1-2.npy crop-0x1.npy ../crop-1.npy
"""
UNUSUAL = ("", "crop- 1.npy", "crop-1 .npy", "crop-1.npy\n", "crop-².npy")
DECIMAL_BUT_NOT_OURS = "crop-٣.npy"


@pytest.mark.parametrize("extension", [*OTHERS.split(), *UNUSUAL, DECIMAL_BUT_NOT_OURS])
def test_any_other_extension_is_refused(extension):
    with pytest.raises(ValueError, match="is no view"):
        parse_member(extension)


@given(st.text(max_size=20))
def test_whatever_parses_is_what_a_view_would_write(extension):
    try:
        kind, pass_index = parse_member(extension)
    except ValueError:
        return
    assert empty_view(kind, pass_index).member == extension


def test_a_number_of_thousands_of_digits_is_a_value_error():
    with pytest.raises(ValueError):  # noqa: PT011 - Python's own limit on digits has its own words
        parse_member("crop-" + "9" * 5_000 + ".npy")


def test_records_are_a_multiple_of_eight_bytes_without_gaps():
    for dtype in (TILE_DTYPE, REGION_DTYPE):
        assert dtype.itemsize % 8 == 0
        assert dtype.itemsize == sum(dtype[name].itemsize for name in dtype.names)
    assert (TILE_DTYPE.itemsize, REGION_DTYPE.itemsize) == (40, 32)
