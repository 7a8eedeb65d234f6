"""How estimators are trained: checkpoints to the bit, interruptions, failures, progress, callbacks, learning curves."""

import contextlib
import copy
import fcntl
import io
import os
import pickle
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import textwrap
import warnings
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sklearn")
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline

import lstmx
from lstmx import (
    LSTMAnomalyDetector,
    LSTMClassifier,
    LSTMForecaster,
    LSTMRegressor,
    LSTMTransformer,
    SequenceScaler,
    losses,
    storage,
    training,
)
from lstmx.estimators import _training
from lstmx.storage import ModelFileError

PYTHONPATH = os.path.dirname(os.path.dirname(lstmx.__file__))  # children import what is tested here
CHILD = os.environ | {"PYTHONPATH": PYTHONPATH}
LIMIT = 20  # seconds after which a child hangs

RNG = np.random.default_rng(0)
RAGGED = [RNG.normal(size=(n, 2)) for n in RNG.integers(2, 8, 26)]
EVEN = RNG.normal(size=(26, 6, 2))
LABELS = RNG.permutation(np.array(["a", "b", "c"])[np.arange(26) % 3])
NUMBERS = np.array([x[:, 0].sum() for x in RAGGED])
SERIES = np.sin(np.arange(60) / 3) + 0.1 * RNG.normal(size=60)

BATCHES = 3  # an epoch has at least so many in every case below

# Small, and with all that draws random numbers or remembers something from epoch to epoch.
CASES = {
    "classifier": (
        lambda **p: LSTMClassifier(4, 2, bidirectional=True, dropout=0.3, early_stopping=True, **p),
        (RAGGED, LABELS),
        {"validation_fraction": 0.25},
    ),
    "regressor": (lambda **p: LSTMRegressor(4, 2, pooling="mean", **p), (RAGGED, NUMBERS), {"dropout": 0.2}),
    "forecaster": (lambda **p: LSTMForecaster(8, 2, hidden_size=4, differences=(1,), **p), (SERIES,), {"dropout": 0.2}),
    "detector": (lambda **p: LSTMAnomalyDetector(4, dropout=0.2, early_stopping=True, **p), (EVEN,), {}),
    "transformer": (lambda **p: LSTMTransformer(4, window=4, **p), (RAGGED,), {"dropout": 0.2}),
}
COMMON = {"batch_size": 8, "random_state": 5, "checkpoint_every": 1, "n_iter_no_change": 50}


def make(kind="regressor", **parameters):
    create, _, extra = CASES[kind]
    return create(**COMMON | extra | parameters)


def fit(estimator, *data, **more):
    """Fit; that max_iter is reached is the point of most tests here, not a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return estimator.fit(*data, **more)


def flat(value):
    """Something that equals another if and only if all numbers have the same bits."""
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    if isinstance(value, dict):
        return {name: flat(v) for name, v in value.items()}
    if isinstance(value, list | tuple):
        return [flat(v) for v in value]
    return repr(value)


def bits(estimator):
    """All that training has left: parameters, moments, generator, curves, scores, what predictions need."""
    config, arrays = estimator._predictor.state()
    found = {name: flat(v) for name, v in vars(estimator).items() if name.endswith("_") and not name.endswith("__")}
    return found | {"config": flat(config), "arrays": flat(arrays), "moments": flat(estimator._moments)}


def predictions(kind, estimator):
    data = CASES[kind][1]
    if kind == "classifier":
        return estimator.predict_proba(data[0])
    if kind == "forecaster":
        return np.concatenate([estimator.predict(5), *estimator.predict_interval(coverage=0.5)])
    if kind == "detector":
        return estimator.score_samples(data[0])
    return estimator.transform(data[0]) if kind == "transformer" else estimator.predict(data[0])


def assert_same(kind, one, two):
    one_bits, two_bits = bits(one), bits(two)
    assert one_bits.keys() == two_bits.keys()
    for name in one_bits:
        assert one_bits[name] == two_bits[name], name
    np.testing.assert_array_equal(predictions(kind, one), predictions(kind, two))


class Stop(Exception):
    """Something goes wrong in the middle of an epoch."""


@contextlib.contextmanager
def in_batch(epoch, batch, action):
    """Do something before an update, both counted from 0."""
    original = training.Trainer._batch

    def patched(self, chosen, rate, place, outputs):
        if place == (epoch, batch):
            action()
        return original(self, chosen, rate, place, outputs)

    training.Trainer._batch = patched
    try:
        yield
    finally:
        training.Trainer._batch = original


def stop():
    raise Stop


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    """Hundreds of files are written here; the tests that kill do so in processes of their own."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "checkpoint"


@pytest.fixture
def no_training(monkeypatch):
    """Whatever raises here raises before the first epoch."""
    monkeypatch.setattr(training.Trainer, "run", lambda *_: pytest.fail("trained before it raised"))


# Resumed to the bit.


@pytest.mark.parametrize("solver", ["adam", "adamw", "rmsprop", "sgd"])
@pytest.mark.parametrize("kind", CASES)
def test_a_resumed_fit_has_the_bits_of_an_uninterrupted_one(kind, solver, path):
    data = CASES[kind][1]
    whole = fit(make(kind, solver=solver, max_iter=6), *data)
    fit(make(kind, solver=solver, max_iter=2, checkpoint=path), *data)
    resumed = make(kind, solver=solver, max_iter=6, checkpoint=path, resume=True)
    with in_batch(1, 0, stop):  # an epoch that is done is not done again
        fit(resumed, *data)
    assert whole.n_iter_ == 6 and len(whole.loss_curve_) == 6
    assert_same(kind, whole, resumed)


@pytest.mark.parametrize("schedule", ["constant", "invscaling", "adaptive"])
@pytest.mark.parametrize("solver", ["adam", "sgd"])
@pytest.mark.parametrize("early", [False, True])
def test_schedules_and_patience_survive(schedule, solver, early, path):
    """With a tolerance that no epoch meets, patience ends training, or divides the rate, in the midst of it."""
    options = {"solver": solver, "learning_rate": schedule, "tol": 10.0, "n_iter_no_change": 2, "max_iter": 9,
               "early_stopping": early}  # fmt: skip
    whole = fit(make(**options), RAGGED, NUMBERS)
    # The first epoch counts as an improvement on nothing, unless it must beat -inf by tol, which it does too.
    assert whole.n_iter_ == (9 if schedule == "adaptive" else 4)
    for cut in (1, 3, 6):
        fit(make(**options | {"max_iter": cut}, checkpoint=path), RAGGED, NUMBERS)
        resumed = fit(make(**options, checkpoint=path, resume=True), RAGGED, NUMBERS)
        assert_same("regressor", whole, resumed)
    other = fit(make(**options | {"learning_rate": "invscaling" if schedule != "invscaling" else "constant"}), RAGGED,
                NUMBERS)  # fmt: skip
    assert bits(other)["moments"] != bits(whole)["moments"]  # the schedule did change the training


