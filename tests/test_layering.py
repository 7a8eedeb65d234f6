"""Who may import whom: the layering of the package, read from its sources.

estimators -> predictors -> model -> training, rollout -> layers, losses, optim, data -> storage -> functional -> _core.
loading, interop, inspect, distributed, bench, cli and demo are the top. An import inside a function keeps to the same
order: it may spare a program what it does not need, never reach up.
"""

import ast
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(importlib.util.find_spec("lstmx").origin).parent
FILES = sorted(ROOT.rglob("*.py"))
CYTHON = sorted((ROOT / "_core").glob("*.pyx")) + sorted((ROOT / "_core").glob("*.pxd"))

# The height of each part; it imports from lower ones and from itself. A new module needs a place here.
HEIGHT = {
    "_core": 0,
    "functional": 1,
    "storage": 2,
    "layers": 3,
    "losses": 3,
    "optim": 3,
    "data": 3,
    "training": 4,
    "model": 5,
    "streams": 6,
    "predictors": 6,
    "estimators": 7,
}
# Leaves import nothing of lstmx but each other, and all may import them.
LEAVES = {
    "datasets", "formats", "testing", "init", "plots", "reference", "reference_cells", "tensors", "_types", "_version",
}  # fmt: skip
# These import anything but _core; only they import each other, and inside functions.
TOP = {
    "loading", "interop", "inspect", "distributed", "bench", "cli", "demo", "lesson", "lesson_pictures", "__main__",
}  # fmt: skip
PEERS = {"torch", "keras", "tf_keras", "h5py", "tensorflow", "onnx", "onnxruntime", "openvino", "jax", "tf2onnx"}
NEIGHBOURS = {"sktime", "aeon"}  # each for the adapter of its name alone
PRODUCTS = {"matmul", "dot", "vdot", "inner", "tensordot", "matvec", "vecmat", "multi_dot"}


def name_of(path):
    """The dotted name of a module of the package."""
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in FILES}


def part_of(module):
    """The part that a module belongs to: "functional" for lstmx.functional.engine; "" for lstmx itself."""
    return [*module.split("."), ""][1]


