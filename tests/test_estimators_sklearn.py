"""The estimators as scikit-learn's tools use them, and training by the rules of MLPClassifier.

Two fits that do the same arithmetic are compared to the bit. Where the order of sums differs, SUMS says by how much.
"""

import copy
import inspect
import io
import os
import pickle
import warnings
from concurrent.futures import ThreadPoolExecutor

import hypothesis
import joblib
import numpy as np
import pytest
from hypothesis import strategies as st

pytest.importorskip("sklearn")
import sklearn
from sklearn.base import clone, is_classifier, is_outlier_detector, is_regressor
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import StackingClassifier, VotingRegressor
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, log_loss, make_scorer, r2_score
from sklearn.model_selection import (
    GridSearchCV,
    KFold,
    StratifiedKFold,
    TimeSeriesSplit,
    cross_val_predict,
    cross_val_score,
)
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.neural_network._stochastic_optimizers import SGDOptimizer
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.utils.class_weight import compute_sample_weight

import lstmx
from lstmx import LSTMAnomalyDetector, LSTMClassifier, LSTMRegressor, LSTMTransformer, SequenceScaler
from lstmx._core import job
from lstmx.estimators import _supervised
from lstmx.training import Watcher

QUICK = {"hidden_size": 5, "max_iter": 3, "batch_size": 8, "random_state": 0}
# Sums of up to 200 terms in another order, in float64, through some 10 steps of gradient descent at rates up to 0.5.
SUMS = {"rtol": 1e-10, "atol": 1e-12}

pytestmark = [
    # Three epochs seldom converge, and here it does not matter.
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    # LogisticRegression of scikit-learn 1.6 in SciPy 1.16.
    pytest.mark.filterwarnings("ignore:scipy.optimize:DeprecationWarning"),
]