@pytest.mark.parametrize("kind", CASES)
@pytest.mark.parametrize("every", [1, 2])
def test_an_exception_in_an_epoch_costs_what_came_after_the_checkpoint(kind, every, path):
    data = CASES[kind][1]
    whole = fit(make(kind, max_iter=5), *data)
    broken = make(kind, max_iter=5, checkpoint=path, checkpoint_every=every)
    with in_batch(3, BATCHES - 1, stop), pytest.raises(Stop):
        fit(broken, *data)
    with pytest.raises(NotFittedError):
        predictions(kind, broken)
    assert storage.read(path)[0]["epoch"] == (3 if every == 1 else 2)
    assert_same(kind, whole, fit(clone(broken).set_params(resume=True), *data))


def test_a_fit_may_be_interrupted_in_every_epoch(path):
    whole = fit(make("classifier", max_iter=6), RAGGED, LABELS)
    for epoch in range(6):
        with in_batch(epoch, 1, stop), pytest.raises(Stop):
            fit(make("classifier", max_iter=6, checkpoint=path, resume=True), RAGGED, LABELS)
    resumed = fit(make("classifier", max_iter=6, checkpoint=path, resume=True), RAGGED, LABELS)
    assert_same("classifier", whole, resumed)


@pytest.mark.parametrize("random", [lambda: None, lambda: np.random.RandomState(3), lambda: np.int64(7)])
def test_the_seed_is_that_of_the_checkpoint(random, path, monkeypatch):
    """Whatever random_state would give the second time."""
    kept = path.with_name("kept")
    write = _training.Checkpoint.write

    def keep(self, state):
        write(self, state)
        if state.epoch == 3:
            kept.write_bytes(path.read_bytes())

    with monkeypatch.context() as patch:
        patch.setattr(_training.Checkpoint, "write", keep)
        whole = fit(make("classifier", random_state=random(), max_iter=6, checkpoint=path), RAGGED, LABELS)
    resumed = make("classifier", random_state=random(), max_iter=6, checkpoint=kept, resume=True)
    assert_same("classifier", whole, fit(resumed, RAGGED, LABELS))


@pytest.mark.parametrize("kind", ["classifier", "regressor"])
def test_partial_fit_goes_on_equal(kind, path):
    """Moments, generator and number of updates are what they would have been."""
    data = CASES[kind][1]
    whole = fit(make(kind, max_iter=4), *data)
    fit(make(kind, max_iter=2, checkpoint=path), *data)
    resumed = fit(make(kind, max_iter=4, checkpoint=path, resume=True), *data)
    thawed = pickle.loads(pickle.dumps(resumed))
    other = fit(make(kind, max_iter=4), *data)
    other._moments["updates"] += 1  # so that what is compared does depend on it
    for estimator in (whole, resumed, thawed, other):
        estimator.set_params(early_stopping=False)
        estimator.partial_fit(*data).partial_fit(*data)
    assert_same(kind, whole, resumed)
    assert_same(kind, whole, thawed)
    assert bits(other)["arrays"] != bits(whole)["arrays"]


def test_partial_fit_with_another_solver_begins_anew():
    estimator = make().partial_fit(RAGGED, NUMBERS)
    for solver in ("sgd", "rmsprop", "adam"):
        before = flat(estimator.parameters_)
        estimator.set_params(solver=solver).partial_fit(RAGGED, NUMBERS)
        assert flat(estimator.parameters_) != before


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_both_types_keep_their_bits(dtype, path):
    data = [x.astype(dtype) for x in RAGGED], NUMBERS
    whole = fit(make(max_iter=4), *data)
    fit(make(max_iter=2, checkpoint=path), *data)
    assert storage.read(path)[1]["values"].dtype == dtype
    assert_same("regressor", whole, fit(make(max_iter=4, checkpoint=path, resume=True), *data))


def test_weights_and_validation_data_keep_their_bits(path):
    weight, held = RNG.uniform(size=26), {"X_val": EVEN, "y_val": EVEN.sum((1, 2)), "sample_weight_val": RNG.uniform(size=26)}  # fmt: skip  # noqa: E501
    whole = fit(make(max_iter=4, early_stopping=True), RAGGED, NUMBERS, weight, **held)
    fit(make(max_iter=2, early_stopping=True, checkpoint=path), RAGGED, NUMBERS, weight, **held)
    resumed = fit(make(max_iter=4, early_stopping=True, checkpoint=path, resume=True), RAGGED, NUMBERS, weight, **held)
    assert_same("regressor", whole, resumed)


def test_the_best_weights_of_before_the_interruption_are_kept(path):
    """A rate so large that the first epochs stay the best."""
    options = {"learning_rate_init": 2.0, "early_stopping": True, "max_iter": 8, "validation_fraction": 0.3}
    whole = fit(make(**options), RAGGED, NUMBERS)
    best = int(np.argmax(whole.validation_scores_))
    assert best < 6  # else this tests nothing
    fit(make(**options | {"max_iter": best + 2}, checkpoint=path), RAGGED, NUMBERS)
    assert_same("regressor", whole, fit(make(**options, checkpoint=path, resume=True), RAGGED, NUMBERS))


def test_a_checkpoint_changes_nothing(path):
    assert_same("regressor", fit(make(max_iter=4), RAGGED, NUMBERS), fit(make(max_iter=4, checkpoint=path), RAGGED, NUMBERS))  # fmt: skip  # noqa: E501


def test_resume_without_a_file_begins(path):
    resumed = fit(make(max_iter=4, checkpoint=path, resume=True), RAGGED, NUMBERS)
    assert_same("regressor", fit(make(max_iter=4), RAGGED, NUMBERS), resumed)
    assert path.exists()


def test_without_resume_the_fit_begins_again(path):
    fit(make(max_iter=3, checkpoint=path), RAGGED, NUMBERS)
    again = fit(make(max_iter=2, checkpoint=path), RAGGED, NUMBERS)
    assert_same("regressor", fit(make(max_iter=2), RAGGED, NUMBERS), again)


@pytest.mark.parametrize("kind", CASES)
def test_resume_of_a_finished_fit_changes_nothing(kind, path, recwarn):
    data = CASES[kind][1]
    first = fit(make(kind, max_iter=3, checkpoint=path), *data)
    before = path.read_bytes()
    again = make(kind, max_iter=3, checkpoint=path, resume=True)
    with in_batch(0, 0, stop), in_batch(3, 0, stop):
        again.fit(*data)  # and no warning, nothing was done
    assert_same(kind, first, again)
    assert path.read_bytes() == before and not len(recwarn)
    fewer = make(kind, max_iter=1, checkpoint=path, resume=True).fit(*data)
    assert_same(kind, first, fewer)


def test_resume_of_a_fit_out_of_patience_does_not_go_on(path):
    options = {"tol": 10.0, "n_iter_no_change": 1, "checkpoint": path, "checkpoint_every": 100}
    first = make(max_iter=20, **options).fit(RAGGED, NUMBERS)
    assert first.n_iter_ == 3 and storage.read(path)[0]["epoch"] == 3  # written at the end, though 100 is far
    again = make(max_iter=40, resume=True, **options).fit(RAGGED, NUMBERS)
    assert_same("regressor", first, again)


