"""Fingerprints of what lstmx computes, to hold one revision against another:

    python benchmarks/bits.py > before.json         # with the one revision installed
    python benchmarks/bits.py > after.json          # with the other
    python benchmarks/bits.py before.json after.json

One hash for every result: outputs, states, every gradient, traces, streams, and short trainings, in float32 and
float64, on every instruction set that this CPU can run. Only the public interface is used.
"""

import hashlib
import json
import os
import subprocess
import sys

import numpy as np

SHAPES = [  # T, N, I, H, layers, bidirectional
    (1, 1, 1, 16, 1, False), (30, 1, 1, 32, 1, False), (20, 1, 16, 64, 2, False), (12, 5, 3, 20, 2, True),
    (9, 64, 8, 50, 1, False), (7, 32, 70, 65, 1, True), (6, 40, 64, 128, 1, False), (5, 3, 130, 256, 1, False),
    (3, 300, 4, 24, 1, False), (40, 16, 32, 100, 1, False), (2, 1, 300, 512, 1, False),
]  # fmt: skip


def fingerprint(value):
    """A hash of arrays, in whatever tuples, lists and dicts they come."""
    found = hashlib.blake2b(digest_size=12)

    def add(part):
        if isinstance(part, dict):
            for name in part:
                found.update(str(name).encode())
                add(part[name])
        elif isinstance(part, list | tuple):
            for one in part:
                add(one)
        elif part is not None:
            array = np.asarray(part)
            found.update(f"{array.dtype.str}{array.shape}".encode() + np.ascontiguousarray(array).tobytes())

    add(value)
    return found.hexdigest()


def of_layers(dtype):
    """(name, arrays) of everything that an LSTM gives."""
    import lstmx

    for T, N, I, H, layers, bidirectional in SHAPES:
        rng = np.random.default_rng(T * N + H)
        lstm = lstmx.LSTM(I, H, layers, bidirectional=bidirectional, dropout=0.2, dtype=dtype, random_state=1)
        name = f"{T},{N},{I},{H},{layers}{',both' * bidirectional}"
        x = rng.normal(size=(N, T, I)).astype(dtype)
        state = [rng.normal(size=(layers * (1 + bidirectional), N, H)).astype(dtype) for _ in range(2)]
        lengths = rng.integers(0, T + 1, N)
        for kind, arguments in (("whole", {}), ("ragged", {"lengths": lengths})):
            yield f"{name} {kind} inference", lstm(x, state, **arguments)
            y, last, tape = lstm.forward(x, state, rng=3, **arguments)
            grads = lstm.backward(tape, rng.normal(size=y.shape), state)
            yield f"{name} {kind} training", (y, last, grads.x, grads.state, grads.params)
        trace = lstm.trace(x, state)
        yield f"{name} trace", [[getattr(trace, part)[key] for key in trace.i.keys()] for part in "ifgoch"]  # noqa: SIM118
        flow = lstmx.inspect.gradient_flow(lstm, x, np.ones_like(y))
        yield f"{name} flow", (dict(flow.dh), dict(flow.dc))
        if not bidirectional:
            yield f"{name} step", lstm.step(x[:, 0], tuple(state))
            yield f"{name} stream", lstm.stream(x, tuple(state))


