"""`fit_many` as a part of the benchmark of Dask: 500 series of 1,000 steps, each a model of its own with a file."""

import tempfile
from pathlib import Path

import numpy as np

from lstmx import LSTMForecaster
from lstmx.distributed import fit_many

FORECASTER = LSTMForecaster(
    24, 6, differences=(), hidden_size=8, batch_size=64, max_iter=5, tol=0.0, early_stopping=False, random_state=0
)  # of which every fit has the same number of updates


def part(size):
    """A call ``client -> files by name``, and a check of that: the bits of the first call."""
    rng, t, seen = np.random.default_rng(0), np.arange(1000), {}
    data = {
        f"series {n}": (np.sin(t * (2 * np.pi / 24) + n) + rng.normal(size=len(t)) / 5).astype(np.float32)
        for n in range(max(4, round(500 * size)))
    }

    def call(client):
        with client.as_current(), tempfile.TemporaryDirectory() as folder:
            table = fit_many(FORECASTER, data, folder=folder)
            assert table.error.isna().all(), table.error.dropna().iloc[0]
            return {path.name: path.read_bytes() for path in Path(folder).iterdir()}

    def check(found):
        if seen.setdefault("first", found) != found or len(found) != len(data):
            raise SystemExit("fit_many: not the bits of the first call")

    return call, check
