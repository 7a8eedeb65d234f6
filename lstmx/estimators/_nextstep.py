"""LSTMAnomalyDetector and LSTMTransformer: both learn to predict the next step."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from sklearn.base import ClassNamePrefixFeaturesOutMixin, OutlierMixin, TransformerMixin
from sklearn.covariance import MinCovDet

from lstmx import predictors, training
from lstmx.data import batches, missing, panel
from lstmx.data.targets import RowWeights, Targets
from lstmx.estimators._base import LSTMEstimator, Problem, delegated
from lstmx.estimators._input import is_table, learnt_means, read_weight, read_X, weighed
from lstmx.estimators._training import fitting
from lstmx.functional import validate
from lstmx.functional.read import Sequences

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from lstmx._types import Array, Arrays, Config, Initial, Ints, PathLike
    from lstmx.functional.cell import Cell


MOST_ERRORS = 10_000  # that the robust covariance looks at; its time grows with their number


class _NextStepEstimator(LSTMEstimator):
    """What both share: the network predicts every step of X from those before it."""

    missing = "error"  # a parameter of one

    def _train(self, ranks: training.Alone, X: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        self._check_parameters()
        seed, first = self._resumed_seed(ranks), self._is_first()
        gaps = self.missing == "impute"
        data = read_X(self, X, self.layout, fitted=None if first else self._predictor.config, gaps=gaps)
        weight = read_weight(sample_weight, len(data))
        identity = (*data.each(), weight)
        _, data, weight = weighed(data, weight)
        if data.lengths.max() < 2:
            predictors.nextstep.refuse_single_steps(data)
        if first:
            table = data.x.shape[1] if is_table(data) else None
            config = {"features": data.features, "steps": table, "layout": self.layout}
            config |= {"standardize": bool(self.standardize)} | self._extra_config()
            arrays = self._extra_arrays(data.features)
            dtype = data.dtype
        else:
            config, arrays, dtype = self._predictor.config, self._predictor.arrays, self._predictor.model.dtype
            config = config | self._extra_config()  # which does not change what the network is
        stretches = self._stretches(data)
        owner = np.arange(len(data)) if stretches is None else stretches[2]
        train, rest = self._split(len(owner))
        each: Any = None if weight is None else weight[owner]
        sample = None if weight is None else Targets(each.astype(dtype), False)
        total = None if weight is None else float(each[slice(None) if rest is None else train].sum())
        if gaps:
            if "x_fill" not in arrays:
                arrays = arrays | {"x_fill": learnt_means(self._seen(data, weight, stretches, train)[0])}
            data = missing.fill_panel(data, "linear", arrays["x_fill"])
        else:
            arrays = {name: a for name, a in arrays.items() if name != "x_fill"}  # of an earlier fit
        if first and self.standardize:
            found = panel.statistics(*self._seen(data, weight, stretches, train))
            arrays |= dict(zip(("x_mean", "x_scale"), found, strict=True))
        affine = panel.affine(arrays, dtype)
        if stretches is None:
            inputs = data.sequences(dtype, affine)
        else:
            starts, lengths, _ = stretches
            rows = np.concatenate(list(data.each()))
            inputs = Sequences(rows, lengths, dtype, form="list", starts=starts, affine=affine)
        whole = predictors.NextStep(inputs, RowWeights(sample, None, dtype))
        problem = Problem(
            self._kind, config, arrays, whole if rest is None else batches.Subset(whole, train), "mse", "linear", True,
            dtype, None if rest is None else batches.Subset(whole, rest), minus_error,
            total, identity=identity, finish=lambda predictor: self._finish(predictor, data),
        )  # fmt: skip
        metadata = None if sample_weight is None else {"sample_weight": sample_weight}
        self._run(problem, seed, {"X": X, "y": None, "metadata": metadata}, ranks)
        return self

    def _seen(
        self, data: panel.Panel, weight: Array | None, stretches: Any, train: Any
    ) -> tuple[panel.Panel, Array | None]:
        """(panel, weights) of what training sees, without what is held out."""
        if train is not None and stretches is None:
            data, weight = data.select(train), None if weight is None else weight[train]
        elif train is not None:
            starts, lengths, _ = stretches
            end = starts[train[-1]] + lengths[train[-1]]
            lengths = np.clip(end - (np.cumsum(data.lengths) - data.lengths), 0, data.lengths)
            seen = np.flatnonzero(lengths)
            pieces = [x[:n] for x, n in zip(data.each(), lengths.tolist(), strict=True) if n]
            joined = np.concatenate(pieces), np.cumsum(lengths[seen]) - lengths[seen]
            data = panel.Panel(pieces, lengths[seen], False, "NTC", joined)
            weight = None if weight is None else weight[seen]
        return data, weight

    def _finish(self, predictor: Any, data: panel.Panel) -> dict[str, Any]:
        return {"_predictor": predictor}

    def _extra_config(self) -> Config:
        return {}

    def _extra_arrays(self, features: int) -> Arrays:
        return {}

    def _stretches(self, data: panel.Panel) -> tuple[Ints, Ints, Ints] | None:
        """The windows that the network trains on: (first rows, lengths, sequences that they are of).

        They stand one after the other; the last of a sequence overlaps with the one before it. None: whole sequences.
        """
        window = self.window
        if window is None or data.lengths.max() <= window:
            return None
        offsets = np.cumsum(data.lengths) - data.lengths
        last = np.maximum(data.lengths - window, 0)
        firsts = [np.unique(np.append(np.arange(0, n, window), n)) for n in last.tolist()]
        owner = np.repeat(np.arange(len(data)), [len(f) for f in firsts])
        starts = offsets[owner] + np.concatenate(firsts)
        return starts, np.minimum(window, data.lengths)[owner], owner

    def _split(self, count: int) -> tuple[Any, Any]:
        """(training, validation) indices: the tail is held out; or (None, None)."""
        if not self.early_stopping:
            return None, None
        held = round(count * self.validation_fraction)
        if not 0 < held < count:
            raise ValueError(f"validation_fraction: {self.validation_fraction} of {count} sequences or windows leaves "
                             f"{held} for validation; give more, set window, or set early_stopping=False")  # fmt: skip
        return np.arange(count - held), np.arange(count - held, count)

    def _check_parameters(self) -> None:
        super()._check_parameters()
        if self.window is not None:
            validate.count("window", self.window)


def minus_error(target: Array, output: Array, weight: Array | None) -> float:
    return -float(np.average(((target - output) ** 2).mean(axis=1, dtype=np.float64), weights=weight))


class LSTMAnomalyDetector(OutlierMixin, _NextStepEstimator):
    """Find sequences, and steps of them, that do not go on as the network has learnt that sequences go on.

    The network predicts each step from those before it. A step is as strange as its error is far from the errors seen
    in training: its squared Mahalanobis distance under a robust covariance (minimum covariance determinant), so that
    the outliers among the training data do not set the measure.

    Parameters
    ----------
    aggregate : {"mean", "max"}
        Whether a sequence is as strange as its steps are on average, or as its strangest step.
    contamination : float in (0, 0.5]
        The share of the training data that the thresholds call outliers.
    support_fraction : float in (0, 1) or None
        Of the robust covariance, as in scikit-learn's EllipticEnvelope.
    window : int or None
        Train on stretches of this many steps, for long series; None takes whole sequences. One series of shape (T, F)
        is ``series[None]``.
    missing : {"error", "impute"}
        Whether NaN inside a sequence is an error or a missing value, in training and later. It is drawn by a straight
        line between its neighbours, or where a sequence has no value of a feature becomes the mean of the training data
        without what is held out. A step is scored by the features that it has; one that has none scores 0, which is
        not strange, and has no part in the score of its sequence. The line leads to what follows a gap, so that a jump
        behind a long gap may go unnoticed. In a list NaN at the end is missing too.
    hidden_size, num_layers, cell, proj_size, init, dropout, standardize, layout, solver, alpha, batch_size, \
