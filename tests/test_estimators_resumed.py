"""Fits that go on from a checkpoint, to the bit; and what does not go together with one."""

import copy
import pickle

import numpy as np
import pytest

pytest.importorskip("sklearn")
from estimators_data import (
    CASES,
    EVEN,
    LABELS,
    NUMBERS,
    RAGGED,
    RNG,
    SERIES,
    Stop,
    assert_same,
    bits,
    fit,
    flat,
    in_batch,
    make,
    predictions,
    stop,
)
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from lstmx import storage
from lstmx.estimators import _training

pytestmark = pytest.mark.usefixtures("no_waiting_for_the_disk")

BATCHES = 3  # an epoch has at least so many in every case below


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


def test_a_checkpoint_from_before_a_parameter_is_gone_on_from(path):
    """As if it had been written with the value that is the default now."""
    wanted = fit(make("detector", max_iter=4), RAGGED)
    fit(make("detector", max_iter=2, checkpoint=path), RAGGED)
    config, arrays = storage.read(path)
    assert config["identity"].pop("missing") == "'error'"
    storage.write(path, config, arrays)
    with pytest.raises(
        ValueError, match=r"^resume: the checkpoint was written with missing='error', now it is 'impute'"
    ):
        fit(make("detector", max_iter=4, checkpoint=path, resume=True, missing="impute"), RAGGED)
    assert_same("detector", fit(make("detector", max_iter=4, checkpoint=path, resume=True), RAGGED), wanted)


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
