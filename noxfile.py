"""The chores of a developer: ``nox -l`` lists them, ``nox -s lint`` does one.

``pip install --group dev`` brings nox and what editors ask for; each session installs what else it needs into an
environment of its own.
"""

import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import nox

nox.needs_version = ">=2025.2"
nox.options.default_venv_backend = "uv|virtualenv"

ROOT = Path(__file__).parent
PROJECT = nox.project.load_toml("pyproject.toml")
LARGEST_WHEEL = 3_000_000  # bytes

# Tests that need NumPy, pytest and hypothesis alone; the first group is the compiled core's.
CORE = [
    "test_cell.py",
    "test_vmath.py",
    "test_kernels.py",
    "test_isa.py",
    "test_rows.py",
    "test_read.py",
    "test_context.py",
    "test_functional.py",
    "test_lstm_gradients.py",
    "test_lstm_inputs.py",
    "test_lstm_parameters.py",
    "test_lstm_stream.py",
]
MODELS = ["test_layers.py", "test_model.py", "test_losses.py", "test_optim.py", "test_ownership.py"]
PARALLEL = [
    "test_cell.py",
    "test_functional.py",
    "test_layers.py",
    "test_lstm_parameters.py",
    "test_lstm_stream.py",
    "test_model.py",
    "test_read.py",
    "test_rows.py",
]
INSTALLED = ["test_import.py", "test_same_bits.py", "test_storage.py", "test_threads.py", "test_training.py"]
FLOORS = [
    "test_engine.py",
    "test_estimators_sklearn.py",
    "test_estimator_contract.py",
    "test_forecaster_contract.py",
    "test_panel.py",
    "test_displays.py",
    "test_keras_files.py",
    "test_interop_onnx.py",
    "test_onnx_export.py",
    "test_distributed_predict.py",
]


def group(session, *names):
    """Install dependency groups of pyproject.toml."""
    session.install(*nox.project.dependency_groups(PROJECT, *names))


def pytest(session, *arguments, **options):
    """Run tests from within tests/, so that lstmx is the one that is installed, not the source."""
    with session.chdir(ROOT / "tests"):
        session.run("python", "-m", "pytest", *arguments, **options)


@nox.session
def tests(session):
    """All tests but the long ones; `nox -s tests -- -m long` the long ones, `-- tests/test_cell.py` those of a file."""
    session.install("-e", ".[test]")
    session.run("python", "-m", "pytest", *session.posargs)


@nox.session
def lint(session):
    """What reads the sources: ruff, codespell, zizmor and sp-repo-review."""
    group(session, "lint")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("codespell")
    session.run("zizmor", "--offline", "--no-progress", "--pedantic", ".github")
    session.run("sp-repo-review", ".")


@nox.session
def typing(session):
    """Types, as [tool.mypy] of pyproject.toml asks."""
    group(session, "typing")
    session.install("-e", ".")
    session.run("mypy", *session.posargs)


@nox.session(default=False)
def docs(session):
    """The documentation, warnings as errors, to docs/_build/html."""
    group(session, "docs")
    session.install("-e", ".[demo,dask]")
    session.run("sphinx-build", "-W", "--keep-going", "-b", "html", "docs", "docs/_build/html", *session.posargs)


@nox.session(default=False)
@nox.parametrize("option", ["LSTMX_NO_OPENMP", "LSTMX_NO_VECTOR", "LSTMX_DEBUG"])
def builds(session, option):
    """Builds for other compilers, and one that checks bounds and begins workspaces as NaN."""
    session.install(".[test]", env={option: "1"})
    lstm = sorted(path.name for path in (ROOT / "tests").glob("test_lstm*.py"))
    pytest(session, "test_cell.py", *lstm, "test_functional.py", "test_layers.py", "test_model.py", env={option: "1"})


@nox.session(default=False)
def asan(session):
    """The core's tests and two minutes of the fuzz under GCC's address and undefined-behaviour sanitizers."""
    session.install(".[test]", env={"LSTMX_SANITIZE": "1"})
    libraries = [subprocess.check_output(["gcc", f"-print-file-name={name}"], text=True).strip()
                 for name in ("libasan.so", "libubsan.so")]  # fmt: skip
    if not all(os.path.isabs(library) for library in libraries):
        session.error("gcc has no sanitizers: install libasan and libubsan")
    env = {"LD_PRELOAD": " ".join(libraries), "ASAN_OPTIONS": "detect_leaks=0:use_sigaltstack=0",
           "UBSAN_OPTIONS": "print_stacktrace=1", "PYTHONMALLOC": "malloc", "LSTMX_DEBUG": "1"}  # fmt: skip
    pytest(session, *(session.posargs or [*CORE, *MODELS]), env=env)
    with session.chdir(ROOT / "tests"):
        session.run("python", "fuzz.py", "--seconds", "120", env=env)