def data(count=40, steps=6, features=2, seed=0):
    """(3-D array, padded array, ragged list, labels): the last two hold the same sequences."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, steps, features))
    y = rng.permutation(np.arange(count) % 2)
    x[:, :, 0] += 0.7 * y[:, None]
    lengths = rng.integers(2, steps + 1, size=count)
    lengths[0] = steps
    padded = np.where((np.arange(steps) < lengths[:, None])[:, :, None], x, np.nan)
    return x, padded, [a[:n] for a, n in zip(x, lengths, strict=True)], y


def make(cls, **parameters):
    return cls(**(QUICK | parameters)) if cls is not SequenceScaler else cls()


def weights(estimator):
    return [p.tobytes() for p in estimator.parameters_.values()]


def said(estimator, X):
    """All that an estimator says about X, as bytes."""
    methods = ("predict", "predict_proba", "transform", "score_samples", "score_steps")
    found = [getattr(estimator, name)(X) for name in methods if hasattr(estimator, name)]
    return [np.asarray(a).tobytes() for f in found for a in (f if isinstance(f, list) else [f])]


EVERY = [LSTMClassifier, LSTMRegressor, LSTMAnomalyDetector, LSTMTransformer, SequenceScaler]
SUPERVISED = [LSTMClassifier, LSTMRegressor]


# Parameters, copies and files.


@pytest.mark.parametrize("cls", EVERY)
def test_clone_has_the_parameters_and_nothing_that_was_learnt(cls):
    X, _, _, y = data()
    estimator = make(cls).fit(X, y)
    other = clone(estimator)
    assert other.get_params() == estimator.get_params() and other is not estimator
    assert said(other.fit(X, y), X) == said(estimator, X)
    with pytest.raises(NotFittedError):
        said(clone(estimator), X)


@pytest.mark.parametrize("cls", EVERY)
def test_every_argument_is_a_parameter_and_set_params_sets_it(cls):
    names = set(inspect.signature(cls.__init__).parameters) - {"self"}
    estimator = cls()
    assert set(estimator.get_params()) == names
    for name, parameter in inspect.signature(cls).parameters.items():
        # scikit-learn's rule: __init__ stores what it is given, the very object, and checks nothing.
        assert getattr(estimator, name) is parameter.default
        something = object()
        assert getattr(cls(**{name: something}), name) is something
        assert getattr(estimator.set_params(**{name: something}), name) is something
    with pytest.raises(ValueError, match="Invalid parameter 'hidden'"):
        estimator.set_params(hidden=3)


def test_parameters_of_mlp_classifier_have_its_names_and_meaning_of_kind():
    ours, theirs = LSTMClassifier().get_params(), MLPClassifier().get_params()
    without = {"activation", "hidden_layer_sizes", "max_fun"}  # of other nets, and of L-BFGS
    assert set(theirs) - without <= set(ours)
    different = {name for name in set(theirs) - without if ours[name] != theirs[name]}
    assert different == {"learning_rate_init", "n_iter_no_change"}


@pytest.mark.parametrize("cls", EVERY)
def test_the_kind_is_known_to_scikit_learn(cls):
    estimator = cls()
    assert is_classifier(estimator) == (cls is LSTMClassifier)
    assert is_regressor(estimator) == (cls is LSTMRegressor)
    assert is_outlier_detector(estimator) == (cls is LSTMAnomalyDetector)


@pytest.mark.parametrize("cls", EVERY)
def test_repr_shows_what_was_changed_and_html_whether_it_is_fitted(cls):
    X, _, _, y = data()
    estimator = make(cls)
    assert repr(cls()) == f"{cls.__name__}()"
    assert cls is SequenceScaler or "hidden_size=5" in repr(estimator)
    before, after = estimator._repr_html_(), estimator.fit(X, y)._repr_html_()
    assert "Not fitted" in before and "Not fitted" not in after and "Fitted" in after
    assert cls.__name__ in after
    assert cls.__name__ in make_pipeline(SequenceScaler(), estimator)._repr_html_()


COPIES = {
    "pickle": lambda e, path: pickle.loads(pickle.dumps(e)),
    "pickle protocol 2": lambda e, path: pickle.loads(pickle.dumps(e, 2)),
    "deepcopy": lambda e, path: copy.deepcopy(e),
    "copy": lambda e, path: copy.copy(e),
    "joblib": lambda e, path: joblib.load(joblib.dump(e, path)[0]),
    "joblib, compressed": lambda e, path: joblib.load(joblib.dump(e, path, compress=3)[0]),
    "joblib, mapped": lambda e, path: joblib.load(joblib.dump(e, path)[0], mmap_mode="r"),
    "skops": lambda e, path: _through_skops(e),
}


def _through_skops(estimator):
    skops = pytest.importorskip("skops.io")
    content = skops.dumps(estimator)
    untrusted = skops.get_untrusted_types(data=content)
    assert untrusted == [f"{type(estimator).__module__}.{type(estimator).__qualname__}"]
    return skops.loads(content, trusted=untrusted)


@pytest.mark.parametrize("way", COPIES)
@pytest.mark.parametrize("cls", EVERY)
def test_copies_say_the_same_bits(cls, way, tmp_path):
    X, _, ragged, y = data()
    estimator = make(cls).fit(X, y)
    other = COPIES[way](estimator, str(tmp_path / "estimator"))
    assert said(other, X) == said(estimator, X)
    assert [said(other, [a]) for a in ragged[:3]] == [said(estimator, [a]) for a in ragged[:3]]
    assert other.get_params() == estimator.get_params()
    assert set(vars(other)) == set(vars(estimator))
    for name in set(vars(estimator)) - {"_predictor", "_moments"}:
        np.testing.assert_equal(getattr(other, name), getattr(estimator, name))


@pytest.mark.parametrize("way", sorted(set(COPIES) - {"copy"}))
@pytest.mark.parametrize("cls", SUPERVISED)
def test_copies_go_on_learning_the_same_bits(cls, way, tmp_path):
    X, _, _, y = data()
    estimator = make(cls, dropout=0.3).fit(X, y)
    other = COPIES[way](estimator, str(tmp_path / "estimator"))
    before = weights(estimator)
    assert weights(other.partial_fit(X, y)) != before
    assert weights(estimator) == before  # nothing is shared
    assert weights(estimator.partial_fit(X, y)) == weights(other)


@pytest.mark.parametrize("way", sorted(set(COPIES) - {"joblib, mapped"}))
@pytest.mark.parametrize("cls", EVERY)
def test_an_estimator_that_is_not_fitted_is_copied_too(cls, way, tmp_path):
    other = COPIES[way](make(cls), str(tmp_path / "estimator"))
    assert other.get_params() == make(cls).get_params()
    with pytest.raises(NotFittedError):
        said(other, data()[0])


PLAIN = (np.ndarray, str, bytes, bool, int, float, type(None), np.number)


def leaves(value):
    if isinstance(value, dict):
        assert all(type(key) is str for key in value)
        return [leaf for v in value.values() for leaf in leaves(v)]
    if type(value) in (list, tuple):
        return [leaf for v in value for leaf in leaves(v)]
    return [value]


@pytest.mark.parametrize("cls", EVERY)
def test_fitted_state_is_plain_arrays_and_numbers(cls):
    X, _, _, y = data()
    state = make(cls).fit(X, y).__getstate__()
    assert all(isinstance(leaf, PLAIN) for leaf in leaves(state))
    assert not any(isinstance(leaf, np.ndarray) and leaf.dtype == object for leaf in leaves(state))
    # Nothing of lstmx but the class itself is named in the pickle, so that inner modules can move.
    named = pickle.dumps(make(cls).fit(X, y), 2)
    assert named.count(b"lstmx.") == 1 and f"{cls.__module__}\n{cls.__name__}".encode() in named


# Transformers.


def test_features_have_names_and_come_as_frames_where_wanted():
    pandas = pytest.importorskip("pandas")
    X, _, ragged, _ = data()
    plain = make(LSTMTransformer).fit(X)
    names = [f"lstmtransformer{k}" for k in range(5)]
    assert plain.get_feature_names_out().tolist() == names
    framed = make(LSTMTransformer).set_output(transform="pandas").fit(X)
    for given in (X, ragged):
        frame = framed.transform(given)
        assert isinstance(frame, pandas.DataFrame) and frame.columns.tolist() == names
        assert frame.to_numpy().tobytes() == plain.transform(given).tobytes()
    assert make(LSTMTransformer).fit(X).transform(X).tobytes() == make(LSTMTransformer).fit_transform(X).tobytes()


def test_a_scaler_of_a_frame_keeps_its_columns_and_index():
    pandas = pytest.importorskip("pandas")
    X = pandas.DataFrame(data()[0][:, :, 0], columns=[f"t{t}" for t in range(6)], index=range(100, 140))
    scaler = SequenceScaler().set_output(transform="pandas").fit(X)
    assert scaler.get_feature_names_out().tolist() == X.columns.tolist()
    frame = scaler.transform(X)
    assert frame.columns.equals(X.columns) and frame.index.equals(X.index)
    assert frame.to_numpy().tobytes() == SequenceScaler().fit_transform(X.to_numpy()).tobytes()


def test_names_of_features_of_sequences():
    X, _, ragged, _ = data()
    for given in (X, ragged):
        assert SequenceScaler().fit(given).get_feature_names_out().tolist() == ["x0", "x1"]
        assert SequenceScaler().fit(given).get_feature_names_out(["a", "b"]).tolist() == ["a", "b"]


# Searches, pipelines and meta-estimators: ragged sequences as a list and padded are one and the same to all of them.


def by_hand(estimator, X, y, cv):
    take = (lambda k: [X[i] for i in k]) if isinstance(X, list) else (lambda k: X[k])
    return [
        clone(estimator).fit(take(train), y[train]).score(take(test), y[test])
        for train, test in cv.split(np.zeros(len(y)), y)
    ]


@pytest.mark.parametrize("cv", [StratifiedKFold(3), TimeSeriesSplit(3)], ids=lambda cv: type(cv).__name__)
@pytest.mark.parametrize("form", ["array", "padded", "list"])
def test_cross_validation_is_that_by_hand(form, cv):
    X, y = dict(zip(("array", "padded", "list"), data()[:3], strict=True))[form], data()[3]
    pipeline = make_pipeline(SequenceScaler(), make(LSTMClassifier))
    for estimator in (make(LSTMClassifier), pipeline):
        scores = cross_val_score(estimator, X, y, cv=cv, error_score="raise")
        assert scores.tolist() == by_hand(estimator, X, y, cv)
        assert len(set(scores)) > 1


@pytest.mark.parametrize("cv", [KFold(3), TimeSeriesSplit(3)], ids=lambda cv: type(cv).__name__)
@pytest.mark.parametrize("target", ["sequence", "step"])
def test_cross_validation_of_regressors_is_that_by_hand(target, cv):
    X, _, _, _ = data()
    y = X.cumsum(axis=1) if target == "step" else X.sum(axis=(1, 2))
    regressor = make(LSTMRegressor, target=target)
    scores = cross_val_score(regressor, X, y, cv=cv, error_score="raise")
    assert scores.tolist() == by_hand(regressor, X, y, cv)


def test_a_search_in_two_processes_finds_what_one_finds():
    X, padded, ragged, y = data()
    pipeline = Pipeline([("scale", SequenceScaler()), ("clf", make(LSTMClassifier))])
    grid = {"clf__hidden_size": [2, 6], "clf__learning_rate_init": [0.003, 0.03], "scale__with_std": [True, False]}
    found = {}
    for name, given, jobs in (("padded", padded, 1), ("list", ragged, 1), ("two jobs", ragged, 2), ("array", X, 2)):
        search = GridSearchCV(pipeline, grid, cv=2, n_jobs=jobs, scoring="neg_log_loss", error_score="raise")
        search.fit(given, y)
        found[name] = search.cv_results_["mean_test_score"].tobytes(), weights(search.best_estimator_[-1])
    assert found["padded"] == found["list"] == found["two jobs"] != found["array"]


@pytest.mark.parametrize("meta", ["stacking", "calibration", "calibration, not an ensemble", "predict"])
def test_meta_estimators_take_sequences(meta):
    X, padded, ragged, y = data()

    def outcome(given):
        base = make(LSTMClassifier)
        if meta == "predict":
            return cross_val_predict(base, given, y, cv=3, method="predict_proba")
        if meta == "stacking":
            estimators = [("a", base), ("b", make_pipeline(SequenceScaler(), clone(base).set_params(hidden_size=3)))]
            return StackingClassifier(estimators, LogisticRegression(), cv=3).fit(given, y).predict_proba(given)
        ensemble = meta == "calibration"
        return CalibratedClassifierCV(base, cv=3, ensemble=ensemble).fit(given, y).predict_proba(given)

    found = outcome(padded)
    assert np.array_equal(found, outcome(ragged))
    assert not np.array_equal(found, outcome(X))
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-12, atol=0)  # a few roundings
    # The stacking's features are the probabilities of models that did not see the row; so none is certain.
    assert len(np.unique(found[:, 0])) > 10


def test_regressors_are_averaged():
    X, _, ragged, _ = data()
    y = np.linspace(-1, 1, 40)
    members = [("a", make(LSTMRegressor)), ("b", make(LSTMRegressor, hidden_size=3))]
    for given in (X, ragged):
        want = np.mean([e.fit(given, y).predict(given) for _, e in members], axis=0)
        np.testing.assert_allclose(VotingRegressor(members).fit(given, y).predict(given), want, rtol=1e-12, atol=1e-14)


# Metadata routing.


@pytest.fixture
def routing():
    with sklearn.config_context(enable_metadata_routing=True):
        yield


def weighted_parts():
    X, _, _, y = data()
    extra, _, _, labels = data(count=7, seed=1)
    return X, y, np.random.default_rng(2).uniform(0.5, 2, size=40), extra, labels


def requests():
    scaler = SequenceScaler().set_fit_request(sample_weight=True)
    return scaler, make(LSTMClassifier).set_fit_request(sample_weight=True, X_val=True, y_val=True)


def test_weights_and_validation_data_are_routed_through_a_pipeline(routing):
    X, y, weight, extra, labels = weighted_parts()
    scaler, classifier = requests()
    # X_val goes the way of X where the pipeline is told so, else as it is.
    for transform in (None, ["X_val"]):
        pipeline = Pipeline([("s", clone(scaler)), ("c", clone(classifier))], transform_input=transform)
        pipeline.fit(X, y, sample_weight=weight, X_val=extra, y_val=labels)
        one = SequenceScaler().fit(X, sample_weight=weight)
        two = make(LSTMClassifier).fit(
            one.transform(X), y, weight, X_val=extra if transform is None else one.transform(extra), y_val=labels
        )
        assert pipeline[0].mean_.tobytes() == one.mean_.tobytes()
        assert weights(pipeline[1]) == weights(two)
        assert pipeline[1].validation_loss_curve_ == two.validation_loss_curve_
    assert weights(two) != weights(make(LSTMClassifier).fit(one.transform(X), y))  # the weights did something


def test_weights_and_validation_data_are_routed_through_a_search(routing):
    X, y, weight, extra, labels = weighted_parts()
    scaler, classifier = requests()
    pipeline = Pipeline([("s", scaler), ("c", classifier)], transform_input=["X_val"])
    cv = StratifiedKFold(2)
    scorer = make_scorer(accuracy_score).set_score_request(sample_weight=True)
    search = GridSearchCV(pipeline, {"c__hidden_size": [5]}, cv=cv, scoring=scorer, error_score="raise")
    search.fit(X, y, sample_weight=weight, X_val=extra, y_val=labels)

    def fit(k):
        one = SequenceScaler().fit(X[k], sample_weight=weight[k])
        return one, make(LSTMClassifier).fit(one.transform(X[k]), y[k], weight[k], X_val=one.transform(extra),
                                             y_val=labels)  # fmt: skip

    for n, (train, test) in enumerate(cv.split(X, y)):
        one, two = fit(train)
        assert search.cv_results_[f"split{n}_test_score"][0] == two.score(one.transform(X[test]), y[test], weight[test])
    best = search.best_estimator_[1]
    assert weights(best) == weights(fit(np.arange(40))[1])
    assert best.validation_loss_curve_ == fit(np.arange(40))[1].validation_loss_curve_


def test_what_is_routed_must_be_asked_for(routing):
    X, y, weight, _, _ = weighted_parts()
    with pytest.raises(sklearn.exceptions.UnsetMetadataPassedError, match="sample_weight"):
        make_pipeline(make(LSTMClassifier)).fit(X, y, sample_weight=weight)


# Weights.


@pytest.mark.parametrize("cls", SUPERVISED)
@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_only_the_ratios_of_weights_matter(cls, solver):
    X, _, ragged, y = data()
    weight = np.random.default_rng(0).uniform(0.5, 2, size=40)
    for given in (X, ragged):
        one = make(cls, solver=solver, alpha=0.0).fit(given, y, weight)
        # By a power of two, so that every product and sum is exactly as much larger.
        other = make(cls, solver=solver, alpha=0.0).fit(given, y, 8 * weight)
        assert weights(one) == weights(other) and one.loss_curve_ == other.loss_curve_
        assert weights(one) != weights(make(cls, solver=solver, alpha=0.0).fit(given, y))
        equal = make(cls, solver=solver).fit(given, y, np.ones(40))
        assert weights(equal) == weights(make(cls, solver=solver).fit(given, y))
        assert weights(equal) == weights(make(cls, solver=solver).fit(given, y, 1.0))


GRADIENT = {"solver": "sgd", "shuffle": False, "max_iter": 5, "momentum": 0.5, "learning_rate_init": 0.3}


@pytest.mark.parametrize("settings", [
    {},  # batches of 8
    {"dropout": 0.3, "learning_rate": "invscaling", "alpha": 0.5},
    {"early_stopping": True, "validation_fraction": 0.3},
    {"early_stopping": True, "validation_fraction": 0.3, "validation_from": "tail", "class_weight": "balanced"},
    {"class_weight": {1: 3.0}},
    {"window": 3, "early_stopping": True},
    {"target": "step"},
    {"warm_start": True},
], ids=str)  # fmt: skip
@pytest.mark.parametrize("cls", [LSTMClassifier, LSTMRegressor, LSTMTransformer])
def test_a_sequence_of_weight_zero_is_left_out_to_the_bit(cls, settings):
    X, padded, ragged, y = data()
    settings = {name: value for name, value in settings.items() if name in cls().get_params()}
    weight = np.random.default_rng(0).integers(0, 3, size=40).astype(float)
    keep = np.flatnonzero(weight)
    assert 5 < len(keep) < 35
    for given in (X, 1e300 * (weight == 0)[:, None, None] + X, padded, ragged):
        target = y
        if settings.get("target") == "step":
            target = [x[:, :1] for x in given] if isinstance(given, list) else X[:, :, :1]
            if cls is LSTMClassifier:
                target = [x > 0 for x in target] if isinstance(given, list) else target > 0
        kept = [[a[k] for k in keep] if isinstance(a, list) else a[keep] for a in (given, target)]
        one, other = make(cls, **settings), make(cls, **settings)
        for _ in range(1 + ("warm_start" in settings)):
            one.fit(given, target, sample_weight=weight)
            other.fit(*kept, sample_weight=weight[keep])
        assert said(one, X) == said(other, X) and weights(one) == weights(other)
        assert one.loss_curve_ == other.loss_curve_ and one.t_ == other.t_
        assert one.validation_scores_ == other.validation_scores_


@pytest.mark.parametrize("cls", SUPERVISED)
def test_a_part_leaves_out_what_has_weight_zero(cls):
    X, _, _, y = data()
    weight = np.random.default_rng(0).integers(0, 3, size=40).astype(float)
    keep, first = np.flatnonzero(weight), {"classes": [0, 1]} if cls is LSTMClassifier else {}
    one, other = make(cls), make(cls)
    for _ in range(3):
        one.partial_fit(X, y, sample_weight=weight, **first)
        other.partial_fit(X[keep], y[keep], sample_weight=weight[keep], **first)
    assert weights(one) == weights(other) and one.t_ == other.t_


def test_a_class_whose_sequences_are_left_out_is_known():
    X, _, _, y = data()
    classifier = make(LSTMClassifier).fit(X, y, sample_weight=y)
    assert classifier.classes_.tolist() == [0, 1] and classifier.predict_proba(X).shape == (40, 2)
    assert weights(classifier) == weights(make(LSTMClassifier, class_weight={0: 0.0}).fit(X, y))
    with pytest.raises(ValueError, match=r"^class_weight: is 0 for every sequence whose sample_weight is not"):
        make(LSTMClassifier, class_weight={0: 0.0}).fit(X, y, sample_weight=1 - y)


@pytest.mark.parametrize("cls", SUPERVISED)
def test_a_weight_of_two_is_a_sequence_given_twice(cls):
    X, _, _, y = data()
    weight = 1.0 + np.arange(40) % 2
    twice = np.repeat(np.arange(40), weight.astype(int))
    one = cls(**QUICK | GRADIENT | {"batch_size": 40, "alpha": 0.5}).fit(X, y, weight)
    other = cls(**QUICK | GRADIENT | {"batch_size": 60, "alpha": 0.5}).fit(X[twice], y[twice])
    for a, b in zip(one.parameters_.values(), other.parameters_.values(), strict=True):
        np.testing.assert_allclose(a, b, **SUMS)


@pytest.mark.parametrize("window", [None, 3])
def test_a_weight_of_the_transformer_is_a_number_of_repeats(window):
    X, _, ragged, _ = data()
    weight = np.random.default_rng(0).integers(0, 4, size=40)
    again = np.repeat(np.arange(40), weight)
    settings = QUICK | GRADIENT | {"batch_size": 1000, "window": window, "alpha": 0.5}
    for given, repeated in ((X, X[again]), (ragged, [ragged[k] for k in again])):
        one = LSTMTransformer(**settings).fit(given, sample_weight=weight)
        other = LSTMTransformer(**settings).fit(repeated)
        np.testing.assert_allclose(one.transform(X), other.transform(X), **SUMS)
        np.testing.assert_allclose(one.loss_curve_, other.loss_curve_, **SUMS)


@hypothesis.given(weight=st.lists(st.integers(0, 4), min_size=6, max_size=6).filter(any), seed=st.integers(0, 99))
def test_a_weight_of_the_scaler_is_a_number_of_repeats(weight, seed):
    weight, again = np.array(weight), np.repeat(np.arange(6), weight)
    X, _, ragged, _ = data(6, seed=seed)
    huge = 1e300 * (weight == 0)[:, None, None] + X
    for given, repeated in ((X, X[again]), (ragged, [ragged[k] for k in again]), (huge, huge[again])):
        one, other = SequenceScaler().fit(given, sample_weight=weight), SequenceScaler().fit(repeated)
        np.testing.assert_allclose(one.mean_, other.mean_, **SUMS)
        np.testing.assert_allclose(one.scale_, other.scale_, **SUMS)


@pytest.mark.parametrize("bad, message", [
    (-np.ones(40), r"^sample_weight: got -1\.0, weights must be at least 0"),
    (np.zeros(40), r"^sample_weight: all weights are zero"),
    (np.ones((40, 2)), r"^sample_weight: got shape \(40, 2\), must be 1D"),
    (np.full(40, np.nan), r"sample_weight contains NaN"),
    (np.ones(39), r"inconsistent numbers of samples"),
])  # fmt: skip
@pytest.mark.parametrize("cls", [LSTMClassifier, LSTMRegressor, LSTMTransformer, SequenceScaler])
def test_wrong_weights_are_errors(cls, bad, message):
    X, _, _, y = data()
    with pytest.raises(ValueError, match=message):
        make(cls).fit(X, y, sample_weight=bad)


@pytest.mark.parametrize("labels", [[0, 1, 2], ["a", "b", "c"]])
def test_class_weights_are_sample_weights(labels):
    X, _, _, _ = data()
    y = np.array(labels)[np.minimum(np.arange(40) // 12, 2)]
    weight = np.random.default_rng(0).uniform(0.5, 2, size=40)
    for given in ("balanced", dict(zip(labels, (0.5, 3.0, 1.5), strict=True)), {labels[1]: 4.0}):
        per_class = compute_sample_weight(given, y)
        assert len(np.unique(per_class)) > 1
        one = make(LSTMClassifier, class_weight=given).fit(X, y)
        assert weights(one) == weights(make(LSTMClassifier).fit(X, y, per_class))
        if given == "balanced":  # with sample weights their sums count
            sums = [weight[y == label].sum() for label in labels]
            per_class = sum(sums) / (3 * np.array(sums))[np.searchsorted(labels, y)]
        one = make(LSTMClassifier, class_weight=given).fit(X, y, weight)
        other = make(LSTMClassifier).fit(X, y, weight * per_class)
        for a, b in zip(one.parameters_.values(), other.parameters_.values(), strict=True):
            np.testing.assert_allclose(a, b, **SUMS)


@pytest.mark.parametrize("several", [False, True])
def test_balanced_classes_count_weights_as_repeats(several):
    X, _, _, _ = data()
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, size=(40, 3)).astype(float) if several else np.minimum(np.arange(40) // 12, 2)
    weight = rng.integers(0, 4, size=40)
    again = np.repeat(np.arange(40), weight)
    settings = QUICK | GRADIENT | {"batch_size": 200, "class_weight": "balanced"}
    one, other = LSTMClassifier(**settings).fit(X, y, weight), LSTMClassifier(**settings).fit(X[again], y[again])
    for a, b in zip(one.parameters_.values(), other.parameters_.values(), strict=True):
        np.testing.assert_allclose(a, b, **SUMS)
    # A class that has no weight is known all the same, and takes nothing from the others.
    one = LSTMClassifier(**settings).fit(X, np.arange(40) % 3, np.arange(40) % 3 > 0)
    assert one.classes_.tolist() == [0, 1, 2] and np.isfinite(one.loss_)


def test_balanced_classes_give_a_rare_class_its_due():
    rng = np.random.default_rng(0)
    y = (np.arange(200) < 10).astype(int)
    X = rng.normal(size=(200, 4, 1)) + 1.0 * y[:, None, None]
    share = {}
    for given in (None, "balanced"):
        classifier = LSTMClassifier(8, class_weight=given, max_iter=30, random_state=0).fit(X, y)
        share[given] = classifier.predict_proba(X)[:, 1].mean()
    # Weighted, the classes are as one to one; without, as 10 to 190. Fits this short reach that roughly.
    assert share[None] < 0.1 < 0.2 < share["balanced"]


# Labels.

LABELS = {
    "integers": [0, 1, 2],
    "integers with gaps": [-7, 3, 1000],
    "floats": [1.0, 2.0, 5.0],
    "uint8": np.array([0, 7, 255], np.uint8),
    "strings": ["cat", "dog", "elephant"],
    "objects": np.array(["a", "bb", "ccc"], object),
    "one boolean": [False, True],
    "two strings": ["no", "yes"],
}


@pytest.mark.parametrize("kind", LABELS)
def test_labels_of_every_kind_come_back(kind):
    X, _, _, _ = data()
    labels = np.asarray(LABELS[kind])
    code = np.random.default_rng(0).integers(0, len(labels), size=40)
    one = make(LSTMClassifier).fit(X, labels[code])
    other = make(LSTMClassifier).fit(X, code)
    with_theirs = MLPClassifier((2,), max_iter=1).fit(X[:, 0], labels[code]).classes_  # strings that are objects
    assert one.classes_.dtype == with_theirs.dtype and one.classes_.tolist() == labels.tolist()
    assert one.predict_proba(X).tobytes() == other.predict_proba(X).tobytes()
    assert one.predict(X).dtype == with_theirs.dtype
    assert one.predict(X).tolist() == labels[other.predict(X)].tolist()
    assert one.score(X, labels[code]) == other.score(X, code)
    np.testing.assert_allclose(np.exp(one.predict_log_proba(X)), one.predict_proba(X), rtol=1e-14, atol=0)
    as_list = make(LSTMClassifier).fit(X, labels[code].tolist())
    assert as_list.predict_proba(X).tobytes() == one.predict_proba(X).tobytes()


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_labels_may_be_a_series(library):
    frames = pytest.importorskip(library)
    X, _, _, y = data()
    labels = np.array(["no", "yes"])[y]
    want = make(LSTMClassifier).fit(X, labels)
    found = make(LSTMClassifier).fit(X, frames.Series("y", labels) if library == "polars" else frames.Series(labels))
    assert found.predict_proba(X).tobytes() == want.predict_proba(X).tobytes()
    assert found.predict(X).tolist() == want.predict(X).tolist()


def test_the_most_probable_class_is_predicted():
    X, _, _, _ = data()
    y = np.arange(40) % 3
    classifier = make(LSTMClassifier, max_iter=20).fit(X, y)
    proba = classifier.predict_proba(X)
    assert np.array_equal(classifier.predict(X), proba.argmax(axis=1)) and len(np.unique(classifier.predict(X))) == 3
    np.testing.assert_allclose(proba.sum(axis=1), 1, rtol=1e-14, atol=0)  # 3 roundings
    # The loss is scikit-learn's, on the weights of the moment: a step of nearly nothing changes none of them.
    still = make(LSTMClassifier, learning_rate_init=1e-300, max_iter=1, alpha=0.0).fit(X, y)
    np.testing.assert_allclose(still.loss_, log_loss(y, still.predict_proba(X)), rtol=1e-12, atol=0)


def test_one_class_is_an_error_and_unknown_labels_are_named():
    X, _, _, y = data()
    with pytest.raises(ValueError, match=r"1 class"):
        make(LSTMClassifier).fit(X, np.zeros(40))
    with pytest.raises(ValueError, match=r"^y_val: has the labels \[7\], which are not among the classes \[0, 1\]"):
        make(LSTMClassifier).fit(X, y, X_val=X[:3], y_val=[0, 7, 1])
    with pytest.raises(ValueError, match=r"Unknown label type: continuous"):
        make(LSTMClassifier).fit(X, np.linspace(0, 1, 40))


def test_multi_label_targets_are_learnt_each_for_itself():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, size=(150, 3))
    X = 0.3 * rng.normal(size=(150, 8, 3)) + y[:, None]
    classifier = LSTMClassifier(8, max_iter=30, random_state=0).fit(X, y)
    proba, labels = classifier.predict_proba(X), classifier.predict(X)
    assert proba.shape == labels.shape == (150, 3) and labels.dtype.kind == "i"
    assert np.array_equal(labels, (proba > 0.5).astype(int))
    assert (labels == y).mean(axis=0).min() > 0.95
    assert np.ptp(proba.sum(axis=1)) > 1  # no softmax
    assert classifier.score(X, y) == accuracy_score(y, labels)
    assert classifier.classes_.tolist() == [0, 1, 2]
    still = LSTMClassifier(8, max_iter=1, learning_rate_init=1e-300, random_state=0).fit(X, y)
    p = still.predict_proba(X)
    np.testing.assert_allclose(still.loss_, -(y * np.log(p) + (1 - y) * np.log(1 - p)).mean(), rtol=1e-12, atol=0)
    with pytest.raises(ValueError, match=r"^y_val: got shape \(150, 2\), must be \(150, 3\) of 0 and 1"):
        classifier.fit(X, y, X_val=X, y_val=y[:, :2])


def test_several_outputs_and_outputs_per_step_are_regressed():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(150, 6, 2))
    y = 100 * X.mean(axis=1) + [5, -300]
    regressor = LSTMRegressor(16, max_iter=150, tol=1e-5, random_state=0).fit(X, y)
    assert regressor.predict(X).shape == (150, 2) and regressor.score(X, y) > 0.95
    assert regressor.score(X, y) == r2_score(y, regressor.predict(X))
    per_step = LSTMRegressor(16, target="step", max_iter=60, random_state=0).fit(X, X.cumsum(axis=1))
    assert per_step.predict(X).shape == X.shape and per_step.score(X, X.cumsum(axis=1)) > 0.95
    # A column is a vector that says how it wants to come back.
    column = make(LSTMRegressor).fit(X, y[:, :1]).predict(X)
    assert column.shape == (150, 1) and np.array_equal(column[:, 0], make(LSTMRegressor).fit(X, y[:, 0]).predict(X))


# Going on.


@pytest.mark.parametrize("solver", ["adam", "adamw", "rmsprop", "sgd"])
@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("cls", SUPERVISED)
def test_partial_fits_are_the_epochs_of_a_fit(cls, shuffle, solver):
    """Over the whole of the data, to the bit, shuffles and dropout included: the generator goes on, too."""
    X, _, ragged, y = data()
    for given in (X, ragged):
        parameters = {"solver": solver, "shuffle": shuffle, "dropout": 0.2, "learning_rate": "invscaling"}
        whole = make(cls, max_iter=4, n_iter_no_change=50, **parameters).fit(given, y)
        parts = make(cls, **parameters)
        classes = {"classes": [0, 1]} if cls is LSTMClassifier else {}
        for _ in range(4):
            parts.partial_fit(given, y, **classes)
        assert weights(parts) == weights(whole)
        assert parts.loss_curve_ == whole.loss_curve_ and parts.t_ == whole.t_ == 160
        assert weights(parts.partial_fit(given, y)) == weights(whole.partial_fit(given, y))


def test_partial_fit_sees_one_epoch_of_what_it_is_given():
    X, _, _, y = data()
    classifier = make(LSTMClassifier, batch_size=5)
    with pytest.raises(ValueError, match=r"^classes: must be passed on the first call"):
        classifier.partial_fit(X, y)
    classifier.partial_fit(X[y == 0], y[y == 0], classes=[0, 1])  # of one class only, which fit refuses
    assert classifier.classes_.tolist() == [0, 1] and classifier.n_iter_ == 1 and classifier.t_ == (y == 0).sum()
    classifier.partial_fit(X[:7], y[:7])
    assert classifier.t_ == (y == 0).sum() + 7 and len(classifier.loss_curve_) == 2
    with pytest.raises(ValueError, match=r"^classes: got \[1, 2\], not the same as on the first call"):
        classifier.partial_fit(X, y, classes=[1, 2])
    with pytest.raises(ValueError, match=r"^y: has the labels \[2\]"):
        classifier.partial_fit(X, np.arange(40) % 3)
    with pytest.raises(ValueError, match=r"^early_stopping: partial_fit"):
        make(LSTMClassifier, early_stopping=True).partial_fit(X, y, classes=[0, 1])


def test_partial_fit_learns_from_parts():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, size=400)
    X = rng.normal(size=(400, 8, 1)) + 1.6 * y[:, None, None]
    classifier = LSTMClassifier(8, random_state=0)
    for part in np.array_split(np.arange(300), 10) * 5:
        classifier.partial_fit(X[part], y[part], classes=[0, 1])
    assert classifier.score(X[300:], y[300:]) > 0.9  # the best there is has 0.99: means differ by 4.5 deviations


@pytest.mark.parametrize("cls", [LSTMClassifier, LSTMRegressor, LSTMTransformer])
def test_warm_starts_add_up(cls):
    """Gradient descent without momentum remembers nothing but the weights, so two fits are one."""
    X, _, _, y = data()
    plain = {"solver": "sgd", "momentum": 0.0, "shuffle": False, "n_iter_no_change": 50}
    whole = make(cls, max_iter=5, **plain).fit(X, y)
    parts = make(cls, max_iter=2, warm_start=True, **plain).fit(X, y)
    first = weights(parts)
    parts.set_params(max_iter=3).fit(X, y)
    assert weights(parts) == weights(whole) != first
    assert parts.loss_curve_ == whole.loss_curve_ and parts.best_loss_ == whole.best_loss_
    assert (parts.n_iter_, whole.n_iter_, parts.t_, whole.t_) == (3, 5, 200, 200)
    # Without warm_start everything begins anew.
    assert weights(parts.set_params(warm_start=False, max_iter=2).fit(X, y)) == first
    assert len(parts.loss_curve_) == 2


def test_a_warm_start_needs_the_same_classes_and_features():
    X, _, _, y = data()
    classifier = make(LSTMClassifier, warm_start=True).fit(X, y)
    with pytest.raises(ValueError, match=r"warm_start needs those of the last fit"):
        classifier.fit(X, y + 1)
    with pytest.raises(ValueError, match=r"^X: got 1 feature .* fitted with 2"):
        classifier.fit(X[:, :, :1], y)


# Early stopping.


def hard(count=120, seed=0):
    """Data that a network learns by heart while its score on others falls."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, size=count)
    return rng.normal(size=(count, 5, 2)) + 0.4 * y[:, None, None], y