def test_the_last_epoch_is_written_whatever_checkpoint_every_says(path):
    fit(make(max_iter=5, checkpoint=path, checkpoint_every=3), RAGGED, NUMBERS)
    assert storage.read(path)[0]["epoch"] == 5


def test_partial_fit_leaves_the_checkpoint_of_a_fit_alone(path):
    estimator = fit(make(max_iter=2, checkpoint=path), RAGGED, NUMBERS)
    before = path.read_bytes()
    estimator.partial_fit(RAGGED, NUMBERS)
    assert path.read_bytes() == before


def test_a_warm_start_is_resumed(path):
    begun = fit(make(max_iter=2), RAGGED, NUMBERS).set_params(warm_start=True)
    more = [x + 1 for x in RAGGED], NUMBERS + 1
    whole = fit(copy.deepcopy(begun).set_params(max_iter=5), *more)
    fit(copy.deepcopy(begun).set_params(max_iter=2, checkpoint=path), *more)
    resumed = fit(copy.deepcopy(begun).set_params(max_iter=5, checkpoint=path, resume=True), *more)
    assert_same("regressor", whole, resumed)
    # Without the fit that it went on from the features would be standardised by other numbers.
    with pytest.raises(ValueError, match="resume: the checkpoint was written with other data"):
        fit(make(max_iter=5, warm_start=True, checkpoint=path, resume=True), *more)


# What does not go together.


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_size": 5}, r"hidden_size=4, now it is 5"),
        ({"num_layers": 1}, r"num_layers=2, now it is 1"),
        ({"solver": "sgd"}, r"solver='adam', now it is 'sgd'"),
        ({"alpha": 0.5}, r"alpha=0.0001, now it is 0.5"),
        ({"learning_rate_init": 0.1}, r"learning_rate_init=0.005, now it is 0.1"),
        ({"batch_size": 9}, r"batch_size=8, now it is 9"),
        ({"dropout": 0.5}, r"dropout=0.3, now it is 0.5"),
        ({"shuffle": False}, r"shuffle=True, now it is False"),
        ({"tol": 0.1}, r"tol=0.0001, now it is 0.1"),
        ({"class_weight": {"a": 2.0}}, r"class_weight=None, now it is \{'a': 2.0\}"),
        ({"standardize": False}, r"standardize=True, now it is False"),
        ({"random_state": 6}, r"another random_state than 6"),
    ],
)
def test_other_parameters_are_named(change, message, path):
    fit(make("classifier", max_iter=2, checkpoint=path), RAGGED, LABELS)
    before = path.read_bytes()
    other = make("classifier", max_iter=4, checkpoint=path, resume=True).set_params(**change)
    with pytest.raises(ValueError, match=f"resume: the checkpoint was written with {message}; give what"):
        other.fit(RAGGED, LABELS)
    assert path.read_bytes() == before


def test_numbers_of_numpy_are_the_same_numbers(path):
    """As a search over np.logspace would give them."""
    fit(make(max_iter=2, checkpoint=path, alpha=np.float64(0.01), batch_size=np.int64(8)), RAGGED, NUMBERS)
    fit(make(max_iter=3, checkpoint=path, resume=True, alpha=0.01, shuffle=np.True_), RAGGED, NUMBERS)


def test_what_does_not_change_the_training_may_differ(path, capsys):
    fit(make("classifier", max_iter=2, checkpoint=path), RAGGED, LABELS)
    moved = path.rename(path.with_name("moved"))
    options = {"max_iter": 4, "checkpoint": str(moved), "checkpoint_every": 3, "verbose": True, "random_state": None}
    resumed = fit(make("classifier", resume=True, **options), RAGGED, LABELS)
    assert flat(resumed.parameters_) == flat(fit(make("classifier", max_iter=4), RAGGED, LABELS).parameters_)
    assert "Iteration 3, loss" in capsys.readouterr().out


def changed(array, place, value):
    array = np.array(array)
    array[place] = value
    return array


HELD = {"X_val": EVEN, "y_val": NUMBERS, "sample_weight_val": np.ones(26)}


@pytest.mark.parametrize(
    "change",
    [
        {"X": [*RAGGED[:-1], changed(RAGGED[-1], (0, 0), 9.0)]},
        {"X": [RAGGED[1], RAGGED[0], *RAGGED[2:]]},
        {"X": [x.astype(np.float32) for x in RAGGED]},
        {"y": changed(NUMBERS, 3, 9.0)},
        {"sample_weight": changed(np.ones(26), 3, 2.0)},
        {"sample_weight": None},
        {"X_val": changed(EVEN, (0, 0, 0), 9.0)},
        {"y_val": changed(NUMBERS, 0, 9.0)},
        {"sample_weight_val": changed(np.ones(26), 0, 9.0)},
        {"X_val": None, "y_val": None, "sample_weight_val": None},
    ],
    ids=lambda change: "-".join(change),
)
def test_other_data_are_an_error(change, path):
    data = {"X": RAGGED, "y": NUMBERS, "sample_weight": np.ones(26)} | HELD
    fit(make(max_iter=2, checkpoint=path), **data)
    fit(make(max_iter=3, checkpoint=path, resume=True), **data)
    with pytest.raises(ValueError, match="resume: the checkpoint was written with other data; give what it was"):
        make(max_iter=4, checkpoint=path, resume=True).fit(**data | change)


@pytest.mark.parametrize("change", [{"y": SERIES + 1}, {"y": SERIES[:-1]}, {"y": SERIES.astype(np.float32)},
                                    {"y": [SERIES]}, {"X": SERIES}])  # fmt: skip
def test_other_series_are_an_error(change, path):
    """Single precision too: the numbers are the same after rounding to it, the network is not."""
    rounded = SERIES.astype(np.float32).astype(np.float64)
    change = change if len(change.get("y", [])) != 1 else {"y": [rounded, rounded]}
    fit(make("forecaster", max_iter=2, checkpoint=path), rounded)
    with pytest.raises(ValueError, match="resume: the checkpoint was written with other data"):
        make("forecaster", max_iter=4, checkpoint=path, resume=True).fit(**{"y": rounded} | change)


def test_another_estimator_is_an_error(path):
    fit(make("transformer", max_iter=2, checkpoint=path), RAGGED)
    with pytest.raises(ValueError, match="written with estimator=LSTMTransformer, now it is LSTMAnomalyDetector"):
        make("detector", max_iter=2, checkpoint=path, resume=True, random_state=5).fit(EVEN)


def test_resume_needs_a_path(no_training):
    with pytest.raises(ValueError, match="resume: needs a checkpoint to go on from"):
        make(resume=True).fit(RAGGED, NUMBERS)


# Files that are no checkpoint, and places that take none.


@pytest.mark.parametrize("name", ["model", "layer", "predictor"])
def test_a_saved_model_is_no_checkpoint(name, path, no_training, request):
    if name == "predictor":
        request.getfixturevalue("monkeypatch").undo()
        fit(make(max_iter=1), RAGGED, NUMBERS).save(path)
    elif name == "layer":
        lstmx.LSTM(2, 3).save(path)
    else:
        lstmx.Sequential([lstmx.LSTM(2, 3)]).save(path)
    before = path.read_bytes()
    kind = {"predictor": "Regressor", "layer": "LSTM", "model": "Sequential"}[name]
    with pytest.raises(ModelFileError, match=f"checkpoint: .* is a saved {kind}, not a checkpoint; give another"):
        make(checkpoint=path, resume=True).fit(RAGGED, NUMBERS)
    assert path.read_bytes() == before


