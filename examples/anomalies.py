"""
Where does the pressure not go on as it did?
============================================

One series with one labelled anomaly. The detector learns from the first 1,200 steps, which are normal, how the series
goes on, and looks for 12 anomalous steps among all 7,501.

The series is "InternalBleeding16" of the UCR Anomaly Archive, which comes in the wheel of aeon:
``pip install --no-deps aeon``.
"""

import importlib.util
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from sklearn.metrics import roc_auc_score

import lstmx

output = Path("lstmx-examples")
output.mkdir(exist_ok=True)

aeon = importlib.util.find_spec("aeon")  # not imported: only its file is read
if aeon is None:
    raise SystemExit("this example reads data of aeon: pip install --no-deps aeon")
folder = Path(aeon.origin).parent / "datasets/data/KDD-TSAD_135"
train, test = (
    np.loadtxt(folder / f"135_UCR_Anomaly_InternalBleeding16_{part}.csv", delimiter=",", skiprows=1)[:, 1:]
    for part in ("TRAIN", "TEST")
)
series, anomalous = test[:, 0], test[:, 1] == 1

# %%
# One long series is a batch of one, ``(1, T, 1)``; the network learns from windows of it.

detector = lstmx.LSTMAnomalyDetector(
    hidden_size=32, window=100, contamination=0.001, learning_rate_init=0.01, max_iter=100, tol=1e-3, random_state=0
)
detector.fit(train[None, :, :1])
scores = detector.score_steps(series[None, :, None])[0]
strangest = int(scores.argmin())
print(f"strangest step: {strangest}, the anomaly is {np.flatnonzero(anomalous)[[0, -1]]}")
print(f"area under the ROC curve: {roc_auc_score(anomalous, -scores):.3f}")

# %%
# The series, and how strange each step is:

shown = slice(max(strangest - 400, 0), strangest + 400)
figure, axes = plt.subplots(3, 1, figsize=(11, 8), layout="constrained")
axes[0].plot(series, linewidth=0.6, color="0.3")
axes[0].set(title="The whole series", xlabel="step", ylabel="value")
axes[1].plot(np.arange(len(series))[shown], series[shown], color="0.3")
axes[1].set(title="Around the strangest step", ylabel="value")
axes[2].plot(np.arange(len(series))[shown], -scores[shown], color="tab:red", label="how strange (squared distance)")
axes[2].axhline(-detector.step_offset_, color="0.5", linestyle=":", label="1 in 1,000 of the training data")
axes[2].set(xlabel="step", yscale="log", ylim=(0.1, 1e5))
axes[2].legend(loc="upper left")
for ax in axes[:2]:
    first, last = np.flatnonzero(anomalous)[[0, -1]]
    ax.axvspan(first, last, color="tab:orange", alpha=0.5, label="labelled anomaly")
    ax.margins(y=0.3)
    ax.legend(loc="upper left")
figure.savefig(output / "anomalies.png", dpi=110)
print(f"the picture is {output / 'anomalies.png'}")