def of_models(dtype):
    """(name, arrays) of models: predictions, gradients, streams, and what a short training makes of them."""
    import lstmx

    rng = np.random.default_rng(0)
    for head in ("last", "steps", "mean", "final"):
        pool = {"last": [lstmx.Last()], "mean": [lstmx.MeanPool()], "final": [lstmx.FinalState()], "steps": []}[head]
        layers = [lstmx.LSTM(3, 18, 2, bidirectional=head == "final", dropout=0.3), *pool, lstmx.Dropout(0.2)]
        model = lstmx.Sequential([*layers, lstmx.Dense(36 if head == "final" else 18, 5, "softmax")], random_state=1)
        model = model.astype(dtype)
        x = [rng.normal(size=(n, 3)).astype(dtype) for n in rng.integers(1, 20, 50)]
        y = [rng.integers(5, size=len(a)) for a in x] if head == "steps" else rng.integers(5, size=50)
        options = {"loss": "categorical_crossentropy", "verbose": 0, "epochs": 3, "batch_size": 8, "clip_norm": 1.0}
        model.fit(x, y, optimizer=lstmx.AdamW(0.01, weight_decay=0.1), random_state=2, **options)
        yield f"{head} fitted", (model.parameters(), model.history_.history)
        yield f"{head} predict", model.predict(x)
        array = rng.normal(size=(6, 9, 3)).astype(dtype)
        yield f"{head} predict array", model.predict(array)
        yield f"{head} predict one", model.predict(array[0])
        out, tape = model.forward(array, rng=4)
        grads = model.backward(tape, np.ones_like(out))
        yield f"{head} gradients", (out, grads.x, grads.params)
        if head != "final":
            state, found = None, []
            for t in range(4):
                y_t, state = model.step(array[:, t], state)
                found.append(y_t)
            yield f"{head} step", found
    words = lstmx.Sequential([lstmx.Embedding(9, 4), lstmx.LSTM(4, 8), lstmx.Last(), lstmx.Dense(8, 1)], random_state=0)
    words = words.astype(dtype)
    tokens = rng.integers(9, size=(40, 7))
    words.fit(tokens, tokens.sum(axis=1) / 30, epochs=3, verbose=0, random_state=2)
    yield "embedding fitted", (words.parameters(), words.predict(tokens), words.step(tokens[:, 0])[0])


def of_estimators():
    """(name, arrays) of estimators after a few epochs."""
    import warnings

    import lstmx

    warnings.simplefilter("ignore")  # they do not converge
    rng = np.random.default_rng(0)
    x = [rng.normal(size=(n, 2)).astype("float32") for n in rng.integers(3, 15, 60)]
    label = rng.integers(3, size=60)
    quick = {"hidden_size": 9, "max_iter": 4, "random_state": 0}
    classifier = lstmx.LSTMClassifier(early_stopping=True, **quick).fit(x, label)
    yield "classifier", (classifier.predict_proba(x), classifier.loss_curve_, classifier.validation_scores_)
    regressor = lstmx.LSTMRegressor(target="step", **quick).fit(x, [a.cumsum(axis=0) for a in x])
    yield "regressor", regressor.predict(x)
    detector = lstmx.LSTMAnomalyDetector(window=8, **quick).fit(x)
    yield "detector", (detector.score_samples(x), detector.score_steps(x))
    yield "transformer", lstmx.LSTMTransformer(**quick).fit(x).transform(x)
    forecaster = lstmx.LSTMForecaster(window=12, horizon=3, **quick).fit(np.sin(np.arange(90.0)))
    yield "forecaster", (forecaster.predict(7), *forecaster.predict_interval(2, method="paths", random_state=0))


def of_this_process():
    """Name -> hash, on the instruction set of this process."""
    found = {}
    for dtype in ("float32", "float64"):
        for make in (of_layers, of_models):
            found |= {f"{dtype} {name}": fingerprint(value) for name, value in make(dtype)}
    return found | {name: fingerprint(value) for name, value in of_estimators()}


def of_every_isa():
    """Instruction set -> name -> hash."""
    import lstmx

    found = {}
    for isa in lstmx.show_config("dicts")["isa"]["usable"]:
        environment = os.environ | {"LSTMX_ISA": isa}
        command = [sys.executable, __file__, "here"]
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
        found[isa] = json.loads(done.stdout)
    return found


def differences(before, after):
    """What is not the same in two records, one line each."""
    lines = []
    for isa in before.keys() & after.keys():
        for name, value in before[isa].items():
            if after[isa].get(name) != value:
                lines.append(f"{isa}: {name}")
    return lines


def main(arguments):
    """See the top of this file."""
    if len(arguments) == 2:
        with open(arguments[0]) as one, open(arguments[1]) as other:
            before, after = json.load(one), json.load(other)
        found = differences(before, after)
        count = sum(map(len, before.values()))
        print("\n".join([*found, f"{count - len(found)} of {count} results are the same, on {', '.join(before)}"]))
        return bool(found)
    print(json.dumps(of_this_process() if arguments == ["here"] else of_every_isa(), indent=1))
    return False


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