OVERFIT = {"hidden_size": 16, "max_iter": 40, "learning_rate_init": 0.05, "random_state": 0, "n_iter_no_change": 8}


def test_the_best_weights_are_restored():
    X, y = hard()
    other, labels = hard(20, seed=1)
    classifier = LSTMClassifier(**OVERFIT, early_stopping=True).fit(X, y, X_val=other, y_val=labels)
    scores = classifier.validation_scores_
    assert max(scores) > scores[-1]  # there was something to restore
    assert scores.count(max(scores)) > 1  # the first of the best is kept, as in MLPClassifier
    assert classifier.score(other, labels) == max(scores) == classifier.best_validation_score_
    assert classifier.best_loss_ is None
    best = int(np.argmax(scores))
    np.testing.assert_allclose(log_loss(labels, classifier.predict_proba(other)),
                               classifier.validation_loss_curve_[best], rtol=1e-10, atol=0)  # fmt: skip
    # They are the weights of that epoch: as many epochs without early stopping end with them.
    plain = LSTMClassifier(**OVERFIT | {"max_iter": best + 1, "n_iter_no_change": 99}).fit(X, y)
    assert weights(plain) == weights(classifier)


def test_the_best_weights_of_a_regressor_are_restored():
    X, y = hard()
    other, labels = hard(50, seed=1)
    target, others = y + X[:, 0, 0], labels + other[:, 0, 0]
    regressor = LSTMRegressor(**OVERFIT, early_stopping=True).fit(X, 1e3 * target, X_val=other, y_val=1e3 * others)
    assert max(regressor.validation_scores_) > regressor.validation_scores_[-1]
    # R2 in scaled and in original units.
    found = regressor.score(other, 1e3 * others)
    np.testing.assert_allclose(found, regressor.best_validation_score_, rtol=1e-10, atol=0)