def test_a_checkpoint_is_no_saved_model(path):
    fit(make(max_iter=1, checkpoint=path), RAGGED, NUMBERS)
    with pytest.raises(ModelFileError, match=r"a checkpoint of a training; fit an estimator with .*resume=True"):
        lstmx.load(path)


@pytest.mark.parametrize("content", [b"", b"junk", b"\0" * 100, b"PK\x03\x04" + b"\0" * 50, b"\x80\x04."])
def test_junk_is_no_checkpoint(content, path, no_training):
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match="not a safetensors file"):
        make(checkpoint=path, resume=True).fit(RAGGED, NUMBERS)
    assert path.read_bytes() == content


def test_a_cut_checkpoint_is_an_error(path):
    fit(make(max_iter=1, checkpoint=path), RAGGED, NUMBERS)
    whole = path.read_bytes()
    for size in (1, 8, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(ModelFileError, match="not a safetensors file"):
            make(checkpoint=path, resume=True).fit(RAGGED, NUMBERS)


def test_a_parameter_that_is_no_longer_known_is_an_error(path, monkeypatch):
    fit(make(max_iter=1, checkpoint=path), RAGGED, NUMBERS)
    damage(path, lambda config, arrays: config["identity"].update(extra="3"))
    monkeypatch.setattr(training.Trainer, "run", lambda *_: pytest.fail("trained before it raised"))
    with pytest.raises(ValueError, match="the checkpoint was written with extra=3, now it is None; give what it was"):
        make(max_iter=4, checkpoint=path, resume=True).fit(RAGGED, NUMBERS)


def test_a_damaged_checkpoint_is_an_error(path, monkeypatch):
    fit(make(max_iter=1, checkpoint=path), RAGGED, NUMBERS)
    monkeypatch.setattr(training.Trainer, "run", lambda *_: pytest.fail("trained before it raised"))
    data = bytearray(path.read_bytes())
    data[-200:-100] = b"?" * 100
    path.write_bytes(data)
    with pytest.raises(ModelFileError, match="damaged: the file does not hold what was written to it; take"):
        make(max_iter=4, checkpoint=path, resume=True).fit(RAGGED, NUMBERS)


def damage(path, change):
    config, arrays = storage.read(path)
    change(config, arrays)
    storage.write(path, config, arrays)


@pytest.mark.parametrize(
    "change",
    [
        *(lambda config, arrays, name=name: config.pop(name)
          for name in ("identity", "epoch", "updates", "rng", "memory", "reason")),
        *(lambda config, arrays, name=name: config.update({name: "junk"})
          for name in ("identity", "epoch", "updates", "rng", "memory")),
        lambda config, arrays: config.update(extra=1),
        lambda config, arrays: config["memory"].update(extra=1),
        lambda config, arrays: config["rng"].update(extra=1),
        lambda config, arrays: arrays.update(extra=arrays["values"]),
        lambda config, arrays: config["identity"].pop("seed"),
        lambda config, arrays: config["memory"].pop("rate"),
        lambda config, arrays: config["rng"].update(state={"state": -1, "inc": "x"}),
        lambda config, arrays: arrays.pop("values"),
        lambda config, arrays: arrays.update(values=np.zeros(3)),
        lambda config, arrays: arrays.pop("moments.m"),
        lambda config, arrays: arrays.update({"moments.m": np.zeros(3)}),
        lambda config, arrays: arrays.update({"moments.m": arrays["moments.m"].astype(np.float32)}),
        lambda config, arrays: arrays.update({"moments.other": arrays["moments.m"]}),
        lambda config, arrays: arrays.update({n: a[:-1] for n, a in arrays.items() if "history" not in n}),
        lambda config, arrays: arrays.update(best=np.zeros(3)),
        lambda config, arrays: arrays.pop("history.loss"),
    ],
)  # fmt: skip
def test_a_checkpoint_that_lacks_something_is_an_error(change, path, monkeypatch):
    fit(make(max_iter=2, checkpoint=path), RAGGED, NUMBERS)
    damage(path, change)
    monkeypatch.setattr(training.Trainer, "run", lambda *_: pytest.fail("trained before it raised"))
    with pytest.raises(ValueError, match=r"checkpoint: .*; remove it, or give another path"):
        make(max_iter=4, checkpoint=path, resume=True).fit(RAGGED, NUMBERS)


@pytest.mark.parametrize("resume", [False, True])
def test_a_place_that_takes_no_file_is_an_error_at_once(resume, tmp_path, no_training):
    """Not when the first checkpoint is due and the training until then is lost."""
    estimator = make(resume=resume)
    with pytest.raises(FileNotFoundError, match=r"checkpoint: there is no folder .*none.*; make it first"):
        estimator.set_params(checkpoint=tmp_path / "none" / "x").fit(RAGGED, NUMBERS)
    with pytest.raises(OSError, match=r"checkpoint: .* is a folder; give the path of a file in it"):
        estimator.set_params(checkpoint=tmp_path).fit(RAGGED, NUMBERS)
    with pytest.raises(OSError, match=r"checkpoint: .* names a folder; give the path of a file in it"):
        estimator.set_params(checkpoint=f"{tmp_path}/new/").fit(RAGGED, NUMBERS)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match=r"checkpoint: .* is not a file but a pipe"):
        estimator.set_params(checkpoint=tmp_path / "pipe").fit(RAGGED, NUMBERS)
    with pytest.raises(ValueError, match=r"checkpoint: is empty; give the path of a file"):
        estimator.set_params(checkpoint="").fit(RAGGED, NUMBERS)
    for wrong in (3, 1.5, True, object()):
        with pytest.raises(TypeError, match=r"checkpoint: got .*, must be a path"):
            estimator.set_params(checkpoint=wrong).fit(RAGGED, NUMBERS)


def test_a_folder_that_cannot_be_written_is_an_error_at_once(tmp_path, no_training, monkeypatch):
    """Root may write everywhere, so it is the question that is tested."""
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(PermissionError, match=r"checkpoint: the folder .* cannot be written to"):
        make(checkpoint=tmp_path / "x").fit(RAGGED, NUMBERS)


def test_any_kind_of_path(path, monkeypatch):
    monkeypatch.chdir(path.parent)
    for kind in (str(path), Path(path), path.name):
        path.unlink(missing_ok=True)
        fit(make(max_iter=1, checkpoint=kind), RAGGED, NUMBERS)
        assert path.exists()


@pytest.mark.parametrize("where", ["fsync", "replace"])
def test_a_full_disk_keeps_the_last_checkpoint(where, path, monkeypatch):
    whole = fit(make(max_iter=4), RAGGED, NUMBERS)
    fit(make(max_iter=2, checkpoint=path), RAGGED, NUMBERS)
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, where, full)
        with pytest.raises(OSError, match="No space left"):
            fit(make(max_iter=4, checkpoint=path, resume=True), RAGGED, NUMBERS)
    assert path.read_bytes() == before and os.listdir(path.parent) == [path.name]
    assert_same("regressor", whole, fit(make(max_iter=4, checkpoint=path, resume=True), RAGGED, NUMBERS))


