"""ss.digest: the same for equal values, whatever their layout, width or byte order."""

import numpy as np
import pytest

import samestep as ss


def test_digest_refuses_what_it_cannot_hash():
    with pytest.raises(TypeError, match=r"arrays\[0\]: got int64"):
        ss.digest([np.arange(3)])


def test_digest_takes_the_same_arrays_in_any_width():
    for dtype in (np.float16, np.float32, np.float64):
        a = np.arange(3, dtype=dtype)
        assert ss.digest(a.astype(a.dtype.newbyteorder(">"))) == ss.digest(a)
        with pytest.raises(TypeError, match=r"arrays: got MaskedArray, expected a float32, .*bfloat16 array"):
            ss.digest(np.ma.masked_array(a, [1, 0, 0]))


def test_other_arguments_are_named():
    for wrong in ("a", 1.0):
        with pytest.raises(TypeError, match=r"axis: got .* expected a whole number or None"):
            ss.canonical_sum(np.ones((2, 3)), axis=wrong)
    with pytest.raises(TypeError, match="isa: got None, expected the name of one: "):
        ss.set_isa(None)


def test_digest_is_of_values_not_of_layout_or_byte_order():
    a = np.arange(12.0).reshape(3, 4)
    assert len({ss.digest(x) for x in (a, np.asfortranarray(a), a.astype(">f8"), a[None])}) == 1
    assert ss.digest(a) != ss.digest(a.T)
    assert ss.digest({"x": a}) == ss.digest([a])