def test_warm_starts_with_early_stopping_keep_the_best_of_all():
    X, y = hard()
    other, labels = hard(50, seed=1)
    classifier = LSTMClassifier(**OVERFIT, early_stopping=True, warm_start=True)
    for _ in range(3):
        classifier.fit(X, y, X_val=other, y_val=labels)
        assert classifier.score(other, labels) == classifier.best_validation_score_


@pytest.mark.parametrize("labels", ["classes", "numbers"])
def test_held_out_is_a_random_part_with_its_share_of_each_class(labels, monkeypatch):
    seen = []
    split = _supervised.train_test_split
    monkeypatch.setattr(_supervised, "train_test_split", lambda *a, **k: seen.append(split(*a, **k)) or seen[-1])
    X, _ = hard(100)
    y = (np.arange(100) < 20).astype(int)
    cls = LSTMClassifier if labels == "classes" else LSTMRegressor
    for seed in (0, 1):
        cls(**OVERFIT | {"random_state": seed, "max_iter": 2}, early_stopping=True, validation_fraction=0.2).fit(X, y)
    (train, rest), (_, other) = seen
    assert len(rest) == 20 and sorted([*train, *rest]) == list(range(100))
    assert set(rest) != set(other) and set(rest) != set(range(80, 100))
    if labels == "classes":
        assert y[rest].sum() == y[other].sum() == 4


