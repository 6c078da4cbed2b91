"""A ledger that is what a run computed is accepted anywhere; whatever was changed in it is found."""

import hashlib
import json
from importlib.util import find_spec
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

import samestep as ss
from samestep.commands import cli
from samestep.ledger import read_ledger
from samestep.ledger.lines import to_json
from samestep.optional import require
from samestep.proof import vectors
from samestep.replay import optimizer_at, read_arrays, replay

SHAPES = {"w": (30, 20), "b": (20,), "c": ()}
STEPS = 6
FIRST = 2  # after which the checkpoint was written


def arrays(seed, dtype=np.float32):
    return {
        name: vectors.finite_values(int(np.prod(shape)), np.dtype(np.float32), seed + i)
        .reshape(shape)
        .astype(dtype)
        for i, (name, shape) in enumerate(SHAPES.items())
    }


class Run:
    """A recorded run: its ledger, a checkpoint after some steps, and the gradients after that."""

    def __init__(self, folder, *, dtype=np.float32, every=1, state=True, missing=None, scale=1.0, **options):
        self.folder, self.path = folder, folder / "run.jsonl"
        self.state, self.params = folder / "state", folder / "params.npz"
        self.gradients = [folder / f"g{step}.npz" for step in range(FIRST + 1, STEPS + 1)]
        params = arrays(1, dtype)
        optimizer = ss.Adam(params, lr=0.1, **options)
        with optimizer.record(self.path, every=every, state=state):
            for step in range(1, STEPS + 1):
                grads = arrays(10 + step, dtype)
                if step > FIRST:
                    given = {k: g for k, g in grads.items() if (step, k) != missing}
                    np.savez(self.gradients[step - FIRST - 1], **given)
                if missing is not None and step == missing[0]:
                    grads[missing[1]] = None
                optimizer.step(grads, scale=scale)
                if step == FIRST:
                    optimizer.save(self.state)
                    np.savez(self.params, **params)

    def forge(self, edit):
        """Changes the lines, header and start among them, and links them anew."""
        lines = [json.loads(line) for line in self.path.read_bytes().splitlines()]
        edit(lines)
        before, found = None, []
        for facts in lines:
            if before is not None:
                facts["previous"] = hashlib.sha256(before).hexdigest()
            before = to_json(facts).encode()
            found.append(before + b"\n")
        self.path.write_bytes(b"".join(found))

    def replayed(self, *, gradients=None, **options):
        ledger = read_ledger(self.path)
        backend = options.pop("backend", "cpu")
        optimizer = optimizer_at(ledger, self.state, self.params, backend=backend)
        files = self.gradients if gradients is None else gradients
        return replay(ledger, optimizer, (read_arrays(ledger, file) for file in files), **options)

    def command(self, *more):
        gradients = ["--gradients", *self.gradients] if "--gradients" not in more else []
        return cli.main(
            [
                "replay",
                *map(str, (self.path, "--from", self.state, "--params", self.params, *gradients, *more)),
            ]
        )


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path)


def at(step):
    """The number of the step's line, from 0 on: before it are the header and the start."""
    return step + 1


def test_accepted_on_any_machine(run, machine):
    verdict = run.replayed()
    assert verdict.accepted
    assert str(verdict) == "accepted: steps 3 to 6 recomputed, 4 lines compared"


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize(
    "options",
    [
        {"weight_decay": 0.1, "clip_norm": 0.5, "scale": 0.5},
        {"ema": 0.5, "maximize": True, "clip_value": 0.1},
        {"missing": (4, "b")},
        {"state": False},
        {"zero_grads": True},
        {"dtype": np.float64, "decoupled_weight_decay": True, "weight_decay": 0.1},
        {"dtype": np.float16},
        {"dtype": ml_dtypes.bfloat16, "state_dtype": "param"},
        {"dtype": ml_dtypes.bfloat16, "master": "split"},
        {"dtype": ml_dtypes.bfloat16, "stochastic_rounding": 2**64 - 1},
        {"copy_dtype": "float16", "flush_subnormals": True, "nonfinite": "skip"},
    ],
    ids=str,
)
def test_accepted_whatever_the_options(tmp_path, backend, options):
    run = Run(tmp_path, **options)
    if options.get("zero_grads"):  # what the file has was saved before
        assert np.load(run.gradients[0])["w"].any()
    verdict = run.replayed(backend=backend)
    assert str(verdict) == "accepted: steps 3 to 6 recomputed, 4 lines compared"


