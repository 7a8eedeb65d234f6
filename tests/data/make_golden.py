"""Makes model files as this release writes them, and what they predict: ``python tests/data/make_golden.py``.

Run once for each schema number and each new kind of file; the files stay in the repository, because old files load for
ever, and the recipes of those before are in its history. Schema 2 brought what estimators save, schema 3 the digest;
then came pipelines, and snapshots of streams.
"""

from pathlib import Path

import numpy as np

import lstmx

HERE = Path(__file__).parent

rng = np.random.default_rng(7)
layers = [lstmx.LSTM(2, 4, 2, proj_size=3), lstmx.Activation("elu"), lstmx.MeanPool(), lstmx.Dense(3, 2)]
model = lstmx.Sequential(layers, random_state=0)
x = rng.normal(size=(3, 9, 2)).astype("f4")
pool = lstmx.StreamPool(model, 5)
pool.close(pool.open(2)[0])
ids = np.array([1, *pool.open(2)])
pool.push(ids, x[:, :4])
pool.push(ids[1:], x[1:, 4:6])
pool.snapshot().save(HERE / "golden_snapshot.safetensors")
np.savez(HERE / "golden_snapshot.npz", ids=ids, x=x[:, 6:], y=pool.push(ids, x[:, 6:]), new=pool.open(2),
         **model.parameters())  # fmt: skip
