"""The pages of the API: which public name is on which, each drawn by mkdocstrings from its docstring."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "python" / "samestep"


def named(module: str, names: str) -> str:
    return " ".join(f"{module}.{name}" for name in names.split())


# A page: its title, the module whose docstring leads, and the names on it; without any, those in its __all__.
LEDGER = "Ledger " + named(
    "ledger",
    "Header Record Records read_ledger LedgerError diff Diff Difference NotComparableError first_parted_line "
    "first_element most_ulps Element picture Picture Values",
)
OPTIMIZERS = "SGD Momentum NAG AdaGrad RMSProp Adam AdamW Optimizer CorruptionError"
BATCHNORM = "batchnorm_forward batchnorm_backward batchnorm_inference batchnorm_inference_backward BatchNorm"
PAGES = {
    "optimizers": ("Optimizers", "optimizers", OPTIMIZERS),
    "options": ("Options", "options", "options.OptionArguments"),
    "schedules": ("Schedules", "schedules", named("schedules", "constant step cosine warm_up inverse_time")),
    "batchnorm": ("Batch norm", "layers.batchnorm", BATCHNORM),
    "linear": ("Linear layer", "layers.linear", "linear linear_backward"),
    "functions": ("Functions of one value", "layers.functions", "exp log tanh sigmoid"),
    "softmax": ("Softmax and cross-entropy", "layers.softmax", "softmax_cross_entropy"),
    "sums": ("Sums and digests", None, "canonical_sum global_norm digest fingerprint"),
    "ledger": ("Ledgers", "ledger", LEDGER),
    "ledger-megatron": ("Ledgers: Megatron-LM's traces", "ledger.megatron", None),
    "ledger-merkle": (
        "Ledgers: Merkle trees",
        "ledger.merkle",
        named("ledger.merkle", "root_of proof_of is_proved"),
    ),
    "replay": ("Replays", "replay", None),
    "minimize": ("Training loops", None, "minimize Result"),
    "problems": ("Problems", "problems", None),
    "theory": ("Theory", "theory", None),
    "flows": (
        "Flows",
        "theory.flows",
        named("theory.flows", "steps rescaled modified manifold manifold_move"),
    ),
    "landscape": ("Landscapes", "theory.landscape", None),
    "parallel": ("Any number of workers", "parallel", None),
    "torch": ("PyTorch", "torch", None),
    "torch-parallel": ("PyTorch, any number of workers", "torch.parallel", None),
    "jax": ("JAX", "jax", None),
    "machine": ("Threads and instruction sets", None, "info set_isa set_num_threads get_num_threads"),
}


def titles() -> dict[str, str]:
    return {f"api/{name}.md": title for name, (title, *_) in PAGES.items()}


def pages() -> dict[str, str]:
    return {f"api/{name}.md": "".join(page(*entry)) for name, entry in PAGES.items()}


def page(title: str, module: str | None, names: str | None) -> Iterator[str]:
    yield f"# {title}\n\n"
    if module:
        unseen = "members: false, show_root_heading: false, show_root_toc_entry: false"
        yield f"::: samestep.{module}\n    options: {{{unseen}}}\n\n"
    for name in listed(module) if names is None else names.split():
        yield f"::: samestep.{name}\n\n"


def listed(module: str | None) -> Iterator[str]:
    """The names in a package's __all__, without the modules, which have pages of their own."""
    folder = PACKAGE / (module or "").replace(".", "/")
    tree = ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))
    (names,) = (
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__"
    )
    modules = {leading for _, leading, _ in PAGES.values()}
    for name in names:
        if f"{module}.{name}" not in modules:
            yield f"{module}.{name}"
