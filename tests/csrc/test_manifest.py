"""Every kernel that the extension exports has its proofs; one that is added without them fails here."""

import ast
import importlib
import re

import pytest

import samestep as ss
from mutate import FAULTS, ROOT
from samestep import _core

# Exported, but no arithmetic on arrays: settings, what looks at the tables and where tensors lie. The roof,
# whose time alone is used, has its tests in commands/test_bench.py.
SETTINGS = {
    "compile_flags", "rules", "isas", "get_isa", "set_isa", "withdraw_isa", "self_check",
    "vector_bytes", "get_num_threads", "set_num_threads", "default_num_threads",
    "wake_always", "set_tuning", "use_openmp_of", "openmp_library", "Layouts", "Identities", "Roof",
    "StatePlaces", "array_of", "xla_calls",
}  # fmt: skip

# Against the reference; however the work is cut; wherever the arrays lie; in whatever floating-point mode.
KINDS = ("parity", "partition", "alignment", "fp_mode")

SUM_MODES = "test_fp_mode.py::test_sums_and_batch_norm"
BATCHNORM = {
    "parity": "test_batchnorm.py::test_kernels_equal_the_twin",
    "partition": "test_golden.py::test_kernels",
    "alignment": "test_batchnorm.py::test_alignment_does_not_matter",
    "fp_mode": SUM_MODES,
}
BATCHNORM_PARTS = {
    "parity": "test_batchnorm_blocks.py::test_the_halves_are_the_whole_pass",
    "partition": "test_batchnorm_blocks.py::test_kernels_add_the_twin_s_blocks_from_any_term_on",
    "alignment": "test_batchnorm_blocks.py::test_any_offset_and_nothing_outside_is_touched",
    "fp_mode": "test_fp_mode.py::test_batch_norm_in_two_halves",
}
LINEAR = {
    "parity": "test_product.py::test_kernels_equal_the_twin",
    "partition": "test_product.py::test_any_number_of_threads_and_any_cut",
    "alignment": "test_product.py::test_layout_and_alignment_do_not_matter",
    "fp_mode": "test_fp_mode.py::test_the_linear_layer",
}
CONVOLUTION = {
    "parity": "test_convolution.py::test_kernels_equal_the_twin",
    "partition": "test_convolution.py::test_kernels_equal_the_twin",  # on 1, 2 and 8 threads
    "alignment": "test_convolution.py::test_any_offset_and_nothing_outside_is_touched",
    "fp_mode": "test_fp_mode.py::test_convolution",
}
LEAVES = {
    "parity": "test_leaves.py::test_kernels_equal_the_twin",
    "partition": "test_leaves.py::test_kernels_equal_the_twin",  # beyond a work item, on 1 and 8 threads
    "alignment": "test_leaves.py::test_any_offset_and_nothing_outside_is_touched",
    "fp_mode": "test_fp_mode.py::test_leaves",
}
FINGERPRINT = {
    "parity": "test_fingerprint.py::test_kernels_equal_the_twin",
    "partition": "test_fingerprint.py::test_kernels_equal_the_twin",  # on 1, 2 and 8 threads
    "alignment": "test_fingerprint.py::test_layout_and_alignment_do_not_matter",
    "fp_mode": "test_fingerprint.py::test_in_any_floating_point_mode",
}
SUM_PARTS = {
    "parity": "test_sums.py::test_sums_in_parts",
    "partition": "test_sums.py::test_ranges_of_blocks_are_summed_where_they_lie",
    "alignment": "test_sums.py::test_ranges_of_blocks_are_summed_where_they_lie",
    "fp_mode": SUM_MODES,
}
FUNCTION = {
    "parity": "test_functions.py::test_kernels_equal_the_twin",
    "partition": "test_functions.py::test_kernels_equal_the_twin",  # beyond a work item, on 1 to 5 threads
    "alignment": "test_functions.py::test_any_offset_and_nothing_outside_is_touched",
    "fp_mode": "test_fp_mode.py::test_functions_of_one_value_and_softmax",
}
OF_TENSORS = {
    **dict.fromkeys(KINDS, "test_torch_tensors.py::test_bits_are_those_of_arrays"),
    "fp_mode": "test_torch_tensors.py::test_in_any_floating_point_mode",
}
PROOFS = {
    "Plan": {
        "parity": "test_rules.py::test_kernels_equal_the_reference_at_every_size",
        "partition": "test_rules.py::test_any_split_in_any_order",
        "alignment": "test_rules.py::test_any_offset_into_an_array",
        "fp_mode": "test_fp_mode.py::test_mode_changes_no_bit_and_is_kept",
    },
    "AddressedPlan": {  # the same plan, bound by address
        **dict.fromkeys(KINDS, "test_addressed_plan.py::test_a_plan_by_address_is_the_plan"),
        "fp_mode": "test_addressed_plan.py::test_in_any_floating_point_mode",
    },
    "canonical_sum": {
        "parity": "test_sums.py::test_kernels_equal_the_twin",
        "partition": "test_golden.py::test_kernels",
        "alignment": "test_sums.py::test_alignment_and_layout_do_not_matter",
        "fp_mode": SUM_MODES,
    },
    "global_norm": {
        "parity": "test_sums.py::test_global_norm",
        "partition": "test_sums.py::test_global_norm_pairs_in_the_order_of_the_list",
        "alignment": "test_sums.py::test_alignment_and_layout_do_not_matter",
        "fp_mode": SUM_MODES,
    },
    **dict.fromkeys(("block_sums", "pair_sums"), SUM_PARTS),
    "norm_of": {**SUM_PARTS, "parity": "test_sums.py::test_a_norm_of_sums"},
    "clipped_scale": {  # of one number
        **dict.fromkeys(KINDS, "test_sums.py::test_a_clipped_scale"),
        "fp_mode": SUM_MODES,
    },
    "fingerprint": FINGERPRINT,
    "finish_fingerprints": {  # integers alone, one after the other
        **FINGERPRINT,
        "parity": "test_block_sums.py::test_the_reference_is_the_formula",
        "partition": "test_block_sums.py::test_parts_of_an_array_add_up",
        "alignment": "test_block_sums.py::test_wherever_the_arrays_lie",
    },
    **dict.fromkeys(("weigh_leaf", "add_leaves", "average_leaves"), LEAVES),
    "batchnorm_forward": BATCHNORM,
    "batchnorm_backward": BATCHNORM,
    "batchnorm_inference": BATCHNORM,
    **dict.fromkeys(
        (f"batchnorm_{way}_{half}" for way in ("forward", "backward") for half in ("blocks", "apply")),
        BATCHNORM_PARTS,
    ),
    "update_running": {
        **BATCHNORM,
        "parity": "test_batchnorm.py::test_running_statistics_have_the_twins_bits",
    },
    "update_running_and_count": {
        **BATCHNORM,
        "parity": "test_batchnorm.py::test_a_count_is_raised_with_the_statistics",
    },
    "linear": LINEAR,
    "linear_backward": LINEAR,
    "conv2d": CONVOLUTION,
    "conv2d_backward": CONVOLUTION,
    "Mse": {
        "parity": "test_mse.py::test_kernels_equal_the_reference_over_shapes",
        "partition": "test_mse.py::test_work_shared_by_threads",
        "alignment": "test_mse.py::test_any_offset_and_nothing_outside_is_touched",
        "fp_mode": "test_mse.py::test_no_floating_point_mode_reaches_the_kernels",
    },
    "Trainer": {
        "parity": "test_loop.py::test_equals_the_python_loop",
        "partition": "test_loop.py::test_large_batches_on_any_number_of_threads",
        "alignment": "test_loop.py::test_online_steps_on_any_number_of_columns",
        "fp_mode": "test_mse.py::test_no_floating_point_mode_reaches_the_loop",
    },
    **dict.fromkeys(("exp", "log", "tanh", "sigmoid"), FUNCTION),
    "softmax_cross_entropy": {
        "parity": "test_softmax.py::test_kernels_equal_the_twin",
        "partition": "test_golden.py::test_kernels",
        "alignment": "test_softmax.py::test_any_offset_and_in_place",
        "fp_mode": "test_fp_mode.py::test_functions_of_one_value_and_softmax",
    },
    # The same jobs; the tensors are read where they lie.
    "linear_of_tensors": OF_TENSORS,
    "linear_backward_of_tensors": OF_TENSORS,
    "softmax_cross_entropy_of_tensors": OF_TENSORS,
    "Sampler": dict.fromkeys(KINDS, "test_loop.py::test_samplers_agree"),  # integers alone
}


