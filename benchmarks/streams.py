"""Many streams, closed loops and long sequences: lstmx, and how else one would do it.

    python benchmarks/streams.py [--rounds 5] [--threads 1] [--tasks push,subset] [--write docs/performance.md]

Every engine runs in processes of its own, in turn, and is given its best form: each is timed, the fastest counts. Of
times the minimum counts, of memory the largest. Outputs are compared too; a difference is relative to the largest of
them, at least 1. An engine that is not installed is left out.

* push: a frame for each of 1,000 sessions of an LSTM 128 -> 128, in an order that changes. Peers: onnxruntime, a call
  a session, with states in NumPy arrays or bound to memory; one call, with states gathered before it and scattered
  after; PyTorch's nn.LSTM, gathered so.
* subset: a frame for 100 of 1,000 sessions of an LSTM 1 -> 16, others each time. Peer: lstmx itself, gathered so.
* realtime: how many sessions of 31 frames a second each, LSTM 128 -> 128, are carried, if 99 of 100 pushes take less
  than 1 ms. Pushes are of 1 to 2,048 sessions, the best number counts, out of 32,768 that take turns.
* rollout, path: 1,000 steps of LSTM 1 -> 32 and Dense that read what they gave, 100 sequences with noise, and one.
  Peers: a loop in PyTorch, of nn.LSTMCell or of nn.LSTM, and one compiled by TorchScript.
* memory: an epoch of `fit` on 16 sequences of 10,000 steps, LSTM 32 -> 128, beside one in an eighth of the memory.
* tbptt: `fit` with tbptt=100 on a series of 1,000,000 steps, LSTM 1 -> 32, beside one of 10,000: the ratio is that of
  memory, with what Python, the libraries and the series take. Elsewhere it is that of times.
"""

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from streams_engines import PATHS, SIZES, WITHIN, memory, realtime, rollout, sessions, tbptt

ONNX = "onnx", "onnxruntime"
# Task -> what measures it, and engines: (the packages that each needs, what is asked of the ratio), ours first.
TASKS = {
    "push": (sessions, {"lstmx": ((), ""), "onnxruntime_each": (ONNX, ">= 20"), "onnxruntime": (ONNX, ">= 1.5"),
                        "torch": (("torch",), "")}),
    "subset": (sessions, {"lstmx": ((), ""), "gathered": ((), ">= 5")}),
    "realtime": (realtime, {"lstmx": ((), "")}),
    "rollout": (rollout, {"lstmx": ((), ""), "torch": (("torch",), ">= 30"), "torchscript": (("torch",), "")}),
    "path": (rollout, {"lstmx": ((), ""), "torch": (("torch",), ""), "torchscript": (("torch",), "")}),
    "memory": (memory, {"whole": ((), ""), "eighth": ((), "<= 1.4")}),
    "tbptt": (tbptt, {"10000": ((), ""), "1000000": ((), "<= 1.1")}),
}  # fmt: skip
TITLES = {
    "push": "a frame for each of 1,000 sessions, LSTM 128 -> 128",
    "subset": "a frame for 100 of 1,000 sessions, LSTM 1 -> 16",
    "realtime": "sessions at 31 frames a second, LSTM 128 -> 128",
    "rollout": "rollout of 1,000 steps, 100 paths, LSTM 1 -> 32 and Dense",
    "path": "the same, one path",
    "memory": "an epoch on 16 sequences of 10,000 steps, LSTM 32 -> 128",
    "tbptt": "an epoch of truncated back-propagation on one series",
}
ENGINES = {
    "onnxruntime_each": "onnxruntime, a call a session", "onnxruntime": "onnxruntime, gathered states",
    "torch": "PyTorch", "torchscript": "PyTorch, compiled", "gathered": "lstmx, states gathered by NumPy",
    "whole": "lstmx", "eighth": "lstmx, in an eighth of the memory", "10000": "lstmx, 10,000 steps",
    "1000000": "lstmx, 1,000,000 steps",
}  # fmt: skip