KILLED = """
    import os, random, signal, sys, time, warnings
    import numpy as np
    from lstmx import LSTMClassifier
    warnings.simplefilter("ignore")
    path, kills, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    X = np.random.default_rng(0).normal(size=(24, 5, 2))
    y = (X[:, :, 0].sum(1) > 0).astype(int)
    def make(**more):
        return LSTMClassifier(6, dropout=0.2, early_stopping=True, batch_size=8, max_iter=60, random_state=1,
                              n_iter_no_change=100, validation_fraction=0.25, **more)
    def bits(fitted):
        return [a.tobytes() for a in fitted.parameters_.values()], fitted.loss_curve_, fitted.validation_scores_
    class Slow:                    # where a save can be cut: after the file is made, written, flushed, renamed
        def __init__(self, name):
            self.call = getattr(os, name)
        def __call__(self, *args, **options):
            time.sleep(rng.random() * 0.002)
            return self.call(*args, **options)
    from lstmx.storage import read
    rng = random.Random(seed)
    done = epochs = 0
    while done < kills:
        child = os.fork()
        if child == 0:
            for name in ("fsync", "chmod", "replace"):
                setattr(os, name, Slow(name))
            make(checkpoint=path, checkpoint_every=1, resume=True).fit(X, y)
            os._exit(0)
        time.sleep(0.01 + rng.random() * 0.05)
        os.kill(child, signal.SIGKILL)
        done += os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        if os.path.exists(path):
            epoch = read(path)[0]["epoch"]                 # readable, and never from before the last one
            assert epoch >= epochs, (epoch, epochs)
            epochs = epoch
            if epoch == 60:
                os.unlink(path)
                epochs = 0
    resumed = make(checkpoint=path, checkpoint_every=1, resume=True).fit(X, y)
    assert bits(resumed) == bits(make().fit(X, y))
    print("equal")
    """


def kill(path, times, seed):
    code = textwrap.dedent(KILLED)
    command = [sys.executable, "-P", "-c", code, str(path), str(times), str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=CHILD)
    assert done.stdout.strip() == "equal", done.stderr


def test_kill_9_leaves_a_checkpoint_that_is_gone_on_from(path):
    kill(path, 10, 0)


@pytest.mark.long
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_kill_9_many_times(seed, path):
    kill(path, 60, seed)


# Ctrl-C.


def interrupt():
    signal.raise_signal(signal.SIGINT)


@contextlib.contextmanager
def interrupted(epoch, batch=1):
    with in_batch(epoch, batch, interrupt), pytest.warns(UserWarning, match=r"^Training interrupted by user\.$"):
        yield


@pytest.mark.parametrize("kind", CASES)
def test_ctrl_c_leaves_a_fitted_estimator(kind, path):
    data = CASES[kind][1]
    estimator = make(kind, max_iter=5, checkpoint=path)
    with interrupted(2):
        estimator.fit(*data)
    assert estimator.n_iter_ == 2 and len(estimator.loss_curve_) == 2
    assert np.isfinite(predictions(kind, estimator)).all()
    # What was done in the epoch that was cut is kept, unless an earlier epoch is known to be the best.
    before = flat(fit(make(kind, max_iter=2), *data).parameters_)
    assert (flat(estimator.parameters_) == before) is estimator.early_stopping
    # And the checkpoint is that of the last whole epoch.
    resumed = fit(clone(estimator).set_params(resume=True), *data)
    assert_same(kind, fit(make(kind, max_iter=5), *data), resumed)


@pytest.mark.parametrize("kind", CASES)
def test_ctrl_c_in_the_first_epoch(kind):
    estimator = make(kind, max_iter=5)
    with interrupted(0, 0):
        estimator.fit(*CASES[kind][1])
    assert estimator.n_iter_ == 0 and estimator.loss_curve_ == [] and np.isnan(estimator.loss_)
    assert np.isfinite(predictions(kind, estimator)).all()


def test_ctrl_c_keeps_the_best_weights():
    options = {"learning_rate_init": 2.0, "early_stopping": True, "validation_fraction": 0.3}
    whole = fit(make(max_iter=7, **options), RAGGED, NUMBERS)
    best = int(np.argmax(whole.validation_scores_))
    assert best < 5
    cut = make(max_iter=20, **options)
    with interrupted(6):
        cut.fit(RAGGED, NUMBERS)
    assert cut.validation_scores_ == whole.validation_scores_[:6]
    assert flat(cut.parameters_) == flat(fit(make(max_iter=best + 1, **options), RAGGED, NUMBERS).parameters_)


def test_ctrl_c_then_a_warm_start_goes_on():
    estimator = make(max_iter=5, warm_start=True)
    with interrupted(2):
        estimator.fit(RAGGED, NUMBERS)
    fit(estimator, RAGGED, NUMBERS)
    assert len(estimator.loss_curve_) == 2 + 5 and estimator.loss_curve_[2] < estimator.loss_curve_[0]


def test_ctrl_c_in_a_pipeline_and_in_a_search():
    """Each leaves the one fit that ran, and the rest goes on, as with MLPClassifier."""
    pipe = make_pipeline(SequenceScaler(), make("classifier", max_iter=4))
    with interrupted(2):
        pipe.fit(RAGGED, LABELS)
    assert pipe[-1].n_iter_ == 2 and len(pipe.predict(RAGGED)) == 26
    pipe = make_pipeline(make("transformer", max_iter=4), GaussianNB())
    with interrupted(2):
        pipe.fit(RAGGED, LABELS)
    assert pipe[0].n_iter_ == 2 and len(pipe.predict(RAGGED)) == 26
    search = GridSearchCV(make("classifier", max_iter=3), {"hidden_size": [2, 3]}, cv=2, error_score="raise")
    with interrupted(2), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        search.fit(EVEN, LABELS)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all() and len(search.predict(EVEN)) == 26