def exported() -> set[str]:
    return {name for name in dir(_core) if not name.startswith("_")}


def unproved(names: set[str]) -> set[str]:
    return names - SETTINGS - set(PROOFS)


def test_every_export_is_a_setting_or_proved():
    assert unproved(exported()) == set()
    assert set(PROOFS) | SETTINGS <= exported()


def test_that_gate_fails_on_a_new_kernel():
    assert unproved(exported() | {"layernorm_forward"}) == {"layernorm_forward"}


@pytest.mark.parametrize("kernel", PROOFS)
def test_proofs_exist(kernel):
    assert tuple(PROOFS[kernel]) == KINDS
    for proof in PROOFS[kernel].values():
        file, name = proof.split("::")
        (path,) = (ROOT / "tests").rglob(file)
        tree = ast.parse(path.read_text(encoding="utf-8"))
        functions = {node.name: node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        assert name in functions, proof


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_seeded_faults_still_fit_the_sources(fault):
    """mutate.py scores the suite with them; a fault whose place is gone would score nothing."""
    assert fault.old in (ROOT / fault.file).read_text(encoding="utf-8")
    assert fault.old != fault.new


def test_help_begins_with_every_public_name():
    words = set(re.findall(r"\w+", ss.__doc__))
    assert set(ss.__all__) <= words


def test_version():
    assert ss.__version__ == ss.info()["version"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", ss.__version__)
    assert "__version__" in dir(ss)


@pytest.mark.parametrize("name", ["optimizers", "options", "problems", "schedules", "theory"])
def test_public_modules_are_imported_by_their_public_names(name):
    assert importlib.import_module(f"samestep.{name}") is getattr(ss, name)