@pytest.mark.parametrize("cls", SUPERVISED)
def test_what_is_held_out_teaches_nothing(cls):
    """Neither weights nor the statistics of standardisation see it."""
    X, y = hard()
    changed = X.copy()
    changed[108:] = 1e3 * changed[108:][::-1]
    fits = [cls(**OVERFIT | {"max_iter": 4}, early_stopping=True, validation_from="tail").fit(given, y)
            for given in (X, changed)]  # fmt: skip
    one, other = fits
    assert one.loss_curve_ == other.loss_curve_
    assert one.validation_loss_curve_ != other.validation_loss_curve_
    alone = cls(**OVERFIT | {"max_iter": 4}, early_stopping=True).fit(X[:108], y[:108], X_val=X[108:], y_val=y[108:])
    np.testing.assert_allclose(one.loss_curve_, alone.loss_curve_, **SUMS)
    np.testing.assert_allclose(one.validation_scores_, alone.validation_scores_, **SUMS)


def test_validation_data_are_watched_only():
    X, y = hard()
    other, labels = hard(50, seed=1)
    few = OVERFIT | {"max_iter": 5}
    plain = LSTMClassifier(**few).fit(X, y)
    assert plain.validation_scores_ is plain.validation_loss_curve_ is plain.best_validation_score_ is None
    watched = LSTMClassifier(**few).fit(X, y, X_val=other, y_val=labels)
    assert weights(watched) == weights(plain)
    assert len(watched.validation_scores_) == 5 and watched.validation_scores_[-1] == watched.score(other, labels)
    # With early stopping, too, all of X is learnt from.
    stopping = LSTMClassifier(**few, early_stopping=True).fit(X, y, X_val=other, y_val=labels)
    assert stopping.loss_curve_ == plain.loss_curve_
    # Their weights count in the score.
    weight = np.random.default_rng(0).uniform(0, 1, size=50)
    weighted = LSTMClassifier(**few).fit(X, y, X_val=other, y_val=labels, sample_weight_val=weight)
    assert weights(weighted) == weights(plain)
    score = weighted.score(other, labels, weight)
    np.testing.assert_allclose(weighted.validation_scores_[-1], score, rtol=1e-12, atol=0)
    assert weighted.validation_scores_[-1] != watched.validation_scores_[-1]


