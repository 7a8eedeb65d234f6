"""LSTMRegressor."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from sklearn.base import MultiOutputMixin, RegressorMixin
from sklearn.metrics import r2_score
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_array, check_consistent_length, column_or_1d

from lstmx import predictors
from lstmx.data import panel
from lstmx.estimators._base import delegated
from lstmx.estimators._supervised import SupervisedEstimator, takes_parts
from lstmx.functional import validate
from lstmx.functional.messages import explained

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import ArrayLike

    from lstmx._types import Array, Arrays, Config, DType, Initial, PathLike, Shape
    from lstmx.functional.cell import Cell


LOSSES = {"squared_error": "mse", "absolute_error": "mae", "huber": "huber"}


class LSTMRegressor(MultiOutputMixin, RegressorMixin, SupervisedEstimator):
    """Regress numbers on sequences with a Long Short-Term Memory network: one per sequence, or one per step.

    Parameters
    ----------
    target : {"sequence", "step"}
        Whether y holds one value (or row) for each sequence, or one for each step: then it is (n, T), (n, T, O),
        whatever the layout of X, or a list of (T_i,) or (T_i, O). It is never guessed.
    loss : {"squared_error", "absolute_error", "huber"}
    standardize : bool
        Scale each feature and each target to mean 0 and deviation 1, as found in the training data; predictions are
        scaled back. ``loss_curve_`` is in scaled units.
    hidden_size, num_layers, bidirectional, cell, proj_size, init, pooling, dropout, layout, solver, alpha, \
batch_size, learning_rate, learning_rate_init, power_t, max_iter, shuffle, random_state, tol, verbose, warm_start, \
momentum, nesterovs_momentum, early_stopping, validation_fraction, validation_from, monitor, beta_1, beta_2, epsilon, \
n_iter_no_change, clip_norm, max_fun, checkpoint, checkpoint_every, resume
        As in `LSTMClassifier`. With early stopping the score is R².

    Attributes
    ----------
    n_iter_, loss_, best_loss_, loss_curve_, validation_scores_, validation_loss_curve_, best_validation_score_, t_, \
