"""samestep.torch's optimizers: the cases of torch's own database, against torch's loop and our own core."""

from __future__ import annotations

import copy
import gc
import io
import itertools
import pickle
import subprocess
import sys
import weakref

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'samestep[torch-test]'")
pytest.importorskip("expecttest", reason="torch's case database needs expecttest")

from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn import Parameter
from torch.testing._internal.common_optimizers import optim_db

import samestep as ss
import samestep.torch
from samestep import _core
from samestep.torch.optimizers import OPTIMIZERS
from torch_trainings import parameters, run, set_gradients

INFOS = {info.optim_cls.__name__: info for info in optim_db}
OURS = {cls.__name__: cls for cls in OPTIMIZERS}
DTYPES = (torch.float32, torch.float64)
CLOSE = {torch.float32: {"rtol": 2e-5, "atol": 2e-6}, torch.float64: {"rtol": 1e-12, "atol": 1e-13}}
IMPLEMENTATIONS = ({}, {"foreach": True}, {"fused": True})

STEP_FILES = tuple(getattr(samestep.torch, name).__file__ for name in ("optimizer", "binding", "memory"))

by_name = pytest.mark.parametrize("name", OURS)
by_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def configurations(name, dtype=torch.float32):
    """What the database constructs the optimizer with on the CPU, and ours refuse nothing of."""
    for case in INFOS[name].optim_inputs_func(device="cpu", dtype=dtype):
        yield case.desc, dict(case.kwargs)


def digest(optimizer):
    """Of parameters and state; step counts aside, which torch holds in another type."""
    tensors = [p.detach() for group in optimizer.param_groups for p in group["params"]]
    for p in list(tensors):
        assert p is not None
    for group in optimizer.param_groups:
        for p in group["params"]:
            state = optimizer.state.get(p, {})
            tensors += [state[k] for k in sorted(state) if k != "step" and state[k] is not None]
    return ss.digest([torch.view_as_real(t).numpy() if t.is_complex() else t.numpy() for t in tensors])


def check_close(found, expected, **tolerance):
    for p, q in zip(found, expected, strict=True):
        torch.testing.assert_close(p, q, **tolerance)


@by_dtype
@by_name
def test_optim_db_stays_close_to_torchs_loop(name, dtype, record_property):
    count = 0
    for desc, kwargs in configurations(name, dtype):
        ours = run(OURS[name](parameters(dtype), **copy.deepcopy(kwargs)), 8)
        loop = {} if isinstance(kwargs.get("lr"), torch.Tensor) else {"foreach": False}
        theirs = run(INFOS[name].optim_cls(parameters(dtype), **{**kwargs, **loop}), 8)
        assert ours[5].equal(parameters(dtype)[5]), desc
        check_close(ours, theirs, **CLOSE[dtype])
        count += 1
    assert count >= 5
    record_property("shown", f"optim_db {name}: {count} configurations, {dtype}")


@by_name
def test_foreach_and_fused_change_no_bit(name):
    for _, kwargs in configurations(name):
        digests = set()
        for implementation in IMPLEMENTATIONS:
            if "foreach" in implementation and isinstance(kwargs.get("lr"), torch.Tensor):
                continue  # torch refuses the two together
            if "fused" in implementation and name == "RMSprop":
                continue  # torch's has no such argument
            optimizer = OURS[name](parameters(), **copy.deepcopy(kwargs), **implementation)
            run(optimizer, 4)
            digests.add(digest(optimizer))
        assert len(digests) == 1


CORE = {
    "SGD": (ss.SGD, {"lr": 1e-3}),
    "Adagrad": (ss.AdaGrad, {"lr": 1e-2, "eps": 1e-10}),
    "RMSprop": (ss.RMSProp, {"lr": 1e-2, "rho": 0.99, "eps": 1e-8, "eps_placement": "outside"}),
    "Adam": (ss.Adam, {"lr": 1e-3}),
    "AdamW": (ss.Adam, {"lr": 1e-3, "weight_decay": 1e-2, "decoupled_weight_decay": True}),
}


