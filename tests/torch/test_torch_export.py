"""Batch norm of samestep.torch in aten's operators and in ONNX, for programs that run without samestep."""

from __future__ import annotations

import copy

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'samestep[torch-test]'")

import samestep.torch as st

RELUS = (False, True)
TRAINING = (False, True)
OPERATORS = torch.ops.samestep
BATCH = ({0: torch.export.Dim("batch")},)
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def network(relu=False, **options):
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Linear(5, 5), torch.nn.Conv2d(3, 4, 3), st.BatchNorm2d(4, relu=relu, **options)
    )
    if net[2].affine:
        torch.nn.init.uniform_(net[2].weight, 0.5, 2.0)
        torch.nn.init.uniform_(net[2].bias, -1.0, 1.0)
    net(torch.randn(4, 3, 5, 5))
    return net.eval()


def targets(program):
    return [str(node.target) for node in program.graph.nodes if node.op == "call_function"]


def permuted(x):
    return x.transpose(0, 2).contiguous().transpose(0, 2)


LAYOUTS = {
    "contiguous": lambda x: x,
    "channels last": lambda x: x.movedim(1, -1).contiguous().movedim(-1, 1),
    "permuted": permuted,
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("relu", RELUS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_each_is_the_operator_to_rounding(dtype, relu, layout):
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    x, grad = (LAYOUTS[layout](torch.randn(3, 4, 5, dtype=dtype)) for _ in range(2))
    weight, bias, mean = (torch.randn(4, dtype=wide) for _ in range(3))
    var, last = torch.rand(4, dtype=wide) + 0.5, (1e-3, relu)
    matrix, added = torch.randn(5, 2, dtype=dtype).t(), torch.randn(2, dtype=dtype)
    images, kernel, per_output, by_result, how = (
        LAYOUTS[layout](torch.randn(2, 4, 6, 5, dtype=dtype)),
        torch.randn(6, 2, 2, 3, dtype=dtype),
        torch.randn(6, dtype=dtype),
        torch.randn(2, 6, 7, 2, dtype=dtype),
        ([1, 2], [1, 0], [1, 1], 2),
    )
    _, batch_mean, inv, mean64, var64 = OPERATORS.batch_norm_training(x, weight, bias, *last)
    cases = {
        "batch_norm_training": [(x, weight, bias, *last), (x, None, None, *last)],
        "batch_norm_training_backward": [(grad, x, weight, bias, batch_mean, inv, *last)],
        "batch_norm_inference": [(x, weight, bias, mean, var, *last), (x, None, None, mean, var, *last)],
        "batch_norm_inference_backward": [(grad, x, weight, bias, mean, var, *last)],
        "running_statistics": [
            (mean, var, mean64, var64, 15, 0.1, None),
            (mean, var, mean64, var64, 15, None, torch.tensor(3)),
        ],
        "linear": [(x, matrix, added, relu), (x[0, 0], matrix, None, relu)],
        "column_sums": [(x[:, 0],)],
        "conv2d": [(images, kernel, per_output, *how, relu), (images, kernel, None, *how, relu)],
        "conv2d_input_gradient": [(by_result, kernel, [6, 5], *how)],
        "conv2d_weight_gradient": [(by_result, images, [2, 3], *how)],
        "cross_entropy": [(x[:, 0], torch.tensor([4, 0, 2]))],
    }
    table = {str(operator).split(".")[1]: function for operator, function in st.decompositions().items()}
    assert table.keys() == cases.keys()
    digits = {torch.float64: 1e-12, torch.float32: 2e-5, torch.bfloat16: 0.02}[dtype]
    for name, calls in cases.items():
        for arguments in calls:
            found, expected = table[name](*arguments), getattr(OPERATORS, name)(*arguments)
            if isinstance(expected, torch.Tensor):
                found, expected = (found,), (expected,)
            assert len(found) == len(expected)
            for one, other in zip(found, expected, strict=True):
                assert one.stride() == other.stride(), name
                torch.testing.assert_close(one, other, rtol=digits, atol=digits)


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # torch's own
@pytest.mark.parametrize("relu", RELUS)
@pytest.mark.parametrize("training", TRAINING)
@pytest.mark.parametrize("momentum", [0.1, None])
def test_a_program_on_request(training, relu, momentum):
    net = network(relu, momentum=momentum).train(training)
    theirs = st.convert(copy.deepcopy(net), back=True)
    program = torch.export.export(net, (torch.randn(2, 3, 5, 5),), dynamic_shapes=BATCH)
    assert any("samestep" in one for one in targets(program.run_decompositions()))
    aten = program.run_decompositions(st.decompositions())
    assert not any("samestep" in one for one in targets(aten))
    run = aten.module()
    for size in (6, 3):
        x = torch.randn(size, 3, 5, 5)
        torch.testing.assert_close(run(x), theirs(x), **CLOSE)
    for mine, other in zip(run.buffers(), theirs.buffers(), strict=True):
        torch.testing.assert_close(mine, other, **CLOSE)


def test_no_table_of_torchs_has_them():
    import torch._inductor.decomposition

    ours = st.decompositions().keys()
    for table in (
        torch._inductor.decomposition.select_decomp_table(),
        torch.export.default_decompositions(),
        torch._decomp.decomposition_table,
    ):
        assert torch.ops.aten.silu_backward.default in table
        assert not ours & table.keys()


@pytest.mark.filterwarnings("ignore")  # the exporters warn of themselves
class TestONNX:
    @pytest.fixture(autouse=True)
    def _needs(self):
        for name in ("onnx", "onnxscript", "onnxruntime"):
            pytest.importorskip(name, reason=f"{name} is not installed: pip install 'samestep[torch-test]'")

    def run(self, file, x):
        import onnxruntime

        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        (result,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        return torch.from_numpy(result)

    @pytest.mark.parametrize("way", ["dynamo", "trace", "program"])
    @pytest.mark.parametrize(("relu", "affine"), [(True, True), (False, True), (True, False)])
    def test_has_the_results_of_torchs_own_export(self, tmp_path, way, relu, affine):
        net, results = network(relu, affine=affine), []
        x, longer = torch.randn(2, 3, 5, 5), torch.randn(7, 3, 5, 5)
        for one in (net, st.convert(copy.deepcopy(net), back=True)):
            file = str(tmp_path / "net.onnx")
            if way == "trace":
                how = {"input_names": ["x"], "dynamic_axes": {"x": {0: "batch"}}}
                torch.onnx.export(one, (x,), file, dynamo=False, **how)
            elif way == "dynamo":
                torch.onnx.export(one, (x,), file, dynamic_shapes=BATCH, verbose=False)
            else:
                program = torch.export.export(one, (x,), dynamic_shapes=BATCH)
                torch.onnx.export(program.run_decompositions(st.decompositions()), f=file, verbose=False)
            results.append(self.run(file, longer))
        torch.testing.assert_close(*results, **CLOSE)
        torch.testing.assert_close(results[0], net(longer), **CLOSE)
        assert (results[0].min() == 0) == relu

    def test_a_network_in_training_has_the_nodes_of_torchs(self, tmp_path):
        import onnx

        kinds, net = [], network(momentum=None).train()
        for one in (net, st.convert(copy.deepcopy(net), back=True)):
            file, mode = str(tmp_path / "net.onnx"), torch.onnx.TrainingMode.TRAINING
            torch.onnx.export(one, (torch.randn(2, 3, 5, 5),), file, dynamo=False, training=mode)
            kinds.append([node.op_type for node in onnx.load(file).graph.node])
        assert kinds[0] == kinds[1]
        assert "BatchNormalization" in kinds[0]

    def test_leaves_the_operators_to_others(self):
        net, x = network(True), torch.randn(2, 3, 5, 5)
        torch.onnx.export(net, (x,), verbose=False)
        assert "samestep::batch_norm_inference" in str(torch.jit.trace(net, x).inlined_graph)
        assert "samestep.batch_norm_inference.default" in targets(torch.export.export(net, (x,)))