def test_too_few_sequences_to_hold_any_out_are_an_error():
    X, y = hard(10)
    with pytest.raises(ValueError, match=r"^validation_fraction: 0\.1 of 10 sequences leaves 1 for validation"):
        LSTMRegressor(**OVERFIT, early_stopping=True).fit(X, y)


# The rules of MLPClassifier, by its own code.


def replay(curve, samples, *, schedule, rate, power_t, tol, patience, early_stopping):
    """(epochs, learning rate of each) of scikit-learn's loop over these losses or scores."""
    mlp = MLPClassifier(tol=tol)
    mlp.loss_curve_, mlp.best_loss_, mlp._no_improvement_count = [], np.inf, 0
    mlp.validation_scores_, mlp.best_validation_score_ = [], -np.inf
    mlp.coefs_ = mlp.intercepts_ = []
    optimizer = SGDOptimizer([], rate, schedule, power_t=power_t)
    more = [None] * (len(inspect.signature(mlp._update_no_improvement_count).parameters) - 1)
    rates = []
    for epoch, value in enumerate(curve):
        rates.append(optimizer.learning_rate)
        mlp.loss_curve_.append(value)
        mlp._score = lambda *args, value=value, **kwargs: value
        mlp._update_no_improvement_count(early_stopping, *more)
        optimizer.iteration_ends((epoch + 1) * samples)
        if mlp._no_improvement_count > patience:
            if optimizer.trigger_stopping("", False):
                break
            mlp._no_improvement_count = 0
    return len(rates), rates, mlp