@by_dtype
@by_name
def test_defaults_have_the_bits_of_the_reference(name, dtype):
    cls, hyper = CORE[name]
    params = parameters(dtype)
    arrays = [p.detach().clone(memory_format=torch.preserve_format).numpy() for p in params]
    optimizer, twin = OURS[name](params), cls(arrays, **hyper, backend="reference")
    for t in range(5):
        set_gradients(params, t)
        twin.step([None if p.grad is None else p.grad.numpy() for p in params])
        optimizer.step()
    assert ss.digest([p.detach().numpy() for p in params]) == ss.digest(arrays)


@by_name
def test_optim_db_error_inputs(name, record_property):
    errors = INFOS[name].optim_error_inputs_func(device="cpu", dtype=torch.float32)
    for error in errors:
        case = error.optimizer_error_input
        params = case.params if case.params is not None else parameters()
        if error.error_type is UserWarning:
            with pytest.warns(UserWarning, match=error.error_regex):
                OURS[name](params, **case.kwargs)
            continue
        with pytest.raises(error.error_type, match=error.error_regex):
            OURS[name](params, **case.kwargs)
    assert len(errors) >= 7
    record_property("shown", f"optim_db {name}: {len(errors)} error inputs")


@by_name
def test_optim_db_schedulers(name, record_property):
    """Each lowers the loss and steers as it steers torch's."""
    count = 0
    for schedulers in INFOS[name].scheduler_inputs:
        results = []
        for cls in (OURS[name], INFOS[name].optim_cls):
            torch.manual_seed(1)
            weight, bias = Parameter(torch.randn(10, 5)), Parameter(torch.randn(10))
            x = torch.randn(5)
            optimizer = cls([weight, bias], lr=0.01)
            made = [make(optimizer) for make in schedulers]
            losses = []
            for _ in range(20):
                optimizer.zero_grad()
                loss = (weight.mv(x) + bias).square().sum()
                loss.backward()
                losses.append(loss.item())
                optimizer.step()
                for scheduler in made:
                    plateau = isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau)
                    scheduler.step(losses[-1]) if plateau else scheduler.step()
            assert losses[-1] < losses[0]
            results.append((losses, optimizer.param_groups[0]["lr"]))
        assert results[0][0] == pytest.approx(results[1][0], rel=1e-4)
        assert results[0][1] == pytest.approx(results[1][1], rel=1e-6)
        count += 1
    record_property("shown", f"optim_db {name}: {count} sets of schedulers")


@by_name
def test_state_dict_goes_on_with_the_same_bits(name):
    for _, kwargs in configurations(name):
        straight = OURS[name](parameters(), **copy.deepcopy(kwargs))
        run(straight, 6)
        broken = OURS[name](parameters(), **copy.deepcopy(kwargs))
        params = run(broken, 3)
        file = io.BytesIO()
        torch.save(broken.state_dict(), file)
        file.seek(0)
        again = OURS[name]([p.detach().clone(memory_format=torch.preserve_format) for p in params])
        again.load_state_dict(torch.load(file))
        run(again, 3, first=3)
        assert digest(again) == digest(straight)


@by_name
def test_state_dicts_interchange_with_torchs(name):
    """Half with one, half with the other, either way round: close to all with torch's."""
    for _, kwargs in configurations(name):
        theirs = INFOS[name].optim_cls
        loop = {} if isinstance(kwargs.get("lr"), torch.Tensor) else {"foreach": False}
        expected = run(theirs(parameters(), **copy.deepcopy(kwargs), **loop), 6)
        for first, second in ((OURS[name], theirs), (theirs, OURS[name])):
            begun = first(parameters(), **copy.deepcopy(kwargs))
            params = run(begun, 3)
            ended = second(params)
            ended.load_state_dict(copy.deepcopy(begun.state_dict()))
            run(ended, 3, first=3)
            check_close(params, expected, **CLOSE[torch.float32])
            assert begun.state_dict().keys() == ended.state_dict().keys()
            ours, other = (
                o.state_dict()["state"][0].keys() if o.state_dict()["state"] else () for o in (begun, ended)
            )
            assert set(ours) == set(other)


