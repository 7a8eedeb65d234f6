"""Makes model files as this release writes them, and what they predict: ``python tests/data/make_golden.py``.

Run once for each schema number and each new kind of file; the files stay in the repository, because old files load for
ever, and the recipes of those before are in its history. Schema 2 brought what estimators save, schema 3 the digest;
then came pipelines.
"""

from pathlib import Path

import numpy as np
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler

import lstmx

HERE = Path(__file__).parent

rng = np.random.default_rng(6)
X, ahead = (rng.normal(size=(n, 8)) * 10.0 ** np.arange(-4, 4) for n in (30, 9))
quick = {"hidden_size": 3, "max_iter": 5, "random_state": 0}
pipeline = make_pipeline(
    StandardScaler(), lstmx.SequenceScaler(), lstmx.LSTMTransformer(**quick), MinMaxScaler((-1, 1), clip=True),
    lstmx.LSTMClassifier(**quick),
)  # fmt: skip
pipeline.fit(X, np.array(["no", "yes"])[np.arange(30) % 2])
lstmx.save(pipeline, HERE / "golden_pipeline.safetensors")
labels = pipeline.predict(ahead)
np.savez(HERE / "golden_pipeline.npz", x=ahead, y=pipeline.predict_proba(ahead), labels=labels)