@pytest.mark.parametrize("early_stopping", [False, True])
@pytest.mark.parametrize("schedule", ["constant", "invscaling", "adaptive"])
@pytest.mark.parametrize("tol, patience", [(1e-4, 2), (0.02, 1), (0.3, 4), (0.0, 3)])
def test_epochs_and_learning_rates_are_those_of_mlp_classifier(schedule, early_stopping, tol, patience, monkeypatch):
    rates = []
    judge = Watcher.judge

    def spy(self, state, logs, sequences):
        rates.append(logs["learning_rate"])
        return judge(self, state, logs, sequences)

    monkeypatch.setattr(Watcher, "judge", spy)
    X, y = hard(60)
    other, labels = hard(50, seed=1)
    classifier = LSTMClassifier(4, solver="sgd", learning_rate=schedule, learning_rate_init=0.5, power_t=0.3, tol=tol,
                                n_iter_no_change=patience, early_stopping=early_stopping, max_iter=80,
                                random_state=0).fit(X, y, X_val=other, y_val=labels)  # fmt: skip
    curve = classifier.validation_scores_ if early_stopping else classifier.loss_curve_
    # Whether MLPClassifier would have gone on after the last epoch shows an epoch more, which improves nothing.
    epochs, wanted, mlp = replay([*curve, curve[-1]], 60, schedule=schedule, rate=0.5, power_t=0.3, tol=tol,
                                 patience=patience, early_stopping=early_stopping)  # fmt: skip
    assert classifier.n_iter_ == len(curve) == min(epochs, 80)
    np.testing.assert_allclose(rates, wanted[: len(rates)], rtol=1e-14, atol=0)
    if early_stopping:
        assert classifier.best_validation_score_ == mlp.best_validation_score_
    else:
        assert classifier.best_loss_ == mlp.best_loss_ == min(curve)
    if schedule == "adaptive" and tol > 0.01:
        assert len(set(rates)) > 2  # the test saw the rate fall


def test_adaptive_training_ends_when_the_rate_is_tiny():
    X, y = hard(60)
    classifier = LSTMClassifier(4, learning_rate="adaptive", learning_rate_init=1e-5, tol=10.0, n_iter_no_change=1,
                                max_iter=80, random_state=0)  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it has converged
        classifier.fit(X, y)
    # Nothing improves by 10 but the first epoch's infinity: it takes 3 epochs to 2e-6, 2 each to 4e-7 and to the end.
    assert classifier.n_iter_ == 3 + 2 + 2


def test_a_schedule_goes_on_through_partial_fits():
    """As the optimiser of MLPClassifier does, whose count of epochs without improvement goes on as well."""
    X, y = hard(60)
    ours = LSTMClassifier(4, solver="sgd", learning_rate="adaptive", learning_rate_init=0.5, tol=10.0,
                          n_iter_no_change=1, random_state=0)  # fmt: skip
    theirs = MLPClassifier((4,), solver="sgd", learning_rate="adaptive", learning_rate_init=0.5, tol=10.0,
                           n_iter_no_change=1, random_state=0)  # fmt: skip
    for _ in range(6):
        before = ours.parameters_["2.weight"].copy() if hasattr(ours, "_predictor") else None
        ours.partial_fit(X, y, classes=[0, 1])
        theirs.partial_fit(X.reshape(60, -1), y, classes=[0, 1])
    assert theirs._optimizer.learning_rate < 0.1
    # Steps of a fiftieth of the rate are small.
    assert np.abs(ours.parameters_["2.weight"] - before).max() < 0.05


def test_a_fit_that_converges_does_not_warn_and_one_that_does_not_does():
    X, y = hard(60)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        done = LSTMClassifier(4, tol=0.1, n_iter_no_change=2, max_iter=200, random_state=0).fit(X, y)
    assert done.n_iter_ < 200
    with pytest.warns(ConvergenceWarning, match=r"Maximum iterations \(3\) reached") as caught:
        LSTMClassifier(4, max_iter=3, random_state=0).fit(X, y)
    assert len(caught) == 1


def one_step(estimator, X, y, weight, alpha):
    """(weights before, weights after) one step of plain gradient descent on all of the data, by name."""
    parameters = {"solver": "sgd", "momentum": 0.0, "shuffle": False, "max_iter": 1, "alpha": alpha,
                  "batch_size": len(y), "random_state": 0}  # fmt: skip
    estimator.set_params(**parameters)
    still, moved = clone(estimator).set_params(learning_rate_init=1e-300), clone(estimator)
    more = () if weight is None else (weight,)
    return [_named(e.fit(X, y, *more)) for e in (still, moved)]


def _named(estimator):
    if isinstance(estimator, MLPClassifier):
        return {f"weight {k}": w for k, w in enumerate(estimator.coefs_)} | {
            f"bias {k}": b for k, b in enumerate(estimator.intercepts_)
        }
    return estimator.parameters_


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("cls", [MLPClassifier, LSTMClassifier])
def test_alpha_is_the_penalty_of_mlp_classifier(cls, weighted):
    """alpha / (2 sum of weights) times the squares of all weights but biases, the same in both."""
    X, _, _, y = data()
    weight = np.random.default_rng(0).uniform(0.5, 4, size=40) if weighted else None
    if weighted and cls is MLPClassifier and "sample_weight" not in inspect.signature(MLPClassifier.fit).parameters:
        pytest.skip("MLPClassifier takes weights from scikit-learn 1.7 on")
    if cls is MLPClassifier:
        estimator, X = MLPClassifier((4,), learning_rate_init=0.1), X.reshape(40, -1)
    else:
        # "mean": what the last step has of the reverse direction was reached from the zero state, without W_hh.
        estimator = LSTMClassifier(4, 2, bidirectional=True, pooling="mean", clip_norm=None, learning_rate_init=0.1)
    before, plain = one_step(estimator, X, y, weight, 0.0)
    _, decayed = one_step(estimator, X, y, weight, 3.0)
    for name, value in before.items():
        bias = "bias" in name
        assert np.abs(plain[name] - value).max() > 1e-6  # there was a gradient
        want = 0 * value if bias else -0.1 * 3.0 / (40 if weight is None else weight.sum()) * value
        # The difference of two numbers of order 1, each rounded a few times.
        np.testing.assert_allclose(decayed[name] - plain[name], want, rtol=1e-9, atol=2e-15)


