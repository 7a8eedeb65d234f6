"""What the package is called where it is installed from, and what errors recommend to install."""

import re
import tomllib
from pathlib import Path

import pytest

import lstmx

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
SOURCES = [
    *(p for p in Path(lstmx.__file__).parent.rglob("*") if p.suffix in (".py", ".pyx")),
    *(p for folder in ("benchmarks", "examples") for p in (ROOT / folder).rglob("*.py")),
    ROOT / "README.md",
]


def all_of(extra):
    """The packages that an extra brings, those of the extras that it names included."""
    for requirement in EXTRAS[extra]:
        ours = re.fullmatch(r"lstmx-cpu\[([\w,]+)\]", requirement)
        if ours:
            for other in ours[1].split(","):
                yield from all_of(other)
        else:
            yield requirement


def test_nothing_recommends_the_project_that_has_our_import_name():
    """`pip install lstmx` installs somebody else's."""
    found = [
        f"{path.name}: {line.strip()}"
        for path in SOURCES
        for line in path.read_text().splitlines()
        if re.search(r"""pip install (-\S+ )*['"]?lstmx(?!-cpu)|\blstmx\[[a-z]""", line)
    ]
    assert len(SOURCES) > 80 and found == []


def test_extras_name_the_distribution_itself():
    requirements = [requirement for extra in EXTRAS.values() for requirement in extra]
    assert PROJECT["name"] == "lstmx-cpu"
    assert [r for r in requirements if re.match(r"lstmx\b(?!-cpu\[)", r)] == []
    assert len([r for r in requirements if r.startswith("lstmx-cpu[")]) >= 3


def test_what_errors_recommend_is_what_the_extras_require():
    known = {requirement for extra in EXTRAS for requirement in all_of(extra)}
    pattern = r"pip install '([^']+)'\"\)"  # the end of a message
    found = {r for path in SOURCES for r in re.findall(pattern, path.read_text())}
    assert {"scipy>=1.13", "scikit-learn>=1.6", "matplotlib>=3.8"} <= found <= known


def test_the_demo_brings_what_help_needs():
    """After the README's first command the estimators can be loaded, and read about."""
    assert {"scikit-learn>=1.6", "matplotlib>=3.8", "scipy>=1.13"} <= set(all_of("demo"))


REQUIREMENT = r"([\w-]+)(?:\[[\w,]+\])?>=([\d.]+)"
FLOORS = dict(re.findall(r"^([\w-]+)==([\d.]+)$", (ROOT / "tests" / "floors.txt").read_text(), re.MULTILINE))


def padded(version):
    """A version as numbers, so that 1.26 and 1.26.0 are the same."""
    return [*map(int, version.split(".")), 0, 0, 0][:3]


@pytest.mark.parametrize("extra", ["", "demo", "keras", "onnx", "dask"])
def test_the_floors_that_are_tested_are_those_that_are_declared(extra):
    for requirement in all_of(extra) if extra else PROJECT["dependencies"]:
        name, version = re.fullmatch(REQUIREMENT, requirement).groups()
        assert padded(FLOORS[name]) == padded(version), requirement


def test_so_are_those_of_what_tests_use_beside():
    for requirement in all_of("test"):
        name, version = re.fullmatch(REQUIREMENT, requirement).groups()
        if name in ("hypothesis", "pandas", "polars", "pytest"):
            assert padded(FLOORS[name]) == padded(version), requirement
