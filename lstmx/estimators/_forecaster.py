"""LSTMForecaster."""

from __future__ import annotations

import bisect
import functools
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from sklearn.metrics import r2_score

from lstmx import predictors, training
from lstmx.data import batches, missing, panel
from lstmx.data.series import are_several, as_series, bridged, columns_of
from lstmx.data.targets import RowWeights
from lstmx.estimators._base import LSTMEstimator, Problem
from lstmx.estimators._frames import Frames
from lstmx.estimators._nextstep import minus_error
from lstmx.estimators._notes import encode
from lstmx.estimators._regressor import LOSSES
from lstmx.estimators._training import fitting
from lstmx.functional import validate
from lstmx.functional.read import Sequences
from lstmx.predictors import transforms
from lstmx.predictors.forecaster import difference, lead, scales

if TYPE_CHECKING:
    from collections.abc import Callable

    from lstmx._types import Array, Arrays, Config, Context, DType, Initial, Ints, PathLike
    from lstmx.functional.cell import Cell
    from lstmx.layers.trace import Trace


MOST_CALIBRATED = 1000  # windows whose errors are kept, spread evenly


class _Blocks:
    """Targets of windows: the rows that follow them, in the form of `targets.Targets`; overlapping, not copied."""

    per_step = False

    def __init__(self, values: Array, starts: Ints, block: int) -> None:
        self.values, self.starts, self.ahead = values, starts, np.arange(block)

    def rows_of(self, chosen: Ints, context: Context) -> Array:
        """(n, block * O) in the order of the model's output."""
        places = self.starts[context.sort(chosen)][:, None] + self.ahead
        return self.values[places].reshape(len(places), -1)


def _framed(method: Callable[..., Any], labelled: bool = True) -> Callable[..., Any]:
    """A method of the predictor that forecasts, for series and results with the names and dates of frames."""

    @functools.wraps(method)
    def call(self: Any, horizon: int | None = None, X: Any = None, *, y: Any = None, **how: Any) -> Any:
        predictor, frames = self._fitted(), self._frames if y is None else Frames(y, self._frames)
        X, y = frames.values(X, "X"), frames.values(y)
        frames.check_future(X, y)
        found = getattr(predictor, method.__name__)(horizon, X, y=y, **how)
        if not labelled:
            return frames.keyed(found)
        return tuple(map(frames.label, found)) if isinstance(found, tuple) else frames.label(found)

    return call