def test_steps_between_two_lines(tmp_path):
    run = Run(tmp_path, every=3)
    assert str(run.replayed()) == "accepted: steps 3 to 6 recomputed, 2 lines compared"
    np.savez(run.gradients[2], **arrays(99))  # step 5, of which there is no line
    verdict = run.replayed()
    assert (verdict.step, verdict.tensor, verdict.kind) == (6, "params['w']", "parameter")
    assert verdict.compared == 2


def test_steps_between_two_lines_with_other_settings(tmp_path):
    """The ledger does not say which of the two such a step had: no honest run is rejected for it."""
    run = Run(tmp_path, every=3)
    run.forge(lambda lines: lines[3]["hyper"][0].update(lr=0.2))
    with pytest.raises(ValueError, match="other hyper-parameters in step 6 than in step 3, and no line"):
        run.replayed()


def test_groups(tmp_path):
    params, given = arrays(1), arrays(2)
    optimizer = ss.Adam(
        [{"params": [params["w"]]}, {"params": {"b": params["b"], "c": params["c"]}, "lr": 0.5}], lr=0.1
    )
    path = tmp_path / "run.jsonl"
    optimizer.save(tmp_path / "state")
    np.savez(tmp_path / "params.npz", *params.values())
    with optimizer.record(path):
        optimizer.step([[given["w"]], {"b": given["b"], "c": given["c"]}])
        optimizer.groups[1]["lr"] = 0.25
        optimizer.step([[given["w"]], {"b": given["b"], "c": given["c"]}])
    np.savez(tmp_path / "g.npz", *given.values())
    ledger = read_ledger(path)
    again = optimizer_at(ledger, tmp_path / "state", tmp_path / "params.npz")
    grads = read_arrays(ledger, tmp_path / "g.npz")
    assert replay(ledger, again, [grads, grads]).accepted
    assert again.groups[1]["lr"] == 0.25
    again = optimizer_at(ledger, tmp_path / "state", tmp_path / "params.npz")
    assert not replay(ledger, again, [grads, [np.asarray(g * np.float32(2)) for g in grads]]).accepted


def put(line, name, kind, value):
    values = line["tensors"][f"params[{name!r}]"].split(" ")
    values[kind] = value
    line["tensors"][f"params[{name!r}]"] = " ".join(values)


def swap(lines, i, j):
    """The contents of two lines, under the numbers that belong there."""
    for key in lines[i].keys() - {"step", "previous"}:
        lines[i][key], lines[j][key] = lines[j][key], lines[i][key]


KINDS = ("gradient", "parameter", "m", "v")
TAMPERS = {
    **{
        f"{kind} of {name} in step {step}": (
            lambda lines, s=step, n=name, k=k: put(lines[at(s)], n, k, "0" * 16),
            (step, name, kind),
        )
        for step, name in ((2, "w"), (3, "b"), (6, "c"))
        for k, kind in enumerate(KINDS)
        if step > FIRST or k > 0
    },
    "the learning rate": (lambda lines: lines[at(4)]["hyper"][0].update(lr=0.100001), (4, "w", "parameter")),
    "beta1": (lambda lines: lines[at(5)]["hyper"][0].update(beta1=0.5), (5, "w", "parameter")),
    "weight decay": (lambda lines: lines[at(3)]["hyper"][0].update(weight_decay=0.5), (3, "w", "parameter")),
    "the scale": (lambda lines: lines[at(4)].update(scale=0.5), (4, "w", "parameter")),
    "a swapped pair": (lambda lines: swap(lines, at(3), at(4)), (3, "w", "gradient")),
    "a tensor that was stepped": (
        lambda lines: lines[at(4)]["tensors"].update({"params['b']": None}),
        (4, "b", "gradient"),
    ),
}


