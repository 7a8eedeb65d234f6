"""What the benchmarks share: shapes by name, a limit on threads, and a base class."""

import functools
import os
import re
import time

import numpy as np
import threadpoolctl

import lstmx

THREADS = (1, 2)
DTYPES = ("float32", "float64")

with lstmx.num_threads(1):  # starts no threads, which would not survive a fork
    lstmx.LSTM(1, 1)(np.zeros((1, 1)))  # loads the engine's BLAS once, and not in each process that asv forks


class Benchmark:
    """Defaults for all. Many single calls: asv runs `setup` before each of them, so that one is decorated by `once`."""

    rounds = 2
    repeat = (5, 300, 0.3)  # at least, at most, seconds
    warmup_time = 0.05


def once(setup):
    """Makes a `setup` do its work once for given parameters, so that later it costs no time and cools no caches."""

    @functools.wraps(setup)
    def wrapper(self, *params):
        if getattr(self, "ready", None) != params:
            setup(self, *params)
            self.ready = params

    return wrapper


def limit_threads(n):
    """Set the threads of lstmx's own loops and of BLAS; without so many CPUs, or without OpenMP, skip the benchmark."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    lstmx.set_num_threads(n)
    if n > cpus or lstmx.get_num_threads() != n:
        raise NotImplementedError(f"{n} threads are more than there are here")
    threadpoolctl.threadpool_limits(n, user_api="blas")


def sizes(name):
    """{"T": 50, "N": 32, "I": 16, "H": 128, "lengths": None} of "T50 N32 I16 H128".

    "T7..29" is ragged: lengths (N,) spread evenly from 7 to 29, in random order. L and D are 1 if unnamed.
    """
    found = {"L": 1, "D": 1, "lengths": None}
    for letter, first, last in re.findall(r"([TNIHLD])(\d+)(?:\.\.(\d+))?", name):
        found[letter] = int(last or first)
        if last:
            found["lengths"] = int(first), int(last)
    if found["lengths"]:
        spread = np.linspace(*found["lengths"], found["N"]).round().astype(np.int64)
        found["lengths"] = np.random.default_rng(0).permutation(spread)
    return found


def layer(shape, dtype="float32"):
    """An LSTM of these sizes; its initial matrices come from NumPy's BLAS, quicker alone on a busy machine."""
    both = shape["D"] == 2
    with threadpoolctl.threadpool_limits(1, user_api="blas"):
        return lstmx.LSTM(shape["I"], shape["H"], shape["L"], bidirectional=both, dtype=dtype, random_state=0)


def batch(shape, dtype="float32"):
    """Normal inputs: an array (N, T, I), or a list of arrays (T_n, I) where the shape is ragged."""
    rng = np.random.default_rng(0)
    if shape["lengths"] is None:
        return rng.normal(size=(shape["N"], shape["T"], shape["I"])).astype(dtype)
    return [rng.normal(size=(n, shape["I"])).astype(dtype) for n in shape["lengths"]]


def call_times(call, seconds=0.15):
    """The times of as many calls as begin within `seconds`, and of one at least."""
    times, end = [], time.perf_counter() + seconds
    while not times or time.perf_counter() < end:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return times