def prepare(task, folder):
    """The files that engines read: model.safetensors, weights.npz and, for onnxruntime, model.onnx."""
    import lstmx

    I, H = SIZES.get(task, (128, 128) if task == "realtime" else (1, 32))[:2]
    lstm = model = lstmx.LSTM(I, H, random_state=0)
    weights = {}
    if task in PATHS:
        dense = lstmx.Dense(H, 1, random_state=1)
        weights = dict(dense.parameters())
        model = lstmx.Sequential([lstm, dense])
    model.save(folder / "model.safetensors")
    np.savez(folder / "weights.npz", **lstm.parameters(), **weights)
    if task == "push" and all(map(importlib.util.find_spec, ONNX)):
        lstmx.to_onnx(lstm, folder / "model.onnx", states=True)


def compare(task, rounds, threads, clock):
    """(figures by engine, largest differences of outputs by engine)."""
    from lstmx.bench.environment import of_workers

    engines = [engine for engine, (needs, _) in TASKS[task][1].items() if all(map(importlib.util.find_spec, needs))]
    found, env = {engine: {} for engine in engines}, of_workers(threads, {"STREAMS_CLOCK": clock})
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        prepare(task, folder)
        for _ in range(rounds):
            for engine in engines:
                command = [sys.executable, __file__, "--worker", task, engine, place]
                done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=env)
                merge(found[engine], json.loads(done.stdout))
        first, *others = [folder / f"{engine}.npy" for engine in engines]
        apart = {path.stem: difference(np.load(first), np.load(path)) for path in others if path.exists()}
    return found, apart


def merge(best, new):
    """Keep the shortest time, the largest memory, the most sessions, each with what belongs to it."""
    most = max(best.get("memory", 0), new.get("memory", 0))
    if not best or new.get("time", 0) < best.get("time", 0) or new.get("sessions", 0) > best.get("sessions", 0):
        best.update(new)
    best["memory"] = most


def difference(y, other):
    return float(np.abs(y - other).max() / max(1, np.abs(y).max()))


def seconds(value):
    factor, unit = next((f, u) for f, u in ((1, "s"), (1e3, "ms"), (1e6, "µs")) if value * f >= 1 or u == "µs")
    return f"{value * factor:.3g} {unit}"


def table(results):
    """Markdown."""
    columns = ["what", "engine", "form", "time", "ratio", "asked", "memory", "largest difference"]
    lines = [columns, ["---"] * len(columns)]
    for task, (found, apart) in results.items():
        first = next(iter(found.values()))
        what = "memory" if task == "tbptt" else "time"
        for engine, figures in found.items():
            ratio = "" if figures is first else f"{figures[what] / first[what]:.3g}"
            title = TITLES[task] if figures is first else ""
            memory = f"{figures['memory']:.0f} MB" if figures["memory"] else ""
            apart_by = f"{apart[engine]:.0e}" if engine in apart else ""
            asked = TASKS[task][1][engine][1]
            lines.append([title, ENGINES.get(engine, engine), *cells(figures), ratio, asked, memory, apart_by])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cells(figures):
    if "sessions" in figures:
        p99 = seconds(figures["p99"])
        return [f"{figures['sessions']:,} sessions, pushes of {figures['push']}", f"{p99} for 99 of 100 pushes"]
    return [figures.get("form", ""), seconds(figures["time"])]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--tasks", default=",".join(TASKS), help="some of " + ", ".join(TASKS))
    parser.add_argument("--busy", action="store_true", help="time the process alone, where others run; with one thread")
    parser.add_argument("--write", type=Path, help="a page with the marks of this table")
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.busy and options.threads > 1:
        parser.error("--busy adds up what threads take; leave out --threads")
    if options.worker:
        task, engine, folder = options.worker
        print(json.dumps(TASKS[task][0](task, engine, Path(folder))))
        return
    clock = "process_time" if options.busy else "perf_counter"
    tasks = options.tasks.split(",")
    results = {task: compare(task, options.rounds, options.threads, clock) for task in tasks}
    from lstmx.bench.environment import cpu_name
    from lstmx.bench.report import write

    said = f"{cpu_name()}, {options.threads} thread{'s' * (options.threads > 1)}{', time of the CPU' * options.busy}."
    text = f"{table(results)}\n\n{said}"
    print(text)
    if options.write:
        write(options.write, "streams", text)
    bad = [task for task, (_, apart) in results.items() if not max(apart.values(), default=0) <= WITHIN]
    if bad:
        raise SystemExit(f"outputs differ by more than {WITHIN}: {', '.join(bad)}")


if __name__ == "__main__":
    main()
