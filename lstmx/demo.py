"""``lstmx demo``: two tasks on real data, with their baselines, in under a minute on two cores.

Forecast. Carbon dioxide in the air at Mauna Loa, 52 weeks ahead from every week of the last six years; the network
has seen nothing of them. The baseline is the seasonal-naive forecast with drift: the value of a year before plus the
mean yearly growth.

Speakers. Who of nine men said these vowels? Ragged sequences of 7 to 29 frames. The baseline is the nearest class mean.
"""

import time
from pathlib import Path

import numpy as np

import lstmx
from lstmx.plots import plot_trace

WEEKS = 52  # the horizon
WINDOW, STEP = 104, 4  # two years of history, read in steps of four weeks
TEST_WEEKS = 52 * 6


def run(name, output, seed):
    """Run one part or all, print the scores, and write models and plots to the folder `output`.

    Returns
    -------
    int
        0 if every part beat its baseline and its saved model predicts the same bits, else 1.
    """
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    _plotting()
    start = time.perf_counter()
    parts = {"forecast": forecast, "speakers": speakers}
    good = [parts[part](output, seed) for part in (parts if name == "all" else [name])]
    print(f"\n{time.perf_counter() - start:.0f} s in all; plots and models are in {output}")
    return 0 if all(good) else 1


def _plotting():
    try:
        import matplotlib
    except ImportError as error:
        raise ImportError("the demo draws with matplotlib: pip install 'lstmx[demo]'") from error
    matplotlib.use("Agg")


def _check_saved(model, path, x):
    """Save, load, and compare the bits of the predictions."""
    model.save(path)
    same = np.array_equal(model.predict(x), lstmx.load(path).predict(x))
    print(f"  saved to {path.name}, loaded back: predictions {'have the same bits' if same else 'DIFFER'}")
    return same


def growth(values, origins):
    """Mean yearly growth up to each origin, ppm per year: over the ten years before it."""
    years = np.minimum(origins // WEEKS, 10)
    return (values[origins] - values[origins - WEEKS * years]) / years


def windows(dates, values, origins):
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


def forecast(output, seed):
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


def _plot_forecast(path, dates, values, test, found, naive, history):
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(3, 1, figsize=(10, 11), layout="constrained")
    axes[0].plot(dates[test[0] - 104 :], values[test[0] - 104 :], color="0.3", label="measured")
    for k in range(0, len(test), WEEKS):
        ahead = dates[test[k]] + 7 * np.arange(1, WEEKS + 1)
        axes[0].plot(ahead, found[k], color="tab:red", label="LSTM" if k == 0 else None)
        axes[0].plot(
            ahead, naive[k], color="tab:blue", linestyle=":", label="seasonal naive with drift" if k == 0 else None
        )
    axes[0].set(ylabel="CO2, ppm", title="Forecasts of 52 weeks, made once a year")
    true = values[test[:, None] + np.arange(1, WEEKS + 1)]
    for f, colour, label in ((found, "tab:red", "LSTM"), (naive, "tab:blue", "seasonal naive with drift")):
        axes[1].plot(np.arange(1, WEEKS + 1), np.sqrt(np.mean((f - true) ** 2, axis=0)), color=colour, label=label)
    axes[1].set(xlabel="weeks ahead", ylabel="RMSE, ppm", ylim=(0, None), title=f"Error of {len(test)} forecasts")
    history.plot(axes[2])
    axes[2].set(title="Training loss", yscale="log")
    for ax in axes:
        ax.legend()
    figure.savefig(path, dpi=110)
    plt.close(figure)
    print(f"  {path.name}: the forecasts, their error by distance, the training")


def speakers(output, seed):
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
    accuracy = float(np.mean(model.predict(test).argmax(axis=1) == test_labels))
    means = np.array([np.mean([a.mean(axis=0) for a, k in zip(train, labels, strict=True) if k == c], axis=0)
                      for c in range(9)])  # fmt: skip
    nearest = [int(np.argmin(((a.mean(axis=0) - means) ** 2).sum(axis=1))) for a in test]
    baseline = float(np.mean(np.array(nearest) == test_labels))
    print(f"  test accuracy: LSTM {accuracy:.1%}, nearest class mean {baseline:.1%}")
    same = _check_saved(model, output / "speakers.safetensors", test)
    _plot_gates(output / "gates.png", model, test[0])
    return same and accuracy >= 0.95


def _plot_gates(path, model, x):
    import matplotlib.pyplot as plt

    figure = plot_trace(model.trace(x)[0], x=x)
    figure.suptitle("What the forward LSTM did along one utterance")
    figure.savefig(path, dpi=110)
    plt.close(figure)
    print(f"  {path.name}: gates, memory cell and output along one utterance")
