"""Structures that contain themselves: an error that says where, not a RecursionError."""

import numpy as np
import pytest

import samestep as ss


def list_in_itself():
    params = [np.ones(2)]
    params.append(params)
    return params


def dict_in_itself():
    params = {"w": np.ones(2)}
    params["again"] = [params]
    return params


@pytest.mark.parametrize(
    ("make", "where"),
    [
        (list_in_itself, r"params\[1\]: is params itself"),
        (dict_in_itself, r"params\['again'\]\[0\]: is params itself"),
    ],
)
def test_params_in_themselves_are_refused(make, where):
    with pytest.raises(ValueError, match=where):
        ss.SGD(make(), 0.1)


@pytest.mark.parametrize("function", [ss.digest, ss.global_norm])
def test_arrays_in_themselves_are_refused(function):
    with pytest.raises(ValueError, match=r"arrays\[1\]: is arrays itself"):
        function(list_in_itself())


def test_a_list_that_stands_twice_is_no_cycle():
    shared = [np.ones(2)]
    assert ss.digest([shared, shared]) == ss.digest([np.ones(2), np.ones(2)])