learning_rate, learning_rate_init, power_t, max_iter, shuffle, random_state, tol, verbose, warm_start, momentum, \
nesterovs_momentum, early_stopping, validation_fraction, beta_1, beta_2, epsilon, n_iter_no_change, clip_norm, \
checkpoint, checkpoint_every, resume
        As in `LSTMClassifier`; held out is the tail: the last sequences or windows.

    Attributes
    ----------
    offset_, step_offset_ : float
        Scores below are outliers: of sequences, of steps.
    location_ : ndarray (F,)
    covariance_ : ndarray (F, F)
        Of the errors, in standardised units.
    n_iter_, loss_, best_loss_, loss_curve_, validation_scores_, validation_loss_curve_, best_validation_score_, t_, \
n_features_in_, model_, parameters_
        As in `LSTMClassifier`; the validation score is minus the error.

    Examples
    --------
    >>> import numpy as np
    >>> from lstmx import LSTMAnomalyDetector
    >>> rng = np.random.default_rng(0)
    >>> series = np.sin(np.arange(600) / 4) + 0.05 * rng.normal(size=600)
    >>> series[450] += 1
    >>> detector = LSTMAnomalyDetector(hidden_size=16, window=50, max_iter=40, tol=0.01, random_state=0)
    >>> detector = detector.fit(series[None, :, None])
    >>> int(detector.score_steps(series[None, :, None])[0].argmin())
    450
    """

    _kind, _uses_pooling = predictors.AnomalyDetector, False

    def __init__(self, hidden_size: int = 64, num_layers: int = 1, *, aggregate: str = "mean",
                 contamination: float = 0.1, support_fraction: float | None = None, window: int | None = None,
                 missing: str = "error", cell: Cell | None = None, proj_size: int = 0, init: Initial = "glorot",
                 dropout: float = 0.0, standardize: bool = True, layout: str = "NTC", solver: str = "adam",
                 alpha: float = 0.0001, batch_size: int | str = "auto", learning_rate: str = "constant",
                 learning_rate_init: float = 0.005, power_t: float = 0.5, max_iter: int = 200, shuffle: bool = True,
                 random_state: int | np.random.RandomState | None = None, tol: float = 1e-4,
                 verbose: bool | int = False, warm_start: bool = False, momentum: float = 0.9,
                 nesterovs_momentum: bool = True, early_stopping: bool = False, validation_fraction: float = 0.1,
                 beta_1: float = 0.9, beta_2: float = 0.999, epsilon: float = 1e-8, n_iter_no_change: float = 10,
                 clip_norm: float | None = 1.0, checkpoint: PathLike | None = None, checkpoint_every: int = 10,
                 resume: bool = False) -> None:  # fmt: skip
        self._store(locals())

    def _check_parameters(self) -> None:
        super()._check_parameters()
        validate.choice("aggregate", self.aggregate, ("mean", "max"))
        validate.choice("missing", self.missing, missing.MISSING)
        validate.number("contamination", self.contamination, 0, 0.5, open_low=True)
        if self.support_fraction is not None:
            validate.number("support_fraction", self.support_fraction, 0, 1, open_low=True)

    def _extra_config(self) -> Config:
        return {"aggregate": self.aggregate, "offset": 0.0, "step_offset": 0.0, "missing": self.missing}

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = self.missing == "impute"
        return tags

    def _extra_arrays(self, features: int) -> Arrays:
        return {"location": np.zeros(features), "precision": np.eye(features)}

    @fitting
    def fit(
        self, X: ArrayLike, y: Any = None, *, comm: Any = None, shards: int | None = None, exact: bool = True
    ) -> Self:
        """Learn how sequences go on, and how far errors usually are.

        Parameters
        ----------
        X : array (n, T, F), list of n arrays (T_i, F), or array or frame (n, T) of one feature
        y : ignored
        comm, shards, exact : as of `lstmx.Sequential.fit`, optional
            The ranks of an MPI communicator train together, each given the same data.

        Returns
        -------
        self
        """
        with training.open_ranks(comm, shards, exact) as ranks:
            return self._train(ranks, X)

    def _finish(self, predictor: Any, data: panel.Panel) -> dict[str, Any]:
        """Measure the errors on the training data."""
        found = predictor.errors(data)
        errors = np.concatenate(found).astype(np.float64)
        there = np.ones(len(errors), bool)
        if data.missing is not None:
            gaps = np.concatenate(list(data.each_missing()))
            there, errors = ~gaps.all(axis=1), self._of_what_is_there(errors, gaps)
        if len(errors) > MOST_ERRORS:
            errors = errors[np.random.default_rng(0).choice(len(errors), MOST_ERRORS, replace=False)]
        location, covariance = self._robust(errors)
        arrays = {"location": location, "precision": predictors.nextstep.inverse(covariance)}
        measured = self._kind(predictor.config, predictor.arrays | arrays, predictor.model)
        steps = [measured.score_errors(e, g) for e, g in zip(found, data.each_missing(), strict=True)]
        percent = 100 * self.contamination
        offset = float(np.percentile(measured.summarise(steps, data), percent))
        step_offset = float(np.percentile(np.concatenate(steps)[there], percent))
        config = measured.config | {"offset": offset, "step_offset": step_offset, "aggregate": self.aggregate}
        return {
            "location_": location, "covariance_": covariance, "offset_": offset, "step_offset_": step_offset,
            "_predictor": self._kind(config, measured.arrays, measured.model),
        }  # fmt: skip

    @staticmethod
    def _of_what_is_there(errors: Array, gaps: Array) -> Array:
        """Errors to measure others by: of the steps that lack nothing, or if these are few, of all that have something,
        with the mean error of a feature in place of one that is missing.
        """
        whole = ~gaps.any(axis=1)
        if np.count_nonzero(whole) > 2 * errors.shape[1]:
            return errors[whole]
        count = np.maximum((~gaps).sum(axis=0), 1)
        mean = np.where(gaps, 0, errors).sum(axis=0) / count
        return np.where(gaps, mean, errors)[~gaps.all(axis=1)]

    def _robust(self, errors: Array) -> tuple[Array, Array]:
        """Location and covariance of errors; a little is added to the diagonal, should a feature not vary at all.

        In units of the median deviation, as MinCovDet takes variances below 1e-8 for nothing.
        """
        count, features = errors.shape
        middle = np.median(errors, axis=0)
        scale = np.median(np.abs(errors - middle), axis=0)
        for other in (errors.std(axis=0), 1.0):
            scale = np.where(scale > 0, scale, other)
        errors = (errors - middle) / scale
        location, covariance = errors.mean(axis=0), np.atleast_2d(np.cov(errors.T, bias=True))
        if count > 2 * features:  # enough for a robust estimate
            with warnings.catch_warnings():  # a feature that never varies, or twice the same: see above
                warnings.filterwarnings("ignore", "The covariance matrix associated to your dataset is not full rank")
                try:
                    found = MinCovDet(support_fraction=self.support_fraction, random_state=0).fit(errors)
                    location, covariance = found.location_, found.covariance_
                except ValueError:  # most errors are the very same
                    pass
        covariance = covariance + 1e-9 * np.eye(features)
        return middle + scale * location, covariance * np.outer(scale, scale)

    score_samples = delegated(predictors.AnomalyDetector.score_samples)
    decision_function = delegated(predictors.AnomalyDetector.decision_function)
    predict = delegated(predictors.AnomalyDetector.predict)
    score_steps = delegated(predictors.AnomalyDetector.score_steps)
    predict_steps = delegated(predictors.AnomalyDetector.predict_steps)


class LSTMTransformer(ClassNamePrefixFeaturesOutMixin, TransformerMixin, _NextStepEstimator):
    """Features of sequences: the hidden state of a network that has learnt, without labels, to predict the next step.

    Parameters
    ----------
    hidden_size : int
        Units: the number of features, if `proj_size` does not say another.
    pooling : {"last", "mean"}
        The hidden state after the last step, or its mean over all steps.
    window : int or None
        Train on stretches of this many steps, for long series; None takes whole sequences.
    num_layers, cell, proj_size, init, dropout, standardize, layout, solver, alpha, batch_size, learning_rate, \