@nox.session(default=False)
def bench(session):
    """`nox -s bench -- REVISION`: times the working tree beside a revision, in alternation, and compares their bits."""
    if len(session.posargs) < 1:
        session.error("which revision? nox -s bench -- main")
    revision, *options = session.posargs
    session.install("-e", ".[bench]", "setuptools", "Cython")
    old = Path(session.create_tmp()) / "old"
    session.run("git", "worktree", "add", "--detach", "--force", str(old), revision, external=True)
    try:
        with session.chdir(old):
            session.run("python", "setup.py", "-q", "build_ext", "--inplace", silent=True)
        session.run("python", "benchmarks/compare.py", str(old), str(ROOT), *options)
        records = []
        for tree in (old, ROOT):
            records.append(Path(session.create_tmp()) / f"{'old' if tree == old else 'new'}.json")
            with records[-1].open("w") as record:
                program = str(ROOT / "benchmarks" / "bits.py")
                session.run("python", program, env={"PYTHONPATH": str(tree)}, stdout=record)
        session.run("python", "benchmarks/bits.py", *map(str, records), success_codes=[0, 1])
    finally:
        session.run("git", "worktree", "remove", "--force", str(old), external=True)


@nox.session(default=False)
def wheels(session):
    """Wheels for this machine's kind by cibuildwheel, which on Linux needs Docker or Podman, to dist/."""
    group(session, "wheels")
    session.run("cibuildwheel", "--output-dir", "dist", *session.posargs)


@nox.session(python="3.11", default=False)
def floors(session):
    """The oldest versions that pyproject.toml allows, tests/floors.txt."""
    oldest = ["-c", "tests/floors.txt"]
    session.install(*oldest, *nox.project.dependency_groups(PROJECT, "floors"), ".[demo,keras,onnx,dask]")
    own = "not the_reference_of_onnx and not cases_of_onnx"  # the evaluator of an old onnx knows one direction alone
    pytest(session, "-k", own, *(session.posargs or [*CORE, *MODELS, *INSTALLED, *FLOORS]))


@nox.session(default=False)
def parallel(session):
    """Every test of a few files in four threads at once, which finds what they share."""
    group(session, "parallel")
    session.install(".", "pytest", "hypothesis")
    options = ["--parallel-threads=4", "-o", "thread_unsafe_functions=tracemalloc.*"]  # which counts all threads
    pytest(session, *options, *(session.posargs or PARALLEL))


def check_contents(session, source):
    """An error unless a source distribution holds what git tracks, but for what serves the repository alone."""
    with tarfile.open(source) as archive:
        there = {name.partition("/")[2] for name in archive.getnames()}
    tracked = session.run("git", "ls-files", external=True, silent=True, log=False).splitlines()
    left = [name for name in tracked if name not in there and not name.startswith(".")]
    if left:
        session.error(f"{source.name} lacks {', '.join(left)}: MANIFEST.in names what it holds")


def without_compilers(folder):
    """A PATH that has Python, and no compiler."""
    folder.mkdir(exist_ok=True)
    for name in ("sh", "env", "uname", "ldconfig"):
        found = shutil.which(name)
        if found and not (folder / name).exists():
            (folder / name).symlink_to(found)
    return str(folder)


@nox.session(default=False)
def dist(session):
    """Source distribution and wheel, checked, and tested where there is neither a compiler nor the source.

    On Linux the wheel becomes a manylinux wheel, with its OpenMP runtime inside.
    """
    group(session, "dist")
    shutil.rmtree("dist", ignore_errors=True)
    session.run("python", "-m", "build", "--outdir", "dist/plain")  # the wheel out of the source distribution
    (source,) = Path("dist/plain").glob("*.tar.gz")
    (wheel,) = Path("dist/plain").glob("*.whl")
    source, wheel = source.rename(Path("dist", source.name)), wheel.rename(Path("dist", wheel.name))
    if "-linux_" in wheel.name:
        session.run("auditwheel", "repair", "--strip", "-w", "dist", str(wheel))
        wheel.unlink()
        (wheel,) = Path("dist").glob("*.whl")
    if wheel.stat().st_size > LARGEST_WHEEL:
        session.error(f"{wheel.name}: {wheel.stat().st_size} bytes, more than {LARGEST_WHEEL}")
    session.log(f"{wheel.name}: {wheel.stat().st_size} bytes; {source.name}: {source.stat().st_size} bytes")
    check_contents(session, source)
    session.run("check-wheel-contents", str(wheel))
    session.run("twine", "check", "--strict", str(wheel), str(source))

    temporary = Path(session.create_tmp()).resolve()
    unpacked = temporary / "source"
    shutil.rmtree(unpacked, ignore_errors=True)
    with tarfile.open(source) as archive:  # its tests, so that those of the distribution are seen to be whole
        archive.extractall(unpacked, filter="data")
    shutil.rmtree(temporary / "fresh", ignore_errors=True)
    session.run("python", "-m", "venv", str(temporary / "fresh"))
    python = temporary / "fresh" / ("Scripts" if os.name == "nt" else "bin") / "python"
    session.run(str(python), "-m", "pip", "install", "-q", "--only-binary=:all:", str(wheel), "pytest", "hypothesis",
                external=True)  # fmt: skip
    (tests_folder,) = unpacked.glob("*/tests")
    env = {"PATH": without_compilers(temporary / "path")} if os.name != "nt" else {}
    with session.chdir(tests_folder):
        session.run(str(python), "-c", "import lstmx, sys; lstmx.show_config(); sys.exit('source' in lstmx.__file__)",
                    env=env, external=True)  # fmt: skip
        chosen = session.posargs or [*CORE, *MODELS, "test_import.py"]
        session.run(str(python), "-m", "pytest", *chosen, env=env, external=True)