class LSTMForecaster(LSTMEstimator):
    """Forecast one series or several with a Long Short-Term Memory network.

    The network sees a window of the past and gives the next steps. Differencing and scaling are done, and undone,
    inside; windows overlap and are not copied. Note the order ``fit(y, X)``: first the series to forecast.

    Series of pandas with dates give forecasts with dates (`fit`); forecasts of other series than those of `fit`, with
    the past that they have, are ``predict(y=...)``.

    To begin with, where there is a season of m steps: ``differences=(m,)`` and a window of 2 m or more. Compare
    settings with `score`, by ``GridSearchCV(LSTMForecaster(...), {...}, cv=TimeSeriesSplit(...))``.

    Parameters
    ----------
    window : int
        Steps of the past that the network sees.
    horizon : int
        Steps ahead that it is trained for, and that `predict` gives by default.
    strategy : {"direct", "recursive"}
        Whether the network gives all steps of the horizon at once, or one step, from which the next is forecast.
    differences : tuple of int
        Lags of differences to forecast instead of the values, applied one after the other: ``(1,)`` the change from
        step to step, which takes out a trend; ``(12,)`` the change from a year before in monthly data, which takes out
        the season and the trend with it; ``(12, 1)`` both, for trends that bend; ``()`` the values themselves, best
        where they come back to a level of their own.
    transform : {"log", "boxcox"} or (function, inverse), optional
        What is done to y before that, and undone on forecasts, bounds and samples; the middle of a distribution stays
        its middle, a mean does not. "log" and "boxcox" need y above 0 and suit what grows by a factor or swings the
        more the higher it is. "boxcox" is y**lambda, or log(y) where lambda is 0, with the lambda from 0 to 1 of the
        greatest likelihood (`scipy.stats.boxcox_llf`) on the training part, one for each series and variable. A pair of
        functions, such as ``(np.log1p, np.expm1)``, works element by element on arrays (n,); both must be monotone, the
        inverse on all numbers; they are pickled, but not saved to a file.
    missing : {"error", "impute"}
        What NaN in y and X is. "impute" draws a straight line across each gap of a series and repeats the nearest value
        at its ends; nothing of what is held out goes into the training part. Windows whose whole target is missing are
        left out, other imputed values count as if observed, in the errors behind the intervals too. `update`, `predict`
        and `score` take gaps as well.
    loss : {"squared_error", "absolute_error", "huber"}
    standardize : bool
        Scale each series' (differenced) variables, and exogenous variables over all series, to mean 0 and deviation 1.
    early_stopping : bool
        Hold out the windows at the end of each series, stop when the error on them no longer falls, and keep the best
        weights. The intervals of `predict_interval` are made of the errors on them.
    hidden_size, num_layers, cell, proj_size, init, dropout, solver, alpha, batch_size, learning_rate, \
learning_rate_init, power_t, max_iter, shuffle, random_state, tol, verbose, warm_start, momentum, nesterovs_momentum, \
validation_fraction, beta_1, beta_2, epsilon, n_iter_no_change, clip_norm, checkpoint, checkpoint_every, resume
        As in `LSTMClassifier`. n_iter_no_change is 5, as windows that overlap show the network every step many times in
        an epoch: a series of some thousands is learnt in a few.

    Attributes
    ----------
    n_iter_, loss_, best_loss_, loss_curve_, validation_scores_, validation_loss_curve_, best_validation_score_, t_, \
model_, parameters_
        As in `LSTMClassifier`; the validation score is minus the squared error in scaled units.
    lambdas_ : ndarray (series, O)
        Of ``transform="boxcox"``, else None.

    Examples
    --------
    >>> import numpy as np
    >>> from lstmx import LSTMForecaster
    >>> y = np.sin(np.arange(400) / 5)
    >>> forecaster = LSTMForecaster(40, 20, differences=(), hidden_size=16, max_iter=60, tol=1e-3, random_state=0)
    >>> forecaster = forecaster.fit(y[:300])
    >>> bool(np.abs(forecaster.predict() - y[300:320]).max() < 0.2)
    True
    >>> forecaster.update(y[300:350]).predict(50).shape
    (50,)
    >>> lower, upper = forecaster.predict_interval(coverage=0.9)
    >>> bool((lower < upper).all())
    True
    >>> other = 5 + 2 * np.cos(np.arange(100) / 5)  # was not in fit
    >>> bool(np.abs(forecaster.predict(10, y=other) - 5 - 2 * np.cos(np.arange(100, 110) / 5)).max() < 0.4)
    True
    """

    _kind = predictors.Forecaster
    layout, pooling = "NTC", "last"
    _frames = Frames()  # of the series of `fit`: their names, and how their dates go on

    def __init__(self, window: int = 32, horizon: int = 1, *, strategy: str = "direct",
                 differences: tuple[int, ...] | list[int] = (1,),
                 transform: str | tuple[Callable[..., Any], Callable[..., Any]] | None = None, missing: str = "error",
                 hidden_size: int = 64, num_layers: int = 1, cell: Cell | None = None, proj_size: int = 0,
                 init: Initial = "glorot", loss: str = "squared_error", dropout: float = 0.0, standardize: bool = True,
                 solver: str = "adam", alpha: float = 0.0001, batch_size: int | str = "auto",
                 learning_rate: str = "constant", learning_rate_init: float = 0.005, power_t: float = 0.5,
                 max_iter: int = 200, shuffle: bool = True, random_state: int | np.random.RandomState | None = None,
                 tol: float = 1e-4, verbose: bool | int = False, warm_start: bool = False, momentum: float = 0.9,
                 nesterovs_momentum: bool = True, early_stopping: bool = True, validation_fraction: float = 0.1,
                 beta_1: float = 0.9, beta_2: float = 0.999, epsilon: float = 1e-8, n_iter_no_change: float = 5,
                 clip_norm: float | None = 1.0, checkpoint: PathLike | None = None, checkpoint_every: int = 10,
                 resume: bool = False) -> None:  # fmt: skip
        self._store(locals())

    def _check_parameters(self) -> None:
        super()._check_parameters()
        validate.count("window", self.window)
        validate.count("horizon", self.horizon)
        validate.choice("strategy", self.strategy, ("direct", "recursive"))
        validate.choice("loss", self.loss, LOSSES)
        validate.choice("missing", self.missing, missing.MISSING)
        if not isinstance(self.differences, tuple | list):
            raise TypeError(f"differences: got {self.differences!r}, must be a tuple of lags, such as (1,) or (12, 1)")
        for lag in self.differences:
            validate.count("differences", lag)
        pair = self.transform
        if isinstance(pair, str):
            validate.choice("transform", pair, transforms.NAMES)
        elif pair is not None and not (isinstance(pair, tuple | list) and len(pair) == 2 and all(map(callable, pair))):
            raise TypeError(f'transform: got {pair!r}, must be None, "log", "boxcox", or a pair of functions '
                            "(function, inverse), such as (np.log1p, np.expm1)")  # fmt: skip

    @fitting
    def fit(self, y: Any, X: Any = None, *, comm: Any = None, shards: int | None = None, exact: bool = True) -> Self:
        """Learn from the past of one series or of several.

        Parameters
        ----------
        y : array (T,) or (T, O), list or dict of such arrays, or array (n, T, O)
            One series of one or of O variables; or several. A Series or a DataFrame, of pandas or polars, is as good as
            an array, and forecasts then are such with the same names: see Notes.
        X : array (T, E), list or dict of such arrays, or array (n, T, E), optional
            Exogenous variables of the same steps. The network sees those of the steps that it forecasts, so `predict`
            needs them beforehand.
        comm, shards, exact : as of `lstmx.Sequential.fit`, optional
            The ranks of an MPI communicator train together, each given the same data.

        Returns
        -------
        self

        Notes
        -----
        Forecasts and bounds, not sample paths, go on with the index of pandas: dates and durations by their frequency,
        that of the index or else the one that they show; periods; numbers by their even distance. Of an index that is
        not evenly spaced, with a warning, and of one of other labels the places of forecasts are those that rows to
        come would have, counted from 0. Dates must rise. Where y and X both have dates, in `fit`, `predict` or
        `update`, these must agree. Files that `save` writes hold dates, and names that are strings or numbers, for
        `load`; what `lstmx.load` gives forecasts arrays.

        Examples
        --------
        >>> import numpy as np, pandas as pd
        >>> from lstmx import LSTMForecaster
        >>> days = pd.date_range("2026-01-01", periods=90)
        >>> y = pd.Series(np.sin(np.arange(90) / 5), days, name="tide")
        >>> forecaster = LSTMForecaster(14, 3, hidden_size=8, tol=1e-2, random_state=0).fit(y)
        >>> forecast = forecaster.predict()
        >>> print(forecast.name, forecast.index[0].date(), forecast.index[-1].date())
        tide 2026-04-01 2026-04-03
        """
        with training.open_ranks(comm, shards, exact) as ranks:
            return self._train(ranks, y, X)

    def _train(self, ranks: training.Alone, y: Any, X: Any) -> Self:
        self._check_parameters()
        frames = Frames(y)
        y, X = frames.values(y), frames.values(X, "X")
        frames.check_past(X, y)
        seed, first = self._resumed_seed(ranks), self._is_first()
        several = are_several(y)
        gaps = self.missing == "impute"
        series = as_series(y, "y", gaps=gaps)
        single = np.ndim(y[0] if several else y) == 1
        if len({a.shape[1] for a in series}) > 1:
            raise ValueError("y: its series have different numbers of variables; give them the same")
        exogenous = self._read_exogenous(X, series, several)
        config = {
            "features": series[0].shape[1], "steps": None, "layout": "NTC", "standardize": bool(self.standardize),
            "window": int(self.window), "block": int(self.horizon if self.strategy == "direct" else 1),
            "horizon": int(self.horizon), "lags": [int(lag) for lag in self.differences], "series": len(series),
            "exogenous": exogenous[0].shape[1], "single": single, "many": several, "columns": columns_of(X),
            "calibrated": 0, "drawn": 0, "missing": self.missing,
            "transform": self.transform if self.transform is None or isinstance(self.transform, str)
            else transforms.FUNCTIONS,
        }  # fmt: skip
        if not first:
            self._check_same(config)
        self.n_features_in_ = config["features"]
        splits = [self._split(n, len(a), config) for n, a in enumerate(series)]
        if gaps:
            ends, block = self._seen(splits, config), config["block"]
            splits = [_with_targets(a, origins, block) for a, origins in zip(series, splits, strict=True)]
            series, exogenous = _bridged(series, ends, "y", several), _bridged(exogenous, ends, "X", several)
        transform, lambdas = self._transform(series, splits, config)
        labels = [f"y[{n}]" if several else "y" for n in range(len(series))]
        raw, series = series, [transform.forward(a, n, labels[n]) for n, a in enumerate(series)]
        if transform.functions:
            for a, z, label in zip(raw, series, labels, strict=True):
                transform.check(a, z, label)
        arrays = self._statistics(series, exogenous, splits, config) | self._ends(series, exogenous, config)
        arrays |= {} if lambdas is None else {"y_lambda": lambdas}
        dtype = self._dtype(y) if first else self._predictor.model.dtype
        data, train, rest = self._windows(series, exogenous, splits, arrays, config, dtype)
        problem = Problem(
            self._kind, config, arrays, batches.Subset(data, train), LOSSES[self.loss], "linear", False, dtype,
            batches.Subset(data, rest) if self.early_stopping else None, minus_error, identity=(*series, *exogenous),
            finish=lambda predictor: {
                "_predictor": self._calibrate(predictor, series, exogenous, splits, transform.functions),
                "lambdas_": lambdas,
                "_frames": frames,
            },
        )  # fmt: skip
        return self._run(problem, seed, {"X": X, "y": y, "metadata": None}, ranks)

    @staticmethod
    def _dtype(y: Any) -> DType:
        arrays = list(y) if are_several(y) else [y]
        single = all(np.asarray(a).dtype.name == "float32" for a in arrays)
        return np.dtype(np.float32) if single else np.dtype(np.float64)

    def _read_exogenous(self, X: Any, series: list[Array], several: bool) -> list[Array]:
        if X is None:
            return [np.zeros((len(a), 0)) for a in series]
        found = as_series(X, "X", several, len(series), gaps=self.missing == "impute")
        for n, (x, a) in enumerate(zip(found, series, strict=True)):
            if len(x) != len(a):
                label = f"X[{n}]" if several else "X"
                raise ValueError(f"{label}: got {len(x)} rows, but y has {len(a)} steps; give a row for each")
        if len({x.shape[1] for x in found}) > 1:
            raise ValueError("X: its arrays have different numbers of variables; give them the same")
        return found

    def _check_same(self, config: Config) -> None:
        was = self._predictor.config
        for name in ("features", "exogenous", "window", "block"):
            if config[name] != was[name]:
                raise ValueError(f"warm_start: the last fit had {name} = {was[name]}, now it is {config[name]}; set "
                                 "warm_start=False")  # fmt: skip

    def _split(self, n: int, steps: int, config: Config) -> tuple[Array, Array]:
        """(origins of training, origins held out): the last steps that windows see.

        The last share of the windows that are followed by the whole horizon is held out, and what comes after them. No
        target of training lies among the targets held out.
        """
        first, block = self._kind.kept(config) - 1, config["block"]
        ahead = config["horizon"] if self.early_stopping else block
        train = self._for_training(steps - ahead - first, block)
        if train < 1:
            fewest = 1 + bisect.bisect_left(range(1, 2**62), 1, key=lambda count: self._for_training(count, block))
            raise ValueError(
                f"y: series {n} has {steps} steps; a window of {self.window}, differences of "
                f"{sum(self.differences)} and a horizon of {self.horizon} need at least {first + ahead + fewest}: "
                "shorten window or horizon"
                + (", or set early_stopping=False" if self.early_stopping else "")
                + (
                    f". It was read as {config['features']} variables; {steps} series are a list of arrays, list(y)"
                    if config["features"] > steps
                    else ""
                )
            )
        held = first + train + block - 1 if self.early_stopping else steps
        return np.arange(first, first + train), np.arange(held, steps - block)

    def _for_training(self, count: int, block: int) -> int:
        """How many of `count` windows remain: those whose targets overlap with targets held out are left out."""
        if not self.early_stopping:
            return count
        return count - max(1, round(self.validation_fraction * count)) - (block - 1)

    @staticmethod
    def _seen(splits: list[Any], config: Config) -> list[int]:
        """How many rows of each series training sees."""
        return [train[-1] + config["block"] + 1 for train, _ in splits]

    def _transform(
        self, series: list[Array], splits: list[Any], config: Config
    ) -> tuple[transforms.Transform, Array | None]:
        """(the `transforms.Transform`, its lambdas (series, O) if it is "boxcox")."""
        name, lambdas = config["transform"], None
        if name == "boxcox":
            ends = self._seen(splits, config)
            lambdas = np.array([[_lambda(v) for v in a[:end].T] for a, end in zip(series, ends, strict=True)])
        return transforms.Transform(name, lambdas, self.transform if name == transforms.FUNCTIONS else None), lambdas

    def _statistics(self, series: list[Array], exogenous: list[Array], splits: list[Any], config: Config) -> Arrays:
        """Means and deviations, of what training sees alone."""
        count, outputs, variables = len(series), config["features"], config["exogenous"]
        arrays = {"y_mean": np.zeros((count, outputs)), "y_scale": np.ones((count, outputs)),
                  "x_mean": np.zeros(variables), "x_scale": np.ones(variables)}  # fmt: skip
        if self.standardize:
            seen = self._seen(splits, config)
            for k, (a, end) in enumerate(zip(series, seen, strict=True)):
                arrays["y_mean"][k], arrays["y_scale"][k] = scales(a[:end], config["lags"], f"y: series {k}")
            if variables:
                x = np.concatenate([x[:end] for x, end in zip(exogenous, seen, strict=True)])
                with np.errstate(over="ignore", invalid="ignore"):
                    mean, deviation = x.mean(axis=0), x.std(axis=0)
                if not np.isfinite(deviation).all():
                    raise ValueError(f"X: has values up to {np.abs(x).max():.3g}, too large to scale; divide them by a "
                                     "constant")  # fmt: skip
                arrays["x_mean"], arrays["x_scale"] = mean, panel.usable(deviation, mean)
        return arrays

    def _ends(self, series: list[Array], exogenous: list[Array], config: Config) -> Arrays:
        kept = self._kind.kept(config)
        return {
            "history": np.stack([a[-kept:] for a in series]),
            "history_x": np.stack([x[-kept:] for x in exogenous]),
            "errors": np.zeros((0, config["block"], config["features"])),
            "residuals": np.zeros((0, config["horizon"], config["features"])),
        }

    def _windows(
        self,
        series: list[Array],
        exogenous: list[Array],
        splits: list[Any],
        arrays: Arrays,
        config: Config,
        dtype: DType,
    ) -> tuple[batches.Data, Array, Array]:
        """(data of all windows, places of those for training, of those held out)."""
        block, window, lags = config["block"], config["window"], config["lags"]
        skipped = sum(lags)
        inputs, targets, starts, held, offset = [], [], [], [], 0
        for k, (a, x, (train, rest)) in enumerate(zip(series, exogenous, splits, strict=True)):
            z = (difference(a, lags)[-1] - arrays["y_mean"][k]) / arrays["y_scale"][k]
            rows = z
            if config["exogenous"]:
                ahead = lead((x - arrays["x_mean"]) / arrays["x_scale"], block)[skipped:]
                rows = np.concatenate([z, np.pad(ahead, ((0, block), (0, 0)))], axis=1)  # no window has the padded rows
            inputs.append(rows)
            targets.append(z)
            starts.append(offset + np.concatenate([train, rest]) - skipped - window + 1)
            held.append(np.repeat([False, True], [len(train), len(rest)]))
            offset += len(z)
        starts, held = np.concatenate(starts), np.concatenate(held)
        series = np.concatenate(inputs).astype(dtype)
        lengths = np.full(len(starts), window, np.int64)
        windows = Sequences(series, lengths, dtype, form="list", starts=starts)
        blocks = _Blocks(np.concatenate(targets).astype(dtype), starts + window, block)
        data = batches.Data(windows, blocks, RowWeights(None, None, dtype))
        return data, np.flatnonzero(~held), np.flatnonzero(held)

    def _calibrate(
        self,
        predictor: predictors.Forecaster,
        series: list[Array],
        exogenous: list[Array],
        splits: list[Any],
        functions: Any,
    ) -> predictors.Forecaster:
        """The predictor with its errors on the windows held out, or without such on those of training."""
        config, arrays = predictor.config, predictor.arrays
        origins = [(k, t) for k, (train, rest) in enumerate(splits) for t in (rest if len(rest) else train)]
        followed = [(k, t) for k, t in origins if t + config["horizon"] < len(series[k])]
        past, future, x, mean, scale = self._around(origins, series, exogenous, predictor, config["block"])
        # In the model's own units: the differenced truth of a block less what the model gives for it.
        true = difference(np.concatenate([past, future], axis=1), config["lags"])[-1][:, -config["block"] :]
        inputs = Sequences(predictor.rows(past, x, mean, scale), dtype=predictor.model.dtype)
        given = predictor.model.predict_sequences(inputs).astype(np.float64)
        errors = (true - mean[:, None]) / scale[:, None] - given.reshape(true.shape)
        residuals = arrays["residuals"]
        if followed:
            past, future, x, mean, scale = self._around(followed, series, exogenous, predictor, config["horizon"])
            residuals = (future - predictor.roll(past, x, mean, scale, config["horizon"])) / scale[:, None]
        counts = {"drawn": len(errors), "calibrated": len(residuals)}
        found = self._kind(config | counts, arrays | {"errors": errors, "residuals": residuals}, predictor.model)
        found.with_functions(functions)
        return found

    @staticmethod
    def _around(
        origins: list[tuple[int, int]],
        series: list[Array],
        exogenous: list[Array],
        predictor: predictors.Forecaster,
        ahead: int,
    ) -> tuple[Array, Array, Array, Array, Array]:
        """Past and future of at most MOST_CALIBRATED origins: y before, y after, X of both, means and scales."""
        kept = predictor.kept(predictor.config)
        chosen = np.unique(np.linspace(0, len(origins) - 1, MOST_CALIBRATED).astype(int))
        origins = [origins[k] for k in chosen]
        which = np.array([k for k, _ in origins])
        past = np.stack([series[k][t + 1 - kept : t + 1] for k, t in origins])
        future = np.stack([series[k][t + 1 : t + 1 + ahead] for k, t in origins])
        x = np.stack([exogenous[k][t + 1 - kept : t + 1 + ahead] for k, t in origins])
        return past, future, x, predictor.arrays["y_mean"][which], predictor.arrays["y_scale"][which]

    def score(self, y: Any, X: Any = None) -> float:
        """R² of the forecast of the steps that follow those known so far; of several series the mean.

        So a search with ``cv=TimeSeriesSplit()`` works: each part is forecast by what was fitted to those before it.

        Parameters
        ----------
        y : array (H,) or (H, O), or a list or dict of them for several series
            What came.
        X : array (H, E), or a list or dict of them
            The exogenous variables of the same steps, if `fit` had such.

        Returns
        -------
        float
        """
        predictor = self._fitted()
        config, y, X = predictor.config, self._frames.values(y), self._frames.values(X, "X")
        self._frames.check_future(y, name="y")
        self._frames.check_future(X)
        true = as_series(y, "y", config["many"], config["series"], gaps=config["missing"] == "impute")
        steps = min(map(len, true)) if config["exogenous"] else max(map(len, true))
        if not steps:
            raise ValueError("y: got 0 steps, must be at least one")
        found = as_series(predictor.predict(steps, X), "y", config["many"])
        pairs = [(a[:steps], f[: min(len(a), steps)]) for a, f in zip(true, found, strict=True)]
        there = [~np.isnan(a).any(axis=1) for a, _ in pairs]
        if not all(t.any() for t in there):
            raise ValueError("y: a series has no step without a missing value, so its forecast cannot be scored")
        pairs = [(a[t], f[t]) for (a, f), t in zip(pairs, there, strict=True)]
        return float(np.mean([r2_score(a, f) for a, f in pairs]))

    def _private(self) -> Config:
        frames = self._frames.state()
        try:
            encode(frames, "names")
        except TypeError:  # they are neither strings nor numbers
            return {}
        return {"frames": frames}

    def _restore(self, stored: Any, private: Config) -> None:
        super()._restore(stored, private)
        if "frames" in private:
            self._frames = Frames.from_state(private["frames"])

    predict = _framed(predictors.Forecaster.predict)
    predict_interval = _framed(predictors.Forecaster.predict_interval)
    sample = _framed(predictors.Forecaster.sample, labelled=False)

    @functools.wraps(predictors.Forecaster.trace)
    def trace(self, X: Any = None, *, y: Any = None) -> dict[int, Trace]:  # type: ignore[override]
        predictor, frames = self._fitted(), self._frames if y is None else Frames(y, self._frames)
        return predictor.trace(frames.values(X, "X"), y=frames.values(y))

    @functools.wraps(predictors.Forecaster.update)
    def update(self, y: Any, X: Any = None) -> Self:
        predictor, frames = self._fitted(), self._frames
        y, X = frames.values(y), frames.values(X, "X")
        frames.check_new(y)
        frames.check_future(X)
        predictor.update(y, X)
        self._frames = frames.after(y)
        return self


