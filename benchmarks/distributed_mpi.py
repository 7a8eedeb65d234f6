"""Training by MPI on two ranks beside one, and beside PyTorch: how fast, what the exchange takes, what exactness costs.

    pip install '.[mpi]' torch
    python benchmarks/distributed_mpi.py [--hidden 50,128] [--rounds 5] [--write docs/performance.md]
                                         [--json docs/cluster.json]

Each form of training runs in processes of its own, one thread each, in turn; of times the minimum counts. All train the
same network, an LSTM and a Dense layer on its last step, on the same batches of the same data by Adam; PyTorch with
DistributedDataParallel over gloo. Before and after, the same work is timed on each core alone and on both at once,
which tells what two ranks can be worth here. With ``--json``, what `cluster_model` starts from is measured too: a
shard, an update, and messages between two ranks.
"""

import argparse
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from cluster_model import fitted

BATCH, STEPS, INPUTS, SHARDS = 64, 100, 16, 8
BATCHES, EPOCHS = 8, 6
HIDDEN = 50, 128
MODELLED, SEQUENCES = (50, 128, 512), 8  # hidden units, and sequences of a shard, of the model
MESSAGES = [8 << k for k in range(0, 20, 2)]  # bytes
WITHIN = 0.05  # how far apart the losses of lstmx and PyTorch may be, as a share of the first
COLUMNS = ["what", "how", "a step", "ratio", "asked", "in the exchange", "bytes a step", "loss"]
# Name -> engine, ranks, options of fit.
FORMS = {
    "2 ranks": ("lstmx", 2, {"shards": SHARDS}),
    "2 ranks, exact=False": ("lstmx", 2, {"shards": SHARDS, "exact": False}),
    "1 rank, 8 shards": ("lstmx", 1, {"shards": SHARDS}),
    "1 rank, no shards": ("lstmx", 1, {}),
    "PyTorch, 2 processes": ("torch", 2, {}),
    "PyTorch, 1 process": ("torch", 1, {}),
}
OURS = "2 ranks"
ASKED = {"1 rank, 8 shards": ">= 1.8", "PyTorch, 2 processes": ">= 1.5"}  # of the time of a form over that of ours


# What workers do; each gives a dict, on the standard output of the first rank.