@pytest.mark.parametrize("tamper", TAMPERS)
def test_what_was_changed_is_found(run, tamper, capsys):
    edit, (step, name, kind) = TAMPERS[tamper]
    run.forge(edit)
    verdict = run.replayed()
    assert (verdict.step, verdict.tensor, verdict.kind) == (step, f"params[{name!r}]", kind)
    assert verdict.expected != verdict.found
    assert run.command() == 1
    assert capsys.readouterr().out == f"{verdict}\n"


def test_a_gradient_that_is_not_the_one(run):
    given = dict(np.load(run.gradients[1]))
    given["b"].view(np.uint32)[3] ^= 1
    np.savez(run.gradients[1], **given)
    verdict = run.replayed()
    assert (verdict.step, verdict.tensor, verdict.kind) == (4, "params['b']", "gradient")
    assert verdict.expected == read_ledger(run.path).records[4].tensors["params['b']"][0]
    assert verdict.found == f"{ss.fingerprint(given['b']):016x}"
    assert (verdict.first, verdict.last, verdict.compared) == (3, 4, 2)


def test_one_tensor_alone(run):
    """Without the gradients of others, and whatever their lines say."""
    run.forge(lambda lines: put(lines[at(4)], "w", 1, "0" * 16))
    for file in run.gradients:
        np.savez(file, b=np.load(file)["b"])
    assert run.replayed(only="params['b']").accepted
    assert not run.replayed().accepted
    run.forge(lambda lines: put(lines[at(5)], "b", 3, "0" * 16))
    verdict = run.replayed(only="params['b']")
    assert (verdict.step, verdict.tensor, verdict.kind) == (5, "params['b']", "v")


def test_one_tensor_alone_where_the_norm_of_all_counts(tmp_path):
    run = Run(tmp_path, clip_norm=0.1)
    assert run.replayed(only="params['b']").accepted
    for file in run.gradients:
        np.savez(file, b=np.load(file)["b"])
    with pytest.raises(ValueError, match=r"gradients: lack params\['w'\] in step 3, .* clip_norm goes by"):
        run.replayed(only="params['b']")


def test_a_gradient_that_is_not_finite_is_not_the_one(tmp_path):
    """Whatever such a step would do: the run would not have made it."""
    for name, nonfinite in enumerate(("raise", "skip", "propagate")):
        folder = tmp_path / str(name)
        folder.mkdir()
        run = Run(folder, nonfinite=nonfinite)
        np.savez(run.gradients[0], **{**arrays(13), "b": np.full(20, np.nan, np.float32)})
        verdict = run.replayed()
        assert (verdict.step, verdict.tensor, verdict.kind) == (3, "params['b']", "gradient")


