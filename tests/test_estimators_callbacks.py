"""scikit-learn's own callbacks, and learning curves."""

import pickle
import subprocess
import sys
import textwrap

import numpy as np
import pytest

pytest.importorskip("sklearn")
from estimators_data import (
    CASES,
    CHILD,
    EVEN,
    LABELS,
    NUMBERS,
    RAGGED,
    Stop,
    assert_same,
    fit,
    flat,
    in_batch,
    interrupted,
    lines,
    make,
    predictions,
    stop,
)
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

import lstmx
from lstmx import LSTMRegressor, SequenceScaler

pytestmark = pytest.mark.usefixtures("no_waiting_for_the_disk")


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


@pytest.mark.parametrize("epochs", [1, 2, 3, 7])
def test_epochs_are_whole(epochs, pyplot):
    estimator = fit(make("classifier", max_iter=epochs), RAGGED, LABELS)
    display = lstmx.LossCurveDisplay.from_estimator(estimator)
    display.figure_.canvas.draw()
    for ax in (display.ax_, display.score_ax_):
        low, high = ax.get_xlim()
        ticks = [float(tick) for tick in ax.get_xticks() if low <= tick <= high]
        assert ticks and all(tick == int(tick) for tick in ticks)
    assert all((line.get_marker() == "o") == (epochs == 1) for line in display.lines_)


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