@by_name
def test_copies_and_pickles(name):
    for _, kwargs in configurations(name):
        optimizer = OURS[name](parameters(), **kwargs)
        params = run(optimizer, 2)
        copied, unpickled = (
            copy.deepcopy((optimizer, params)),
            pickle.loads(pickle.dumps((optimizer, params))),
        )
        run(optimizer, 2, first=2)
        for other, _ in (copied, unpickled):
            run(other, 2, first=2)
            assert digest(other) == digest(optimizer)


@by_name
def test_hooks(name):
    optimizer = OURS[name](parameters())
    seen = []
    optimizer.register_step_pre_hook(lambda *_: seen.append("pre"))
    optimizer.register_step_post_hook(lambda *_: seen.append("post"))
    optimizer.register_state_dict_post_hook(lambda _, d: seen.append("saved"))
    optimizer.register_load_state_dict_pre_hook(lambda _, d: seen.append("loads"))
    optimizer.register_load_state_dict_post_hook(lambda _: seen.append("loaded"))
    run(optimizer, 1)
    optimizer.load_state_dict(optimizer.state_dict())
    assert seen == ["pre", "post", "saved", "loads", "loaded"]


@by_name
def test_closure(name):
    w = Parameter(torch.tensor([3.0, -1.0]))
    optimizer = OURS[name]([w])

    def closure():
        optimizer.zero_grad()
        loss = w.square().sum()
        loss.backward()
        return loss

    with torch.no_grad():
        assert optimizer.step(closure).item() == 10.0
    assert w.square().sum() < 10.0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@by_name
def test_16_bit_parameters_have_float32_state_that_survives(name, dtype):
    """Each step is that of float32, rounded once; a checkpoint half way changes no bit."""
    for _, kwargs in configurations(name):
        optimizer = OURS[name]([Parameter(torch.randn(40, 30).to(dtype))], **copy.deepcopy(kwargs))
        (p,) = optimizer.param_groups[0]["params"]
        wide = OURS[name]([Parameter(p.detach().float())], **copy.deepcopy(kwargs))
        (q,) = wide.param_groups[0]["params"]
        for t in range(4):
            p.grad = torch.randn(40, 30, generator=torch.Generator().manual_seed(t)).to(dtype)
            q.data = p.detach().float()
            q.grad = p.grad.float()
            optimizer.step()
            wide.step()
            assert p.equal(q.to(dtype))
            for key, values in optimizer.state[p].items():
                assert values.equal(wide.state[q][key]), key
            file = io.BytesIO()
            torch.save(optimizer.state_dict(), file)
            file.seek(0)
            optimizer = OURS[name]([p], fused=True) if name != "RMSprop" else OURS[name]([p])
            optimizer.load_state_dict(torch.load(file))


@by_name
def test_complex_parameters_are_stepped_as_real_ones(name):
    for _, kwargs in configurations(name):
        digests = []
        z = torch.randn(4, 3, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
        for real in (False, True):
            p = Parameter(torch.view_as_real(z).clone() if real else z.clone())
            optimizer = OURS[name]([p], **copy.deepcopy(kwargs))
            for t in range(4):
                g = torch.randn(4, 3, dtype=torch.complex64, generator=torch.Generator().manual_seed(t))
                lazy = torch.resolve_conj(
                    g.conj()
                ).conj()  # equals g, with its imaginary part still to negate
                p.grad = torch.view_as_real(g) if real else lazy
                optimizer.step()
            digests.append(digest(optimizer))
        assert digests[0] == digests[1]


LAYOUTS = {
    "permuted": lambda w: w.t().contiguous().t(),
    "gaps": lambda w: torch.stack([w, w], -1)[..., 0],
    "gaps between rows": lambda w: torch.cat([w, w], 1)[:, : w.shape[1]],
}


@pytest.mark.parametrize("layout", LAYOUTS)
@by_name
def test_layouts_change_no_bit(name, layout):
    """Parameter, gradient and state each laid out in every way."""
    for _, kwargs in configurations(name):
        digests = set()
        for w_as, g_as, s_as in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 1)):
            lay = LAYOUTS[layout]
            w = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
            p = Parameter(lay(w) if w_as else w)
            place = p.data_ptr()
            optimizer = OURS[name]([p], **copy.deepcopy(kwargs))
            for t in range(4):
                g = torch.randn(6, 5, generator=torch.Generator().manual_seed(t))
                p.grad = lay(g) if g_as else g
                optimizer.step()
                if s_as and t == 1:
                    state = optimizer.state[p]
                    state.update({k: lay(v) for k, v in state.items() if k != "step"})
            assert p.data_ptr() == place
            digests.add(digest(optimizer))
        assert len(digests) == 1


