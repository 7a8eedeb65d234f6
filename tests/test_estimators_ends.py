"""Fits that end before they are done, by Ctrl-C or by numbers that are not finite; and what a fit shows."""

import contextlib
import fcntl
import io
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import textwrap
import warnings

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
    assert_same,
    bits,
    fit,
    flat,
    in_batch,
    interrupted,
    make,
    predictions,
)
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline

from lstmx import SequenceScaler, losses

pytestmark = pytest.mark.usefixtures("no_waiting_for_the_disk")

LIMIT = 20  # seconds after which a child hangs


# Ctrl-C.


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


DIVERGING = {"solver": "sgd", "learning_rate_init": 1e6, "tol": 0, "max_iter": 5}


@pytest.mark.parametrize("kind", CASES)
def test_a_loss_that_grows_by_orders_of_magnitude_is_a_convergence_warning(kind):
    """The only one: that epochs were too few is not the matter."""
    with pytest.warns(ConvergenceWarning, match=r"^the training loss is .* in epoch \d, .* \(1e\+06\)") as caught:
        make(kind, **DIVERGING).fit(*CASES[kind][1])
    assert [w.filename for w in caught] == [__file__]


def test_a_stream_of_parts_that_diverges_warns_once():
    """Each part is one batch, whose loss is all that there is of an epoch."""
    estimator = make("regressor", **DIVERGING)
    with pytest.warns(ConvergenceWarning, match=r"was [\d.]+ at first") as caught:
        for _ in range(5):
            estimator.partial_fit(RAGGED[:8], NUMBERS[:8])
    assert len(caught) == 1


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
