"""What can be set on an optimizer, and what stays as it was made."""

import numpy as np
import pytest

import samestep as ss


class Derived(ss.Adam):
    pass


@pytest.mark.parametrize("kind", [ss.Adam, Derived])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("form", "inside"),
        ("variant", "amsgrad"),
        ("rule", "sgd"),
        ("backend", "reference"),
        ("options", None),
        ("groups", []),
    ],
)
def test_what_an_optimizer_was_made_with_stays(kind, name, value, tmp_path):
    """A checkpoint of an optimizer whose form was set could not be loaded."""
    optimizer = kind(np.ones(3))
    before = getattr(optimizer, name)
    with pytest.raises(AttributeError, match=f"^{name}: an optimizer keeps the one that it was made with"):
        setattr(optimizer, name, value)
    assert getattr(optimizer, name) is before
    optimizer.save(tmp_path / "a.safetensors")
    assert repr(kind.load(tmp_path / "a.safetensors", np.ones(3))) == repr(optimizer)


def test_groups_can_still_be_added_on_any_backend():
    for backend in ("auto", "cpu", "reference"):
        optimizer = ss.Adam([{"params": np.ones(2)}, {"params": np.ones(3)}], backend=backend)
        optimizer.add_group({"params": np.ones(1)})
        optimizer.step([np.ones(2), np.ones(3), np.ones(1)])
        assert optimizer.backend == ("cpu" if backend == "auto" else backend)
