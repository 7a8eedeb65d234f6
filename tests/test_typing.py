"""Annotations: every public name has them, and type checkers find them right."""

import ast
import importlib
import importlib.util
import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest

import lstmx

HERE = Path(__file__).parent
PACKAGE = Path(lstmx.__file__).parent
USER = HERE / "typed_user.py"
# Modules whose public names are annotated: all.
NAMED = [
    "lstmx",
    "lstmx.functional",
    "lstmx.init",
    "lstmx.datasets",
    "lstmx.testing",
    "lstmx.reference",
    "lstmx.loading",
]
NAMED += [
    "lstmx.layers",
    "lstmx.training",
    "lstmx.optim",
    "lstmx.losses",
    "lstmx.model",
    "lstmx.streams",
    "lstmx.storage",
    "lstmx.interop",
    "lstmx.predictors",
    "lstmx.inspect",
    "lstmx.cli",
    "lstmx.lesson",
    "lstmx.distributed",
]
NAMED += ["lstmx.estimators"] * (importlib.util.find_spec("sklearn") is not None)


def bare(call):
    """The parameters of a function without an annotation, and "return"."""
    signature = inspect.signature(call)
    found = [p.name for p in signature.parameters.values() if p.annotation is p.empty and p.name not in ("self", "cls")]
    return found + ["return"] * (signature.return_annotation is signature.empty)


def calls_of(name, value):
    """(name, function) of a function, or of a class its public methods and properties, and how it is called."""
    if inspect.isfunction(value):
        yield name, value
    elif inspect.isclass(value) and value.__module__.startswith("lstmx"):
        for own, member in vars(value).items():
            member = getattr(member, "__func__", getattr(member, "func", getattr(member, "fget", member)))
            public = not own.startswith("_") or own in (
                "__init__",
                "__call__",
                "__len__",
                "__contains__",
                "__getitem__",
            )
            generated = getattr(value, "__dataclass_fields__", None) and own == "__init__"
            if public and inspect.isfunction(member) and not generated:
                yield f"{name}.{own}", member


def public_calls():
    """All public callables of the annotated modules."""
    found = {}
    for module in map(importlib.import_module, NAMED):
        names = getattr(
            module, "__all__", [n for n, v in vars(module).items() if getattr(v, "__module__", "") == module.__name__]
        )
        for name in names:
            value = getattr(module, name)
            if not name.startswith("_"):
                found |= (
                    {f"{value.__module__}.{full}": call for full, call in calls_of(name, value)}
                    if callable(value)
                    else {}
                )
    return found


def test_every_public_callable_is_annotated():
    calls = public_calls()
    assert len(calls) > 150
    assert {name: names for name, call in calls.items() if (names := bare(call))} == {}


def test_a_missing_annotation_would_be_found():
    class Given:
        def method(self, x, y: int) -> int: ...
        @property
        def value(self): ...

    Given.__module__ = "lstmx.layers"
    assert {name: bare(call) for name, call in calls_of("Given", Given)} == {
        "Given.method": ["x"],
        "Given.value": ["return"],
    }


def test_type_checkers_are_told_every_name_that_is_loaded_late():
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    told = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            for child in node.body:
                if isinstance(child, ast.ImportFrom) and child.module.startswith("lstmx"):
                    assert all(alias.asname == alias.name for alias in child.names)
                    told |= {alias.name: child.module for alias in child.names}
    late = {name: "lstmx" if attribute is None else module for name, (module, attribute) in lstmx._LAZY.items()}
    assert told == late


def test_every_compiled_module_has_a_stub():
    core = PACKAGE / "_core"
    if not list(core.glob("*.pyx")):
        pytest.skip("an installed package has no sources")
    assert {path.stem for path in core.glob("*.pyi")} == {path.stem for path in core.glob("*.pyx")}


def test_ignored_errors_are_named():
    for path in [*PACKAGE.rglob("*.py"), *HERE.glob("*.py")]:
        for line in path.read_text(encoding="utf-8").splitlines():
            assert "# type:" + " ignore" not in line or "# type:" + " ignore[" in line, (path.name, line)


def test_what_users_write_runs():
    run([sys.executable, str(USER)])


def run(command):
    """Run a program with the package of this test; what it says is the error."""
    paths = [str(PACKAGE.parent), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "MYPYPATH": str(PACKAGE.parent)}
    done = subprocess.run(command, cwd=PACKAGE.parent, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr


def needs(tool):
    """The mark of a test of a tool that is not always installed; it runs in the sources, where its settings are."""
    there = importlib.util.find_spec(tool) is not None and (PACKAGE.parent / "pyproject.toml").exists()
    return pytest.mark.skipif(not there, reason=f"needs {tool}, in the sources")


@pytest.mark.long
@needs("mypy")
@pytest.mark.parametrize("what", [[], [str(USER)]], ids=["package", "user"])
def test_mypy(what):
    run([sys.executable, "-m", "mypy", *what])


@pytest.mark.long
@needs("pyright")
def test_pyright(tmp_path):
    run([sys.executable, "-m", "pyright", "--pythonpath", sys.executable, str(USER)])


@pytest.mark.long
@needs("mypy")
def test_stubs_are_as_the_compiled_modules(tmp_path):
    settings = tmp_path / "mypy.ini"
    settings.write_text("[mypy]\n")
    compiled = sorted(f"lstmx._core.{path.stem}" for path in (PACKAGE / "_core").glob("*.pyi"))
    if importlib.util.find_spec("scipy") is None:
        compiled.remove("lstmx._core.blas")  # which needs it
    allowed = ["--allowlist", str(HERE / "stubtest_allowlist.txt"), "--ignore-unused-allowlist"]
    run([sys.executable, "-m", "mypy.stubtest", "--mypy-config-file", str(settings), "--concise", *allowed, *compiled])
