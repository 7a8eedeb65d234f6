"""
A thousand hearts watched live
==============================

The ECGs are simulated: 100 samples a second for a minute, each heart with a rate, a shape and a noise of its own. In 40
of the 1,000 something begins to go wrong. One network, which has learnt from healthy hearts how an ECG goes on, follows
them all, with a state for each of them in a StreamPool: each frame is compared with what was expected.
"""

import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import lstmx

output = Path("lstmx-examples")
output.mkdir(exist_ok=True)

# %%
# Hearts that are healthy, and hearts that from some moment on are not.

RATE, SECONDS, STREAMS = 100, 60, 1000
KINDS = ("beats are missing", "beats come early", "the shape changes")
SETTLED = 10 * RATE  # alarms begin when a stream's usual error is known

# The waves of a beat: seconds after its peak, width in seconds, height in mV.
P, Q, R, S, T = (-0.16, 0.025, 0.12), (-0.035, 0.012, -0.12), (0, 0.014, 1.0), (0.035, 0.014, -0.25), (0.26, 0.05, 0.3)


def heart(rng, seconds, kind=None, begin=np.inf):
    """The ECG of one heart, in mV; from `begin` on, in seconds, one that is not healthy."""
    n = int(seconds * 2.5)
    rhythm = rng.uniform(0.65, 1.05) * (1 + 0.03 * rng.normal(size=n))  # seconds from beat to beat
    peaks = np.cumsum(rhythm) - rng.uniform(0, 1)
    heights = np.tile(rng.uniform(0.8, 1.2, size=5), (n, 1))  # of each wave of each beat
    widths = np.ones((n, 5))
    ill = peaks > begin + 0.5  # all of the beat comes after
    fourth = ill & (np.cumsum(ill) % 4 == 1)  # one beat in four
    if kind == 0:
        heights[fourth, 1:] = 0  # the P wave comes, and nothing follows it
    elif kind == 1:
        peaks[fourth] -= 0.3 * rhythm[fourth]
        heights[fourth] *= [0, 1, 1.3, 2, -1]
        widths[fourth, 1:4] = 2
    elif kind == 2:
        heights[ill] *= [1, 1, 0.8, 1, -0.6]
    t, x = np.arange(seconds * RATE) / RATE, 0
    for shift in (-1, 0):  # the beat before a sample, and the one after
        k = np.clip(np.searchsorted(peaks, t) + shift, 0, n - 1)
        for w, (after, width, height) in enumerate((P, Q, R, S, T)):
            x = x + heights[k, w] * height * np.exp(-0.5 * ((t - peaks[k] - after) / (width * widths[k, w])) ** 2)
    breath = 0.05 * np.sin(2 * np.pi * (rng.uniform(0.15, 0.35) * t + rng.uniform()))
    return x * (1 + breath) + breath + rng.uniform(0.005, 0.015) * rng.normal(size=len(t))


def hearts(rng, n):
    """Healthy ones, (steps, n, 1): frames of one moment lie together, as they arrive."""
    return np.stack([heart(rng, SECONDS) for _ in range(n)], axis=1)[:, :, None].astype(np.float32)


# %%
# Every frame of all streams is one push; what it gives is what the next frame is compared with.


def watch(model, frames):
    """What was expected (steps, N), how strange each frame was (steps, N), and the seconds that each push took."""
    pool = lstmx.StreamPool(model, frames.shape[1])
    ids = pool.open(frames.shape[1])
    expected, strange, took = np.zeros_like(frames[..., 0]), np.zeros_like(frames[..., 0]), []
    ahead, usual, recent = np.zeros_like(frames[0]), 0.02, 0
    for t, frame in enumerate(frames):
        expected[t] = ahead[:, 0]
        error = np.abs(frame - ahead)[:, 0]
        usual = usual + (error - usual) / (10 * RATE)  # running means: of ten seconds,
        recent = recent + ((error / usual) ** 2 - recent) / (0.1 * RATE)  # and of a tenth of one
        strange[t] = recent
        begin = time.perf_counter()
        pool.push(ids, frame, out=ahead)
        took.append(time.perf_counter() - begin)
    return expected, strange, np.array(took)


# %%
# What is usual for a heart is known from its beats before: training carries the states through the whole minute, and
# gradients go back a second.