def test_ctrl_c_from_outside():
    """A real signal to a real process, in whatever line or call it arrives."""
    code = """
        import sys, threading, time, warnings
        import numpy as np
        from lstmx import LSTMClassifier, training
        warnings.simplefilter("error")
        X = np.random.default_rng(0).normal(size=(200, 30, 2))
        one = training.Trainer._one_epoch
        def epoch(self, epochs):
            one(self, epochs)
            if self.state.epoch == 2:
                print("training", flush=True)
        training.Trainer._one_epoch = epoch
        clf = LSTMClassifier(16, max_iter=10**6, tol=0, n_iter_no_change=10**6)
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            clf.fit(X, X[:, :, 0].sum(1) > 0)
        print([str(w.message) for w in found])
        print(2 <= clf.n_iter_ < 10**6, clf.predict(X).shape, len(clf.loss_curve_) - clf.n_iter_ in (0, 1))
        """
    child = subprocess.Popen([sys.executable, "-P", "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True,
                             env=CHILD)  # fmt: skip
    try:
        assert child.stdout.readline() == "training\n"
        child.send_signal(signal.SIGINT)
        out, _ = child.communicate(timeout=LIMIT)
    finally:
        child.kill()
        child.wait()
    assert child.returncode == 0
    assert out.splitlines() == ["['Training interrupted by user.']", "True (200,) True"]


# A loss that is not finite.

HUGE = {
    "loss": lambda: (make(standardize=False), (np.float32(EVEN), np.full(26, 1e30, np.float32))),
    "a weight": lambda: (
        make(standardize=False, clip_norm=None, solver="sgd", learning_rate_init=1e40),
        (np.float32(EVEN), np.float32(NUMBERS)),
    ),
}


@pytest.mark.parametrize("what", HUGE)
def test_a_loss_that_is_not_finite_names_epoch_and_batch(what):
    estimator, data = HUGE[what]()
    with pytest.raises(FloatingPointError, match=rf"^{what} is .* in epoch 1, batch 1: training diverged; lower"):
        estimator.fit(*data)
    with pytest.raises(NotFittedError):
        estimator.predict(EVEN)
    assert not hasattr(estimator, "loss_curve_") and not hasattr(estimator, "n_iter_")


def test_the_epoch_and_the_batch_are_counted_from_1(monkeypatch):
    """The third batch of the second epoch is the one that goes wrong."""
    place = []
    owner = next(c for c in losses.MeanSquaredError.__mro__ if "total" in vars(c))
    total = owner.total

    def nan(self, *args, **options):
        loss, gradient = total(self, *args, **options)
        return (np.nan if place == [1] else loss), gradient

    monkeypatch.setattr(owner, "total", nan)
    with in_batch(1, 2, lambda: place.append(1)), pytest.raises(FloatingPointError, match="loss is nan in epoch 2, batch 3: "):  # fmt: skip  # noqa: E501
        make().fit(RAGGED, NUMBERS)


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("kind", ["regressor", "detector", "forecaster"])
def test_a_failed_fit_keeps_the_former_one(kind, warm):
    """It was finite; what follows it is not."""
    data = CASES[kind][1]
    estimator = fit(make(kind, max_iter=2), *data).set_params(warm_start=warm)
    before, predicted = bits(estimator), predictions(kind, estimator)

    def fail():
        raise FloatingPointError("loss is nan")

    with in_batch(0, 1, fail), pytest.raises(FloatingPointError):
        estimator.fit(*data)
    assert bits(estimator) == before
    np.testing.assert_array_equal(predictions(kind, estimator), predicted)
    fit(estimator, *data)


def test_a_checkpoint_of_before_the_failure_is_kept(path):
    fit(make(max_iter=2, checkpoint=path), RAGGED, NUMBERS)
    before = path.read_bytes()

    def fail():
        raise FloatingPointError("loss is nan")

    with in_batch(2, 1, fail), pytest.raises(FloatingPointError):
        fit(make(max_iter=4, checkpoint=path, resume=True), RAGGED, NUMBERS)
    assert path.read_bytes() == before


# Progress.


@pytest.mark.parametrize("kind", CASES)
def test_silence(kind, capfd):
    fit(make(kind, max_iter=3, verbose=False), *CASES[kind][1])
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("verbose", [True, 1, 2])
@pytest.mark.parametrize("kind", CASES)
def test_without_a_terminal_an_epoch_is_a_line(kind, verbose, capfd):
    estimator = fit(make(kind, max_iter=3, verbose=verbose), *CASES[kind][1])
    out, err = capfd.readouterr()
    lines = out.splitlines()
    assert err == "" and len(lines) == 3
    for k, (line, loss) in enumerate(zip(lines, estimator.loss_curve_, strict=True)):
        assert line.startswith(f"Iteration {k + 1}, loss = {loss:.6g}"), line
    if estimator.early_stopping:
        assert lines[2].endswith(f", val_score = {estimator.validation_scores_[2]:.6g}")


@pytest.mark.parametrize(("early", "what"), [(False, "Training loss"), (True, "Validation score")])
def test_the_reason_of_the_end_is_told(early, what, capsys):
    make(verbose=True, tol=10.0, n_iter_no_change=1, max_iter=50, early_stopping=early).fit(RAGGED, NUMBERS)
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == f"{what} did not improve more than tol=10 for 1 consecutive epochs."


def test_a_resumed_fit_counts_on(path, capsys):
    fit(make(max_iter=2, checkpoint=path), RAGGED, NUMBERS)
    fit(make(max_iter=4, checkpoint=path, resume=True, verbose=True), RAGGED, NUMBERS)
    assert [line.partition(",")[0] for line in capsys.readouterr().out.splitlines()] == ["Iteration 3", "Iteration 4"]


def test_partial_fit_shows_one_line(capsys):
    make(verbose=True).partial_fit(RAGGED, NUMBERS)
    assert re.fullmatch(r"Iteration 1, loss = \S+\n", capsys.readouterr().out)


TERMINAL = """
    import sys, warnings
    import numpy as np
    from lstmx import LSTMRegressor
    warnings.simplefilter("ignore")
    X = np.random.default_rng(0).normal(size=(20, 5, 2))
    def fit(verbose, tol=0):
        LSTMRegressor(4, max_iter=4, verbose=verbose, n_iter_no_change=1, tol=tol).fit(X, X.sum((1, 2)))
        for file in (sys.stdout, sys.stderr):
            print("----", file=file, flush=True)
    fit(True)
    fit(True, tol=10)
    fit(2)
    fit(False)
    sys.modules["tqdm"] = None
    fit(True)
    """


def test_on_a_terminal_there_is_a_bar():
    """Standard error is a pseudo-terminal of 80 columns, standard output a pipe."""
    pytest.importorskip("tqdm")
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))
    try:
        command = [sys.executable, "-P", "-c", textwrap.dedent(TERMINAL)]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=slave, text=True, env=CHILD)
        os.close(slave)
        shown = io.BytesIO()
        with contextlib.suppress(OSError):  # Linux says EIO when the other side is closed
            while part := os.read(master, 4096):
                shown.write(part)
        out, _ = child.communicate(timeout=LIMIT)
    finally:
        os.close(master)
    shown = shown.getvalue().decode().replace("\r\n", "\n")
    assert child.returncode == 0, shown
    outs, errs = out.split("----\n"), shown.split("----\n")
    bar, ended, lines, silent, without_tqdm = range(5)
    assert outs[bar] == "" and outs[ended] == ""
    assert "4/4" in errs[bar] and "epoch" in errs[bar] and "loss=" in errs[bar] and "Iteration" not in errs[bar]
    assert errs[bar].count("\n") == 1  # one bar for all epochs
    assert "3/4" in errs[ended] and errs[ended].splitlines()[-1].startswith("Training loss did not improve more than")
    for case in (lines, without_tqdm):
        assert outs[case].count("Iteration ") == 4 and errs[case] == ""
    assert outs[silent] == "" and errs[silent] == ""


# scikit-learn's own callbacks.