n_features_in_, n_layers_, n_outputs_, out_activation_, model_, parameters_
        As in `LSTMClassifier`.

    Examples
    --------
    The sum of what was seen, after each step:

    >>> import numpy as np
    >>> from lstmx import LSTMRegressor
    >>> X = np.random.default_rng(0).normal(size=(200, 12, 1))
    >>> y = X[:, :, 0].cumsum(axis=1)
    >>> reg = LSTMRegressor(hidden_size=16, target="step", max_iter=40, tol=0.01, random_state=0).fit(X, y)
    >>> reg.predict(X[:3]).shape, reg.score(X, y) > 0.95
    ((3, 12), True)
    """

    _kind = predictors.Regressor

    def __init__(self, hidden_size: int = 64, num_layers: int = 1, *, target: str = "sequence",
                 loss: str = "squared_error", bidirectional: bool = False, cell: Cell | None = None, proj_size: int = 0,
                 init: Initial = "glorot", pooling: str = "last", dropout: float = 0.0, standardize: bool = True,
                 layout: str = "NTC", solver: str = "adam", alpha: float = 0.0001, batch_size: int | str = "auto",
                 learning_rate: str = "constant", learning_rate_init: float = 0.005, power_t: float = 0.5,
                 max_iter: int = 200, shuffle: bool = True, random_state: int | np.random.RandomState | None = None,
                 tol: float = 1e-4, verbose: bool | int = False, warm_start: bool = False, momentum: float = 0.9,
                 nesterovs_momentum: bool = True, early_stopping: bool = False, validation_fraction: float = 0.1,
                 validation_from: str = "random", monitor: str = "score", beta_1: float = 0.9, beta_2: float = 0.999,
                 epsilon: float = 1e-8, n_iter_no_change: float = 30, clip_norm: float | None = 1.0,
                 max_fun: int = 15000, checkpoint: PathLike | None = None, checkpoint_every: int = 10,
                 resume: bool = False) -> None:  # fmt: skip
        self._store(locals())

    _several = "(n, O)"

    def _check_parameters(self) -> None:
        super()._check_parameters()
        validate.choice("loss", self.loss, LOSSES)

    @available_if(takes_parts)
    @explained
    def partial_fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """One epoch over one part of the data; the optimiser goes on where it was.

        Features and targets are standardised by the statistics of the first part.
        """
        return self._partial_fit(X, y, sample_weight)

    def _read_targets(self, y: Any, data: panel.Panel, first: bool, incremental: bool, classes: Any) -> Config:
        if not first:
            return self._predictor.config
        shape = np.shape(y)
        return self._config(data) | {"outputs": shape[1] if len(shape) == 2 else 1, "single": len(shape) == 1}

    def _encode(self, y: Any, data: panel.Panel, config: Config, name: str = "y") -> tuple[Array, Array | None]:
        if config["target"] == "step":
            y = validate.real_array(name, y, np.float64).reshape(len(y), config["outputs"])
            bad = ~np.isfinite(y).all(axis=1)
            if bad.any():
                n, t = validate.step_of(int(bad.argmax()), data.lengths)
                raise ValueError(f"{name}: contains NaN or infinity in sequence {n}, step {t}; fill it, or cut the "
                                 "sequence")  # fmt: skip
            return y, None
        y = check_array(y, ensure_2d=False, dtype=[np.float64, np.float32], input_name=name, allow_nd=True)
        check_consistent_length(data.lengths, y)
        if not config["single"] and y.shape == (len(data), config["outputs"]):
            return y, None
        if config["single"] and y.shape in ((len(data),), (len(data), 1)):
            return column_or_1d(y)[:, None], None
        steps = data.x.shape[1] if not data.ragged else None
        hint = '; for one value per step set target="step"' if steps is not None and y.shape[1:2] == (steps,) else ""
        want = (len(data),) if config["single"] else (len(data), config["outputs"])
        what = "value" if config["single"] else "row"
        raise ValueError(f"{name}: got shape {y.shape}, must be {want}: one {what} per sequence{hint}")

    def _standardise(self, data: panel.Panel, target: Array, weight: Any, config: Config) -> Arrays:
        arrays = super()._standardise(data, target, weight, config)
        if self.standardize:
            rows = panel.Panel(target[:, None], np.ones(len(target), np.int64), False, "NTC")
            weight = np.repeat(weight, data.lengths) if config["target"] == "step" else weight
            arrays["y_mean"], arrays["y_scale"] = panel.statistics(rows, weight, "y")
        return arrays

    def _rows(self, target: Array, config: Config, arrays: Arrays, dtype: DType) -> Array:
        return ((target - arrays.get("y_mean", 0.0)) / arrays.get("y_scale", 1.0)).astype(dtype)

    def _row_shape(self, config: Config) -> Shape | None:
        return () if config["single"] else (config["outputs"],)

    def _head(self, config: Config) -> tuple[str, str]:
        return LOSSES[self.loss], "linear"

    def _scorer(self, config: Config) -> Callable[..., float]:
        def r2(target: Array, output: Array, weight: Array | None) -> float:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of a single value R2 is not defined; NaN improves nothing
                return float(r2_score(target, output, sample_weight=weight))

        return r2

    predict = delegated(predictors.Regressor.predict)

    def score(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> float:
        """R² of the predictions, for per-step targets over all steps."""
        predictor, data = self._fitted(), self._read(X)
        if predictor.config["target"] == "sequence":
            return super().score(data, y, sample_weight)
        rows, found, weight = self._scored(data, y, sample_weight)
        return float(r2_score(self._encode(rows, data, predictor.config)[0], found, sample_weight=weight))