def _bridged(series: list[Array], ends: list[int], name: str, several: bool) -> list[Array]:
    """Series without gaps; what lies behind the `ends` of training changes nothing before them."""
    found = []
    for n, (a, end) in enumerate(zip(series, ends, strict=True)):
        label = f"{name}[{n}]" if several else name
        seen = bridged(a[:end], label)
        found.append(np.concatenate([seen, bridged(np.concatenate([seen[-1:], a[end:]]), label)[1:]]))
    return found


def _with_targets(a: Array, origins: tuple[Array, Array], block: int) -> tuple[Array, ...]:
    """(origins of training, origins held out) after which some value of the block is there."""
    there = np.concatenate([[0], np.cumsum(~np.isnan(a).all(axis=1))])
    found = tuple(t[there[t + 1 + block] > there[t + 1]] for t in origins)
    for kept, before, what in zip(found, origins, ("training", "validation"), strict=True):
        if len(before) and not len(kept):
            raise ValueError(f"y: is missing in all of the part for {what}; give a longer series, or fill it")
    return found


def _lambda(values: Array) -> float:
    """The power, from 0 to 1, that makes positive values most like a normal sample; 0 and 1 where it is near them."""
    try:
        from scipy import optimize, stats
    except ImportError as error:
        raise ImportError("transform: 'boxcox' needs SciPy to fit: pip install scipy; or take 'log'") from error
    if values.min() <= 0 or np.ptp(values) == 0:
        return 1.0  # the former is an error soon
    found = optimize.minimize_scalar(lambda power: -stats.boxcox_llf(power, values), bounds=(0, 1), method="bounded").x
    return float(np.round(found, 2) if min(found, 1 - found) < 0.01 else found)