class Record:
    """A FitCallback that writes down what it is told, and may stop training."""

    def __init__(self, stop_at=None):
        self.stop_at, self.events, self.scores, self.data = stop_at, [], [], []

    def setup(self, estimator, context):
        self.events.append("setup")

    def teardown(self, estimator, context):
        self.events.append("teardown")

    def on_fit_task_begin(self, estimator, context, *, X=None, y=None, metadata=None):
        self.events.append(f"begin {context.task_name} {context.task_id}")
        self.data.append((X, y, metadata))

    def on_fit_task_end(self, estimator, context, *, X=None, y=None, fitted_estimator=None):
        self.events.append(f"end {context.task_name} {context.task_id}")
        self.scores.append(fitted_estimator)
        return context.task_name == "epoch" and context.task_id == self.stop_at


class Handed(Record):
    """One that an outer estimator hands on to those within."""

    max_propagation_depth = None


@pytest.fixture
def sklearn_callback():
    return pytest.importorskip("sklearn.callback", reason="scikit-learn before 1.9")


WANTED = ["setup", "begin fit 0", "begin epoch 0", "end epoch 0", "begin epoch 1", "end epoch 1", "end fit 0", "teardown"]  # fmt: skip  # noqa: E501


@pytest.mark.parametrize("kind", CASES)
def test_a_callback_is_told_of_every_epoch(kind, sklearn_callback):
    data, record = CASES[kind][1], Record()
    estimator = fit(make(kind, max_iter=2).set_callbacks(record), *data)
    assert record.events == WANTED
    y = data[0] if kind == "forecaster" else data[1] if len(data) > 1 else None
    assert all(told[1] is y and told[2] is None for told in record.data)
    if kind != "forecaster":
        assert all(told[0] is data[0] for told in record.data)
    # The weights of the moment: after epoch k those of a fit of k epochs.
    for k, then in enumerate(record.scores[:2]):
        short = fit(make(kind, max_iter=k + 1), *data)
        assert flat(then.parameters_) == flat(short.parameters_) and then.n_iter_ == k + 1
        assert then.loss_curve_ == short.loss_curve_
    assert flat(record.scores[2].parameters_) == flat(estimator.parameters_)
    # Callbacks that look change nothing.
    assert_same(kind, estimator, fit(make(kind, max_iter=2), *data))


@pytest.mark.parametrize("kind", CASES)
def test_a_callback_predicts_as_if_training_had_ended(kind, sklearn_callback):
    """With thresholds, and errors of the intervals, that are found after training."""
    data, record = CASES[kind][1], Record()
    fit(make(kind, max_iter=2).set_callbacks(record), *data)
    for k, then in enumerate(record.scores[:2]):
        short = fit(make(kind, max_iter=k + 1), *data)
        np.testing.assert_array_equal(predictions(kind, then), predictions(kind, short))
        if kind == "detector":
            np.testing.assert_array_equal(then.predict(EVEN), short.predict(EVEN))


def test_a_callback_sees_the_best_weights_so_far(sklearn_callback):
    """Were training to end here, early stopping would give these."""
    options = {"learning_rate_init": 2.0, "early_stopping": True, "validation_fraction": 0.3, "max_iter": 6}
    record = Record()
    whole = fit(make(**options).set_callbacks(record), RAGGED, NUMBERS)
    assert int(np.argmax(whole.validation_scores_)) < 5
    assert flat(record.scores[5].parameters_) == flat(whole.parameters_)


@pytest.mark.parametrize("kind", CASES)
def test_a_callback_stops_training(kind, sklearn_callback, path):
    data, record = CASES[kind][1], Record(stop_at=1)
    estimator = make(kind, max_iter=5, checkpoint=path, checkpoint_every=4).set_callbacks(record)
    estimator.fit(*data)  # no ConvergenceWarning: it was not max_iter that ended it
    assert estimator.n_iter_ == 2 and record.events == WANTED
    assert_same(kind, estimator, fit(make(kind, max_iter=2), *data))
    # "And at the end": the checkpoint was written, and training goes on from it.
    resumed = fit(make(kind, max_iter=5, checkpoint=path, resume=True), *data)
    assert_same(kind, resumed, fit(make(kind, max_iter=5), *data))


def test_metadata_are_those_of_training(sklearn_callback):
    weight, record = np.arange(26.0), Record()
    fit(make(max_iter=1).set_callbacks(record), RAGGED, NUMBERS, weight, X_val=RAGGED, y_val=NUMBERS)
    assert all(told[2].keys() == {"sample_weight"} and told[2]["sample_weight"] is weight for told in record.data)


@pytest.mark.parametrize("wrong", ["stop", "fail", "teardown"])
def test_callbacks_are_torn_down_whatever_happens(wrong, sklearn_callback):
    record = Record()
    estimator = make(max_iter=3).set_callbacks(record)
    if wrong == "fail":
        with in_batch(1, 1, stop), pytest.raises(Stop):
            estimator.fit(RAGGED, NUMBERS)
    elif wrong == "stop":
        with interrupted(1):
            estimator.fit(RAGGED, NUMBERS)
    else:
        fit(estimator, RAGGED, NUMBERS)
    assert record.events[-1] == "teardown" and record.events.count("setup") == record.events.count("teardown") == 1
    assert not hasattr(estimator, "_callback_fit_ctx")


def test_partial_fit_is_no_fit(sklearn_callback):
    """One part of the data: no task, and nothing left behind, as no teardown would follow."""
    record = Record()
    estimator = make().set_callbacks(record)
    estimator.partial_fit(RAGGED, NUMBERS).partial_fit(RAGGED, NUMBERS)
    assert record.events == [] and not hasattr(estimator, "_callback_fit_ctx")
    pickle.dumps(estimator)


def test_scores_are_monitored(sklearn_callback):
    monitor = sklearn_callback.ScoringMonitor(scoring="r2")
    estimator = make(max_iter=3, dropout=0.0).set_callbacks(monitor)
    fit(estimator, EVEN, NUMBERS, np.ones(26), X_val=EVEN, y_val=NUMBERS)
    rows = [row for row in monitor.get_logs().data if row["task_name"] == "epoch"]
    assert [row["task_id"] for row in rows] == [0, 1, 2]
    wanted = [fit(make(max_iter=k + 1, dropout=0.0), EVEN, NUMBERS, np.ones(26)).score(EVEN, NUMBERS) for k in range(3)]
    assert [row["r2"] for row in rows] == wanted


def test_a_progress_bar_of_scikit_learn(sklearn_callback, capsys):
    pytest.importorskip("rich")
    fit(make(max_iter=3).set_callbacks(sklearn_callback.ProgressBar()), RAGGED, NUMBERS)
    assert "100%" in capsys.readouterr().out


