"""``lstmx demo``: two tasks on real data, with their baselines, in under a minute on two cores; and the lesson.

Forecast. Carbon dioxide in the air at Mauna Loa, 52 weeks ahead from every week of the last six years; the network
has seen nothing of them. The baseline is the seasonal-naive forecast with drift: the value of a year before plus the
mean yearly growth.

Speakers. Who of nine men said these vowels? Ragged sequences of 7 to 29 frames. The baseline is the nearest class mean.

Gates, if asked for. The experiments of lstmx.lesson in short: how far back gradients get in a plain recurrent network
and in an LSTM, what the two learn, and what the gates of an LSTM do while nine men speak.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import lstmx
from lstmx.plots import whole_numbers

if TYPE_CHECKING:
    import os

    from lstmx._types import Array


WEEKS = 52  # the horizon
WINDOW, STEP = 104, 4  # two years of history, read in steps of four weeks
TEST_WEEKS = 52 * 6


def run(name: str, output: str | os.PathLike[str], seed: int) -> int:
    """Run one part, or with "all" the first two, print the scores, and write models and plots to the folder `output`.

    Returns
    -------
    int
        0 if every part beat its baseline and its saved model predicts the same bits, else 1.
    """
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    _plotting()
    start = time.perf_counter()
    parts = {"forecast": forecast, "speakers": speakers, "gates": gates}
    good = [parts[part](output, seed) for part in (("forecast", "speakers") if name == "all" else [name])]
    print(f"\n{time.perf_counter() - start:.0f} s in all; plots and models are in {output}")
    return 0 if all(good) else 1


def _plotting() -> None:
    try:
        import matplotlib
    except ImportError as error:
        raise ImportError("the demo draws with matplotlib: pip install 'matplotlib>=3.8'") from error
    matplotlib.use("Agg")


def _check_saved(model: lstmx.Sequential, path: Path, x: Any) -> bool:
    """Save, load, and compare the bits of the predictions."""
    model.save(path)
    same = np.array_equal(model.predict(x), lstmx.load(path).predict(x))
    print(f"  saved to {path.name}, loaded back: predictions {'have the same bits' if same else 'DIFFER'}")
    return same


def growth(values: Array, origins: Array) -> Array:
    """Mean yearly growth up to each origin, ppm per year: over the ten years before it."""
    years = np.minimum(origins // WEEKS, 10)
    return (values[origins] - values[origins - WEEKS * years]) / years


def windows(dates: Array, values: Array, origins: Array) -> tuple[Array, Array, Array]:
    """What the network sees and what it should say, for forecasts made in the weeks `origins`.

    Level and drift are taken out: a line through the mean of the last half year, rising with the yearly growth. What
    remains is the season, its change, and weather.

    Returns
    -------
    x : ndarray (N, 26, 6)
        Four weeks of the remainder a step, and sine and cosine of the time of year.
    y : ndarray (N, 52)
        The remainder of the next 52 weeks.
    line : ndarray (N, 52)
        What to add to get ppm.
    """
    back, ahead = np.arange(1 - WINDOW, 1), np.arange(1, WEEKS + 1)
    slope = growth(values, origins)[:, None] / WEEKS
    level = values[origins[:, None] + back[-26:]].mean(axis=1, keepdims=True) + slope * 12.5
    line = level + slope * ahead
    past = values[origins[:, None] + back] - (level + slope * back)
    date = dates[origins[:, None] + back[STEP - 1 :: STEP]]
    angle = 2 * np.pi * (date - date.astype("datetime64[Y]")).astype(float) / 365.25
    x = np.concatenate(
        [past.reshape(len(origins), -1, STEP) / 2, np.sin(angle)[..., None], np.cos(angle)[..., None]], axis=2
    )
    future = np.minimum(origins[:, None] + ahead, len(values) - 1)
    return x.astype(np.float32), ((values[future] - line) / 2).astype(np.float32), line


def forecast(output: Path, seed: int) -> bool:
    """Train on the past, forecast every week of the last six years; returns whether the baseline is beaten."""
    dates, values = lstmx.datasets.load_co2()
    begin = len(values) - TEST_WEEKS
    train = np.arange(3 * WEEKS, begin - WEEKS)  # every target lies before the test years
    test = np.arange(begin - 1, len(values) - WEEKS)
    print(
        f"\nForecast of CO2 at Mauna Loa, {WEEKS} weeks ahead: {len(train)} windows to {dates[begin - 1]} to learn, "
        f"{len(test)} forecasts after it to test"
    )
    x, y, _ = windows(dates, values, train)
    epochs, batch = 20, 64
    updates = epochs * -(-len(x) // batch)
    model = lstmx.Sequential([lstmx.LSTM(6, 64), lstmx.Last(), lstmx.Dense(64, WEEKS)], random_state=seed)
    model.fit(
        x, y, optimizer=lstmx.Adam(lstmx.CosineDecay(0.01, updates)), epochs=epochs, batch_size=batch, clip_norm=1.0
    )

    x, _, line = windows(dates, values, test)
    found = line + 2 * model.predict(x)
    true = values[test[:, None] + np.arange(1, WEEKS + 1)]
    naive = values[test[:, None] + np.arange(1, WEEKS + 1) - WEEKS] + growth(values, test)[:, None]
    error, baseline = (float(np.sqrt(np.mean((f - true) ** 2))) for f in (found, naive))
    print(f"  root mean square error: LSTM {error:.3f} ppm, seasonal naive with drift {baseline:.3f} ppm: "
          f"{1 - error / baseline:.0%} less")  # fmt: skip
    same = _check_saved(model, output / "forecast.safetensors", x)
    _plot_forecast(output / "forecast.png", dates, values, test, found, naive, model.history_)
    return same and error < baseline


def _plot_forecast(
    path: Path, dates: Array, values: Array, test: Array, found: Array, naive: Array, history: Any
) -> None:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(3, 1, figsize=(10, 11), layout="constrained")
    forecasts = (found, {"color": "#D55E00", "label": "LSTM"}), (
        naive, {"color": "#0072B2", "linestyle": ":", "label": "seasonal naive with drift"}
    )  # fmt: skip
    axes[0].plot(dates[test[0] - 104 :], values[test[0] - 104 :], color="0.2", label="measured")
    for k in range(0, len(test), WEEKS):
        ahead = dates[test[k]] + 7 * np.arange(1, WEEKS + 1)
        for f, style in forecasts:
            axes[0].plot(ahead, f[k], **style | ({} if k == 0 else {"label": None}))
    axes[0].set(
        xlabel="year",
        ylabel="CO2 in the air, ppm",
        title=f"CO2 at Mauna Loa: forecasts of {WEEKS} weeks, made once a year",
    )
    true = values[test[:, None] + np.arange(1, WEEKS + 1)]
    for f, style in forecasts:
        axes[1].plot(np.arange(1, WEEKS + 1), np.sqrt(np.mean((f - true) ** 2, axis=0)), **style)
    axes[1].set(xlabel="weeks ahead", ylabel="root mean square error, ppm", ylim=(0, None), xlim=(0, WEEKS + 1),
                xticks=range(0, WEEKS + 1, 4), title=f"Error by distance, over {len(test)} forecasts")  # fmt: skip
    for ax in axes[:2]:
        ax.legend()
    _plot_loss(axes[2], history, "mean squared error, in units of 2 ppm")
    figure.savefig(path, dpi=110)
    plt.close(figure)
    print(f"  {path.name}: the forecasts, their error by distance, the training")


def _plot_loss(ax: Any, history: Any, unit: str) -> None:
    """The training loss on a logarithmic axis with plain numbers."""
    ax.plot(np.arange(1, len(history) + 1), history["loss"], color="#D55E00")
    ax.set(xlabel="epoch", ylabel=unit, yscale="log", title="Training loss, on a logarithmic scale")
    ax.grid(which="both", axis="y", color="0.9")
    ax.yaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_minor_formatter("{x:g}" if max(history["loss"]) < 10 * min(history["loss"]) else "")
    whole_numbers(ax.xaxis)


def speakers(output: Path, seed: int) -> bool:
    """Train on 270 utterances, recognise 370 others; returns whether 95 % are right."""
    (train, labels), (test, test_labels) = lstmx.datasets.load_japanese_vowels()
    print(f"\nSpeaker recognition, Japanese vowels: {len(train)} utterances of 9 men to learn, {len(test)} to test")
    frames = np.concatenate(train)
    mean, scale = frames.mean(axis=0), frames.std(axis=0)
    train, test = ([(a - mean) / scale for a in part] for part in (train, test))
    model = lstmx.Sequential(
        [lstmx.LSTM(12, 64, bidirectional=True), lstmx.MeanPool(), lstmx.Dropout(0.3), lstmx.Dense(128, 9, "softmax")],
        random_state=seed,
    )
    model.fit(train, labels, loss="categorical_crossentropy", optimizer=lstmx.Adam(0.005), epochs=20, batch_size=16,
              clip_norm=1.0, metrics=["accuracy"])  # fmt: skip
    found = model.predict(test).argmax(axis=1)
    accuracy = float(np.mean(found == test_labels))
    means = np.array([np.mean([a.mean(axis=0) for a, k in zip(train, labels, strict=True) if k == c], axis=0)
                      for c in range(9)])  # fmt: skip
    nearest = [int(np.argmin(((a.mean(axis=0) - means) ** 2).sum(axis=1))) for a in test]
    baseline = float(np.mean(np.array(nearest) == test_labels))
    print(f"  test accuracy: LSTM {accuracy:.1%}, nearest class mean {baseline:.1%}")
    same = _check_saved(model, output / "speakers.safetensors", test)
    _plot_speakers(output / "speakers.png", test_labels, found, model.history_)
    _plot_gates(output / "gates.png", model, test[0], test_labels[0])
    return same and accuracy >= 0.95


def confusion(true: Array, found: Array, count: int) -> Array:
    """How many of each class (a row) were taken for each class (a column)."""
    counts = np.zeros((count, count), np.int64)
    np.add.at(counts, (true, found), 1)
    return counts


def _plot_speakers(path: Path, true: Array, found: Array, history: Any) -> None:
    import matplotlib.pyplot as plt

    counts = confusion(true, found, 9)
    share = counts / counts.sum(axis=1, keepdims=True)  # speakers have said 24 to 88 utterances
    figure, (left, right) = plt.subplots(1, 2, figsize=(13, 5.5), layout="constrained", width_ratios=(1.2, 1))
    image = left.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for (row, column), number in np.ndenumerate(counts):
        colour = "white" if share[row, column] > 0.5 else "black" if number else "0.55"
        left.text(column, row, number, ha="center", va="center", color=colour)
    names = range(1, 10)
    left.set_xticks(range(9), names)
    left.set_yticks(range(9), names)
    hits = int(counts.trace())
    left.set_title(f"Who was taken for whom: {hits} of {len(true)} right, {hits / len(true):.1%}")
    left.set(xlabel="taken for speaker", ylabel="utterances of speaker")
    figure.colorbar(image, ax=left, label="share of the speaker's utterances", format="{x:.0%}")
    figure.get_layout_engine().set(wspace=0.08)
    _plot_loss(right, history, "cross-entropy, nats")
    figure.savefig(path, dpi=110)
    plt.close(figure)
    print(f"  {path.name}: who was taken for whom, the training")


def _plot_gates(path: Path, model: lstmx.Sequential, x: Array, speaker: Any) -> None:
    import matplotlib.pyplot as plt

    from lstmx.inspect import plot_trace

    figure = plot_trace(
        model.trace(x)[0],
        x=x,
        feature_names=[f"LPC {k}" for k in range(1, 13)],
        x_label="input x:\n12 LPC cepstrum\ncoefficients, in standard\ndeviations from the mean",
    )
    figure.suptitle(
        f"What the forward LSTM did along one utterance of speaker {speaker + 1}; frames start 6.4 ms apart"
    )
    figure.savefig(path, dpi=110)
    plt.close(figure)
    print(f"  {path.name}: gates, memory cell and output along one utterance")


def gates(output: Path, seed: int) -> bool:
    """The lesson in short; returns whether the LSTM has learned what the plain network has not."""
    from lstmx import lesson_pictures as pictures

    lesson, steps = lstmx.lesson, 100
    print("\nGates: why a plain recurrent network forgets, and what an LSTM does about it")
    before = lesson.vanishing({kind: lesson.build(kind, 2, 1, steps, seed=seed) for kind in lesson.NETS}, steps)
    for kind, norms in before.items():
        name, found = ("h", norms.h) if norms.c is None else ("c", norms.c)
        print(f"  {lesson.NETS[kind].label + ':':25s}gradient with respect to {name} 50 steps before the end: "
              f"{found[50]:.0e}")  # fmt: skip
    learned = lesson.learn_adding((10, 30, steps), updates=3200, rates=(0.01,), seed=seed, goal=lesson.LEARNED)
    print(
        f"  the adding problem, mean squared error for {', '.join(map(str, learned.lags))} steps (1/6: nothing learned;"
        f" training ends below {lesson.LEARNED:g}, or after 3,200 updates)"
    )
    for kind, scores in learned.scores.items():
        print(f"  {lesson.NETS[kind].label + ':':25s}{', '.join(f'{score:.4f}' for score in scores)}")
    after = lesson.vanishing({kind: learned.models[kind, steps] for kind in learned.scores}, steps)
    trained = f"trained on the adding problem, T = {steps}"
    errors = {trained: {kind: scores[-1] for kind, scores in learned.scores.items()}}
    figure = pictures.draw_vanishing({"at the start": before, trained: after}, errors)
    _save(figure, output / "vanishing.png", "how far back gradients get")
    _save(pictures.draw_adding(learned), output / "adding.png", "what was learned of the adding problem")

    model, accuracy = lesson.learn_conversation(seed=seed)
    talk = lesson.example_conversation(seed=seed)
    print(f"  who of nine men is to be remembered: {accuracy[-1]:.1%} right {lesson.BINS[-1]} frames later and more")
    same = _check_saved(model, output / "conversation.safetensors", talk.x[None])
    _save(pictures.draw_conversation(model, talk), output / "conversation.png", "the gates while six men speak")
    for name, figure in zip(("write", "keep"), pictures.draw_cells(model, talk), strict=True):
        _save(figure, output / f"cell-{name}.png", "the cell with the values of one step")
    return same and learned.scores["chrono"][-1] < lesson.LEARNED < learned.scores["plain"][-1]


def _save(figure: Any, path: Path, what: str) -> None:
    import matplotlib.pyplot as plt

    figure.savefig(path, dpi=110)
    plt.close(figure)
    print(f"  {path.name}: {what}")
