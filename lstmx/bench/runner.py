"""Runs the cases: starts workers, compares their outputs, alternates the rounds, collects the times."""

from __future__ import annotations

import contextlib
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from lstmx.bench import environment, report, shapes, tasks
from lstmx.bench.cells import CELLS
from lstmx.bench.process import FreshProcess, WorkerError, WorkerProcess

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Sequence

    from lstmx._types import Arrays
    from lstmx.bench.shapes import Shape


SCHEMA = 1
START = shapes.parse("100,1,1,32")  # the model of the task `import`
TOLERANCE = {"float32": 1e-3, "float64": 1e-8}  # of the largest value of an array
PAUSE = 0.05  # before each measurement, so that the threads of the engine before have gone to sleep


def chosen(name: str, given: Any, allowed: Iterable[Any]) -> Any:
    """The items of `given` if all are allowed; else a ValueError that names the argument."""
    given = list(given)
    for item in given:
        if item not in allowed:
            raise ValueError(f"{name}: got {item!r}, must be one of {', '.join(map(str, allowed))}")
    if not given:
        raise ValueError(f"{name}: got nothing, must be one or more of {', '.join(map(str, allowed))}")
    return given


class Plan:
    """What to run, checked. The parameters are those of `run`."""

    def __init__(
        self,
        task: Sequence[str] | None,
        shape: Sequence[Any] | None,
        threads: Sequence[int] | None,
        peers: Sequence[str] | None,
        rounds: int | None,
        quick: bool,
        cell: Sequence[str] | None = None,
    ) -> None:
        self.quick = bool(quick)
        task = task or (tasks.QUICK if quick else tasks.DEFAULT)
        self.tasks = list(tasks.TASKS) if list(task) == ["all"] else chosen("task", task, tasks.TASKS)
        cpus = environment.cpus()
        if not threads:
            threads = (1,) if quick else range(1, min(2, cpus) + 1)
        self.threads = sorted(set(chosen("threads", threads, range(1, cpus + 1))))
        known = [name for name in ([] if peers is None else peers) if ":" not in name]
        if known:
            chosen("peers", known, tasks.PEERS)
        self.peers = list(tasks.PEERS if peers is None else dict.fromkeys(peers))
        self.rounds = rounds if rounds is not None else (2 if quick else 5)
        if not isinstance(self.rounds, int) or self.rounds < 1:
            raise ValueError(f"rounds: got {rounds!r}, must be a whole number of at least 1")
        self.cells = list(dict.fromkeys(chosen("cell", cell, CELLS))) if cell else list(CELLS)
        if cell and not any(tasks.TASKS[name].kind == "cells" for name in self.tasks):
            raise ValueError(f"cell: got {', '.join(cell)}, which is for the tasks cells and cells-training; add one")
        self.target = 0.01 if quick else 0.03
        self.shapes = {name: self._shapes(name, shape) for name in self.tasks}

    def _shapes(self, name: str, wanted: Any) -> list[Shape]:
        kind = tasks.TASKS[name].kind
        found: list[Shape] = []
        if kind == "start":
            return [START]
        for text in wanted or (["quick"] if self.quick else ["default"]):
            if text in shapes.GROUPS:
                found += shapes.GROUPS[text][kind]
                continue
            shape = shapes.parse(text)
            if (shape.shortest is not None) == (kind == "ragged"):
                found.append(shapes.Shape(1, shape.N, shape.I, shape.H) if kind == "step" else shape)
        if not found and wanted and not any(text in shapes.GROUPS for text in wanted):
            need = "T0..T1,N,I,H" if kind == "ragged" else "T,N,I,H"
            raise ValueError(f'shape: got {", ".join(wanted)}, must hold a "{need}" for the task {name}')
        return list(dict.fromkeys(found))

    def cases(self) -> list[tuple[str, Shape, str]]:
        """(task name, shape, cell) of everything to run for one number of threads."""
        return [
            (name, shape, cell)
            for name in self.tasks
            for shape in self.shapes[name]
            for cell in (self.cells if tasks.TASKS[name].kind == "cells" else ["plain"])
        ]