class TestWhatDoesNotFit:
    def error(self, run, capsys, *more):
        assert run.command(*more) == 2
        printed = capsys.readouterr()
        assert printed.out == ""
        assert printed.err.startswith("samestep replay: ")
        assert printed.err.count("\n") == 1
        return printed.err

    def test_another_optimizer(self, run, capsys):
        other = ss.Momentum({k: v.copy() for k, v in arrays(1).items()}, lr=0.1)
        other.save(run.state)
        np.savez(run.params, **arrays(1))
        assert "rule: got 'momentum_heavy_ball' of the optimizer, expected 'adam_outside'" in self.error(
            run, capsys
        )

    def test_other_options(self, run, capsys):
        run.forge(lambda lines: lines[0].update(options={"maximize": True}))
        assert "options: got {} of the optimizer, expected {'maximize': True}" in self.error(run, capsys)

    def test_another_contract(self, run, capsys):
        run.forge(lambda lines: lines[0].update(contract=3))
        assert "contract: got 2 of the optimizer, expected 3" in self.error(run, capsys)

    def test_other_kinds(self, run, capsys):
        run.forge(lambda lines: lines[0].update(kinds=["gradient", "parameter", "v", "m"]))
        assert "records gradient, parameter, v, m of 3 tensors" in self.error(run, capsys)

    @pytest.mark.parametrize("hyper", [{"lr": 0.1}, {"lr": 0.1, "speed": 3.0}])
    def test_other_hyper_parameters(self, run, capsys, hyper):
        run.forge(lambda lines: lines[at(4)].update(hyper=[hyper]))
        assert "line 6 has other hyper-parameters than lr, beta1," in self.error(run, capsys)

    def test_a_group_too_many(self, run, capsys):
        run.forge(lambda lines: lines[at(4)]["hyper"].append({"lr": 1.0}))
        assert "line 6 has other hyper-parameters" in self.error(run, capsys)

    def test_a_hyper_parameter_out_of_range(self, run, capsys):
        run.forge(lambda lines: lines[at(4)]["hyper"][0].update(beta1=1.5))
        assert "beta1: got 1.5" in self.error(run, capsys)

    def test_groups_that_are_numbered_otherwise(self, run, capsys):
        def edit(lines):
            for facts in lines[0]["tensors"].values():
                facts["group"] = 1
            for line in lines[2:]:
                line["hyper"] *= 2

        run.forge(edit)
        assert "hyper-parameters" in self.error(run, capsys)

    @pytest.mark.parametrize("name", ["path", "state", "params"])
    def test_a_file_that_is_missing(self, run, capsys, name):
        getattr(run, name).unlink()
        assert "No such file" in self.error(run, capsys)

    def test_a_gradient_file_that_is_missing(self, run, capsys):
        run.gradients[1].unlink()
        assert str(run.gradients[1]) in self.error(run, capsys)

    @pytest.mark.parametrize("name", ["state", "params"])
    @pytest.mark.parametrize("left", [0, 10, 300])
    def test_a_file_that_is_cut_off(self, run, capsys, name, left):
        file = getattr(run, name)
        file.write_bytes(file.read_bytes()[:left])
        assert f"{file}: cut off, altered or no" in self.error(run, capsys)

    def test_a_flipped_bit_in_a_file(self, run, capsys):
        data = bytearray(run.params.read_bytes())
        data[len(data) // 2] ^= 1
        run.params.write_bytes(data)
        assert f"{run.params}: cut off, altered or no .npz" in self.error(run, capsys)

    def test_other_parameters_than_at_that_time(self, run):
        np.savez(run.params, **arrays(77))
        verdict = run.replayed()
        assert (verdict.step, verdict.tensor, verdict.kind) == (2, "params['w']", "parameter")

    def test_a_tensor_that_is_missing(self, run, capsys):
        np.savez(run.params, **{k: v for k, v in arrays(1).items() if k != "b"})
        assert "lacks params['b'], expected every tensor recorded" in self.error(run, capsys)

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"x": np.ones(3)}, "got the array 'x', expected some of params['w'], params['b']"),
            (
                {"b": np.ones(19, np.float32)},
                "of shape (19,) for params['b'], expected float32 of shape (20,)",
            ),
            ({"b": np.ones(20)}, "got float64 of shape (20,) for params['b'], expected float32"),
        ],
    )
    def test_arrays_of_no_tensor(self, run, capsys, change, words):
        np.savez(run.gradients[1], **{**arrays(3), **change})
        told = self.error(run, capsys)
        assert words in told
        assert str(run.gradients[1]) in told

    def test_files_of_another_kind(self, run, capsys, tmp_path):
        other = tmp_path / "params.txt"
        other.write_text("1 2 3", encoding="utf-8")
        assert ".npz or .safetensors" in self.error(run, capsys, "--gradients", other)

    def test_more_gradients_than_lines(self, run, capsys):
        told = self.error(run, capsys, "--gradients", *run.gradients, run.gradients[-1])
        assert "has no line for step 7, expected one" in told

    def test_a_ledger_that_was_changed(self, run, capsys):
        run.path.write_bytes(run.path.read_bytes().replace(b'"lr":0.1', b'"lr":0.2', 1))
        assert "line 4: it does not name line 3" in self.error(run, capsys)

    def test_an_instruction_set_of_nowhere(self, run, capsys):
        assert "isa: got 'mmx'" in self.error(run, capsys, "--isa", "mmx")

    @pytest.mark.parametrize("more", [["--tensor", "w"], ["--script", "x.py"], ["--step", "4"]])
    def test_arguments_that_do_not_go_together(self, run, capsys, more):
        with pytest.raises(SystemExit) as caught:
            run.command(*more)
        assert caught.value.code == 2
        told = capsys.readouterr().err
        assert "expected" in told or "--step goes with --script" in told

    def test_half_of_the_files(self, run, capsys):
        with pytest.raises(SystemExit) as caught:
            cli.main(["replay", str(run.path), "--from", str(run.state)])
        assert caught.value.code == 2


