"""Builds the compiled core.

Environment variables: ``LSTMX_NO_OPENMP=1`` leaves OpenMP out; ``LSTMX_DEBUG=1`` builds with bounds checks, without
optimisation, and with workspaces that start as NaN; ``LSTMX_NO_VECTOR=1`` leaves the compiler's vector extensions out;
``LSTMX_SANITIZE=1`` builds with GCC's address and undefined-behaviour sanitizers, whose libraries a run must preload
(``.ci/run`` does). They can be combined.
"""

import importlib.util
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy
from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

DEBUG = os.environ.get("LSTMX_DEBUG") == "1"
NO_OPENMP = os.environ.get("LSTMX_NO_OPENMP") == "1"
NO_VECTOR = os.environ.get("LSTMX_NO_VECTOR") == "1"
SANITIZE = os.environ.get("LSTMX_SANITIZE") == "1"

CORE = Path("lstmx/_core")
FLAGS = ["-std=gnu11", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math",
         "-O1" if DEBUG or SANITIZE else "-O3"]  # fmt: skip
SYMBOLS = ["-g", "-fno-omit-frame-pointer"] if DEBUG or SANITIZE else ["-g0"]
MSVC_FLAGS = ["/O2", "/std:c11"]  # without the second it does not know `restrict`
# Python's own flags make signed overflow legal, which would hide it; the core does not build on that.
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-fno-wrapv"] if SANITIZE else []


class BuildCore(build_ext):
    """Compiles with one set of flags for GCC and Clang, and with OpenMP where the compiler has it.

    MSVC, which has neither GNU C's vectors nor atomics, builds plain C for one thread.
    """

    def finalize_options(self):
        super().finalize_options()
        self.force = True  # the environment variables above change the build, and no timestamp tells
        self.parallel = self.parallel or os.cpu_count()

    def build_extensions(self):
        msvc = self.compiler.compiler_type == "msvc"
        openmp = [] if NO_OPENMP or msvc or not self.has_openmp() else ["-fopenmp"]
        print("lstmx: building", "with OpenMP" if openmp else "without OpenMP", file=sys.stderr)
        for extension in self.extensions:
            extension.extra_compile_args = MSVC_FLAGS if msvc else FLAGS + SYMBOLS + openmp + SANITIZERS
            extension.extra_link_args = openmp + SANITIZERS
        super().build_extensions()

    def has_openmp(self):
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder, "probe.c")
            source.write_text("#include <omp.h>\nint main(void) { return omp_get_max_threads() < 1; }\n")
            command = [*self.compiler.compiler_so[:1], "-fopenmp", str(source), "-o", str(Path(folder, "probe"))]
            return subprocess.run(command, capture_output=True, check=False).returncode == 0


def blas_int():
    """The folder with the right blas_int.pxi: SciPy names its type where it may be 64 bits wide, else it is int."""
    declarations = Path(importlib.util.find_spec("scipy.linalg").origin).with_name("cython_blas.pxd").read_text()
    return CORE / ("blas_int_scipy" if re.search(r"\bblas_int\b", declarations) else "blas_int_plain")


def extension(name, *sources):
    macros = [("LSTMX_NO_VECTOR", "1")] if NO_VECTOR else []
    macros += [("NPY_NO_DEPRECATED_API", "NPY_1_7_API_VERSION"), ("CYTHON_TRACE_NOGIL", "0")]
    return Extension(
        f"lstmx._core.{name}",
        [str(CORE / f"{name}.pyx"), *(str(CORE / "c" / s) for s in sources)],
        include_dirs=[str(CORE / "c"), numpy.get_include()],
        depends=[str(p) for p in CORE.glob("c/*")],
        define_macros=macros,
    )


setup(
    ext_modules=cythonize(
        [
            extension("isa", "dispatch.c", "isa_baseline.c", "isa_avx2.c", "isa_avx512.c"),
            extension("allocate"),
            extension("kernels"),
            extension("rows"),
            extension("job"),
            extension("blocks"),
            extension("loop"),
            extension("dense"),
            extension("panels"),
            extension("passes"),
            extension("stream"),
            extension("plan"),
            extension("program"),
            extension("sessions"),
            extension("rollout"),
            extension("blas"),
        ],
        include_path=[str(blas_int())],
        language_level=3,
        compiler_directives={
            "boundscheck": DEBUG,
            "wraparound": False,
            "cdivision": True,
            "initializedcheck": DEBUG,
            "embedsignature": True,
        },
        build_dir="build/cython",
    ),
    cmdclass={"build_ext": BuildCore},
)