def series(size):
    """x (batches * batch, steps, INPUTS) and y (.., 1), the same for all."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(size["batches"] * size["batch"], size["steps"], INPUTS)).astype("f4")
    return x, np.tanh(x[:, -10:, :4].sum(axis=(1, 2)))[:, None].astype("f4") / 2


def network(hidden):
    import lstmx

    return lstmx.Sequential([lstmx.LSTM(INPUTS, hidden), lstmx.Last(), lstmx.Dense(hidden, 1)], random_state=0)


def shortest(ends, batches):
    """Seconds of a step, from the times at which all ended; the first epoch, which allocates, is left out."""
    return float(min(np.diff(ends[batches:])))


def train_lstmx(size, ranks, options):
    import lstmx

    (x, y), model, seen = series(size), network(size["hidden"]), []
    now = getattr(time, size.get("clock", "perf_counter"))
    if ranks > 1:
        from mpi4py import MPI

        options = options | {"comm": MPI.COMM_WORLD}

    class Watch(lstmx.Callback):
        def on_batch_end(self, trainer, batch, loss):
            seen.append((now(), trainer.ranks.seconds, trainer.ranks.sent))

    history = model.fit(
        x, y, epochs=size["epochs"], batch_size=size["batch"], shuffle=False, verbose=0, callbacks=Watch(),
        optimizer=lstmx.Adam(1e-3), **options,
    )  # fmt: skip
    ends, within, sent = np.array(seen).T
    found = {"seconds": shortest(ends, size["batches"]), "losses": history["loss"]}
    if ranks > 1:
        own = slice(size["batches"], None)
        best = np.argmin(np.diff(ends[own]))
        found["share"] = float(np.diff(within[own])[best] / np.diff(ends[own])[best])
        found["sent"] = float(np.diff(sent[own])[best])
    return found


def train_torch(size, ranks, options):
    import torch

    torch.set_num_threads(1)
    torch.set_num_interop_threads(1)
    hidden, batch = size["hidden"], size["batch"]
    x, y = map(torch.from_numpy, series(size))
    lstm, dense = torch.nn.LSTM(INPUTS, hidden, batch_first=True), torch.nn.Linear(hidden, 1)

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm, self.dense = lstm, dense

        def forward(self, x):
            return self.dense(self.lstm(x)[0][:, -1])

    net, (lstm_of, _, dense_of) = Net(), network(hidden).layers
    weights = {**lstm_of.parameters(), **dense_of.parameters()}
    with torch.no_grad():
        lstm.bias_hh_l0.zero_()
        for p, name in ((lstm.weight_ih_l0, "weight_ih_l0"), (lstm.weight_hh_l0, "weight_hh_l0"),
                        (lstm.bias_ih_l0, "bias_l0"), (dense.weight, "weight"), (dense.bias, "bias")):  # fmt: skip
            p.copy_(torch.from_numpy(weights[name].copy()))
    rank = int(os.environ.get("RANK", 0))
    if ranks > 1:
        torch.distributed.init_process_group("gloo", init_method=options["meet"], rank=rank, world_size=ranks)
        net = torch.nn.parallel.DistributedDataParallel(net)
    optimizer, loss_of = torch.optim.Adam(net.parameters(), lr=1e-3, fused=True), torch.nn.MSELoss()
    share, ends, losses = batch // ranks, [], []
    for _ in range(size["epochs"]):
        total = torch.zeros(())
        for start in range(rank * share, len(x), batch):
            optimizer.zero_grad(set_to_none=True)
            loss = loss_of(net(x[start : start + share]), y[start : start + share])
            loss.backward()
            optimizer.step()
            total += loss.detach()
            ends.append(time.perf_counter())
        if ranks > 1:
            torch.distributed.all_reduce(total)
        losses.append(float(total) / ranks / size["batches"])
    if ranks > 1:
        torch.distributed.destroy_process_group()
    return {"seconds": shortest(ends, size["batches"]), "losses": losses}


def pass_messages(size, ranks, options):
    """Pairs (bytes, seconds on the way): half of the shortest time there and back."""
    from mpi4py import MPI

    comm, found = MPI.COMM_WORLD, []
    for count in size["messages"]:
        buffer, times = np.zeros(count, "u1"), []
        for _ in range(size["tries"]):
            comm.Barrier()
            start = time.perf_counter()
            for turn in (0, 1):
                (comm.Send if comm.rank == turn else comm.Recv)(buffer, 1 - comm.rank)
            times.append((time.perf_counter() - start) / 2)
        found.append((count, min(times)))
    return {"times": found}


def work(size, ranks, options):
    """Seconds of a forward pass that is begun at the moment told: least and middle of many."""
    import lstmx

    os.sched_setaffinity(0, {options["core"]})
    lstm, x = lstmx.LSTM(INPUTS, 128, random_state=0), np.zeros((BATCH, STEPS, INPUTS), "f4")
    lstm(x)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()
    times = []
    for _ in range(size["tries"]):
        start = time.perf_counter()
        lstm(x)
        times.append(time.perf_counter() - start)
    return {"least": min(times), "middle": float(np.median(times))}


def is_first():
    """Whether this is the first rank of MPI, or one that has nothing to do with MPI."""
    return "mpi4py.MPI" not in sys.modules or sys.modules["mpi4py.MPI"].COMM_WORLD.rank == 0


WORKERS = {"lstmx": train_lstmx, "torch": train_torch, "messages": pass_messages, "work": work}


# Starting them.


def cpus():
    """How many CPUs this process may use."""
    return len(os.sched_getaffinity(0))


def mpiexec():
    """The path of mpiexec: that of this Python's environment, or the one in PATH; None if there is none."""
    here = os.path.dirname(sys.executable)
    return shutil.which("mpiexec", path=os.pathsep.join([here, os.environ.get("PATH", "")]))


def missing(engine, ranks):
    """What a form needs and this machine lacks, or None."""
    needs = [
        name
        for name in {"torch": ["torch"], "lstmx": ["mpi4py"] * (ranks > 1)}[engine]
        if not importlib.util.find_spec(name)
    ]
    return ", ".join(needs + ["mpiexec"] * (engine == "lstmx" and ranks > 1 and mpiexec() is None)) or None


