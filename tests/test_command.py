"""The `lstmx` command where lstmx itself cannot be imported."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import lstmx

ROOT = Path(lstmx.__file__).parent.parent


def command(*arguments, program="import sys, lstmx_command; sys.exit(lstmx_command.main())", **environment):
    """The completed process of ``lstmx *arguments``."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("LSTMX_")} | {"PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, "-P", "-c", program, *arguments], env=env | environment, text=True,
                          capture_output=True, timeout=60)  # fmt: skip


@pytest.mark.parametrize("arguments", [["info"], ["demo"], ["bench", "--quick"], ["--version"], ["--help"], []],
                         ids=lambda a: " ".join(a) or "nothing")  # fmt: skip
@pytest.mark.parametrize("variable", ["LSTMX_ENGINE", "LSTMX_ISA"])
def test_a_wrong_variable_is_one_line_and_a_status(variable, arguments):
    done = command(*arguments, **{variable: "fast"})
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert done.stderr.startswith(f"lstmx: {variable}='fast' is not an ")
    assert "use one of [" in done.stderr and done.stderr.endswith("or unset the variable\n")


def test_a_missing_package_is_one_line_and_a_status():
    done = command(
        "info", program="import sys; sys.modules['numpy'] = None; import lstmx_command as c; sys.exit(c.main())"
    )
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1) and "numpy" in done.stderr


def test_the_command_is_that_of_cli():
    done = command("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"lstmx {lstmx.__version__}\n", "")
    done = command("nonsense")
    assert done.returncode == 2 and "invalid choice: 'nonsense'" in done.stderr


def test_the_package_is_the_command_too():
    done = command("--version", program="import runpy; runpy.run_module('lstmx', run_name='__main__', alter_sys=True)")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"lstmx {lstmx.__version__}\n", "")


def test_what_is_installed_is_this_command():
    path = ROOT / "pyproject.toml"
    if not path.exists():
        pytest.skip("an installed lstmx")
    project = tomllib.loads(path.read_text(encoding="utf-8"))
    assert project["project"]["scripts"] == {"lstmx": "lstmx_command:main"}
    assert project["tool"]["setuptools"]["py-modules"] == ["lstmx_command"]
