"""Makes model files as this release writes them, and what they predict: ``python tests/data/make_golden.py``.

Run once for each schema number; the files stay in the repository, because old files load for ever. Schema 2 brought
what estimators save, schema 3 the digest.
"""

from pathlib import Path

import numpy as np

import lstmx

HERE = Path(__file__).parent

rng = np.random.default_rng(5)
X = rng.normal(size=(60, 2))
y = np.cumsum(X[:, :1] + 0.1 * rng.normal(size=(60, 2)), axis=0)
forecaster = lstmx.LSTMForecaster(6, 3, hidden_size=5, differences=(1,), max_iter=5, random_state=0)
forecaster.fit(y, X).save(HERE / "golden_3.safetensors")
ahead = rng.normal(size=(6, 2))
lower, upper = forecaster.predict_interval(3, ahead[:3], coverage=0.5)
np.savez(HERE / "golden_3.npz", X=ahead, y=forecaster.predict(6, ahead), lower=lower, upper=upper)
