"""
What did the gates do, and what decided?
========================================

A classifier that tells rising tones from falling ones, each somewhere in a noisy record. Then a look inside: where its
gates open, how long its memory lasts, and which steps a decision rests on.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import lstmx

output = Path("lstmx-examples")
output.mkdir(exist_ok=True)

# %%
# A tone of 20 steps begins anywhere in the first half of 80; its pitch rises or falls. All else is noise.

rng = np.random.default_rng(0)
rises, begin = rng.integers(2, size=600), rng.integers(5, 35, size=600)
X = rng.normal(0, 0.3, (600, 80, 1)).astype("float32")
inside = np.arange(20)
for x, up, start in zip(X, rises, begin, strict=True):
    pitch = np.linspace(0.3, 1.2, 20) if up else np.linspace(1.2, 0.3, 20)
    x[start + inside, 0] += np.sin(np.cumsum(pitch))
train, test = slice(0, 450), slice(450, None)

# %%
# The decision is asked for at the end, long after the tone: ``chrono=80`` begins with memories of that order.

model = lstmx.Sequential(
    [lstmx.LSTM(1, 24, chrono=80), lstmx.Last(), lstmx.Dense(24, 1, "sigmoid")],
    random_state=0,
)
model.fit(X[train], rises[train], loss="binary_crossentropy", optimizer=lstmx.Adam(0.01), epochs=60, clip_norm=1.0,
          verbose=0)  # fmt: skip
right = (model.predict(X[test])[:, 0] > 0.5) == rises[test]
print(f"right: {right.mean():.1%} of {len(right)}")

# %%
# A trace has every gate at every step; an attribution shares the output out among the inputs.

one = 450 + int(np.flatnonzero(right)[0])
trace = model.trace(X[one : one + 1])[0]  # of layer 0, which is the LSTM
shares = lstmx.inspect.attribute(model, X[one : one + 1], logits=True).values[0, :, 0]
lasting = np.sort(trace.half_lives())
print("half-lives of the memory, in steps: shortest", lasting[:3].round(1), "longest", lasting[-3:].round(1))
print(f"of the attribution, {np.abs(shares[begin[one] + inside]).sum() / np.abs(shares).sum():.0%} lies on the tone")

# %%
# The record and what decided it; below, input and forget gates of every unit.

figure, axes = plt.subplots(4, 1, figsize=(10, 9), sharex=True, layout="constrained")
axes[0].plot(X[one, :, 0], color="0.3")
axes[0].axvspan(begin[one], begin[one] + 19, color="tab:orange", alpha=0.3, label="the tone")
axes[0].set(title=f"A record that {'rises' if rises[one] else 'falls'}", ylabel="value")
axes[0].legend(loc="upper right")
axes[1].bar(np.arange(80), shares, color="tab:red")
axes[1].set(title="The share of each step in the decision", ylabel="share")
for ax, gate, name in ((axes[2], trace.i, "input gate: open where something is written"),
                       (axes[3], trace.f, "forget gate: open where memory is kept")):  # fmt: skip
    drawn = ax.imshow(gate[0, 0][0].T, aspect="auto", vmin=0, vmax=1, cmap="viridis", interpolation="nearest")
    ax.set(title=name.capitalize(), ylabel="unit")
figure.colorbar(drawn, ax=list(axes[2:]), label="0 shut, 1 open")
axes[3].set_xlabel("step")
figure.savefig(output / "gates.png", dpi=110)
print(f"the picture is {output / 'gates.png'}")
