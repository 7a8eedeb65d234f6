"""scikit-learn's own checks on every estimator, as it comes and with quick parameters.

Of the forecaster, whose fit and predict have other meanings, only what needs no data is checked. For the others the
whole suite runs, for 2-D and 3-D data. One check is expected to fail, for the reason that stands with it and is tested.
SCIPY_ARRAY_API must be set before SciPy loads, so the check that needs it runs in a process of its own.
"""

import os
import re
import subprocess
import sys
import warnings

import numpy as np
import pytest

pytest.importorskip("sklearn")
from sklearn.base import BaseEstimator, clone
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest
from sklearn.exceptions import ConvergenceWarning, SkipTestWarning
from sklearn.impute import SimpleImputer
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.preprocessing import StandardScaler
from sklearn.utils import get_tags
from sklearn.utils.estimator_checks import (
    check_do_not_raise_errors_in_init_or_set_params,
    check_estimator,
    check_get_params_invariance,
    check_mixin_order,
    check_no_attributes_set_in_init,
    check_parameters_default_constructible,
    check_sample_weight_equivalence_on_dense_data,
    check_set_params,
    check_valid_tag_types,
    estimator_checks_generator,
    parametrize_with_checks,
)

from lstmx import (
    LSTMAnomalyDetector,
    LSTMClassifier,
    LSTMForecaster,
    LSTMRegressor,
    LSTMTransformer,
    SequenceImputer,
    SequenceScaler,
    estimators,
)

QUICK = {"hidden_size": 16, "max_iter": 60, "tol": 1e-3, "random_state": 0}
ESTIMATORS = [
    LSTMClassifier(**QUICK),
    LSTMRegressor(**QUICK),
    LSTMAnomalyDetector(**QUICK),
    LSTMTransformer(**QUICK),
    SequenceScaler(),
    SequenceImputer(),
]
DEFAULTS = [LSTMClassifier(), LSTMRegressor(), LSTMAnomalyDetector(), LSTMTransformer()]  # and the last, above
# Estimator -> check -> the reason why it must fail.
EXPECTED_FAILURES = {
    "LSTMTransformer()": {
        "check_sample_weight_equivalence_on_dense_data": "200 epochs on noise make rounding as large as the results: "
        "see test_what_is_expected_to_fail_fails_by_rounding"
    },
}
# Checks that take more than a second with default parameters.
SLOW = ("check_classifiers_train", "check_regressors_train", "check_regressor_data_not_an_array")
# What an estimator need not pass since it does not apply: check -> the reason.
NOT_FOR_US = {
    "check_sample_weight_equivalence_on_sparse_data": "sequences are dense",
    "check_array_api_mixed_inputs": "not for estimators that compute in NumPy",
    "check_array_api_same_namespace": "not for estimators that compute in NumPy",
    "check_array_api_input_and_values": "not for estimators that compute in NumPy",
    "check_array_api_input": "see test_array_api_inputs_are_taken",
}
PEERS = [
    (ESTIMATORS[0], MLPClassifier()),
    (ESTIMATORS[1], MLPRegressor()),
    (ESTIMATORS[2], IsolationForest()),
    (ESTIMATORS[3], PCA()),
    (ESTIMATORS[4], StandardScaler()),
    (ESTIMATORS[5], SimpleImputer()),
]

# Most of the checks' data are noise in 60 epochs, and the checks of scikit-learn 1.6 and 1.7 use NumPy, pandas and
# themselves in ways that newer versions warn of.
pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


def name_of(estimator):
    return type(estimator).__name__


def name_of_check(check):
    return getattr(check, "func", check).__name__


def expected_failures(estimator):
    return EXPECTED_FAILURES.get(repr(estimator), {})


def marked(cases):
    """The same cases as a list, which pytest 9 wants. What must fail and does not is a failure: scikit-learn can say so
    from 1.8 on.
    """
    for case in cases:
        estimator, check = getattr(case, "values", case)
        marks = [pytest.mark.xfail(strict=True, **mark.kwargs) for mark in getattr(case, "marks", ())]
        if repr(estimator) in map(repr, DEFAULTS) and name_of_check(check) in SLOW:
            marks.append(pytest.mark.long)
        yield pytest.param(estimator, check, marks=marks)


every = parametrize_with_checks(ESTIMATORS + DEFAULTS, expected_failed_checks=expected_failures)


@pytest.mark.parametrize(every.args[0], list(marked(every.args[1])), **every.kwargs)
def test_the_contract_of_scikit_learn_holds(estimator, check):
    check(estimator)


def test_what_is_expected_to_fail_fails_by_rounding():
    """Sums in another order change the last bits of a gradient, and training makes that larger by and by, with or
    without weights; what converges forgets it.
    """
    check_sample_weight_equivalence_on_dense_data("LSTMTransformer", LSTMTransformer(max_iter=40))
    X = np.random.default_rng(0).random((27, 30))  # one batch
    for epochs, close in ((40, True), (200, False)):
        one, other = (LSTMTransformer(max_iter=epochs, random_state=0).fit(x) for x in (X, X[::-1]))
        assert np.allclose(one.transform(X), other.transform(X), rtol=1e-7, atol=1e-9) == close