@by_name
def test_groups_are_optimizers_of_their_own(name):
    lrs = (0.1, torch.tensor(0.05), 0.0)
    params = [parameters(seed=i)[:3] for i in range(3)]
    grouped = OURS[name]([{"params": params[0], "lr": lrs[0]}])
    for i in (1, 2):
        grouped.add_param_group({"params": params[i], "lr": lrs[i]})
    alone = [OURS[name](parameters(seed=i)[:3], lr=lrs[i]) for i in range(3)]
    for t in range(3):
        for i in range(3):
            set_gradients(params[i], 10 * t + i)
            set_gradients(alone[i].param_groups[0]["params"], 10 * t + i)
            alone[i].step()
        grouped.step()
    for i in range(3):
        for p, q in zip(params[i], alone[i].param_groups[0]["params"], strict=True):
            assert p.equal(q)


def test_what_is_set_between_steps_counts():
    """A new lr, weight decay, betas; momentum switched on; memory that has moved; state taken away."""
    digests = []
    for fresh in (False, True):
        params = parameters()
        optimizer = OURS["SGD"](params, lr=0.1)
        for t, change in enumerate(
            (
                {},
                {"lr": 0.2},
                {"weight_decay": 0.1},
                {"momentum": 0.5},
                {"nesterov": True},
                {"maximize": True},
            )
        ):
            optimizer.param_groups[0].update(change)
            if fresh:  # nothing that was bound can be of use
                optimizer = pickle.loads(pickle.dumps(optimizer))
                new = optimizer.param_groups[0]["params"]
            else:
                for p in params:
                    p.data = p.data.clone(memory_format=torch.preserve_format)
                new = params
            params = new
            set_gradients(params, t)
            optimizer.step()
        digests.append(digest(optimizer))
    assert digests[0] == digests[1]
    adam = OURS["Adam"](params)
    run(adam, 3)
    adam.state.clear()
    run(adam, 1)
    assert {int(s["step"]) for s in adam.state.values()} == {1}


@pytest.mark.parametrize("found_inf", [False, True])
@by_name
def test_grad_scaler(name, found_inf):
    """A step with an infinity is left out, whoever is asked to unscale; the next goes on."""
    for implementation in IMPLEMENTATIONS if name != "RMSprop" else IMPLEMENTATIONS[:2]:
        params = parameters()
        optimizer = OURS[name](params, **implementation)
        twin = OURS[name](parameters())
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        for t in range(3):
            set_gradients(params, t)
            set_gradients(twin.param_groups[0]["params"], t)
            for p in params:
                if p.grad is not None:
                    p.grad.mul_(scaler.get_scale())
            bad = found_inf and t == 1
            if bad:
                params[0].grad[0, 0] = float("inf")
            scaler.scale(torch.zeros(()))
            scaler.step(optimizer)
            scaler.update()
            if not bad:
                twin.step()
        assert scaler.get_scale() == (512.0 if found_inf else 1024.0)
        assert digest(optimizer) == digest(twin)


