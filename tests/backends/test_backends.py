"""Every backend offers what backends/face.py says, under the same names and with the same parameters."""

import ast
import inspect
from pathlib import Path

import pytest

from samestep import backends
from samestep.backends import face, host_face

STUB = ast.parse((Path(backends.__file__).parent.parent / "_core.pyi").read_text(encoding="utf-8"))


def stub_of(owner: str | None, name: str) -> ast.FunctionDef:
    """A function of the extension, which tells its parameters to nobody else."""
    body = STUB.body if owner is None else next(c.body for c in STUB.body if getattr(c, "name", "") == owner)
    return next(node for node in body if isinstance(node, ast.FunctionDef) and node.name == name)


def parameters(function, owner: str | None = None) -> list[str]:
    try:
        names = list(inspect.signature(function).parameters)
    except ValueError:
        names = [argument.arg for argument in stub_of(owner, function.__name__).args.args]
    return [name for name in names if name != "self"]


def faces(protocol: type) -> dict:
    return {name: member for name, member in vars(protocol).items() if inspect.isfunction(member)}


@pytest.mark.parametrize("backend", backends.BACKENDS)
class TestFace:
    def test_functions(self, backend):
        module = backends.module(backend)
        more = {} if backend == "cuda" else faces(host_face.HostBackend)
        for name, expected in {**faces(face.Backend), **more}.items():
            if not name.startswith("_"):
                assert parameters(getattr(module, name)) == parameters(expected), name

    @pytest.mark.parametrize("kind", ["Plan", "Mse", "HostMse"])
    def test_classes(self, backend, kind):
        if kind == "HostMse" and backend == "cuda":
            pytest.skip("rows on a GPU are not spread over workers")
        protocol = getattr(host_face if kind == "HostMse" else face, kind)
        kind = kind.removeprefix("Host")
        found = getattr(backends.module(backend), kind)
        for name, expected in faces(protocol).items():
            if name in ("__init__", *(n for n in vars(protocol) if not n.startswith("_"))):
                assert parameters(getattr(found, name), kind) == parameters(expected), (kind, name)
        if kind == "Plan":
            assert hasattr(found, "norm") or "norm" in inspect.getsource(found.__init__)
