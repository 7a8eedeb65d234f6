"""lstmx as an engine of the benchmark."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import numpy as np

import lstmx
from lstmx.bench.engine import EPOCHS, RATE, SAMPLE, Job
from lstmx.functional import kernels, threads

if TYPE_CHECKING:
    from collections.abc import Callable

    from lstmx._types import Arrays
    from lstmx.bench.engine import Case


def flat(grads: Any) -> Arrays:
    """Gradients by the names that all engines use."""
    return {"dx": grads.x} | {f"d_{name.removesuffix('_l0')}": d for name, d in grads.params.items()}


class LstmxEngine:
    """Prepares cases; each method gives {variant: a function that makes a Job}."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        lstmx.set_num_threads(threads)

    def versions(self) -> dict[str, str]:
        return {"lstmx": lstmx.__version__}

    def peak(self, dtype: str, seconds: float) -> float:
        """GFLOP/s of multiply-adds in registers on all threads at once."""
        rates, gate = [], threading.Barrier(self.threads)

        def one() -> None:
            gate.wait()
            rates.append(kernels.fma_rate(dtype, seconds))

        team = [threading.Thread(target=one) for _ in range(self.threads)]
        for thread in team:
            thread.start()
        for thread in team:
            thread.join()
        return sum(rates) / 1e9

    def waiting(self, call: Callable[..., Any], calls: int) -> list[float] | None:
        """The part of the time of `calls` calls in which each of several threads waits for work or for the others."""
        return threads.waiting(call, calls, self.threads) if self.threads > 1 else None

    def _layer(self, case: Case) -> lstmx.LSTM:
        lstm = lstmx.LSTM(
            case.shape.I,
            case.shape.H,
            proj_size=case.proj_size,
            cell=case.cell,
            dtype=case.dtype,  # type: ignore[arg-type]
            random_state=0,
        )
        lstm.set_parameters({f"{name}_l0": value for name, value in case.weights.items()})
        return lstm

    def inference(self, case: Case) -> dict[str, Callable[[], Job]]:
        lstm, x = self._layer(case), case.x
        return {"": lambda: Job(lambda: lstm(x), lambda: {"y": lstm(x)[0]})}

    def stream(self, case: Case) -> dict[str, Callable[[], Job]]:
        lstm, x = self._layer(case), case.x
        call = getattr(lstm, "stream", lstm)
        return {"": lambda: Job(lambda: call(x), lambda: {"y": call(x)[0]})}

    def training(self, case: Case) -> dict[str, Callable[[], Job]]:
        lstm, x, dy = self._layer(case), case.x, case.dy

        def step(lengths: Any = case.lengths) -> Any:
            y, _, tape = lstm.forward(x, lengths=lengths)
            return y, lstm.backward(tape, dy)

        def outputs() -> Any:
            y, grads = step()
            return {"y": y} | flat(grads)

        return {"": lambda: Job(step, outputs)}

    ragged_training = training

    def ragged(self, case: Case) -> dict[str, Callable[[], Job]]:
        lstm, x = self._layer(case), case.x
        rows = [row[:n] for row, n in zip(x, case.lengths, strict=True)]  # type: ignore[arg-type]

        def padded() -> Any:
            return lstm(x, lengths=case.lengths)

        def from_list() -> Any:
            y = np.zeros((*x.shape[:2], case.shape.H), case.dtype)
            for target, row in zip(y, lstm(rows)[0], strict=True):
                target[: len(row)] = row
            return {"y": y}

        return {
            "lengths": lambda: Job(padded, lambda: {"y": padded()[0]}),
            "list": lambda: Job(lambda: lstm(rows), from_list),
        }

    def fit(self, case: Case) -> dict[str, Callable[[], Job]]:
        x, y = case.series()
        dense = lstmx.Dense(case.shape.H, 1)
        model = lstmx.Sequential([self._layer(case), lstmx.Last(), dense], random_state=0)
        dense.set_parameters({"weight": case.head, "bias": np.zeros(1)})

        def call() -> None:
            model.fit(x, y, loss="mse", optimizer=lstmx.Adam(RATE), epochs=EPOCHS, batch_size=case.shape.N, verbose=0)

        return {"": lambda: Job(call, lambda: {"y": model.predict(x[:SAMPLE]).reshape(-1, 1)}, EPOCHS)}

    def step(self, case: Case) -> dict[str, Callable[[], Job]]:
        lstm, x = self._layer(case), case.x[:, 0]
        x = x[0] if len(x) == 1 else x  # a stream is one sequence (I,)
        state = None

        def call() -> Any:
            nonlocal state
            y, state = lstm.step(x, state)
            return y

        return {"": lambda: Job(call, lambda: {"y": np.concatenate([np.atleast_2d(call()) for _ in range(3)])})}