def test_alpha_of_adamw_is_the_decay_itself():
    X, _, _, y = data()
    found = {}
    for alpha in (0.0, 0.5):
        estimator = LSTMClassifier(4, solver="adamw", alpha=alpha, learning_rate_init=0.01, max_iter=1, batch_size=40,
                                   random_state=0)  # fmt: skip
        found[alpha] = estimator.fit(X, y).parameters_
    before = LSTMClassifier(4, learning_rate_init=1e-300, max_iter=1, random_state=0).fit(X, y).parameters_
    for name, value in before.items():
        want = 0 * value if "bias" in name else -0.01 * 0.5 * value
        np.testing.assert_allclose(found[0.5][name] - found[0.0][name], want, rtol=1e-9, atol=2e-15)


# Threads.


@pytest.fixture
def fine_grain():
    """Parallel regions even for these small steps."""
    before = job.set_limits(0, 0, 1)
    yield
    job.set_limits(*before)


@pytest.mark.parametrize("cls", EVERY)
def test_any_number_of_threads_learns_the_same_bits(cls, fine_grain):
    X, _, ragged, y = data(steps=9)
    for given in (X, ragged):
        found = []
        for threads in (1, 2, 3, 7):
            with lstmx.num_threads(threads):
                estimator = cls() if cls is SequenceScaler else cls(**QUICK | {"hidden_size": 33, "dropout": 0.2})
                found.append(said(estimator.fit(given, y), given))
        assert found[0] == found[1] == found[2] == found[3]


def test_fits_at_once_in_threads_learn_the_same_bits(fine_grain):
    X, _, ragged, y = data(steps=9)
    estimator = make(LSTMClassifier, hidden_size=33, dropout=0.2)
    want = [weights(clone(estimator).fit(given, y)) for given in (X, ragged)] * 3
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda given: weights(clone(estimator).fit(given, y)), [X, ragged] * 3))
    assert found == want


@pytest.mark.skipif("OMP_NUM_THREADS" in os.environ, reason="then that is the number")
def test_processes_of_joblib_share_the_cpus():
    before = lstmx.get_num_threads()
    found = joblib.Parallel(n_jobs=2, backend="loky")(joblib.delayed(lstmx.get_num_threads)() for _ in range(4))
    assert set(found) == {max(1, min(before, joblib.cpu_count() // 2))}
    assert lstmx.get_num_threads() == before


@pytest.mark.parametrize("backend", ["threading", "loky"])
def test_every_backend_of_joblib_finds_the_same(backend):
    X, _, ragged, y = data()
    for given in (X, ragged):
        want = cross_val_score(make(LSTMClassifier), given, y, cv=4, scoring="neg_log_loss")
        with joblib.parallel_config(backend, n_jobs=2):
            found = cross_val_score(make(LSTMClassifier), given, y, cv=4, scoring="neg_log_loss", error_score="raise")
        assert found.tobytes() == want.tobytes() and len(set(want)) == 4


def test_random_state_makes_fits_repeat():
    X, _, _, y = data()

    def fit(state):
        return weights(make(LSTMClassifier, random_state=state).fit(X, y))

    assert fit(0) == fit(0) != fit(1)
    assert fit(np.random.RandomState(3)) == fit(np.random.RandomState(3)) != fit(0)
    assert fit(None) != fit(None)
    shared = np.random.RandomState(3)
    assert fit(shared) != fit(shared)  # it goes on, as in scikit-learn
    np.random.seed(5)  # noqa: NPY002 - what None means to scikit-learn
    one = fit(None)
    np.random.seed(5)  # noqa: NPY002
    assert fit(None) == one


def test_the_callers_arrays_may_change_after_a_fit():
    X, _, _, y = data()
    estimator = make(LSTMClassifier).fit(X, y)
    want = said(estimator, X)
    file = io.BytesIO()
    np.save(file, X)
    X[:] = 0
    y[:] = 1
    file.seek(0)
    assert said(estimator, np.load(file)) == want


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_attributes_are_those_of_mlp_classifier():
    X = np.random.default_rng(0).normal(size=(30, 5))
    targets = {"two": np.arange(30) % 2, "three": np.arange(30) % 3, "labels": np.eye(3, dtype=int)[np.arange(30) % 3]}
    for y in targets.values():
        ours, theirs = LSTMClassifier(4, max_iter=2).fit(X, y), MLPClassifier(4, max_iter=2).fit(X, y)
        for name in ("n_layers_", "n_outputs_", "out_activation_", "n_iter_", "t_", "n_features_in_"):
            assert getattr(ours, name) == getattr(theirs, name), name
    ours, theirs = (kind(max_iter=2).fit(X, X[:, :2]) for kind in (LSTMRegressor, MLPRegressor))
    assert (ours.n_outputs_, ours.out_activation_) == (theirs.n_outputs_, theirs.out_activation_) == (2, "identity")


def test_validation_targets_without_sequences_are_an_error():
    X = np.random.default_rng(0).normal(size=(30, 5))
    with pytest.raises(ValueError, match=r"^X_val: y_val or sample_weight_val is given without it"):
        LSTMRegressor(4, max_iter=2).fit(X, X[:, 0], y_val=X[:, 0])


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("monitor", ["score", "loss"])
def test_early_stopping_keeps_the_best_of_what_it_watches(monitor):
    """Noise: the loss on other data soon rises, while the accuracy wanders, so the two are best at other epochs."""
    rng = np.random.default_rng(3)
    X, y, X_val, y_val = rng.normal(size=(60, 5)), np.arange(60) % 3, rng.normal(size=(40, 5)), np.arange(40) % 3
    estimator = LSTMClassifier(8, early_stopping=True, monitor=monitor, max_iter=25, learning_rate_init=0.02,
                               random_state=0).fit(X, y, X_val=X_val, y_val=y_val)  # fmt: skip
    losses, scores = estimator.validation_loss_curve_, estimator.validation_scores_
    epoch = int(np.argmin(losses) if monitor == "loss" else np.argmax(scores))
    assert np.argmin(losses) != np.argmax(scores)
    assert estimator.score(X_val, y_val) == scores[epoch] == estimator.best_validation_score_
    # float64 sums of 40 terms in another order
    np.testing.assert_allclose(log_loss(y_val, estimator.predict_proba(X_val)), losses[epoch], rtol=1e-12, atol=0)


@pytest.mark.parametrize("value", [-1.0, np.nan, np.inf, "a"])
def test_a_class_weight_that_is_no_weight_is_named(value):
    X, y = np.zeros((6, 4, 2)), np.arange(6) % 2
    for fit in ("fit", "partial_fit"):
        estimator = lstmx.LSTMClassifier(hidden_size=2, class_weight={0: value}, max_iter=1)
        with pytest.raises((TypeError, ValueError), match=r"class_weight\[0\]: got"):
            getattr(estimator, fit)(X, y, **({"classes": [0, 1]} if fit == "partial_fit" else {}))