@by_name
def test_steps_count_past_what_float32_holds(name):
    if name == "SGD":
        assert not any("step" in s for s in OURS[name](parameters(), momentum=0.9).state.values())
        return
    optimizer = OURS[name](parameters(), fused=True) if name != "RMSprop" else OURS[name](parameters())
    run(optimizer, 1)
    state_dict = optimizer.state_dict()
    for state in state_dict["state"].values():
        state["step"] = torch.tensor(2.0**24 + 1, dtype=torch.float64)
    optimizer.load_state_dict(state_dict)
    set_gradients(optimizer.param_groups[0]["params"], 5)
    optimizer.step()
    assert optimizer.state[optimizer.param_groups[0]["params"][1]]["step"].item() == 2**24 + 2
    assert optimizer.state_dict()["state"][1]["step"].item() == 2**24 + 2


def test_autograd_hears_of_the_step():
    w = Parameter(torch.ones(3))
    optimizer = OURS["SGD"]([w], lr=0.5)
    loss = w.square().sum()
    w.grad = torch.ones(3)
    before = w._version
    optimizer.step()
    assert w._version > before
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_the_import_brings_no_compiler():
    """It takes seconds, and a program that only loads a network has no use for it."""
    code = "import sys, samestep.torch; assert 'torch._dynamo' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@by_name
def test_compiled_training_has_the_bits_of_eager_training(name):
    digests = []
    for compiled in (False, True):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1))
        optimizer = OURS[name](model.parameters(), lr=0.01)
        x = torch.randn(16, 4)

        def train(model=model, optimizer=optimizer, x=x):
            optimizer.zero_grad()
            loss = model(x).square().mean()
            loss.backward()
            optimizer.step()

        step = torch.compile(train, backend="eager") if compiled else train
        for _ in range(3):
            step()
        digests.append(digest(optimizer))
        torch.compiler.reset()
    assert digests[0] == digests[1]


class Tagged(torch.Tensor):
    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        return super().__torch_function__(function, types, args, kwargs)


def give_sparse(p):
    p.grad = torch.sparse_coo_tensor([[0], [0]], [1.0], p.shape, check_invariants=True)


def give_subclass(p):
    p.grad = torch.ones_like(p).as_subclass(Tagged)


def expand(p):
    p.data = torch.ones(1, 1).expand(p.shape)


REFUSED = {
    give_sparse: (RuntimeError, "does not support sparse gradients"),
    give_subclass: (TypeError, "no implementation found"),
    expand: (RuntimeError, "unsupported operation: more than one"),
}


@pytest.mark.parametrize("change", REFUSED)
@by_name
def test_what_is_refused_changes_nothing(name, change):
    error, says = REFUSED[change]
    first, second = parameters()[:2], parameters(seed=1)[:2]
    optimizer = OURS[name]([{"params": first}, {"params": second}])
    for t in range(2):
        set_gradients([*first, *second], t)
        if t == 1:
            change(second[0])
            before = copy.deepcopy(first)
            with pytest.raises(error, match=says):
                optimizer.step()
            assert all(p.equal(q) for p, q in zip(first, before, strict=True))
            assert all(int(s.get("step", 1)) == 1 for s in optimizer.state.values())
        else:
            optimizer.step()


def test_other_refusals():
    w = Parameter(torch.ones(3))
    with pytest.raises(NotImplementedError, match="capturable"):
        OURS["Adam"]([w], capturable=True)
    with pytest.raises(NotImplementedError, match="differentiable"):
        OURS["SGD"]([w], differentiable=True)
    elsewhere = Parameter(torch.ones(3, device="meta"))
    elsewhere.grad = torch.ones(3, device="meta")
    with pytest.raises(NotImplementedError, match="on meta, expected one on the CPU"):
        OURS["Adam"]([elsewhere]).step()
    shared = torch.ones(4)
    tied = [Parameter(shared[:3]), Parameter(shared[1:])]
    for p in tied:
        p.grad = torch.ones(3)
    with pytest.raises(RuntimeError, match="share memory"):
        OURS["SGD"](tied).step()
    assert shared.equal(torch.ones(4))


