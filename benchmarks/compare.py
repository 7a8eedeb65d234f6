"""Two builds of lstmx in alternation, each run in a process of its own: ``python benchmarks/compare.py OLD NEW``.

OLD and NEW are source trees built in place. A ratio is old time / new time, of the minimum over all rounds: above 1 the
new one is faster. ``--isa avx2`` forces an instruction set, ``--rounds`` and ``--threads`` set the rest.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import time
import warnings

SHAPES = [  # T, N, I, H
    (1, 1, 1, 16), (1, 1, 128, 128), (100, 1, 1, 32), (100, 1, 16, 64), (100, 1, 128, 128), (100, 1, 256, 256),
    (30, 64, 1, 32), (30, 64, 8, 50), (50, 32, 64, 64), (50, 32, 128, 128), (50, 32, 256, 256), (20, 256, 128, 128),
    (500, 16, 32, 100),
]  # fmt: skip
SMALL = [(1, 16), (1, 32), (16, 64), (128, 128)]  # I, H of a step and of a stream


def fastest(call, least=0.03):
    """The shortest of several runs, in seconds."""
    call()
    times, start = [], time.perf_counter()
    while len(times) < 5 or time.perf_counter() - start < least:
        before = time.perf_counter()
        call()
        times.append(time.perf_counter() - before)
    return min(times)


def many(call, count):
    """`call` often enough that a clock can see it."""
    return fastest(lambda: [call() for _ in range(count)]) / count


def measure(threads):
    """Task and shape -> seconds, with the lstmx of this process."""
    import numpy as np

    import lstmx

    warnings.simplefilter("ignore")
    lstmx.set_num_threads(threads)
    rng, found = np.random.default_rng(0), {}
    for T, N, I, H in SHAPES:
        lstm, x = lstmx.LSTM(I, H, random_state=0), rng.normal(size=(N, T, I)).astype("f4")
        dy, name = np.ones((N, T, H), "f4"), f"{T},{N},{I},{H}"
        found[f"inference {name}"] = fastest(lambda lstm=lstm, x=x: lstm(x))
        found[f"training {name}"] = fastest(lambda lstm=lstm, x=x, dy=dy: lstm.backward(lstm.forward(x)[2], dy))
    for I, H in SMALL:
        lstm, x = lstmx.LSTM(I, H, random_state=0), rng.normal(size=(100, I)).astype("f4")
        x_t, state = x[0], lstm.step(x[0])[1]
        found[f"step {I},{H}"] = many(lambda lstm=lstm, x_t=x_t, state=state: lstm.step(x_t, state), 200)
        found[f"stream {I},{H}"] = many(lambda lstm=lstm, x=x, state=state: lstm.stream(x, state), 20)
    model = lstmx.Sequential([lstmx.LSTM(1, 32), lstmx.Last(), lstmx.Dense(32, 1)], random_state=0)
    x = rng.normal(size=(1, 30, 1)).astype("f4")
    state = model.step(x[0, 0])[1]
    found["model step"] = many(lambda: model.step(x[0, 0], state), 100)
    found["model predict 1 x 30"] = many(lambda: model.predict(x), 50)
    data = rng.normal(size=(256, 30, 1)).astype("f4")
    found["model predict 256 x 30"] = fastest(lambda: model.predict(data))
    classifier = lstmx.LSTMClassifier(32, max_iter=2, random_state=0).fit(data, np.arange(256) % 2)
    found["classifier predict 1 x 30"] = many(lambda: classifier.predict(x), 20)
    for N, T, I, H in ((1024, 30, 4, 50), (512, 40, 16, 128)):
        x, y = rng.normal(size=(N, T, I)).astype("f4"), rng.normal(size=N)
        model = lstmx.Sequential([lstmx.LSTM(I, H), lstmx.Last(), lstmx.Dense(H, 1)], random_state=0)
        found[f"fit {N},{T},{I},{H}"] = fastest(lambda m=model, x=x, y=y: m.fit(x, y, epochs=1, verbose=0))
    return found


def run(tree, options):
    """`measure` in a process with the lstmx of a source tree."""
    forced = {} if options.isa is None else {"LSTMX_ISA": options.isa}
    environment = os.environ | {"PYTHONPATH": os.path.abspath(tree)} | forced
    command = [sys.executable, __file__, "--measure", "--threads", str(options.threads)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def main():
    """See the top of this file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("trees", nargs="*", metavar="TREE")
    parser.add_argument("--isa")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.threads)))
        return
    if len(options.trees) != 2:
        parser.error("give two source trees, the old one first")
    rounds = [[run(tree, options) for tree in options.trees] for _ in range(options.rounds)]
    ratios = {}
    for name in rounds[0][0]:
        old, new = (min(r[k][name] for r in rounds) for k in (0, 1))
        ratios.setdefault(name.partition(" ")[0], []).append(old / new)
        print(f"{name:28s}{old * 1e6:12.2f} us{new * 1e6:12.2f} us{old / new:8.3f}")
    for task, values in ratios.items():
        mean = math.exp(sum(map(math.log, values)) / len(values))
        print(f"{task:12s} geometric mean {mean:.3f}, lowest {min(values):.3f}")


if __name__ == "__main__":
    main()
