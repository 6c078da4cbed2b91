"""The script of bench/ that stands beside optax runs; no time is asserted."""

import json

import pytest

import samestep as ss

pytest.importorskip("jax", reason="jax is not installed")
pytest.importorskip("optax", reason="optax is not installed")
if not ss._core.xla_calls():
    pytest.skip("samestep was compiled without jaxlib's headers", allow_module_level=True)

from bench_scripts import check_rows, run


@pytest.mark.slow
def test_the_script_runs():
    check_rows(json.loads(run("jax", "--json")), cold=True, hot=True)