def test_a_tied_parameter_is_stepped_once():
    embedding, head = torch.nn.Embedding(5, 3), torch.nn.Linear(3, 5, bias=False)
    head.weight = embedding.weight
    with pytest.warns(UserWarning, match="duplicate parameters"):
        optimizer = OURS["SGD"]([embedding.weight, head.weight], lr=1.0)
    before = embedding.weight.detach().clone()
    embedding.weight.grad = torch.ones(5, 3)
    optimizer.step()
    assert head.weight.equal(before - 1.0)


def test_a_gradient_in_the_parameters_own_memory():
    w = Parameter(torch.tensor([4.0, 8.0]))
    w.grad = w.detach()
    OURS["SGD"]([w], lr=0.25).step()
    assert w.tolist() == [3.0, 6.0]


@by_dtype
def test_clip_grad_norm(dtype):
    params, expected = parameters(dtype), parameters(dtype)
    for max_norm in (0.5, 1e3):
        set_gradients(params, 3)
        set_gradients(expected, 3)
        exact = ss.global_norm([np.ascontiguousarray(p.grad.numpy()) for p in params[:5]])
        norm = samestep.torch.clip_grad_norm_(iter(params), max_norm)
        assert norm.item() == exact
        theirs = torch.nn.utils.clip_grad_norm_(expected, max_norm)
        assert norm.item() == pytest.approx(theirs.item(), rel=1e-6)
        check_close([p.grad for p in params[:5]], [p.grad for p in expected[:5]], rtol=1e-6, atol=1e-7)
    assert samestep.torch.clip_grad_norm_([params[5]], 1.0).item() == 0.0
    params[0].grad[0, 0] = float("nan")
    before = params[1].grad.clone()
    with pytest.raises(RuntimeError, match="non-finite"):
        samestep.torch.clip_grad_norm_(params, 1.0, error_if_nonfinite=True)
    assert params[1].grad.equal(before)
    samestep.torch.clip_grad_norm_(params, 1.0)
    assert params[1].grad.isnan().all()


@pytest.mark.parametrize("norm_type", [2, 2.0, "2", " 2.0 ", np.float32(2), torch.tensor(2.0)], ids=repr)
def test_clip_grad_norm_takes_numbers_as_torch_does(norm_type):
    for max_norm in (1, "1", np.float64(1), torch.tensor(1.0)):
        w = Parameter(torch.zeros(2))
        w.grad = torch.tensor([3.0, 4.0])
        assert samestep.torch.clip_grad_norm_([w], max_norm, norm_type=norm_type).item() == 5.0
        torch.testing.assert_close(w.grad, torch.tensor([0.6, 0.8]))


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"norm_type": 3}, NotImplementedError, "norm_type: got 3, expected 1, 2 or inf"),
        ({"norm_type": "-inf"}, NotImplementedError, "norm_type: got '-inf', expected 1, 2 or inf"),
        ({"norm_type": "two"}, TypeError, "norm_type: got 'two', expected a number"),
        ({"norm_type": None}, TypeError, "norm_type: got None, expected a number"),
        ({"max_norm": "one"}, TypeError, "max_norm: got 'one', expected a number"),
        ({"max_norm": None}, TypeError, "max_norm: got None, expected a number"),
        ({"max_norm": [1.0, 2.0]}, TypeError, r"max_norm: got \[1.0, 2.0\], expected a number"),
    ],
    ids=str,
)
def test_what_clip_grad_norm_refuses_changes_nothing(change, error, says):
    w = Parameter(torch.zeros(2))
    w.grad = torch.tensor([3.0, 4.0])
    with pytest.raises(error, match=says):
        samestep.torch.clip_grad_norm_([w], **{"max_norm": 1.0, **change})
    assert w.grad.tolist() == [3.0, 4.0]


def shrink(tensor):
    tensor.data = tensor.data[:2]


