"""What a user writes, for type checkers: `tests/test_typing.py` checks this file, and runs it.

Uses that must be errors are marked by what the checkers call them; a mark where there is no error is one, too.
"""

# pyright: reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

import os
import tempfile
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

import lstmx
from lstmx.functional import lstm_backward, lstm_forward, lstm_step
from lstmx.testing import gradcheck

Array = NDArray[Any]


def layers(x: Array) -> Array:
    """An LSTM on arrays, and its gradients."""
    lstm = lstmx.LSTM(3, 8, cell=lstmx.Cell(peephole=True, zoneout=0.1), dtype="float64", random_state=0)
    y, (h, c) = lstm(x, lengths=[5, 2])
    ragged, _ = lstm([x[0], x[1, :2]])
    first: Array = ragged[0]
    y, state, tape = lstm.forward(x, (h, c), rng=0)
    grads = lstm.backward(tape, np.ones_like(y), state)
    size: int = grads.params["weight_hh_l0"].size + lstm.hidden_size
    assert size == 32 * 8 + 8 and first.shape == (5, 8)
    lstm.set_parameters({"bias_l0": np.zeros(32)})
    out = lstm.stream(x[0])
    y_t, _ = lstm.step(x[0, 0], None)
    y_block, state = lstm.stream(x[0], out[1], out=out)
    gate: Array = lstm.trace(x[0]).f[0, 0]
    assert gate.shape == y_block.shape == (5, *y_t.shape) and lstm.trace(x[0]).half_lives().shape == (8,)
    rnn = lstmx.RNN(3, 4, activation="relu")
    y_rnn, h_n = rnn(x)
    assert h_n.shape == (1, 2, 4) and gradcheck(lstmx.LSTM(2, 2, dtype="float64"), np.ones((1, 2, 2))) < 1e-6
    return y_rnn


def functions(x: Array) -> Array:
    """The functions beneath."""
    w_ih, w_hh = np.ones((8, 3)), np.ones((8, 2))
    y, (h_n, _), tape = lstm_forward(x, w_ih, w_hh, reverse=True)
    y_t, (h, _) = lstm_step(x[:, 0], None, w_ih, w_hh)
    assert h.shape == h_n.shape == y_t.shape
    dx: Array = lstm_backward(tape, np.ones_like(y)).x
    return dx


class Stop(lstmx.Callback):
    """Ends training when the loss is small."""

    def on_epoch_end(self, trainer: Any, epoch: int, logs: dict[str, Any]) -> bool:
        """The protocol of callbacks."""
        return bool(logs["loss"] < 1e-3)


def model(x: Array, y: Array) -> lstmx.Sequential:
    """A model, trained and used."""
    net = lstmx.Sequential([lstmx.LSTM(3, 8), lstmx.Dropout(0.1), lstmx.Dense(8, 1)], random_state=0)
    history = net.fit(
        x,
        y,
        loss="mse",
        optimizer=lstmx.Adam(lstmx.Warmup(lstmx.CosineDecay(0.01, 100), 10), weight_decay=1e-4),
        epochs=2,
        metrics=["mae", lambda y_true, y_pred: float(np.abs(y_true - y_pred).max())],
        early_stopping=lstmx.EarlyStopping(patience=3),
        callbacks=[Stop(), lambda epoch, logs: None],
        class_weight=None,
        tbptt=(1, 2),
        verbose=0,
    )
    losses: list[float] = history["loss"]
    best: int | None = history.best_epoch
    found: Array = net.predict(x, batch_size=2)
    assert len(losses) == 2 and found.shape == (2, 5, 1) and best is not None
    y_t, state = net.step(x[:, 0])
    y_t, state = net.step(x[:, 1], state)
    assert y_t.shape == (2, 1)
    again = lstmx.Sequential([lstmx.LSTM(2, 4), lstmx.Dense(4, 2)], random_state=0)
    future = again.rollout(np.ones((6, 2)), 3, noise=0.1, paths=4, random_state=0)
    future, after = again.rollout(np.ones((6, 2)), 3, return_state=True)
    assert future.shape == (3, 2) and len(after) == 2
    norms: Array = net.gradient_flow(x, y).norms("c", align="end")[0, 0, 0]
    gates: dict[int, lstmx.Trace] = net.trace(x)
    assert norms.shape == (5,) and list(gates) == [0]
    net.fit([(x, y)], epochs=1, optimizer="adamw", memory="1 GB", verbose=0)
    return net.astype(np.float64).copy()


def pool(net: lstmx.Sequential, x: Array) -> None:
    """Streams of a model."""
    sessions = lstmx.StreamPool(net, capacity=4)
    one: int = sessions.open()
    ids = sessions.open(2)
    y = sessions.push(one, x[0, 0])
    y = sessions.push(ids, x, out=np.empty((2, 5, 1), net.dtype))
    assert y.shape == (2, 5, 1) and one in sessions
    snapshot = sessions.snapshot(ids)
    sessions.reset(ids)
    sessions.restore(snapshot)


def files(net: lstmx.Sequential) -> None:
    """A model in a file."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "net.safetensors")
        lstmx.save(net, path)
        net.save(path)
        again: lstmx.Sequential = lstmx.load(path)
    assert again.size == net.size
    with lstmx.num_threads(1):
        threads: int = lstmx.get_num_threads()
    assert threads == 1


def main() -> None:
    """All of it."""
    x = np.random.default_rng(0).normal(size=(2, 5, 3))
    layers(x)
    functions(x)
    net = model(x, x[:, :, :1])
    pool(net, x)
    files(net)


if TYPE_CHECKING:
    x = np.ones((2, 5, 3))
    lstmx.LSTM("3", 8)  # type: ignore[arg-type]
    lstmx.LSTM(3, 8, dtype="float16")  # type: ignore[arg-type]
    lstmx.LSTM(3, 8, return_sequences=True)  # type: ignore[call-arg]
    lstmx.LSTM(3, 8, merge="mean")  # type: ignore[arg-type]
    print(lstmx.LSTM(3, 8).gates)  # type: ignore[attr-defined]
    lstmx.LSTM(3, 8).step(x, out=x)  # type: ignore[arg-type]
    lstmx.Sequential(lstmx.LSTM(3, 8))  # type: ignore[arg-type]
    lstmx.Dense(8, 1, "gelu")  # type: ignore[arg-type]
    lstmx.Sequential([]).fit(x, x, loss="crossentropy")  # type: ignore[arg-type]
    lstmx.Sequential([]).fit(x, x, optimizer=lstmx.Adam)  # type: ignore[arg-type]
    lstmx.Sequential([]).fit(x, x, learning_rate=0.1)  # type: ignore[call-arg]
    lstmx.Adam(lr=0.1)  # type: ignore[call-arg]
    lstmx.Cell(layer_norm="layer")  # type: ignore[arg-type]
    lstmx.StreamPool(lstmx.Dense(8, 1), 10)  # type: ignore[arg-type]
    lstmx.load(3)  # type: ignore[arg-type]
    print(lstmx.LTSM)  # type: ignore[attr-defined]


if __name__ == "__main__":
    main()
