"""Memory, watched while calls of random shapes go on and on: what the process holds does not grow.

After a third of the time it has all that it keeps for reuse. From then on, the memory is read after every round of
calls, when what the C library keeps free is given back; the median of the last rounds is held against that of the
first ones.
"""

import ctypes
import gc
import json
import statistics
import subprocess
import sys
import time
import warnings

import numpy as np

from lstmx.functional import allocate

from . import Failed, environment
from .calls import in_folder

NAME = "growth"
TITLE = "Long runs with memory watched"
A_ROUND = 200  # calls
MOST = 2 << 20  # bytes by which it may differ: what Python and the C library keep moves by as much
FEW = 5  # rounds that are compared, at least


def run(seconds, seed):
    """Calls in a child of its own."""
    code = f"from campaigns import growth; growth.watch({seconds}, {seed})"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, timeout=3 * seconds + 300
    )
    if done.returncode:
        raise Failed(f"growth: ended with {done.returncode}; again: --seed {seed}\n{done.stderr[-3000:]}")
    found = json.loads(done.stdout)
    if found["grown by bytes"] > MOST:
        raise Failed(f"growth: {found}; again: --seed {seed}")
    return found


def resident():
    """Bytes of memory that this process has, without what is only kept free."""
    allocate.spare.clear()
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    with open("/proc/self/smaps_rollup") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("Anonymous:")) << 10


def watch(seconds, seed):
    """In the child: prints the figures."""
    warnings.simplefilter("ignore")
    models, rng = in_folder(), np.random.default_rng(seed)
    start, counts, sizes = time.monotonic(), 0, []
    while len(sizes) < 2 * FEW or time.monotonic() < start + seconds:
        for _ in range(A_ROUND):
            models.calls[rng.integers(len(models.calls))](np.random.default_rng(rng.integers(2**32)))
        counts += A_ROUND
        if time.monotonic() > start + seconds / 3:
            sizes.append(resident())
    few = max(FEW, len(sizes) // 4)
    first, last = statistics.median(sizes[:few]), statistics.median(sizes[-few:])
    watched = A_ROUND * len(sizes)
    print(json.dumps({"calls": counts, "calls watched": watched, "readings": len(sizes), "bytes at first": int(first),
                      "bytes at last": int(last), "grown by bytes": int(last - first)}))  # fmt: skip
