"""The tests that optax has for its own optimizers, with samestep.jax's in their tables.

optax installs its tests beside what they test. Each file is read here, its table is replaced, and the tests
that go by the table are left. Complex parameters, which samestep does not step, are taken out.
"""

import ast
import importlib.util
import types
import unittest

import samestep.jax

OPTIMIZERS = (
    ("sgd", {"lr": 1.5e-3}),
    ("momentum", {"lr": 1e-3}),
    ("momentum", {"lr": 1e-3, "form": "torch", "momentum": 0.8}),
    ("nag", {"lr": 5e-4}),
    ("nag", {"lr": 5e-4, "form": "torch"}),
    ("adagrad", {"lr": 1.0}),
    ("rmsprop", {"lr": 5e-3}),
    ("rmsprop", {"lr": 5e-4, "momentum": 0.9}),
    ("adam", {"lr": 1e-1}),
    ("adam", {"lr": 1e-1, "amsgrad": True}),
    ("adamw", {"lr": 1e-1, "weight_decay": 1e-4}),
)
# File, class, the tables' names and what stands in them, and the tests that go by these.
FILES = {
    "optax._src.alias_test": (
        "AliasTest",
        {"_OPTIMIZERS_UNDER_TEST": tuple({"opt_name": n, "opt_kwargs": k} for n, k in OPTIMIZERS)},
        "optimization optimizers_accept optimizers_can preserve_dtype state_shape gradient_accumulation",
    ),
    "optax._src.float64_test": (
        "Float64Test",
        {"ALL_MODULES": [(f"{n}_{i}", getattr(samestep.jax, n), k) for i, (n, k) in enumerate(OPTIMIZERS)]},
        "mixed_dtype",
    ),
}


def load(name: str) -> type[unittest.TestCase]:
    """The class of tests of a file of optax."""
    class_name, tables, _ = FILES[name]
    path = importlib.util.find_spec(name).origin
    with open(path, encoding="utf-8") as file:
        tree = ast.parse(file.read())
    for node in ast.walk(tree):
        if isinstance(node, ast.Tuple):
            node.elts = [e for e in node.elts if not ast.unparse(e).startswith("jnp.complex")]
    found = []
    for node in tree.body:
        targets = [ast.unparse(t) for t in getattr(node, "targets", [])]
        if targets and targets[0] in tables:
            found += targets
            node.value = ast.Name("_table_" + targets[0], ast.Load())
    assert sorted(found) == sorted(tables), f"{path} has other tables"
    module = types.ModuleType(name)
    vars(module).update({"_table_" + table: value for table, value in tables.items()})
    exec(compile(ast.fix_missing_locations(tree), path, "exec"), vars(module))
    if hasattr(module, "_get_opt"):
        module._get_opt = lambda _, opt_name: getattr(samestep.jax, opt_name)
    return getattr(module, class_name)


def names_of(name: str) -> list[str]:
    """The tests that go by the tables."""
    starts = tuple(f"test_{word}" for word in FILES[name][2].split())
    return [test for test in unittest.TestLoader().getTestCaseNames(load(name)) if test.startswith(starts)]