class Runner:
    """The workers for one number of threads, and what they measure; a context manager that ends them."""

    def __init__(self, plan: Plan, peers: Sequence[str], threads: int, folder: str | os.PathLike[str]) -> None:
        self.plan, self.threads, self.folder = plan, threads, folder
        self.engines = [*tasks.OWN, *peers]
        self.versions: dict[str, str] = {}
        self._workers: dict[str, WorkerProcess] = {}
        self._broken: dict[str, str] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        for worker in self._workers.values():
            worker.close()

    def worker(self, name: str) -> WorkerProcess:
        """The engine's worker, started if there is none; an engine that did not start is not tried again."""
        if name in self._broken:
            raise WorkerError(self._broken[name])
        if name not in self._workers or not self._workers[name].running:
            try:
                self._workers[name] = WorkerProcess(name, self.threads)
            except WorkerError as error:
                self._broken[name] = f"does not start: {error}"
                raise WorkerError(self._broken[name]) from None
            self.versions |= self._workers[name].versions
        return self._workers[name]

    def peak(self, dtype: str) -> float:
        """GFLOP/s of multiply-adds in registers: the best of several tries."""
        return max(self.worker("lstmx").ask("peak", dtype=dtype, seconds=self.plan.target)["gflops"] for _ in range(4))

    def case(self, name: str, shape: Shape, cell: str) -> dict[str, Any]:
        """Measure one task at one shape, with one cell, on every engine that takes part; the record of the case."""
        task = tasks.TASKS[name]
        engines = [engine for engine in self.engines if tasks.takes_part(engine, task, cell)]
        measure = self._start if task.kind == "start" else self._call
        flops = CELLS[cell].flops(shape)
        record: dict[str, Any] = {
            "task": name,
            "dtype": task.dtype,
            "threads": self.threads,
            "shape": shape.name,
            "steps": shape.steps,
            "gflop": task.work * flops / 1e9 if task.kind != "start" else None,
            "engines": measure(task, shape, cell, engines),
        }
        if task.kind == "cells":
            record |= {"cell": cell, "work": flops / shape.flops}
        if task.kind == "fit":
            record["series"] = shapes.series(shape, self.plan.quick)
            record["gflop"] *= record["series"] / shape.N
        return record

    def _rounds(self, entries: list[Any], measure: Callable[..., dict[str, Any]]) -> dict[str, Any]:
        """Rounds over (engine, variant, ...) entries, each beginning with another one; errors end an engine's part."""
        found: dict[str, dict[str, Any]] = {}
        for r in range(self.plan.rounds):
            turn = r % len(entries) if entries else 0
            for entry in entries[turn:] + entries[:turn]:
                engine, variant = entry[:2]
                record = found.setdefault(engine, {"variants": {}})
                if "error" in record:
                    continue
                time.sleep(PAUSE)
                try:
                    record["variants"].setdefault(variant, []).append(measure(*entry))
                except WorkerError as error:
                    record["error"] = str(error)
        return {engine: summarise(record) for engine, record in found.items()}

    def _start(self, task: Any, shape: Any, cell: Any, engines: Sequence[str]) -> dict[str, Any]:
        fresh, failed = [], {}
        for name in engines:
            try:
                fresh.append((name, "", FreshProcess(name, shape, self.folder)))
            except Exception as error:  # whatever a peer raises while its model is made
                failed[name] = {"error": f"{type(error).__name__}: {error}"}
        return failed | self._rounds(fresh, lambda name, variant, process: process.time(self.threads))

    def _call(self, task: Any, shape: Any, cell: Any, engines: Sequence[str]) -> dict[str, Any]:
        case = {"shape": shape.name, "dtype": task.dtype, "quick": self.plan.quick, "cell": cell}
        entries, failed, expected = [], {}, None
        for name in engines:
            path = str(Path(self.folder, name.replace(":", ".")))
            is_plain = name == tasks.PLAIN
            asked = case | {"cell": "plain"} if is_plain else case
            try:
                variants = self.worker(name).ask(
                    "prepare", method=task.method, case=asked, path=path, target=self.plan.target
                )["variants"]
                for index, variant in enumerate(variants):
                    if "error" not in variant:
                        outputs = read(variant["outputs"])
                        expected = outputs if expected is None and name == "lstmx" else expected
                        wanted = outputs if is_plain else expected  # no other engine has the plain cell to compare
                        variant["error"] = difference(outputs, wanted, TOLERANCE[task.dtype])
                    if variant["error"] is None:
                        entries.append((name, variant["variant"], index, variant["repetitions"]))
                wrong = [v["error"] for v in variants if v["error"] is not None]
                if len(wrong) == len(variants):
                    failed[name] = {"error": wrong[0] if wrong else "has no variant of this case"}
            except WorkerError as error:
                failed[name] = {"error": str(error)}
            if name == "lstmx" and name in failed:
                return failed  # nothing to compare with
        found = failed | self._rounds(
            entries, lambda name, variant, index, times: self._workers[name].ask("time", index=index, repetitions=times)
        )
        for name in engines:
            if name in self._workers and self._workers[name].running:
                with contextlib.suppress(WorkerError):
                    self._workers[name].ask("drop")
        return {name: found[name] for name in engines}