CHANGES = {
    "a smaller parameter at the same address": lambda p, state: shrink(p),
    "another shape of as many elements": lambda p, state: setattr(p, "data", p.data.view(2, 8)),
    "transposed at the same address": lambda p, state: setattr(p, "data", p.data.t()),
    "another type at the same address": lambda p, state: setattr(p, "data", p.data.view(torch.float64)),
    "other memory": lambda p, state: setattr(p, "data", p.data.clone()),
    "a smaller state at the same address": lambda p, state: shrink(state),
    "a state in other memory": lambda p, state: setattr(state, "data", state.data.clone()),
    "a state set in place": lambda p, state: state.set_(torch.full((4, 4), 0.5)),
    "a gradient that is smaller now": lambda p, state: shrink(p.grad),
    "a gradient transposed": lambda p, state: setattr(p.grad, "data", p.grad.data.t()),
}


@pytest.mark.parametrize("n_groups", [1, 2])
@pytest.mark.parametrize("name", CHANGES)
def test_what_is_changed_at_its_address_is_seen(name, n_groups):
    """It goes on where torch does, with its numbers, and is refused where torch refuses it."""
    results = []
    for lib in (torch.optim, samestep.torch):
        torch.manual_seed(0)
        params = [torch.nn.Parameter(torch.randn(4, 4)) for _ in range(2)]
        groups = [{"params": part} for part in ([params] if n_groups == 1 else params)]
        optimizer = lib.Adam(groups, lr=0.1)
        for p in params:
            p.grad = torch.randn(4, 4)
        optimizer.step()
        p = params[1]
        CHANGES[name](p, optimizer.state[p]["exp_avg"])
        before = [q.detach().clone() for q in params]
        try:
            optimizer.step()
        except (RuntimeError, TypeError, ValueError, NotImplementedError):
            results.append(None)
            if lib is samestep.torch:
                assert all(map(torch.equal, before, (q.detach() for q in params)))
        else:
            results.append([q.detach().clone() for q in params] + [optimizer.state[p]["exp_avg"].clone()])
    theirs, ours = results
    assert (theirs is None) == (ours is None)
    if ours is not None:
        torch.testing.assert_close(ours, theirs)


def test_a_parameter_that_becomes_of_another_type_is_refused_until_its_gradient_is():
    """torch promotes the old gradient."""
    p = torch.nn.Parameter(torch.ones(4))
    optimizer = samestep.torch.SGD([p], lr=0.5)
    p.grad = torch.ones(4)
    optimizer.step()
    p.data = p.data.double()
    with pytest.raises(TypeError, match=r"grad: got torch\.float32"):
        optimizer.step()
    p.grad = torch.ones(4, dtype=torch.float64)
    optimizer.step()
    assert p.tolist() == [0.0] * 4


def test_gradients_outlive_the_step(monkeypatch):
    """Another thread may drop them meanwhile: zero_grad() of a logger, say."""
    params = [torch.nn.Parameter(torch.ones(8)) for _ in range(2)]
    optimizer = samestep.torch.SGD([{"params": p} for p in params], lr=0.1)
    seen = []

    class Plan(_core.AddressedPlan):
        @staticmethod
        def step_together(*args):
            grads = [weakref.ref(p.grad) for p in params]
            optimizer.zero_grad(set_to_none=True)
            gc.collect()
            seen.append(all(grad() is not None for grad in grads))
            return _core.AddressedPlan.step_together(*args)

    monkeypatch.setattr(samestep.torch.optimizer, "AddressedPlan", Plan)
    for _ in range(2):
        for p in params:
            p.grad = torch.ones(8)
        optimizer.step()
    assert seen == [True, True]
    assert all(torch.allclose(p, torch.full((8,), 0.8)) for p in params)