def started(kind, size, ranks, options, **more):
    """Processes of a worker, of which the first will write a dict."""
    from lstmx.bench.environment import of_workers

    command = [sys.executable, __file__, "--worker", json.dumps([kind, size, ranks, options])]
    count, env = 1, of_workers(1)
    if ranks > 1 and kind == "torch":
        count = ranks
    elif ranks > 1:
        command = [mpiexec(), "-n", str(ranks), *command]
    return [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env | {"RANK": str(k)}, **more)
        for k in range(count)
    ]


def ended(processes, limit=600):
    """The dict that the first has written, when all have ended well."""
    try:
        said = [process.communicate(timeout=limit)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    if any(process.returncode for process in processes):
        raise RuntimeError(f"{processes[0].args} ended with {[process.returncode for process in processes]}")
    return json.loads(said[0].splitlines()[-1])


def run(kind, size, ranks=1, options=None):
    """What a worker of so many processes measures."""
    with tempfile.TemporaryDirectory() as folder:  # where the processes of PyTorch meet
        options = dict(options or {}) | ({"meet": f"file://{folder}/meet"} if kind == "torch" else {})
        return ended(started(kind, size, ranks, options))


# What is measured.


def cores(tries=200):
    """The same work on each of two cores alone, then on both at once: seconds, and what both give together.

    `worth` is the work that both do in the time of one alone, of the middle of all tries: 2 where both are free.
    """
    chosen = sorted(os.sched_getaffinity(0))[:2]

    def at_once(some):
        workers = [started("work", {"tries": tries}, 1, {"core": core}, stdin=subprocess.PIPE)[0] for core in some]
        for worker in workers:
            worker.stdout.readline()
        for worker in workers:
            worker.stdin.write("go\n")
            worker.stdin.flush()
        return [ended([worker]) for worker in workers]

    alone, both = [at_once([core])[0] for core in chosen], at_once(chosen)
    worth = sum(a["middle"] / b["middle"] for a, b in zip(alone, both, strict=True))
    return {"cores": chosen, "alone": alone, "both": both, "worth": worth, "load": os.getloadavg()}


def better(old, new):
    """Of two measurements of a form the one with the shorter step."""
    return new if old is None or new["seconds"] < old["seconds"] else old


def compare(hidden, rounds, size):
    """Form -> its best figures, of rounds in which the forms take turns."""
    found = {name: None for name, (engine, ranks, _) in FORMS.items() if not missing(engine, ranks)}
    for _ in range(rounds):
        for name in found:
            engine, ranks, options = FORMS[name]
            found[name] = better(found[name], run(engine, size | {"hidden": hidden}, ranks, options))
    nothing = size | {"hidden": hidden, "batch": SHARDS, "steps": 1}  # to compute, so that no rank waits for the other
    for name, figures in found.items():
        if "share" in figures:
            bare = [run("lstmx", nothing, 2, FORMS[name][2]) for _ in range(rounds)]
            figures["alone"] = min(one["share"] * one["seconds"] for one in bare)
    return found


def check(found):
    """An error if lstmx and PyTorch have not learnt the same, or ranks not to the same bits."""
    ours = [found[name]["losses"] for name in (OURS, "1 rank, 8 shards") if name in found]
    if any(losses != ours[0] for losses in ours):
        raise AssertionError(f"one rank and two differ in their losses: {ours}")
    first = next(iter(found.values()))["losses"]
    for name, figures in found.items():
        apart = max(abs(a - b) for a, b in zip(first, figures["losses"], strict=True))
        if apart > WITHIN * first[0]:
            raise AssertionError(f"{name} learns something else: {figures['losses']}, not {first}")


def parts(hidden, rounds):
    """The `work` of the model: bytes of the gradient, seconds of the CPU of an update and of a shard's gradient.

    An update is what a step on a single sequence of a single step takes, for that has next to nothing to compute.
    """
    common = {"hidden": hidden, "batches": 8, "epochs": 4, "clock": "process_time"}
    whole, nothing = {"batch": 8 * SEQUENCES, "steps": STEPS}, {"batch": 1, "steps": 1}
    step, update = (
        min(run("lstmx", common | size, 1, {"shards": shards})["seconds"] for _ in range(rounds))
        for size, shards in ((whole, 8), (nothing, 1))
    )
    size = sum(a.nbytes for a in network(hidden).parameters().values())
    return {"bytes": size, "shard": (step - update) / 8, "update": update}


def messages(sizes=MESSAGES, tries=300):
    """(latency, seconds a byte) of MPI between two processes here, and the pairs that they are fitted to."""
    times = run("messages", {"messages": list(sizes), "tries": tries}, 2)["times"]
    fit = fitted("", times)
    return {"latency": fit.latency, "per_byte": fit.per_byte, "times": times}


SIZE = {"batch": BATCH, "steps": STEPS, "batches": BATCHES, "epochs": EPOCHS}


def measure(hidden=HIDDEN, rounds=5, size=SIZE, tries=200):
    """All that the table shows: {"cores": [before, after], "training": {hidden: {form: figures}}, "messages": ..}."""
    before, found = cores(tries), {}
    for H in hidden:
        found[H] = compare(H, rounds, size)
        check(found[H])
    told = None if missing("lstmx", 2) else messages(tries=tries)
    return {"cores": [before, cores(tries)], "training": found, "messages": told, "size": size}


def model(rounds=3, hidden=MODELLED):
    """What docs/cluster.json holds for `cluster_model`, beside the messages."""
    from lstmx.bench.environment import cpu_name

    what = {"cpu": cpu_name(), "sequences": SEQUENCES, "steps": STEPS, "inputs": INPUTS}
    return what | {"work": {H: parts(H, rounds) for H in hidden}}


# What is shown.


def seconds(value):
    return f"{value * 1e3:.3g} ms" if value >= 1e-3 else f"{value * 1e6:.3g} µs"


def rows(results):
    """Lines of a table, of `COLUMNS`."""
    lines = []
    for H, found in results["training"].items():
        for name, figures in found.items():
            best = found.get(OURS)
            ratio = f"{figures['seconds'] / best['seconds']:.2f}" if best is not None and figures is not best else ""
            share = f"{figures['share']:.1%} ({seconds(figures['alone'])})" if "share" in figures else ""
            sent = f"{figures['sent']:,.0f}" if "sent" in figures else ""
            title = f"LSTM {INPUTS} -> {H}, {results['size']['batch']} sequences of {results['size']['steps']} steps"
            first = [title if name == next(iter(found)) else "", name, seconds(figures["seconds"])]
            lines.append([*first, ratio, ASKED.get(name, ""), share, sent, f"{figures['losses'][-1]:.4f}"])
    return lines


def remarks(results):
    """Sentences: how free the cores were, and messages."""
    lines = []
    for when, found in zip(("before", "after"), results["cores"], strict=True):
        each = "; ".join(
            f"core {core}: {seconds(a['middle'])} alone, {seconds(b['middle'])} beside the other"
            for core, a, b in zip(found["cores"], found["alone"], found["both"], strict=True)
        )
        lines.append(f"The same forward pass {when}: {each}; together {found['worth']:.2f} times one core; load "
                     f"{found['load'][0]:.2f}.")  # fmt: skip
    if results["messages"] is not None:
        told = results["messages"]
        lines.append(f"A message between the ranks: {seconds(told['latency'])} and {1e-9 / told['per_byte']:.1f} GB/s.")
    return lines


def table(results):
    """Markdown."""
    from lstmx.bench.environment import cpu_name

    lines = [COLUMNS, ["---"] * len(COLUMNS), *rows(results)]
    marked = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"{marked}\n\n{cpu_name()}, one thread a rank. {' '.join(remarks(results))}"


def main():
    """See the top of this file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hidden", type=lambda text: [int(part) for part in text.split(",")], default=list(HIDDEN))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="few steps, short rounds: whether it works")
    parser.add_argument("--write", type=Path, help="a page with the marks of this table")
    parser.add_argument("--json", type=Path, help="write what the model of many ranks starts from")
    parser.add_argument("--worker", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        kind, *job = options.worker
        found = WORKERS[kind](*job)
        if is_first():
            print(json.dumps(found))
        return
    size = SIZE | ({"batch": 16, "steps": 10, "batches": 2, "epochs": 3} if options.quick else {})
    results = measure(options.hidden, options.rounds, size, 20 if options.quick else 200)
    print(table(results))
    if options.write:
        from lstmx.bench.report import write

        write(options.write, "ranks", table(results))
    if options.json:
        found = model(options.rounds) | {"messages": results["messages"]}
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