def summarise(record: dict[str, Any]) -> dict[str, Any]:
    """The fastest lap of the fastest variant, with the rounds of all; p99, waiting are medians over its rounds."""
    variants = {name: times for name, times in record["variants"].items() if times}
    if "error" in record or not variants:
        return {"error": record.get("error", "not measured")}
    best = min(variants, key=lambda name: min(t["seconds"] for t in variants[name]))
    fastest = min(variants[best], key=lambda t: t["seconds"])
    p99 = [t["p99"] for t in variants[best] if t.get("p99") is not None]
    waiting = [t["waiting"] for t in variants[best] if t.get("waiting") is not None]
    laps = [seconds for t in variants[best] for seconds in t.get("laps", [t["seconds"]])]
    return {
        "seconds": fastest["seconds"],
        "median": float(np.median(laps)),
        "variant": best,
        "cores": fastest.get("cores"),
        "p99": float(np.median(p99)) if p99 else None,
        "waiting": np.median(waiting, axis=0).tolist() if waiting else None,
        "memory": min((t["memory"] for t in variants[best] if "memory" in t), default=None),
        "rounds": {name: [t["seconds"] for t in times] for name, times in variants.items()},
    }


def read(path: str | os.PathLike[str]) -> Arrays:
    """The arrays of an npz file, which is removed."""
    with np.load(path) as file:
        found = dict(file)
    Path(path).unlink()
    return found


def difference(found: Arrays, expected: Any, tolerance: float) -> str | None:
    """What is wrong with an engine's outputs beside lstmx's; None if nothing is."""
    for name, wanted in expected.items():
        if name not in found or found[name].shape != wanted.shape:
            return f"wrong result: {name} is {found[name].shape if name in found else 'missing'}, not {wanted.shape}"
        if not np.isfinite(found[name]).all() or not np.isfinite(wanted).all():
            return f"wrong result: {name} is not finite"
        scale = np.abs(wanted).max(initial=0)
        far = np.abs(found[name] - wanted).max(initial=0)
        if far > tolerance * max(scale, 1e-30):
            return f"wrong result: {name} differs from lstmx's by {far / max(scale, 1e-30):.2g} of its largest value"
    return None


def run(
    task: Sequence[str] | None = None,
    shape: Sequence[str] | None = None,
    threads: Sequence[int] | None = None,
    peers: Sequence[str] | None = None,
    rounds: int | None = None,
    quick: bool = False,
    progress: Callable[[dict[str, Any]], None] | None = None,
    cell: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Measure lstmx beside its peers.

    Parameters
    ----------
    task : list of str, optional
        Of `lstmx.bench.tasks.TASKS`; ["all"] is all of them.
    shape : list of str, optional
        "T,N,I,H", "T0..T1,N,I,H" for ragged tasks, or a group: quick, default, table, odd, all.
    threads : list of int, optional
    peers : list of str, optional
        Default all that are installed; [] is none. "module:Class" is an engine of your own.
    rounds : int, optional
    quick : bool
        Few tasks and shapes, one thread, two short rounds.
    progress : callable, optional
        Is given each case when it is done.
    cell : list of str, optional
        Of `lstmx.bench.cells.CELLS`, for the tasks cells and cells-training; all of them by default.

    Returns
    -------
    dict
        Plain JSON values: schema, environment, absent, options, peaks, cases, summary. Where Ctrl-C ended the run,
        "interrupted" is True and the cases are those done before.
    """
    plan = Plan(task, shape, threads, peers, rounds, quick, cell)
    gone = {name: tasks.missing(name) for name in plan.peers}
    present = [name for name in plan.peers if not gone[name]]
    asked = [name for name in peers or () if gone[name]]
    if asked:
        packages = " ".join(package for name in asked for package in gone[name])
        raise ValueError(f"peers: got {', '.join(asked)}, which must be installed first: pip install {packages}")
    results = {
        "schema": SCHEMA,
        "environment": environment.describe(),
        "options": {"rounds": plan.rounds, "quick": plan.quick, "seconds_per_round": plan.target},
        "versions": {},
        "absent": {name: f"{' and '.join(packages)} not installed" for name, packages in gone.items() if packages},
        "peaks": [],
        "cases": [],
        "interrupted": False,
    }
    try:
        for n in plan.threads:
            _run_threads(plan, present, n, results, progress)
    except KeyboardInterrupt:
        results["interrupted"] = True
    return report.complete(results)


def _run_threads(plan: Plan, peers: Sequence[str], threads: int, results: dict[str, Any], progress: Any) -> None:
    dtypes = sorted({tasks.TASKS[name].dtype for name in plan.tasks if tasks.TASKS[name].kind != "start"})
    with tempfile.TemporaryDirectory() as folder, Runner(plan, peers, threads, folder) as runner:
        peaks = {dtype: runner.peak(dtype) for dtype in dtypes}
        for dtype in dtypes:
            results["peaks"].append({"threads": threads, "dtype": dtype, "gflops": peaks[dtype]})
        for planned in plan.cases():
            case = runner.case(*planned)
            results["cases"].append(case)
            results["versions"] |= runner.versions
            if progress is not None:
                progress(case)
        for entry in results["peaks"]:  # once more: another program may have been busy before
            if entry["threads"] == threads:
                entry["gflops"] = max(entry["gflops"], runner.peak(entry["dtype"]))
