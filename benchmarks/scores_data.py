"""The data sets of `scores.py`, how their networks are trained, and what the literature reaches.

scikit-learn's digits, the two sets of `lstmx.datasets`, and three of the small sets that the wheel of aeon carries
(BSD-3-Clause; they come from the public UCR and UEA archives). aeon is not imported: its files are read where they lie.
"""

import importlib.util
from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Setting:
    """What all engines do alike for one data set."""

    hidden: int
    epochs: int
    rate: float  # Adam's
    batch: int
    target: float  # the score to reach
    bidirectional: bool = False
    pooling: str = "last"  # or "mean", over the steps of each sequence
    layers: int = 1
    clip: float = 1.0  # of the gradient's norm
    published: str = "-"  # a score from the literature and its source in SOURCES


# Chosen by cross-validation on the training sets alone, with lstmx: five stratified folds; for CO2 the error on the
# last five years of windows before the test years, for the anomalies that on the last quarter of the normal stretch.
# Tried were one direction and two, the last state and the mean, 16 to 128 units and Adam's rate. The targets only stop
# a clock; they lie where all engines get to.
SETTINGS = {
    "JapaneseVowels": Setting(64, 15, 0.005, 16, 0.97, bidirectional=True, pooling="mean", published="0.993 [1]"),
    "digits": Setting(128, 20, 0.005, 32, 0.97),
    "BasicMotions": Setting(64, 60, 0.005, 8, 0.85, pooling="mean"),
    "ItalyPowerDemand": Setting(64, 60, 0.01, 16, 0.95, published="0.965 [2]"),
    "CO2": Setting(32, 40, 0.002, 64, 0.75),
    "InternalBleeding": Setting(32, 30, 0.01, 32, 0.95),
}

SOURCES = """\
[1] Ismail Fawaz and others, Deep learning for time series classification: a review (2019), the best of nine networks,
    an FCN: mean of their runs on the MTS archive's version, in the authors' table (github.com/hfawaz/dl-4-tsc)
[2] The same review and table, the best of nine networks, an Encoder: mean of 10 runs on the UCR archive"""


@dataclass
class Data:
    """One data set.

    Attributes
    ----------
    train, test : ndarray (N, T, I) or list of ndarray (T_n, I), float32
    y : ndarray
        Labels (N,) from 0, or values (N, O) to forecast.
    outputs : int
    measure : str
        What the score is.
    scores : callable
        From a function that maps inputs to the network's outputs to a dict; its first entry is the score.
    baseline : str
        What one gets without a network.
    """

    train: object
    y: np.ndarray
    test: object
    outputs: int
    measure: str
    scores: object
    less_is_better: bool = False
    baseline: str = "-"

    @property
    def classes(self):
        """Whether the network classifies."""
        return self.y.ndim == 1


def standardised(train, test):
    """Both by the mean and deviation of each feature over all steps of `train`."""
    rows = np.concatenate(list(train))
    mean, scale = rows.mean(axis=0), rows.std(axis=0)

    def scaled(part):
        return [((x - mean) / np.where(scale > 0, scale, 1)).astype(np.float32) for x in part]

    ragged = len({len(x) for part in (train, test) for x in part}) > 1
    return [scaled(part) if ragged else np.stack(scaled(part)) for part in (train, test)]


def labelled(train, y, test, y_test):
    """A `Data` of classes; labels may be anything that sorts."""
    names, y = np.unique(y, return_inverse=True)
    truth = np.searchsorted(names, y_test)
    train, test = standardised(train, test)
    return Data(train, y, test, len(names), "accuracy",
                lambda predict: {"accuracy": float(np.mean(predict(test).argmax(axis=1) == truth))})  # fmt: skip


def japanese_vowels():
    """Which of nine men speaks: ragged, 270 to learn, 370 to test (UCI, CC BY 4.0; see lstmx.datasets)."""
    from lstmx.datasets import load_japanese_vowels

    (train, y), (test, y_test) = load_japanese_vowels()
    return labelled(train, y, test, y_test)


