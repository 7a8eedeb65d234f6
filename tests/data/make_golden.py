"""Makes model files as this release writes them, and what they predict: ``python tests/data/make_golden.py``.

Run once for each schema number; the files stay in the repository, because old files load for ever. Schema 2 brought
what estimators save.
"""

from pathlib import Path

import numpy as np

import lstmx

HERE = Path(__file__).parent

rng = np.random.default_rng(5)
x = [rng.normal(size=(n, 2)) for n in (4, 9, 1, 6, 7, 5)]
y = np.array(["low", "high", "none", "low", "high", "none"])
classifier = lstmx.LSTMClassifier(hidden_size=5, bidirectional=True, pooling="mean", max_iter=5, random_state=0)
classifier.fit(x, y).save(HERE / "golden_2.safetensors")
padded = np.full((6, 9, 2), np.nan)
for row, a in zip(padded, x, strict=True):
    row[: len(a)] = a
np.savez(HERE / "golden_2.npz", x=padded, y=classifier.predict_proba(padded), labels=classifier.predict(x))
