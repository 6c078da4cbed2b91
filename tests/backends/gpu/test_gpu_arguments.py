"""What a GPU's kernels and the Python that launches them both write down: the fields of the arguments, in
order, and the sizes that cut the work. Read off the sources: neither a GPU nor a compiler is needed.
"""

import re

import numpy as np
import pytest

from host_cupy import device
from samestep.backends.face import Tensor
from samestep.backends.gpu import kernels
from samestep.backends.gpu.tables import GIVEN, rows_of
from samestep.backends.reference import product, sums
from samestep.backends.reference.fingerprint import BLOCK

ARGUMENTS = {
    "StepArguments": kernels.STEP,
    "UpdateArguments": kernels.UPDATE,
    "GradientArguments": kernels.GRADIENT,
    "NormArguments": kernels.NORM,
    "ConvertArguments": kernels.CONVERT,
    "WordArguments": kernels.WORD,
    "BlockSumArguments": kernels.BLOCK_SUMS,
    "PairArguments": kernels.PAIRS,
    "FingerprintArguments": kernels.FINGERPRINT,
    "BatchNormArguments": kernels.BATCHNORM,
    "RunningArguments": kernels.RUNNING,
    "MseArguments": kernels.MSE,
    "ProductArguments": kernels.PRODUCT,
    "ReluGradientArguments": kernels.RELU_GRADIENT,
    "RoundArguments": kernels.ROUND,
    "ConvolutionArguments": kernels.CONVOLUTION,
    "TermArguments": kernels.TERM,
    "LeafArguments": kernels.LEAF,
    "FunctionArguments": kernels.FUNCTION,
    "SoftmaxArguments": kernels.SOFTMAX,
}
SIZES = {
    "kSumBlock": (kernels.SUM_BLOCK, sums.SUM_BLOCK),
    "kLanes": (sums.LANES,),
    "kWarp": (kernels.WARP,),
    "kSharingThreads": (kernels.SHARING_THREADS,),
    "kTile": (kernels.TILE,),
    "kPairedRows": (kernels.PAIRED_ROWS,),
    "kHashedBlocks": (kernels.HASHED_BLOCKS,),
    "kFingerprintBytes": (BLOCK,),
    "kMultipliers": (kernels.PRODUCT_THREADS,),
    "kSlice": (kernels.PRODUCT_SLICE,),
    "kSide": (kernels.PRODUCT_SIDE,),
    "kLargeSide": (kernels.LARGE_PRODUCT_SIDE,),
    "kProductBlock": (product.PRODUCT_BLOCK, kernels.PRODUCT_BLOCK),
    "kWords": (kernels.WORDS,),
    "kHyper": (kernels.HYPER,),
    "kRun": (kernels.RUN,),
    "kMaxStates": (kernels.ROW_STATES,),
    "kUpdateBytes": (kernels.UPDATE_BYTES,),
    "kCoefficients": (kernels.BATCHNORM_COEFFICIENTS,),
}
BY_VALUE = {"Scale", "Convolution"}  # structs within arguments, whose fields Python lists by themselves


def fields_of(struct: str, text: str) -> list[tuple[str, str]]:
    """(name, kind) of the fields: "f" for a float64, "u" for a Word64, "i" for addresses and integers."""
    (body,) = re.findall(rf"^struct {struct} {{\n(.*?)^}};", text, re.M | re.S)
    found = []
    for declaration in re.sub(r"//.*", "", body).split(";")[:-1]:
        kind, names = re.fullmatch(r"\s*(?:const )?(\w+(?: long long)?)\s*(.*)", declaration, re.S).groups()
        if kind in BY_VALUE:
            found += fields_of(kind, text)
            continue
        for name in names.split(","):
            is_address = "*" in name
            code = "i" if is_address else {"double": "f", "Word64": "u"}.get(kind, "i")
            found.append((re.search(r"\w+", name)[0], code))
    return found


def layout_of(dtype: np.dtype) -> list[tuple[str, str]]:
    return [(name, dtype[name].base.kind) for name in dtype.names]


@pytest.mark.parametrize("struct", ARGUMENTS)
def test_arguments_have_the_kernels_fields_in_their_order(struct):
    assert fields_of(struct, kernels.source()) == layout_of(ARGUMENTS[struct])


def test_every_kernel_s_arguments_are_compared():
    assert set(re.findall(r"\bstruct (\w+Arguments)\b", kernels.source())) == set(ARGUMENTS)


def test_that_comparison_fails_on_swapped_fields():
    text = kernels.source()
    assert "void *mean, *inv;" in text
    swapped = text.replace("void *mean, *inv;", "void *inv, *mean;")
    assert fields_of("BatchNormArguments", swapped) != layout_of(kernels.BATCHNORM)


@pytest.mark.parametrize("name", SIZES)
def test_sizes_are_those_of_the_kernels(name):
    (value,) = re.findall(rf"constexpr (?:Index|int) {name} = (\d+)[,;]", kernels.source())
    assert {int(value)} == set(SIZES[name])


def test_items_of_a_step_are_whole_blocks_of_fingerprints():
    assert kernels.ITEM * 2 % BLOCK == 0  # also where elements have 16 bits


def test_rows_of_tensors_have_the_fields_of_the_kernels():
    words = fields_of("Row", kernels.source())
    names = [name for name, _ in words]
    w, *states = (device(np.ones(3, np.float32)) for _ in range(3))
    tensor = Tensor(w, states, group=7, first=1024)
    row = dict(zip(names[:4], rows_of([tensor], 2)[0], strict=False))
    assert names[:4] == ["w", "size", "first", "states"]
    assert (row["size"], row["first"]) == (3, 1024)
    found = rows_of([tensor, tensor], 2)
    assert found.shape == (2, len(names) - 1 + kernels.ROW_STATES)
    after = dict(zip(names[4:], found[1][3 + kernels.ROW_STATES :], strict=True))
    expected = {"storage": 0, "stores_states": 0, "copy_storage": 0, "type": 0, "group": 7, "first_run": 2}
    assert {name: after[name] for name in expected} == expected
    assert [name for name, _ in fields_of("Given", kernels.source())] == list(GIVEN)