def digits():
    """Handwritten digits read row by row, 8 steps of 8; a quarter of them, drawn once, is the test set."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    x, y = load_digits(return_X_y=True)
    train, test, y, y_test = train_test_split(x.reshape(-1, 8, 8), y, test_size=0.25, stratify=y, random_state=0)
    return labelled(train, y, test, y_test)


def aeon_file(name):
    """A data file in the installed package aeon."""
    found = importlib.util.find_spec("aeon")
    if found is None:
        raise ImportError("this data set lies in the wheel of aeon: pip install --no-deps aeon")
    return Path(found.submodule_search_locations[0], "datasets", "data", name)


def archived(name):
    """A problem of the UCR and UEA archives (timeseriesclassification.com) with their split into train and test."""

    def read(part):
        text = aeon_file(f"{name}/{name}_{part}.ts").read_text()
        lines = [line.split(":") for line in text.split("@data")[1].split("\n") if line.strip()]
        x = [np.array([channel.split(",") for channel in channels], float).T for *channels, _ in lines]
        return x, np.array([line[-1] for line in lines])

    return labelled(*read("TRAIN"), *read("TEST"))


def co2():
    """Carbon dioxide, 52 weeks ahead from every week of the last six years, with the windows of ``lstmx demo``."""
    from lstmx import datasets, demo

    dates, values = datasets.load_co2()
    begin = len(values) - demo.TEST_WEEKS
    train, y, _ = demo.windows(dates, values, np.arange(3 * demo.WEEKS, begin - demo.WEEKS))
    origins = np.arange(begin - 1, len(values) - demo.WEEKS)
    test, target, line = demo.windows(dates, values, origins)
    ahead = origins[:, None] + np.arange(1, demo.WEEKS + 1)
    naive = values[ahead - demo.WEEKS] + demo.growth(values, origins)[:, None]

    def rmse(forecast):
        return float(np.sqrt(np.mean((forecast - values[ahead]) ** 2)))

    unit = float(np.median((values[ahead] - line) / target))  # ppm that the windows count as 1
    return Data(train, y, test, demo.WEEKS, "RMSE, ppm", lambda predict: {"RMSE": rmse(line + unit * predict(test))},
                less_is_better=True, baseline=f"{rmse(naive):.3f} seasonal naive with drift")  # fmt: skip


def internal_bleeding(window=48):
    """Arterial pressure with one disturbed stretch, no. 135 of the UCR anomaly archive (Wu and Keogh 2021).

    The network learns the next value of the first 1,200 points, which are normal; the score of every later point is
    how far it is from the forecast. The alarm is set off by more than twice the largest error on the normal stretch.
    """
    from sklearn.metrics import f1_score, roc_auc_score

    folder = "KDD-TSAD_135/135_UCR_Anomaly_InternalBleeding16"
    values, label = np.loadtxt(aeon_file(f"{folder}_TEST.csv"), delimiter=",", skiprows=1, usecols=(1, 2)).T
    learnt = len(aeon_file(f"{folder}_TRAIN.csv").read_text().split()) - 1
    values = ((values - values[:learnt].mean()) / values[:learnt].std()).astype(np.float32)
    x = np.lib.stride_tricks.sliding_window_view(values[:-1], window)[..., None].copy()
    y, label = values[window:, None], label[learnt:] > 0
    cut = learnt - window

    def scores(predict):
        error = np.abs(predict(x) - y)[:, 0]
        alarm = error[cut:] > 2 * error[:cut].max()
        error = error[cut:]
        return {"ROC AUC": float(roc_auc_score(label, error)), "F1": float(f1_score(label, alarm))}

    jump = float(roc_auc_score(label, np.abs(y[cut:, 0] - x[cut:, -1, 0])))
    return Data(x[:cut], y[:cut], x[cut:], 1, "ROC AUC", scores, baseline=f"{jump:.3f} change since the last point")


LOADERS = {
    "JapaneseVowels": japanese_vowels, "digits": digits, "BasicMotions": lambda: archived("BasicMotions"),
    "ItalyPowerDemand": lambda: archived("ItalyPowerDemand"), "CO2": co2, "InternalBleeding": internal_bleeding,
}  # fmt: skip