def imports(module, tree, package=False):
    """(absolute name, whether at module level) of everything that the source imports.

    `from a import b` gives "a.b", which is a module or a name in one; relative names are made absolute.
    """
    found = []

    def visit(node, top):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                found.extend((alias.name, top) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                base = child.module or ""
                if child.level:
                    parents = module.split(".")
                    parents = parents[: len(parents) - child.level + package]
                    base = ".".join([*parents, base]).rstrip(".")
                found.extend((f"{base}.{alias.name}", top) for alias in child.names)
            later = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            later = later or (isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING")  # never run
            visit(child, top and not later)

    visit(tree, True)
    return found


def violations(module, source, package=False):
    """What a module of the package does against the rules, one line each."""
    tree = ast.parse(source)
    part = part_of(module)
    out = []
    if part and part not in HEIGHT and part not in LEAVES and part not in TOP:
        out.append(f"{part} has no place in the layering")
    for name, top in imports(module, tree, package):
        root = name.split(".")[0]
        if root in PEERS and part not in ("interop", "bench"):
            out.append(f"imports {root}")
        if root in NEIGHBOURS and module != f"lstmx.interop.{root}":
            out.append(f"imports {root}")
        if root in ("dask", "distributed") and part != "distributed":
            out.append(f"imports {root}")
        if root == "mpi4py" and (module != "lstmx.training.ranks" or top):
            out.append("imports mpi4py")
        if root == "sklearn" and part != "estimators":
            out.append("imports sklearn")
        # `lstmx info` says which BLAS SciPy carries, if there is one; scikit-learn, which estimators need, brings it.
        if root == "scipy" and (part not in ("cli", "estimators") or top):
            out.append("imports scipy")
        if root != "lstmx":
            continue
        target = part_of(name)
        if target not in HEIGHT and target not in LEAVES and target not in TOP:
            target = ""  # a name in lstmx/__init__.py, or lstmx itself
        if target == part:
            continue
        if target == "_core" and part != "functional":
            out.append(f"imports {name}")
        if target in TOP and top and part != "__main__":
            out.append(f"imports {name} at module level")
        elif target in TOP and part in HEIGHT:
            out.append(f"imports {name}, which is not below it")
        if part in LEAVES and target not in LEAVES:
            out.append(f"is a leaf and imports {name}")
        if part in HEIGHT:
            if target == "":
                out.append("imports the package from inside")
            elif HEIGHT.get(target, -1) >= HEIGHT[part]:
                out.append(f"imports {name}, which is not below it")
    for node in ast.walk(tree):
        called = getattr(node, "attr", getattr(node, "id", None))
        if part in HEIGHT and part != "_core" and called in ("import_module", "__import__"):
            out.append(f"imports by {called}, which nobody can check")
    if module not in ("lstmx.reference", "lstmx.reference_cells"):
        for node in ast.walk(tree):
            if isinstance(node, ast.BinOp | ast.AugAssign) and isinstance(node.op, ast.MatMult):
                out.append("multiplies matrices with @")
            elif isinstance(node, ast.Attribute) and node.attr in PRODUCTS:
                out.append(f"uses .{node.attr}")
            elif isinstance(node, ast.ImportFrom) and any(alias.name in PRODUCTS for alias in node.names):
                out.append(f"imports a matrix product from {node.module}")
    return out


@pytest.mark.parametrize("module", list(MODULES))
def test_module_keeps_to_the_layering(module):
    path = MODULES[module]
    assert violations(module, path.read_text(encoding="utf-8"), path.name == "__init__.py") == []


def reaches_into(source):
    """What a source takes by a name with an underscore from objects of other modules: `x._name`, one line each.

    Free are x of the module's own classes (`_name` is set or defined in it), `self`, `cls` and `super()`, modules from
    elsewhere, double underscores, and the two methods that a NamedTuple has.
    """
    tree = ast.parse(source)
    nodes = list(ast.walk(tree))
    own = {"_replace", "_asdict"}
    own |= {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    own |= {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    of_self = {"self", "cls", "super()"}
    for node in nodes:
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and ast.unparse(node.value) in of_self:
            own.add(node.attr)
        if isinstance(node, ast.Import):
            of_self |= {a.asname or a.name for a in node.names if not a.name.startswith("lstmx")}
    return [
        f"line {node.lineno}: {ast.unparse(node)}"
        for node in nodes
        if isinstance(node, ast.Attribute) and re.match(r"_[^_]", node.attr)
        and node.attr not in own and ast.unparse(node.value) not in of_self
    ]  # fmt: skip


@pytest.mark.parametrize("module", list(MODULES))
def test_no_module_reaches_into_the_objects_of_another(module):
    assert reaches_into(MODULES[module].read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("source", "found"),
    [("layer._version += 1", 1), ("f(model.layers[0]._params)", 1), ("x = layer._params", 1), ("self.net._rng", 1),
     ("from lstmx import layers\nlayers._setting", 1), ("class A:\n def f(self, other): return other._x", 1),
     ("class A:\n def f(self, other):\n  self._x = 1\n  return other._x", 0), ("super()._setup()", 0),
     ("import sys\nsys._getframe()", 0), ("row._replace(a=1)", 0), ("x.__dict__", 0), ("self._x + cls._y", 0)],
)  # fmt: skip
def test_reaching_into_another_would_be_found(source, found):
    assert len(reaches_into(source)) == found


def test_every_part_is_looked_at():
    parts = {part_of(module) for module in MODULES}
    assert {"", "_core", "functional", "layers", "reference"} <= parts
    assert len(MODULES) == len(FILES) > 10
    assert {path.name for path in CYTHON} >= {
        "blas.pyx",
        "isa.pyx",
        "kernels.pyx",
        "rows.pyx",
        "job.pyx",
        "loop.pyx",
        "stream.pyx",
        "core.pxd",
    }


BAD = {
    "the core outside functional": ("lstmx.layers.lstm", "from lstmx._core import kernels"),
    "the core, plainly": ("lstmx.model", "import lstmx._core.kernels"),
    "the core beside the top": ("lstmx.cli", "def f():\n from lstmx._core import kernels"),
    "the core, relatively": ("lstmx.layers.lstm", "from .._core import kernels"),
    "upwards": ("lstmx.training", "from lstmx.model import Sequential"),
    "upwards, from the package": ("lstmx.functional.engine", "from lstmx import layers"),
    "upwards, relatively": ("lstmx.functional.engine", "from ..layers import LSTM"),
    "upwards in a function": ("lstmx.losses", "def f():\n from lstmx import training"),
    "upwards in a method": ("lstmx.layers.base", "class A:\n def f(self):\n  from lstmx.model import Sequential"),
    "upwards in a lambda's default": ("lstmx.training", "def f(g=lambda: __import__('lstmx.model')): pass"),
    "upwards by a string": ("lstmx.storage", "def f():\n importlib.import_module('lstmx.layers')"),
    "storage that knows layers": ("lstmx.storage", "def f():\n from lstmx.layers import LSTM"),
    "a predictor that knows estimators": ("lstmx.predictors.base", "from lstmx.estimators import LSTMClassifier"),
    "training that looks inside": ("lstmx.training.callbacks", "def f():\n from lstmx.inspect import plot_history"),
    "sideways": ("lstmx.losses", "import lstmx.optim"),
    "a name of the top": ("lstmx.training", "from lstmx import LSTM"),
    "a name of the top in a function": ("lstmx.layers.base", "def f():\n from lstmx import load"),
    "the package itself": ("lstmx.layers.base", "def f():\n import lstmx"),
    "interop at module level": ("lstmx.model", "from lstmx.interop.torch import convert"),
    "interop in a function": ("lstmx.model", "def f():\n from lstmx.interop.torch import convert"),
    "loading in a method": ("lstmx.model", "class A:\n def f(self):\n  from lstmx import loading"),
    "loading at module level": ("lstmx.inspect", "from lstmx.loading import load"),
    "interop under try": ("lstmx", "try:\n from lstmx import interop\nexcept ImportError:\n pass"),
    "cli at module level": ("lstmx.inspect", "from lstmx import cli"),
    "a leaf that imports": ("lstmx.testing", "from lstmx.functional import validate"),
    "plots that know layers": ("lstmx.plots", "def f():\n from lstmx.layers import Trace"),
    "torch": ("lstmx.layers.lstm", "def f():\n import torch.nn"),
    "sklearn": ("lstmx.model", "from sklearn.base import BaseEstimator"),
    "sktime": ("lstmx.interop.aeon", "from sktime.base import BaseEstimator"),
    "aeon in a function": ("lstmx.estimators", "def f():\n import aeon"),
    "dask": ("lstmx.model", "def f():\n import dask.array"),
    "scipy": ("lstmx.functional.engine", "def f():\n import scipy.linalg"),
    "scipy at module level": ("lstmx.cli", "import scipy.linalg"),
    "mpi4py": ("lstmx.training.trainer", "def f():\n from mpi4py import MPI"),
    "mpi4py at module level": ("lstmx.training.ranks", "from mpi4py import MPI"),
    "matmul": ("lstmx.layers.simple", "import numpy as np\nnp.matmul(1, 2)"),
    "matmul by name": ("lstmx.layers.simple", "from numpy import matmul"),
    "a dot method": ("lstmx.optim", "a.dot(b)"),
    "@": ("lstmx.init", "c = a @ b"),
    "@=": ("lstmx.init", "a @= b"),
    "a module without a place": ("lstmx.novelties", ""),
}


@pytest.mark.parametrize(("module", "source"), BAD.values(), ids=BAD)
def test_a_violation_would_be_found(module, source):
    assert len(violations(module, source)) >= 1


GOOD = {
    "downwards": ("lstmx.model", "from lstmx import losses, training\nfrom lstmx.functional import validate"),
    "itself": ("lstmx.layers.lstm", "from lstmx.layers.base import Layer\nfrom .base import Layer"),
    "a leaf": ("lstmx.layers.lstm", "from lstmx import init"),
    "a leaf in a leaf": ("lstmx.reference_cells", "from lstmx.reference import sigmoid"),
    "downwards in a function": ("lstmx.model", "def f():\n from lstmx import losses, optim, training"),
    "others in a function": ("lstmx.storage", "def f():\n import tempfile\n from safetensors import safe_open"),
    "plots everywhere": ("lstmx.training.callbacks", "from lstmx import plots"),
    "storage from a layer": ("lstmx.layers.base", "from lstmx import storage"),
    "the top in the top": ("lstmx.cli", "def f():\n from lstmx.bench import command"),
    "loading registers": ("lstmx.loading", "import lstmx.model, lstmx.predictors"),
    "torch in interop": ("lstmx.interop.torch", "import torch"),
    "sktime in its adapter": ("lstmx.interop.sktime", "from sktime.forecasting.base import BaseForecaster"),
    "dask in its place": ("lstmx.distributed._bags", "import dask.bag"),
    "mpi4py in its module": ("lstmx.training.ranks", "def f():\n from mpi4py import MPI"),
    "sklearn in estimators": ("lstmx.estimators", "import sklearn"),
    "@ in the reference": ("lstmx.reference", "c = a @ b"),
    "a decorator": ("lstmx.model", "@property\ndef f(self): pass"),
    "@ in a docstring": ("lstmx.init", '"""w @ w.T"""'),
    "the core in functional": ("lstmx.functional.engine", "from lstmx._core import loop"),
}


@pytest.mark.parametrize(("module", "source"), GOOD.values(), ids=GOOD)
def test_what_is_allowed_is_not_complained_about(module, source):
    assert violations(module, source) == []


def code(path):
    """A Cython source without comments and docstrings."""
    text = re.sub(r'"""(?s:.*?)"""', "", path.read_text(encoding="utf-8"))
    return re.sub(r"#.*", "", text)


@pytest.mark.parametrize(
    ("pattern", "only"),
    [
        (r"\bprange\b|cython\.parallel", {"loop.pyx"}),
        (r"cython_blas|\bscipy\b", {"blas.pyx"}),
    ],
    ids=["threads", "blas"],
)
def test_the_loops_alone_make_threads_and_one_module_calls_blas(pattern, only):
    assert {path.name for path in CYTHON if re.search(pattern, code(path))} == only


def test_the_core_imports_nothing_of_lstmx_but_itself():
    for path in CYTHON:
        imported = re.findall(r"^\s*(?:from|c?import)\s+(lstmx[\w.]*)", code(path), re.MULTILINE)
        assert all(name.startswith("lstmx._core") for name in imported), path.name


def test_the_core_makes_no_threads_in_c():
    for path in (ROOT / "_core" / "c").glob("*.[ch]"):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"#\s*pragma\s+omp|pthread_|CreateThread", text), path.name
        assert "omp.h" not in text or path.name == "team.h", path.name  # which counts the threads that there are


def test_importing_lstmx_loads_numpy_and_nothing_else():
    program = (
        "import sys, numpy; before = set(sys.modules); import lstmx, lstmx.functional, lstmx.reference; "
        "print(*{m.split('.')[0] for m in set(sys.modules) - before} - set(sys.stdlib_module_names))"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=ROOT.parent, capture_output=True, text=True, check=True)
    # Cython makes modules of its own, and NumPy loads some of its parts late
    assert {m for m in done.stdout.split() if "cython" not in m} - {"numpy"} == {"lstmx"}
