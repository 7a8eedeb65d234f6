"""The pictures of `lstmx demo`: what is on them."""

import matplotlib
import numpy as np
import pytest

from lstmx import demo
from lstmx.training import History

matplotlib.use("Agg")


@pytest.fixture
def figures(monkeypatch, tmp_path):
    """The figures that are saved, which then stay open."""
    from matplotlib import pyplot
    from matplotlib.figure import Figure

    saved, save = [], Figure.savefig

    def savefig(self, path, **options):
        saved.append(self)
        save(self, path, **options)

    monkeypatch.setattr(Figure, "savefig", savefig)
    yield saved
    pyplot.close("all")


def history(epochs=7):
    found = History()
    for epoch in range(epochs):
        found.append({"loss": 0.4 / (epoch + 1)})
    return found


def whole(ax):
    low, high = ax.get_xlim()
    return all(tick == int(tick) for tick in ax.get_xticks() if low <= tick <= high)


def test_confusion_counts():
    assert demo.confusion([0, 0, 1, 2, 2], [0, 1, 1, 2, 2], 3).tolist() == [[1, 1, 0], [0, 1, 0], [0, 0, 2]]


def test_the_confusion_of_the_speakers_is_drawn(figures, tmp_path):
    true = np.repeat(np.arange(9), 4)
    found = true.copy()
    found[:3] = 8
    demo._plot_speakers(tmp_path / "speakers.png", true, found, history())
    left, right = figures[0].axes[:2]
    written = np.array([int(text.get_text()) for text in left.texts]).reshape(9, 9)
    np.testing.assert_array_equal(written, demo.confusion(true, found, 9))
    assert left.get_title() == "Who was taken for whom: 33 of 36 right, 91.7%"
    assert [text.get_text() for text in left.get_xticklabels()] == list("123456789")
    assert right.get_xlabel() == "epoch" and whole(right)


def test_the_forecasts_are_drawn(figures, tmp_path):
    weeks = np.arange("2000-01-01", "2004-01-01", 7, dtype="datetime64[D]")
    values, test = np.arange(len(weeks)) * 1.0, np.arange(110, 150)
    ahead = values[test[:, None] + np.arange(1, demo.WEEKS + 1)]
    demo._plot_forecast(tmp_path / "forecast.png", weeks, values, test, ahead + 1, ahead + 2, history())
    top, middle, bottom = figures[0].axes
    assert [line.get_label() for line in middle.lines] == ["LSTM", "seasonal naive with drift"]
    np.testing.assert_allclose(middle.lines[0].get_ydata(), 1, rtol=1e-12)
    assert whole(middle) and whole(bottom) and all(ax.get_xlabel() and ax.get_ylabel() for ax in (top, middle, bottom))