learning_rate_init, power_t, max_iter, shuffle, random_state, tol, verbose, warm_start, momentum, nesterovs_momentum, \
early_stopping, validation_fraction, beta_1, beta_2, epsilon, n_iter_no_change, clip_norm, checkpoint, \
checkpoint_every, resume
        As in `LSTMClassifier`; held out is the tail.

    Attributes
    ----------
    n_iter_, loss_, best_loss_, loss_curve_, validation_scores_, validation_loss_curve_, best_validation_score_, t_, \
n_features_in_, model_, parameters_
        As in `LSTMClassifier`; the validation score is minus the error.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> from lstmx import LSTMTransformer
    >>> rng = np.random.default_rng(0)
    >>> y = rng.permutation([0, 1] * 50)
    >>> X = [np.sin(np.arange(n) * (0.3 + 0.3 * k))[:, None] for n, k in zip(rng.integers(15, 40, 100), y)]
    >>> pipe = make_pipeline(LSTMTransformer(16, pooling="mean", random_state=0), LogisticRegression())
    >>> pipe.fit(X, y).score(X, y) > 0.9
    True
    """

    _kind, _uses_pooling = predictors.Transformer, False

    def __init__(self, hidden_size: int = 64, num_layers: int = 1, *, pooling: str = "last", window: int | None = None,
                 cell: Cell | None = None, proj_size: int = 0, init: Initial = "glorot", dropout: float = 0.0,
                 standardize: bool = True, layout: str = "NTC", solver: str = "adam", alpha: float = 0.0001,
                 batch_size: int | str = "auto", learning_rate: str = "constant", learning_rate_init: float = 0.005,
                 power_t: float = 0.5, max_iter: int = 200, shuffle: bool = True,
                 random_state: int | np.random.RandomState | None = None, tol: float = 1e-4,
                 verbose: bool | int = False, warm_start: bool = False, momentum: float = 0.9,
                 nesterovs_momentum: bool = True, early_stopping: bool = False, validation_fraction: float = 0.1,
                 beta_1: float = 0.9, beta_2: float = 0.999, epsilon: float = 1e-8, n_iter_no_change: float = 10,
                 clip_norm: float | None = 1.0, checkpoint: PathLike | None = None, checkpoint_every: int = 10,
                 resume: bool = False) -> None:  # fmt: skip
        self._store(locals())

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    def _check_parameters(self) -> None:
        super()._check_parameters()
        validate.choice("pooling", self.pooling, ("last", "mean"))

    def _extra_config(self) -> Config:
        return {"pooling": self.pooling}

    @property
    def _n_features_out(self) -> int:
        return self.model_.layers[0].output_size()  # type: ignore[call-arg]

    @fitting
    def fit(
        self,
        X: ArrayLike,
        y: Any = None,
        sample_weight: ArrayLike | None = None,
        *,
        comm: Any = None,
        shards: int | None = None,
        exact: bool = True,
    ) -> Self:
        """Learn how sequences go on.

        Parameters
        ----------
        X : array (n, T, F), list of n arrays (T_i, F), or array or frame (n, T) of one feature
        y : ignored
        sample_weight : array (n,), optional
            Sequences of weight 0 are left out.
        comm, shards, exact : as of `lstmx.Sequential.fit`, optional
            The ranks of an MPI communicator train together, each given the same data.

        Returns
        -------
        self
        """
        with training.open_ranks(comm, shards, exact) as ranks:
            return self._train(ranks, X, sample_weight)

    transform = delegated(predictors.Transformer.transform)
