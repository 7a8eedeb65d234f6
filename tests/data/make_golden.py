"""Makes a model file as this release writes it, and what it predicts: ``python tests/data/make_golden.py``.

Run once for each schema number; the files stay in the repository, because old files load for ever.
"""

from pathlib import Path

import numpy as np

import lstmx
from lstmx.interop.files import SCHEMA

HERE = Path(__file__).parent

model = lstmx.Sequential(
    [
        lstmx.Embedding(11, 3, padding_idx=0, random_state=0),
        lstmx.LSTM(3, 4, num_layers=2, bidirectional=True, dropout=0.25, random_state=1),
        lstmx.Dense(8, 5, "tanh", random_state=2),
        lstmx.Dropout(0.5),
        lstmx.MeanPool(),
        lstmx.Dense(5, 3, "softmax", random_state=3),
    ]
)
x = np.random.default_rng(4).integers(11, size=(6, 7))
lengths = np.array([7, 3, 0, 5, 1, 7])
model.save(HERE / f"golden_{SCHEMA}.safetensors")
np.savez(HERE / f"golden_{SCHEMA}.npz", x=x, lengths=lengths, y=model.predict(x, lengths=lengths))
