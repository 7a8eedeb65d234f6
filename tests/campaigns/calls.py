"""The calls that threads make at once, and that are made for a long time: all kinds, on models that all share."""

import atexit
import itertools
import tempfile
from pathlib import Path

import numpy as np

import lstmx


class Models:
    """Models that many calls share, and the calls: each takes a random generator and gives nested arrays.

    The same generator gives the same arrays, whoever calls, and whatever is called beside it.
    """

    def __init__(self, folder):
        self.path = Path(folder, "model.safetensors")
        make = {"random_state": 0}
        self.plain, self.wide = lstmx.LSTM(3, 20, 2, **make), lstmx.LSTM(24, 160, dtype="float64", **make)
        self.both = lstmx.LSTM(4, 17, bidirectional=True, dropout=0.2, num_layers=2, **make)
        cell = lstmx.Cell(peephole=True, layer_norm="tflite", clip=3.0)
        self.odd = lstmx.LSTM(5, 19, proj_size=7, cell=cell, **make)
        self.net = lstmx.Sequential([lstmx.LSTM(3, 20), lstmx.Dense(20, 3, "tanh")], **make)
        pooled = [lstmx.LSTM(6, 33, bidirectional=True), lstmx.MeanPool(), lstmx.Dense(66, 4, "softmax")]
        self.classifier = lstmx.Sequential(pooled, **make)
        self.tokens = lstmx.Sequential([lstmx.Embedding(11, 8), lstmx.LSTM(8, 24), lstmx.Dense(24, 11)], **make)
        self.pool = lstmx.StreamPool(self.net, 64)
        self.classifier.save(self.path)
        self._names = itertools.count()
        self.calls = [getattr(self, name) for name in sorted(vars(Models)) if name.startswith("call_")]

    @staticmethod
    def _x(rng, features, dtype=np.float32, rows=13, steps=40):
        return rng.normal(size=(rng.integers(0, rows), rng.integers(0, steps), features)).astype(dtype)

    def call_forward(self, rng):
        """All four LSTMs, of which one has threads of its own."""
        models = [(self.plain, 3), (self.both, 4), (self.odd, 5), (self.wide, 24)]
        lstm, features = models[rng.integers(len(models))]
        x = self._x(rng, features, lstm.dtype)
        lengths = rng.integers(0, x.shape[1] + 1, len(x)) if rng.integers(2) else None
        return lstm(x, lengths=lengths)

    def call_backward(self, rng):
        """Gradients."""
        lstm, features = [(self.plain, 3), (self.both, 4), (self.odd, 5)][rng.integers(3)]
        y, _, tape = lstm.forward(self._x(rng, features), rng=int(rng.integers(99)))
        grads = lstm.backward(tape, y)
        return grads.x, grads.state, grads.params

    def call_stream(self, rng):
        """Steps, and a block."""
        state, found = None, []
        x = rng.normal(size=(rng.integers(1, 5), 9, 3)).astype(np.float32)
        for t in range(5):
            y, state = self.plain.step(x[:, t], state)
            found.append(y)
        return found, self.plain.stream(x[:, 5:], state)

    def call_predict(self, rng):
        """Whole models, in batches."""
        x = self._x(rng, 6)
        size = [None, 1, 5][rng.integers(3)]
        return self.classifier.predict(x, batch_size=size), self.tokens.predict(rng.integers(11, size=x.shape[:2]))

    def call_push(self, rng):
        """Sessions of a pool that all share."""
        ids = self.pool.open(int(rng.integers(1, 6)))
        x = rng.normal(size=(len(ids), 7, 3)).astype(np.float32)
        found = [self.pool.push(ids, x[:, 0]), self.pool.push(ids[::-1], x[::-1, 1:]), self.pool.state(ids)]
        self.pool.close(ids)
        return found

    def call_rollout(self, rng):
        """Closed loops of numbers, and of tokens that are drawn."""
        n = int(rng.integers(1, 4))
        x, tokens = rng.normal(size=(n, 6, 3)).astype(np.float32), rng.integers(11, size=(n, 5))
        seed = int(rng.integers(99))
        drawn = self.tokens.rollout(tokens, 8, feedback="sample", paths=2, random_state=seed)
        return self.net.rollout(x, int(rng.integers(0, 20))), drawn

    def call_trace(self, rng):
        """Gates."""
        trace = self.both.trace(self._x(rng, 4, rows=5, steps=12))
        return [getattr(trace, name)[1, 1] for name in "ifgoch"]

    def call_fit(self, rng):
        """A new model is trained."""
        model = lstmx.Sequential([lstmx.LSTM(3, 12), lstmx.Last(), lstmx.Dense(12, 1)], random_state=1)
        x = rng.normal(size=(rng.integers(4, 24), rng.integers(2, 20), 3)).astype(np.float32)
        model.fit(x, x[:, 0, 0], epochs=2, batch_size=8, random_state=0, verbose=0)
        return model.parameters(), model.predict(x)

    def call_files(self, rng):
        """A load, and a save."""
        model = lstmx.load(self.path)
        path = self.path.with_name(f"saved {next(self._names)}")
        model.save(path)
        same = path.read_bytes() == self.path.read_bytes()
        path.unlink()
        return same, model.parameters()

    def call_copy(self, rng):
        """A copy that gets other parameters."""
        lstm = self.plain.copy()
        lstm.set_parameters({"bias_l0": rng.normal(size=80)})
        return lstm(self._x(rng, 3)), lstm.astype("float64")(self._x(rng, 3))


def in_folder():
    """`Models` whose files are gone with the process."""
    folder = tempfile.TemporaryDirectory(prefix="lstmx-calls-")
    atexit.register(folder.cleanup)
    return Models(folder.name)