def test_memory_of_parameters_and_states_outlives_the_step(monkeypatch):
    """Another thread may set other memory meanwhile."""
    p = torch.nn.Parameter(torch.ones(8))
    optimizer = samestep.torch.Adam([p])
    found = []

    class Plan(_core.AddressedPlan):
        @staticmethod
        def step_together(*args):
            tensors = [p, *optimizer.state[p].values()]
            storages = [StorageWeakRef(t.untyped_storage()) for t in tensors]
            for t in tensors:
                t.data = torch.ones_like(t)
            gc.collect()
            found.append([storage.expired() for storage in storages])
            return _core.AddressedPlan.step_together(*args)

    monkeypatch.setattr(samestep.torch.optimizer, "AddressedPlan", Plan)
    for _ in range(3):
        p.grad = torch.ones(8)
        optimizer.step()
    assert found == [[False], [False] * 4, [False] * 4]


class Interrupt(BaseException):
    pass


def interrupted(step, at):
    """Whether ``step`` was interrupted at that call or return of its own, where Python hears signals.

    Those within torch's own functions do not count: some would leave torch without gradients.
    """
    left = at

    def event(frame, kind, function):
        nonlocal left
        left -= frame.f_code.co_filename in STEP_FILES
        if left == 0:
            raise Interrupt

    sys.setprofile(event)
    try:
        step()
    except Interrupt:
        return True
    finally:
        sys.setprofile(None)
    return False


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # a generator may be cut off
@pytest.mark.parametrize("steps_before", [0, 1])
@pytest.mark.parametrize("kind", ["Adam", "SGD"])
def test_an_interrupt_finds_all_stepped_or_none(kind, steps_before):
    """Of all groups, with gaps and new states: wherever it comes, the run goes on as if it had not."""
    arguments = {"SGD": {"momentum": 0.9, "dampening": 0.5}, "Adam": {}}[kind]

    def start():
        torch.manual_seed(1)
        params = [torch.nn.Parameter(torch.randn(4, 4)[:, : 4 - i]) for i in (0, 1, 0)]
        groups = [{"params": params[:2]}, {"params": params[2:], "lr": 0.5}]
        return params, getattr(samestep.torch, kind)(groups, lr=0.1, **arguments)

    def step(params, optimizer):
        for i, p in enumerate(params):
            p.grad = torch.full_like(p, 1.0 + i)
        optimizer.step()

    runs = []
    params, optimizer = start()
    for _ in range(steps_before + 2):
        step(params, optimizer)
        runs.append([p.detach().clone() for p in params])
    outcomes = set()
    for at in itertools.count(1):
        params, optimizer = start()
        for _ in range(steps_before):
            step(params, optimizer)
        for i, p in enumerate(params):
            p.grad = torch.full_like(p, 1.0 + i)
        was_interrupted = interrupted(optimizer.step, at)
        now = [p.detach().clone() for p in params]
        stepped = all(map(torch.equal, now, runs[steps_before]))
        outcomes.add((was_interrupted, stepped))
        if not stepped:
            step(params, optimizer)
        assert all(map(torch.equal, (p.detach() for p in params), runs[steps_before])), at
        step(params, optimizer)
        assert all(map(torch.equal, (p.detach() for p in params), runs[steps_before + 1])), at
        if not was_interrupted:
            break
    assert (True, False) in outcomes
    assert outcomes >= {(True, False), (False, True)}


def test_hyper_parameters_that_float32_cannot_hold():
    """torch refuses them at the step; NaN and infinity would be silent."""
    for lib in (torch.optim, samestep.torch):
        p, q = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(2))
        optimizer = lib.SGD([{"params": q}, {"params": p, "lr": 1e300}], lr=0.1)
        p.grad, q.grad = torch.ones(2), torch.ones(2)
        with pytest.raises(RuntimeError, match="without overflow"):
            optimizer.step()
        assert p.tolist() == [1.0, 1.0]
    assert q.tolist() == [1.0, 1.0]
    wide = torch.nn.Parameter(torch.ones(2, dtype=torch.float64))
    wide.grad = torch.zeros_like(wide)
    samestep.torch.SGD([wide], lr=1e300).step()
