"""Keras on TensorFlow or JAX as an engine of the benchmark: `fit` alone."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np

from lstmx.bench.engine import EPOCHS, RATE, SAMPLE, Job

if TYPE_CHECKING:
    from collections.abc import Callable

    from lstmx.bench.engine import Case


class KerasEngine:
    """The backend is the one that ``KERAS_BACKEND`` names."""

    def __init__(self, threads: int) -> None:
        if os.environ.get("KERAS_BACKEND") == "tensorflow":
            import tensorflow

            tensorflow.config.threading.set_intra_op_parallelism_threads(threads)
            tensorflow.config.threading.set_inter_op_parallelism_threads(threads)
            self.backend = tensorflow
        else:
            import jax

            self.backend = jax
        import keras

        self.keras = keras

    def versions(self) -> dict[str, str]:
        return {"keras": self.keras.__version__, self.backend.__name__: self.backend.__version__}

    def fit(self, case: Case) -> dict[str, Callable[[], Job]]:
        names = ("jit", "no jit") if self.keras.backend.backend() == "tensorflow" else ("jit",)
        return {name: lambda jit=name == "jit": self._fit(case, jit) for name in names}  # type: ignore[misc]

    def _fit(self, case: Case, jit: bool) -> Job:
        keras, s = self.keras, case.shape
        keras.utils.set_random_seed(0)
        lstm, dense = keras.layers.LSTM(s.H), keras.layers.Dense(1)
        model = keras.Sequential([keras.Input((s.T, s.I)), lstm, dense])
        w = case.weights
        lstm.set_weights([w["weight_ih"].T, w["weight_hh"].T, w["bias"]])
        dense.set_weights([case.head.T, np.zeros(1)])
        model.compile(optimizer=keras.optimizers.Adam(RATE), loss="mse", jit_compile=jit)
        x, y = case.series()

        def call() -> None:
            model.fit(x, y, batch_size=s.N, epochs=EPOCHS, verbose=0)

        return Job(call, lambda: {"y": model.predict(x[:SAMPLE], verbose=0)}, EPOCHS)
