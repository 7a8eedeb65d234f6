"""Arguments of other libraries' names are answered with ours, and warnings name the line that is the user's."""

import ast
import inspect

import numpy as np
import pytest

pytest.importorskip("sklearn")
from sklearn.exceptions import ConvergenceWarning

import lstmx
from lstmx import (
    LSTMAnomalyDetector,
    LSTMClassifier,
    LSTMForecaster,
    LSTMRegressor,
    LSTMTransformer,
    SequenceScaler,
    Sequential,
)
from lstmx.functional import messages, validate

X = np.random.default_rng(0).normal(size=(12, 4, 2))
ESTIMATORS = [LSTMClassifier, LSTMRegressor, LSTMAnomalyDetector, LSTMTransformer, LSTMForecaster, SequenceScaler]


@pytest.mark.parametrize(("cls", "word", "remedy"), [
    (LSTMClassifier, "hidden_layer_sizes", "did you mean hidden_size and num_layers?"),
    (LSTMRegressor, "hidden_units", "did you mean hidden_size?"),
    (LSTMTransformer, "num_epochs", "did you mean max_iter?"),
    (LSTMAnomalyDetector, "epochs", "did you mean max_iter?"),
    (LSTMClassifier, "lr", "did you mean learning_rate_init?"),
    (LSTMClassifier, "optimizer", "did you mean solver?"),
    (LSTMForecaster, "lookback", "did you mean window?"),
    (LSTMForecaster, "bidirektional", "there are window, horizon, "),
    (LSTMRegressor, "bidirektional", "did you mean bidirectional?"),
    (SequenceScaler, "with_deviation", "there are with_mean, with_std, layout"),
])  # fmt: skip
def test_an_unknown_parameter_is_answered_with_the_near_one(cls, word, remedy):
    with pytest.raises(TypeError) as error:
        cls(**{word: 3})
    assert str(error.value).startswith(f"{cls.__name__}: got an unexpected argument {word!r}; {remedy}")


@pytest.mark.parametrize("cls", ESTIMATORS)
def test_fit_says_how_lengths_are_given(cls):
    with pytest.raises(TypeError, match=rf"^{cls.__name__}\.fit: got an unexpected argument 'lengths'; .* a list of"):
        cls().fit(X, X[:, 0, 0], lengths=[4] * 12)


@pytest.mark.parametrize(("word", "remedy"), [
    ("epochs", "the constructor takes max_iter: LSTMRegressor(max_iter=...)"),
    ("batch_size", "the constructor takes batch_size: LSTMRegressor(batch_size=...)"),
    ("class_weights", "there are X, y, sample_weight"),
    ("groups", "there are X, y, sample_weight"),
    ("validation_data", "did you mean X_val and y_val?"),
    ("sample_weights", "did you mean sample_weight?"),
])  # fmt: skip
def test_an_unknown_argument_of_fit_is_answered_with_where_it_belongs(word, remedy):
    with pytest.raises(TypeError) as error:
        LSTMRegressor().fit(X, X[:, 0, 0], **{word: 3})
    assert str(error.value).startswith(f"LSTMRegressor.fit: got an unexpected argument {word!r}; {remedy}")
    with pytest.raises(TypeError, match=r"^LSTMRegressor\.partial_fit: got an unexpected argument 'epochs'"):
        LSTMRegressor().partial_fit(X, X[:, 0, 0], epochs=3)


@pytest.mark.parametrize(("word", "remedy"), [
    ("lr", "optimizer"), ("max_iter", "epochs"), ("mask", "lengths"), ("batchsize", "batch_size"),
])  # fmt: skip
def test_a_model_says_so_too(word, remedy):
    model = Sequential([lstmx.LSTM(2, 3), lstmx.Last(), lstmx.Dense(3, 1)])
    with pytest.raises(TypeError, match=rf"^Sequential\.fit: got .* argument '{word}'; did you mean {remedy}"):
        model.fit(X, X[:, 0, 0], **{word: 3})


def test_signatures_are_those_that_are_written():
    for cls in ESTIMATORS:
        for method in (cls, cls.fit):
            assert inspect.Parameter.VAR_KEYWORD not in {p.kind for p in inspect.signature(method).parameters.values()}
    assert list(inspect.signature(LSTMClassifier).parameters)[:3] == ["hidden_size", "num_layers", "target"]


def test_every_word_leads_somewhere():
    methods = [m for cls in ESTIMATORS for m in (cls, cls.fit)] + [Sequential.fit, lstmx.RNN]
    names = {name for method in methods for name in inspect.signature(method).parameters}
    assert {name for wanted in messages.WORDS.values() for group in wanted for name in group.split()} <= names
    tree = ast.parse(inspect.getsource(messages))
    keys = [key.value for node in ast.walk(tree) if isinstance(node, ast.Dict) for key in node.keys]
    assert len(keys) == len(set(keys)) + len(messages.HINTS) - len(messages.HINTS.keys() - messages.WORDS.keys())


def test_a_rate_that_is_given_as_the_schedule_is_named():
    with pytest.raises(ValueError, match=r"^learning_rate: got 0\.01, must be .*; .*learning_rate_init=0\.01$"):
        LSTMClassifier(learning_rate=0.01).fit(X, [0, 1] * 6)


@pytest.mark.parametrize("missing", [None, np.nan, "NA"])
def test_missing_labels_are_counted_and_placed(missing):
    missing = pytest.importorskip("pandas").NA if missing == "NA" else missing
    y = np.array(["a", "b", missing] * 4, object)
    say = r"^{}: 4 of 12 labels are missing, the first in row 2 \(.*\); leave those out, or give them a class"
    classifier = LSTMClassifier(2, max_iter=1)
    for given in (y, list(y)):  # of the list, NumPy would make the label "nan"
        with pytest.raises(ValueError, match=say.format("y")):
            classifier.fit(X, given)
        with pytest.raises(ValueError, match=say.format("y")):
            classifier.partial_fit(X, given, ["a", "b"])
    with pytest.warns(ConvergenceWarning):
        classifier.fit(X, ["a", "b"] * 6)
    with pytest.raises(ValueError, match=say.format("y")):
        classifier.score(X, y)
    with pytest.raises(ValueError, match=say.format("y_val")):
        classifier.fit(X, ["a", "b"] * 6, X_val=X, y_val=y)
    model = Sequential([lstmx.LSTM(2, 3), lstmx.Last(), lstmx.Dense(3, 2, "softmax")])
    with pytest.raises(ValueError, match=say.format("y")):
        model.fit(X, np.array([0, 1, missing] * 4, object), loss="categorical_crossentropy", verbose=0)


def test_the_step_of_a_row():
    lengths = np.array([3, 1, 2])
    assert [validate.step_of(row, lengths) for row in range(6)] == [(0, 0), (0, 1), (0, 2), (1, 0), (2, 0), (2, 1)]


def test_a_warning_names_the_line_that_called():
    with pytest.warns(ConvergenceWarning, match="Maximum iterations") as caught:
        LSTMRegressor(2, max_iter=1).fit(X, X[:, 0, 0])
    line = inspect.currentframe().f_lineno - 1
    assert [(w.filename, w.lineno) for w in caught] == [(__file__, line)]
