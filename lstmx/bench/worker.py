"""The process of one engine and one number of threads: ``python -m lstmx.bench.worker MODULE:CLASS THREADS``.

A line of JSON comes in on standard input, one goes out on standard output; what libraries print goes to standard error.
The requests, by "op", are the methods of `Worker`.
"""

from __future__ import annotations

import gc
import importlib
import json
import math
import os
import sys
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from lstmx.bench.engine import Case

if TYPE_CHECKING:
    from collections.abc import Callable


def timed(call: Callable[..., Any], repetitions: int) -> tuple[float, float]:
    """(wall, CPU) seconds of so many calls."""
    cpu, start = time.process_time(), time.perf_counter()
    for _ in range(repetitions):
        call()
    return time.perf_counter() - start, time.process_time() - cpu


def laps(call: Callable[..., Any], repetitions: int, most: int = 20) -> tuple[list[float], float]:
    """(seconds of a call in each of up to `most` laps of as many calls, CPUs used)."""
    each = -(-repetitions // most)
    times = [timed(call, each) for _ in range(-(-repetitions // each))]
    wall, cpu = map(sum, zip(*times, strict=True))
    return [seconds / each for seconds, _ in times], cpu / wall


def calibrate(call: Callable[..., Any], target: float) -> int:
    """How many calls take `target` seconds; at least one."""
    repetitions = 1
    while True:
        taken, _ = timed(call, repetitions)
        if taken >= target / 4:
            return max(1, math.ceil(repetitions * target / taken))
        repetitions *= 2 if taken <= 0 else min(10, max(2, math.ceil(target / 2 / taken)))


def percentile_99(call: Callable[..., Any], seconds: float = 0.05, least: int = 200) -> float | None:
    """The time within which 99 of 100 calls return; None for calls too long to see enough of."""
    times, now = [], time.perf_counter()
    end = now + seconds
    while now < end:
        start = now
        call()
        now = time.perf_counter()
        times.append(now - start)
    return float(np.percentile(times, 99)) if len(times) >= least else None


class Worker:
    """Answers requests with plain dicts.

    Parameters
    ----------
    engine : object
        Has ``versions()`` and one method for each kind of case.
    """

    def __init__(self, engine: Any) -> None:
        self.engine = engine
        self.jobs: list[Any] = []

    def prepare(self, method: str, case: dict[str, Any], path: str, target: float) -> dict[str, Any]:
        """Make the variants of a case, write their outputs to `path`.k.npz, and find how often to call each."""
        self.drop()
        found: list[dict[str, Any]] = []
        for name, make in getattr(self.engine, method)(Case(**case)).items():
            try:
                job = make()
                file = f"{path}.{len(found)}.npz"
                np.savez(file, **job.outputs())
                found.append({"variant": name, "outputs": file, "repetitions": calibrate(job.call, target)})
            except Exception as error:
                job = None
                found.append({"variant": name, "error": f"{type(error).__name__}: {error}"[:500]})
            self.jobs.append(job)
        return {"variants": found}

    def time(self, index: int, repetitions: int) -> dict[str, Any]:
        """Time one variant: the fastest lap's and the median lap's seconds per unit, CPUs used, the 99th percentile of
        short calls, and the part of the time in which each thread waits where an engine can tell."""
        job = self.jobs[index]
        gc.collect()
        gc.disable()
        try:
            times, cores = laps(job.call, repetitions)
            p99 = percentile_99(job.call) if min(times) < 250e-6 else None
            tell = getattr(self.engine, "waiting", None)  # lstmx's own
            waiting = tell(job.call, max(1, repetitions // 4)) if tell else None
        finally:
            gc.enable()
        times = [seconds / job.units for seconds in times]
        return {"seconds": min(times), "laps": times, "cores": cores, "p99": p99, "waiting": waiting}

    def peak(self, dtype: str, seconds: float) -> dict[str, Any]:
        """GFLOP/s of multiply-adds in registers."""
        return {"gflops": self.engine.peak(dtype, seconds)}

    def drop(self) -> dict[str, Any]:
        """Forget the case."""
        self.jobs = []
        gc.collect()
        return {}

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Do what a request says; an exception becomes {"error": text}."""
        try:
            return getattr(self, request.pop("op"))(**request)
        except Exception as error:
            return {"error": f"{type(error).__name__}: {error}"[:500]}


def main(engine: str, threads: str) -> None:
    """Serve until standard input ends."""
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    sys.stdout = sys.stderr

    def send(reply: Any) -> None:
        channel.write(json.dumps(reply) + "\n")
        channel.flush()

    module, _, name = engine.partition(":")
    try:
        made = getattr(importlib.import_module(module), name)(int(threads))
        worker = Worker(made)
        send({"versions": made.versions()})
    except Exception as error:
        send({"error": f"{type(error).__name__}: {error}"[:500]})
        return
    for line in sys.stdin:
        send(worker.answer(json.loads(line)))


if __name__ == "__main__":
    main(*sys.argv[1:])