def test_callbacks_in_a_search_and_in_a_pipeline(sklearn_callback):
    """Where an outer estimator hands its own callbacks on, and where the inner one has some of its own."""
    monitor = sklearn_callback.ScoringMonitor(scoring="accuracy")
    search = GridSearchCV(make("classifier", max_iter=2).set_callbacks(monitor), {"hidden_size": [2, 3]}, cv=2)
    fit(search, EVEN, LABELS)
    rows = monitor.get_logs(select="all")
    epochs = [row for log in rows for row in log.data if row["task_name"] == "epoch"]
    assert len(epochs) == (2 * 2 + 1) * 2 and all(0 <= row["accuracy"] <= 1 for row in epochs)

    record = Record()
    pipe = make_pipeline(SequenceScaler(), make("classifier", max_iter=2).set_callbacks(record))
    fit(pipe, RAGGED, LABELS)
    assert [e for e in record.events if "epoch" in e] == [e for e in WANTED if "epoch" in e]
    assert record.events[0] == "setup" and record.events[-1] == "teardown"

    record = Handed()
    pipe = make_pipeline(make("transformer", max_iter=2), LogisticRegression()).set_callbacks(record)
    fit(pipe, RAGGED, LABELS)
    assert [e for e in record.events if "begin epoch" in e] == ["begin epoch 0", "begin epoch 1"]
    assert pickle.loads(pickle.dumps(pipe)).predict(RAGGED).tolist() == pipe.predict(RAGGED).tolist()


def test_callbacks_are_checked_and_cloned(sklearn_callback):
    with pytest.raises(TypeError, match="callbacks must be instances"):
        make().set_callbacks(Record)
    record = Record()
    fit(clone(make(max_iter=1).set_callbacks(record)), RAGGED, NUMBERS)
    assert record.events[-1] == "teardown"


def test_before_scikit_learn_1_9_all_else_works(tmp_path):
    """Modules of scikit-learn import sklearn.callback themselves, so it is hidden after they have."""
    code = f"""
        import sys, warnings
        import numpy as np
        import sklearn.linear_model, sklearn.pipeline, sklearn.model_selection, sklearn.covariance
        sys.modules["sklearn.callback"] = None
        import lstmx
        from lstmx.estimators import _training
        assert not hasattr(lstmx.LSTMClassifier, "set_callbacks")
        warnings.simplefilter("ignore", sklearn.exceptions.ConvergenceWarning)
        X = np.random.default_rng(0).normal(size=(20, 5, 2))
        y = (X[:, 0, 0] > 0).astype(int)
        path = {str(tmp_path / "x")!r}
        options = dict(hidden_size=3, max_iter=2, random_state=0)
        clf = lstmx.LSTMClassifier(verbose=True, checkpoint=path, **options).fit(X, y)
        clf.partial_fit(X, y)
        lstmx.LSTMClassifier(checkpoint=path, resume=True, **options).fit(X, y)
        reg = lstmx.LSTMRegressor(early_stopping=True, **options).fit(X, X.sum((1, 2)))
        lstmx.LSTMAnomalyDetector(**options).fit(X).predict(X)
        lstmx.LSTMTransformer(**options).fit_transform(X)
        lstmx.LSTMForecaster(4, **options).fit(X[0, :, 0].repeat(8)).predict(3)
        print(clf.predict(X).shape)
        """
    done = subprocess.run([sys.executable, "-P", "-W", "error", "-c", textwrap.dedent(code)], capture_output=True,
                          text=True, timeout=60, env=CHILD)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "(20,)"


# Learning curves.


@pytest.fixture
def pyplot():
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    from matplotlib import pyplot

    yield pyplot
    pyplot.close("all")


def lines(display):
    return {line.get_label(): (line.get_xdata().tolist(), line.get_ydata().tolist()) for line in display.lines_}


def test_the_training_loss_is_drawn(pyplot):
    estimator = fit(make(max_iter=4), RAGGED, NUMBERS)
    display = lstmx.LossCurveDisplay.from_estimator(estimator)
    assert lines(display) == {"training loss": ([1, 2, 3, 4], estimator.loss_curve_)}
    assert display.score_ax_ is None and display.figure_ is display.ax_.figure and len(display.figure_.axes) == 1
    assert (display.ax_.get_xlabel(), display.ax_.get_ylabel()) == ("epoch", "loss")
    assert display.ax_.get_title() == "LSTMRegressor"
    assert [text.get_text() for text in display.ax_.get_legend().get_texts()] == ["training loss"]


@pytest.mark.parametrize("given", [False, True])
def test_scores_have_an_axis_of_their_own(given, pyplot):
    """With early stopping, and with validation data without it."""
    if given:
        estimator = fit(make(max_iter=4), RAGGED, NUMBERS, X_val=EVEN, y_val=NUMBERS)
    else:
        estimator = fit(make("classifier", max_iter=4), RAGGED, LABELS)
    display = lstmx.LossCurveDisplay.from_estimator(estimator)
    epochs = [1, 2, 3, 4]
    assert lines(display) == {
        "training loss": (epochs, estimator.loss_curve_),
        "validation loss": (epochs, estimator.validation_loss_curve_),
        "validation score": (epochs, estimator.validation_scores_),
    }
    assert [line.axes is display.score_ax_ for line in display.lines_] == [False, False, True]
    assert display.score_ax_.get_shared_x_axes().joined(display.ax_, display.score_ax_)
    assert display.score_ax_.get_ylabel() == "score" and display.score_ax_.yaxis.get_label_position() == "right"
    assert len(display.ax_.get_legend().get_texts()) == 3


def test_an_axis_a_name_and_styles_are_taken(pyplot):
    ax = pyplot.subplots()[1]
    estimator = fit(make("classifier", max_iter=2), RAGGED, LABELS)
    display = lstmx.LossCurveDisplay.from_estimator(estimator, ax=ax, name="mine", linewidth=5, color="red")
    assert display.ax_ is ax and ax.get_title() == "mine"
    assert all(line.get_linewidth() == 5 and line.get_color() == "red" for line in display.lines_)
    again = display.plot(name="other")
    assert again is display and display.ax_ is not ax and display.ax_.get_title() == "other"


def test_a_warm_start_draws_one_curve(pyplot):
    estimator = fit(make(max_iter=3, warm_start=True), RAGGED, NUMBERS)
    fit(estimator, RAGGED, NUMBERS)
    assert lines(lstmx.LossCurveDisplay.from_estimator(estimator))["training loss"][0] == [1, 2, 3, 4, 5, 6]


def test_an_estimator_without_a_whole_epoch_is_drawn_empty(pyplot):
    estimator = make(max_iter=3)
    with interrupted(0, 0):
        estimator.fit(RAGGED, NUMBERS)
    assert lstmx.LossCurveDisplay.from_estimator(estimator).lines_ == []


def test_what_has_no_curve_is_an_error(pyplot):
    with pytest.raises(NotFittedError, match="LSTMRegressor instance is not fitted yet"):
        lstmx.LossCurveDisplay.from_estimator(make())
    pipe = fit(make_pipeline(SequenceScaler(), make(max_iter=1)), RAGGED, NUMBERS)
    with pytest.raises(TypeError, match=r"estimator: got Pipeline, must be .* of a pipeline give the last step, pipe\[-1\]"):  # fmt: skip  # noqa: E501
        lstmx.LossCurveDisplay.from_estimator(pipe)
    lstmx.LossCurveDisplay.from_estimator(pipe[-1])
    for other in (LogisticRegression(), SequenceScaler().fit(RAGGED), None, LSTMRegressor):
        with pytest.raises(TypeError, match=r"estimator: got .*, must be an estimator of lstmx that trains"):
            lstmx.LossCurveDisplay.from_estimator(other)
    assert pyplot.get_fignums() == [1]
