"""lstmx on several workers of Dask, on this machine.

    python benchmarks/distributed_dask.py [--parts predict,fit_many] [--size 1] [--write docs/performance.md]

Each part is run by clusters of one worker and of two, a thread each, in turn; of times the minimum counts. Where both
cores are free, the workers are busy for nearly all of the time: the part that they spend on the CPU is shown.

* predict: `lstmx.distributed.predict` of 100,000 sequences of 100 steps, LSTM 8 -> 64, in chunks of 1,000 that workers
  draw themselves; the results have the bits of a local call. The memory of a worker is that of each quarter of the run.
* fit_many: `lstmx.distributed.fit_many` of 500 forecasters of a series each (distributed_many.py).
"""

import argparse
import contextlib
import threading
import time
from pathlib import Path

import distributed_many
import numpy as np

WORKERS = 1, 2
EVERY = 0.1  # seconds between looks at the memory


def predict(size):
    """A call ``client -> what is computed``, and a check of that."""
    import dask.array as da

    import lstmx

    layers = [lstmx.LSTM(8, 64, random_state=0), lstmx.Last(), lstmx.Dense(64, 1, random_state=1)]
    model = lstmx.Sequential(layers)
    count = max(4, round(100 * size))
    x = da.random.default_rng(0).random((1000 * count, 100, 8), dtype=np.float32, chunks=(1000, 100, 8))
    y = lstmx.distributed.predict(model, x)

    def check(found):
        want = model.predict(x[:3000].compute(scheduler="synchronous"))
        if found[:3000].tobytes() != want.tobytes():
            raise SystemExit("predict: not the bits of a local call")

    return lambda client: client.compute(y).result(), check


# Part -> what makes its call, its title, and what is asked of two workers.
PARTS = {
    "predict": (predict, "predict, 100,000 sequences of 100 steps, LSTM 8 -> 64", ">= 1.8"),
    "fit_many": (distributed_many.part, "fit_many, 500 series of 1,000 steps, 8 units", ">= 1.8"),
}


@contextlib.contextmanager
def cluster(workers):
    """A client of so many workers, and their processes."""
    import os

    import psutil
    from dask.distributed import Client, LocalCluster

    with (
        LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=":0") as found,
        Client(found) as client,
    ):
        yield client, [psutil.Process(pid) for pid in client.run(os.getpid).values()]


class Watch:
    """Within it the memory of processes is looked at; afterwards `memory` has their largest in MB by quarter, `wall`
    the seconds, `busy` the part of them that the processes worked.
    """

    def __init__(self, processes):
        self.processes, self.seen, self.over = processes, [], threading.Event()

    def __enter__(self):
        self.thread = threading.Thread(target=self.look)
        self.cpu, self.start = self.used(), time.perf_counter()
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.wall = time.perf_counter() - self.start
        self.busy = (self.used() - self.cpu) / (self.wall * len(self.processes))
        self.over.set()
        self.thread.join()
        self.memory = [max(part) / 1e6 for part in np.array_split(self.seen, 4) if len(part)]

    def used(self):
        return sum(sum(process.cpu_times()[:2]) for process in self.processes)

    def look(self):
        while not self.over.wait(EVERY):
            self.seen.append(max(process.memory_info().rss for process in self.processes))


def measure(part, rounds, size):
    """The best `Watch` by number of workers."""
    call, check = PARTS[part][0](size)
    best = {}
    with contextlib.ExitStack() as stack:
        clusters = {n: stack.enter_context(cluster(n)) for n in WORKERS}
        for number in range(rounds + 1):
            for n, (client, processes) in clusters.items():
                with Watch(processes) as watch:
                    found = call(client)
                check(found)
                if number and (n not in best or watch.wall < best[n].wall):  # the first one imports and loads
                    best[n] = watch
    return best


def table(results):
    """Markdown."""
    columns = ["what", "workers", "time", "ratio", "asked", "busy", "memory of a worker, by quarter"]
    lines = [columns, ["---"] * len(columns)]
    for part, found in results.items():
        _, title, asked = PARTS[part]
        for n, watch in found.items():
            one = n == WORKERS[0]
            ratio, memory = f"{found[WORKERS[0]].wall / watch.wall:.3g}", ", ".join(f"{m:.0f}" for m in watch.memory)
            cells = [title * one, str(n), f"{watch.wall:.3g} s", "" if one else ratio, "" if one else asked]
            lines.append([*cells, f"{watch.busy:.0%}", f"{memory} MB"])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", default=",".join(PARTS), help="some of " + ", ".join(PARTS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size", type=float, default=1, help="how much of the data is taken; the tables have 1")
    parser.add_argument("--write", type=Path, help="a page with the marks of this table")
    options = parser.parse_args()
    results = {part: measure(part, options.rounds, options.size) for part in options.parts.split(",")}
    from lstmx.bench.environment import cpu_name
    from lstmx.bench.report import write

    text = f"{table(results)}\n\n{cpu_name()}, workers of 1 thread."
    print(text)
    if options.write:
        write(options.write, "distributed", text)


if __name__ == "__main__":
    main()