rng = np.random.default_rng(0)
model = lstmx.Sequential([lstmx.LSTM(1, 32), lstmx.Dense(32, 1)], random_state=0)
healthy, epochs, batch = hearts(rng, 256).swapaxes(0, 1), 4, 32
updates = epochs * (len(healthy) // batch) * SECONDS * RATE // 100
decay = lstmx.Adam(lambda step: 0.01 * max(1 - step / updates, 0.01))
model.fit(healthy[:, :-1], healthy[:, 1:], tbptt=100, optimizer=decay, epochs=epochs, batch_size=batch, verbose=2)

# %%
# An alarm is what is stranger, by a fifth, than all that other healthy hearts ever did.

limit = 1.2 * watch(model, hearts(rng, 128))[1][SETTLED:].max()

frames = hearts(rng, STREAMS)
begins = np.full(STREAMS, SECONDS * RATE)  # the step where something begins to go wrong
for n in (ill := rng.permutation(STREAMS)[:40]):
    second = rng.uniform(20, 40)
    begins[n], frames[:, n, 0] = second * RATE, heart(rng, SECONDS, list(ill).index(n) % 3, second)
expected, strange, took = watch(model, frames)

alarm = strange > limit
alarm[:SETTLED] = False
first = np.where(alarm.any(axis=0), alarm.argmax(axis=0), SECONDS * RATE)  # of each stream
false = first < begins
print(f"{STREAMS} streams of {SECONDS} s: {false.sum()} false alarms")
delay = (first - begins)[ill] / RATE
for k, kind in enumerate(KINDS):
    found = (first[ill[k::3]] < SECONDS * RATE) & ~false[ill[k::3]]
    print(f"{kind}: {found.sum()} of {len(found)} found, half of them within {np.median(delay[k::3][found]):.2f} s")
print(f"{1e6 * took.mean() / STREAMS:.2f} µs a frame; {took.sum():.1f} s for a minute of all {STREAMS}")

# %%
# Three of those that fell ill, and all of them.

figure, axes = plt.subplot_mosaic(
    [[0, 0], [1, 1], [2, 2], ["all", "time"]], figsize=(12, 12), height_ratios=[1, 1, 1, 1.5], layout="constrained"
)
for k, kind in enumerate(KINDS):
    caught = [n for n in ill[k::3] if begins[n] <= first[n] < SECONDS * RATE]
    n = caught[0] if caught else ill[k]
    shown = slice(begins[n] - 3 * RATE, begins[n] + 5 * RATE)
    seconds, ax = np.arange(SECONDS * RATE)[shown] / RATE, axes[k]
    ax.plot(seconds, frames[shown, n, 0], color="0.65", linewidth=2.5, label="measured")
    ax.plot(seconds, expected[shown, n], color="tab:blue", linewidth=1, label="expected one frame before")
    ax.axvspan(begins[n] / RATE, seconds[-1], color="tab:orange", alpha=0.15, label="no longer healthy")
    at = np.flatnonzero(alarm[shown, n])
    ax.plot(seconds[at], np.full(len(at), 1.45), "|", color="tab:red", markersize=9, label="alarm")
    after = f"alarm after {(first[n] - begins[n]) / RATE:.1f} s" if caught else "no alarm"
    ax.set(title=f"Heart {n}: {kind}, {after}", ylabel="mV", ylim=(-0.8, 1.6), xlim=(seconds[0], seconds[-1]))
axes[0].legend(loc="lower left", ncols=4, fontsize=9)
axes[2].set_xlabel("seconds since the stream began")

ax, since = axes["all"], np.arange(-10 * RATE, 15 * RATE)
for n in ill:
    tenths = strange[since + begins[n], n].reshape(-1, 10).max(axis=1)
    ax.plot(since[::10] / RATE, tenths, color="tab:red", alpha=0.25, linewidth=0.8)
well = np.delete(strange[20 * RATE : 45 * RATE], ill, axis=1).max(axis=1).reshape(-1, 10).max(axis=1)
ax.plot(since[::10] / RATE, well, color="0.2", linewidth=1.2)
ax.axhline(limit, color="0.2", linestyle=":")
ax.plot([], [], color="tab:red", label=f"each of the {len(ill)} that fall ill")
ax.plot([], [], color="0.2", label=f"the strangest of {STREAMS - len(ill)} healthy ones")
ax.plot([], [], color="0.2", linestyle=":", label="alarm")
ax.set(title="How strange the frames are", xlabel="seconds since the first change", ylabel="squared error / usual",
       yscale="log", xlim=(-10, 15), ylim=(0.1, 5e3))  # fmt: skip
ax.legend(loc="upper left", fontsize=9)

ax, micro = axes["time"], 1e6 * took
ax.hist(micro, bins=np.geomspace(micro.min(), micro.max(), 60), color="tab:blue")
p99 = np.percentile(micro, 99)
ax.axvline(p99, color="0.2", linestyle=":", label=f"99 of 100 take less than {p99:.0f} µs")
ax.set(title=f"{len(took):,} pushes of {STREAMS:,} frames each", xlabel="microseconds a push", ylabel="pushes",
       xscale="log")  # fmt: skip
ax.legend(loc="upper right", fontsize=9)
figure.savefig(output / "streams.png", dpi=110)
print(f"the picture is {output / 'streams.png'}")
