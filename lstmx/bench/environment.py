"""The environment that workers run in, and what is said of the machine."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import lstmx

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


# They choose the kernels and blocking of OpenBLAS by hand, which no user does.
UNSET = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
THREADS = (
    "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS",
    "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS",
    "NPROC",  # the pool of XLA
)  # fmt: skip


def of_workers(threads: int, more: Iterable[tuple[str, str]] | Mapping[str, str] = ()) -> dict[str, str]:
    """The environment variables of a worker with so many threads."""
    clean = {name: value for name, value in os.environ.items() if name not in UNSET}
    root = os.path.dirname(os.path.dirname(os.path.abspath(lstmx.__file__)))
    path = [root, *filter(None, [clean.get("PYTHONPATH")])]
    clean |= dict.fromkeys(THREADS, str(threads))
    clean |= {"PYTHONPATH": os.pathsep.join(path), "TF_CPP_MIN_LOG_LEVEL": "2", "CUDA_VISIBLE_DEVICES": ""}
    if threads == 1:
        flags = clean.get("XLA_FLAGS", "")
        clean["XLA_FLAGS"] = f"{flags} --xla_cpu_multi_thread_eigen=false".strip()
    return clean | dict(more)


def cpus() -> int:
    """How many CPUs this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_name() -> str:
    """The name that the CPU gives itself."""
    try:
        with open("/proc/cpuinfo") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def describe() -> dict[str, Any]:
    """A dict about lstmx, BLAS and the machine, as workers see them."""
    code = "import json, lstmx; print(json.dumps(lstmx.show_config('dicts')))"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], env=of_workers(1), capture_output=True, text=True, timeout=120, check=False
    )
    if done.returncode:
        raise RuntimeError(f"lstmx does not start: {done.stderr.strip().splitlines()[-1:]}")
    config = json.loads(done.stdout)
    return {
        "lstmx": config["lstmx"],
        "python": config["python"],
        "numpy": config["numpy"],
        "machine": config["machine"],
        "cpu": cpu_name(),
        "cpus": cpus(),
        "engine": config["engine"],
        "isa": config["isa"],
        "openmp": config["openmp"],
        "blas": config["blas"],
        "unset": {name: os.environ[name] for name in UNSET if name in os.environ},
        "load": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
    }