@pytest.mark.parametrize("check", [
    check_no_attributes_set_in_init, check_get_params_invariance, check_set_params,
    check_do_not_raise_errors_in_init_or_set_params, check_parameters_default_constructible, check_valid_tag_types,
    check_mixin_order,
])  # fmt: skip
def test_the_forecaster_keeps_what_needs_no_data(check):
    check("LSTMForecaster", LSTMForecaster())


def test_no_estimator_is_left_out():
    found = {name for name in estimators.__all__ if issubclass(getattr(estimators, name), BaseEstimator)}
    assert found == set(map(name_of, ESTIMATORS)) | {"LSTMForecaster"}
    assert {name_of(e) for e in ESTIMATORS + DEFAULTS if repr(e) == name_of(e) + "()"} == set(map(name_of, ESTIMATORS))


def checks(estimator):
    """Names of the checks that are made, one for each time."""
    return [name_of_check(check) for _, check in estimator_checks_generator(estimator)]


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=name_of)
def test_tags_promise_both_two_and_three_dimensions(estimator):
    tags = get_tags(estimator).input_tags
    assert tags.two_d_array and tags.three_d_array
    assert not (tags.sparse or tags.categorical or tags.string or tags.positive_only or tags.one_d_array)
    assert not get_tags(estimator).no_validation and not get_tags(estimator).non_deterministic


@pytest.mark.parametrize("estimator, peer", PEERS, ids=lambda e: name_of(e))
def test_no_check_of_a_peer_is_left_out(estimator, peer):
    """A tag set wrongly makes the suite skip checks, and then it passes more easily."""
    lacking = set(checks(peer)) - set(checks(estimator)) - set(NOT_FOR_US)
    if isinstance(estimator, LSTMAnomalyDetector):  # its fit takes no weights
        lacking = {name for name in lacking if "sample_weight" not in name}
    assert not lacking
    if isinstance(estimator, LSTMClassifier | LSTMRegressor):
        assert len(checks(estimator)) >= len([name for name in checks(peer) if name not in NOT_FOR_US]) > 40


def test_only_what_needs_another_library_is_skipped():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SkipTestWarning)
        # The scaler takes a tenth of a second for nearly all of the checks that there are.
        results = check_estimator(SequenceScaler(), on_fail=None)
    skipped = {result["check_name"] for result in results if result["status"] == "skipped"}
    assert {result["status"] for result in results} <= {"passed", "skipped"}
    assert skipped <= {
        "check_sample_weights_pandas_series",
        "check_array_api_input",  # see below
    }


@pytest.mark.long
@pytest.mark.skipif(os.environ.get("SCIPY_ARRAY_API") == "1", reason="this is the process of its own")
def test_array_api_inputs_are_taken():
    """scikit-learn 1.9 has the check for every estimator; before, only for those that compute in other libraries."""
    expected = sum("check_array_api_input" in checks(estimator) for estimator in ESTIMATORS + DEFAULTS)
    assert expected in (0, len(ESTIMATORS + DEFAULTS))
    if not expected:
        pytest.skip("no such check in this version of scikit-learn")
    command = [sys.executable, "-m", "pytest", __file__, "-k", "test_the_contract and array_api", "-rA", "-p",
               "no:cacheprovider"]  # fmt: skip
    environment = os.environ | {"SCIPY_ARRAY_API": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(re.findall(r"^PASSED .*check_array_api_input", done.stdout, re.MULTILINE)) == expected


# Three dimensions: the suite makes 3-D data only where 2-D are not taken, so its checks that tell most are made here.


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=name_of)
def test_three_dimensional_data_keep_the_contract(estimator):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(30, 6, 3)), np.arange(30) % 2
    before = X.tobytes(), y.tobytes(), estimator.get_params()
    one = clone(estimator).fit(X, y)
    other = clone(estimator).fit(rng.normal(size=(9, 2, 5)), y[:9]).fit(X, y)  # nothing of an earlier fit remains
    assert (X.tobytes(), y.tobytes(), estimator.get_params()) == before == (*before[:2], one.get_params())
    assert one.n_features_in_ == other.n_features_in_ == 3
    methods = [m for m in ("predict", "predict_proba", "transform", "score_samples") if hasattr(one, m)]
    assert methods
    order = rng.permutation(30)
    for method in methods:
        whole = getattr(one, method)(X)
        assert np.array_equal(whole, getattr(other, method)(X))
        assert np.array_equal(whole, getattr(one, method)(X))
        # A sequence's result depends on nothing but it: not on the others, nor on its place.
        assert np.array_equal(whole[order], getattr(one, method)(X[order]))
        assert np.array_equal(whole[7:8], getattr(one, method)(X[7:8]))
        with pytest.raises(ValueError, match=r"^X: got 2 features .* fitted with 3"):
            getattr(one, method)(X[:, :, :2])


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=name_of)
def test_a_short_training_warns_as_convergence_warning_says(estimator):
    if not hasattr(estimator, "max_iter"):
        pytest.skip("does not iterate")
    estimator = clone(estimator).set_params(max_iter=2)
    X = np.random.default_rng(0).normal(size=(20, 5, 1))
    with pytest.warns(ConvergenceWarning, match=r"Maximum iterations \(2\) reached") as caught:
        estimator.fit(X, np.arange(20) % 2)
    assert len(caught) == 1
    assert estimator.n_iter_ == 2