class TestCommand:
    @pytest.mark.parametrize("backend", ["cpu", "reference"])
    def test_accepted(self, run, capsys, settings, backend):
        assert run.command("--isa", "baseline", "--backend", backend) == 0
        assert capsys.readouterr().out == "accepted: steps 3 to 6 recomputed, 4 lines compared\n"
        assert ss.info()["isa"] == "baseline"

    def test_as_json(self, run, capsys):
        assert run.command("--json") == 0
        assert json.loads(capsys.readouterr().out) == {
            "accepted": True,
            "first": 3,
            "last": 6,
            "compared": 4,
            **dict.fromkeys(("step", "tensor", "kind", "expected", "found")),
        }
        run.forge(lambda lines: put(lines[at(4)], "w", 2, "0" * 16))
        assert run.command("--json") == 1
        found = json.loads(capsys.readouterr().out)
        assert (found["step"], found["tensor"], found["kind"], found["expected"]) == (
            4,
            "params['w']",
            "m",
            "0" * 16,
        )

    def test_one_tensor(self, run, capsys):
        run.forge(lambda lines: put(lines[at(4)], "w", 2, "0" * 16))
        assert run.command("--tensor", "params['b']") == 0
        assert run.command("--tensor", "params['w']") == 1


needs_safetensors = pytest.mark.skipif(
    find_spec("safetensors") is None, reason="safetensors is not installed"
)


class TestReadArrays:
    @pytest.fixture
    def ledger(self, run):
        return read_ledger(run.path)

    @pytest.mark.parametrize(
        "names", [("w", "b", "c"), ("params['w']", "params['b']", "params['c']"), ("0", "1", "2")], ids=str
    )
    @pytest.mark.parametrize("end", ["npz", pytest.param("safetensors", marks=needs_safetensors)])
    def test_names(self, ledger, tmp_path, names, end):
        given = dict(zip(names, arrays(5).values(), strict=True))
        path = tmp_path / f"x.{end}"
        if end == "npz":
            np.savez(path, **given)
        else:
            require("safetensors.numpy", "the test").save_file(given, path)
        for a, b in zip(read_arrays(ledger, path), given.values(), strict=True):
            assert a.tobytes() == b.tobytes()
            assert a.shape == b.shape

    def test_by_order(self, ledger, tmp_path):
        np.savez(tmp_path / "x.npz", *arrays(5).values())
        for a, b in zip(read_arrays(ledger, tmp_path / "x.npz"), arrays(5).values(), strict=True):
            assert a.tobytes() == b.tobytes()

    def test_some(self, ledger, tmp_path):
        np.savez(tmp_path / "x.npz", b=arrays(5)["b"])
        w, b, c = read_arrays(ledger, tmp_path / "x.npz")
        assert w is c is None
        assert b is not None

    @pytest.mark.parametrize("data", [b"", b"PK\x03\x04", b"\x93NUMPY", b"{}" * 20])
    @pytest.mark.parametrize("end", ["npz", pytest.param("safetensors", marks=needs_safetensors)])
    def test_what_is_no_such_file(self, ledger, tmp_path, data, end):
        path = tmp_path / f"x.{end}"
        path.write_bytes(data)
        with pytest.raises(ValueError, match=rf"x.{end}: cut off, altered or no .{end} file"):
            read_arrays(ledger, path)

    def test_an_array_of_numpy_s_own_format(self, ledger, tmp_path):
        path = Path(tmp_path / "x.npz")
        np.save(tmp_path / "x.npy", np.ones(3))
        (tmp_path / "x.npy").rename(path)
        with pytest.raises(ValueError, match=r"x.npz: cut off, altered or no .npz file"):
            read_arrays(ledger, path)
