"""Forecasts of series: differencing, scaling and windows around a model that sees a window and gives a block of steps.

The model reads, at step t of its window, the differenced and scaled y_t and, where there are exogenous variables, those
of the next B steps, x_{t+1} .. x_{t+B}; from its last step it gives y_{t+1} .. y_{t+B}. The direct strategy has B = the
horizon, the recursive one B = 1; a longer forecast goes on from its own results, block by block, in both.

If there is a transform, y is what it gives, from beginning to end; only results are transformed back.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from lstmx import storage
from lstmx.data import missing
from lstmx.data.series import are_several, as_series, bridged
from lstmx.functional import validate
from lstmx.functional.read import Sequences
from lstmx.model import rollout
from lstmx.predictors import intervals, transforms
from lstmx.predictors.base import FINITE, POSITIVE, UNIT, Predictor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from types import MappingProxyType

    from numpy.typing import ArrayLike

    from lstmx._types import Array, ArrayShape, Config, PathLike, RandomState
    from lstmx.layers.trace import Trace


LONGEST = 10**6  # horizon


def difference(y: Array, lags: Sequence[int]) -> list[Array]:
    """Levels [y, then after each lag]: y_t - y_{t-lag} along the second axis from the end, each `lag` rows shorter."""
    levels = [y]
    for lag in lags:
        y = y[..., lag:, :] - y[..., :-lag, :]
        levels.append(y)
    return levels


def integrate(steps: Array, levels: list[Array], lags: Sequence[int]) -> Array:
    """The next values of the first of `levels` (from `difference`), given the next `steps` (n, B, O) of the last."""
    for lag, level in zip(reversed(lags), reversed(levels[:-1]), strict=True):
        ends = level[..., -lag:, :]
        out = np.empty_like(steps)
        for j in range(steps.shape[-2]):
            out[..., j, :] = steps[..., j, :] + (ends[..., j, :] if j < lag else out[..., j - lag, :])
        steps = out
    return steps


def lead(x: Array, count: int) -> Array:
    """(.., T - count, count * E) from (.., T, E): in row t the rows t + 1 to t + count."""
    rows = x.shape[-2] - count
    return np.concatenate([x[..., k : k + rows, :] for k in range(1, count + 1)], axis=-1)


def scales(y: Array, lags: Sequence[int], what: str) -> tuple[Array, Array]:
    """(mean (O,), scale (O,)) of the differences of y (T, O); an error calls it `what`."""
    z = difference(y, lags)[-1]
    with np.errstate(over="ignore", invalid="ignore"):
        mean, deviation = z.mean(axis=0), z.std(axis=0)
    if not np.isfinite(deviation).all():
        raise ValueError(f"{what} has values up to {np.abs(y).max():.3g}, too large to scale; divide them by a "
                         "constant")  # fmt: skip
    # What is nothing but rounding stays so: what the network says then adds no more than that.
    rounding = np.finfo(np.float64).eps * np.maximum(np.abs(y).max(axis=0), 1)
    return mean, np.maximum(deviation, rounding)


@dataclass(frozen=True)
class _Origin:
    """Where forecasts of n series begin: what the model needs of their past."""

    y: np.ndarray  # (n, K, O), transformed
    x: np.ndarray  # (n, K, E)
    mean: np.ndarray  # (n, O)
    scale: np.ndarray  # (n, O)
    transform: transforms.Transform
    many: bool  # whether the caller has a list of series

    def __len__(self) -> int:
        return len(self.y)

    def repeated(self, count: int) -> Iterator[Array]:
        """The same with each series so many times."""
        return (np.repeat(a, count, axis=0) for a in (self.y, self.mean, self.scale))


class Forecaster(Predictor):
    """What comes next in series that it has seen the end of, or in others like them."""

    fields: ClassVar[tuple[str, ...]] = (*Predictor.fields, "window", "block", "horizon", "lags", "series", "exogenous",
              "single", "many", "columns", "calibrated", "drawn", "transform", "missing")  # fmt: skip
    defaults: ClassVar[dict[str, Any] | MappingProxyType[str, Any]] = {"transform": None, "missing": "error"}
    in_pipelines = False  # it takes series

    @classmethod
    def check(cls, config: Config) -> None:
        super().check(config)
        for name in ("window", "block", "horizon", "series"):
            validate.count(name, config[name])
        for name in ("exogenous", "calibrated", "drawn"):
            validate.count(name, config[name], 0)
        if config["horizon"] > LONGEST:
            raise ValueError(f"horizon: got {config['horizon']}, must be at most {LONGEST}")
        columns = config["columns"]
        names = isinstance(columns, list) and all(isinstance(c, str) for c in columns)
        if columns is not None and not (names and len(columns) == config["exogenous"] > 0):
            raise ValueError("columns: must be a list of the names of the exogenous variables, or null")
        for name in ("single", "many"):
            validate.flag(name, config[name])
        if not isinstance(config["lags"], list) or len(config["lags"]) > 100:
            raise ValueError("lags: must be a list of at most 100 integers")
        for lag in config["lags"]:
            validate.count("lags", lag)
        if (config["single"] and config["features"] != 1) or (config["series"] != 1 and not config["many"]):
            raise ValueError("single, many: must say whether there is one variable, and whether several series")
        if config["transform"] is not None:
            validate.choice("transform", config["transform"], (*transforms.NAMES, transforms.FUNCTIONS))
        validate.choice("missing", config["missing"], missing.MISSING)

    @functools.cached_property
    def names(self) -> list[str] | None:
        """The names of the variables of the series of fit, if its note says them."""
        try:
            series = dict(json.loads(self.note or "{}")["private"]["frames"]["dict"])["each"]
            found = [dict(one["dict"])["names"] for one in series if one is not None]
        except (KeyError, TypeError, ValueError, RecursionError):
            return None
        return found[0] if found and isinstance(found[0], list) else None

    @classmethod
    def inputs(cls, config: Config) -> int:
        """Features that the model must take."""
        return config["features"] + config["block"] * config["exogenous"]

    @classmethod
    def outputs(cls, config: Config) -> int:
        """Outputs that the model must have."""
        return config["features"] * config["block"]

    @classmethod
    def kept(cls, config: Config) -> int:
        """Rows of each series that a forecast needs."""
        return config["window"] + sum(config["lags"])

    @classmethod
    def own_shapes(cls, config: Config) -> Iterable[ArrayShape]:
        series, outputs, exogenous = config["series"], config["features"], config["exogenous"]
        for name, shape, need in (
            ("y_mean", (series, outputs), FINITE),
            ("y_scale", (series, outputs), POSITIVE),
            ("x_mean", (exogenous,), FINITE),
            ("x_scale", (exogenous,), POSITIVE),
            ("history", (series, cls.kept(config), outputs), FINITE),
            ("history_x", (series, cls.kept(config), exogenous), FINITE),
            ("errors", (config["drawn"], config["block"], outputs), FINITE),
            ("residuals", (config["calibrated"], config["horizon"], outputs), FINITE),
        ):
            yield name, shape, "float64", need
        if config["transform"] == "boxcox":
            yield "y_lambda", (series, outputs), "float64", UNIT

    @classmethod
    def array_shapes(cls, config: Config) -> Iterator[ArrayShape]:
        if config.get("transform") == transforms.FUNCTIONS:
            raise ValueError("transform: a pair of functions is in no file; make the file again")
        yield from super().array_shapes(config)

    @functools.wraps(storage.Stored.save)
    def save(self, path: PathLike) -> None:  # type: ignore[override]
        if self.config["transform"] == transforms.FUNCTIONS:
            raise TypeError(f"transform: functions ({transforms.names_of(self._functions)}) cannot be saved to a file, "
                            'as it holds no code; pickle the forecaster, or fit with "log" or "boxcox"')  # fmt: skip
        super().save(path)

    def _more(self) -> dict[str, Any]:
        return super()._more() | ({} if self._functions is None else {"_functions": self._functions})

    @property
    def transform(self) -> transforms.Transform:
        """The `transforms.Transform` of y."""
        return transforms.Transform(self.config["transform"], self.arrays.get("y_lambda"), self._functions)

    def rows(self, y: Array, x: Array, mean: Array, scale: Array) -> Array:
        """What the model reads (n, window, features): from the last rows y (n, K, O) and x (n, K + block, E)."""
        z = (difference(y, self.config["lags"])[-1] - mean[:, None]) / scale[:, None]
        if self.config["exogenous"]:
            ahead = lead((x - self.arrays["x_mean"]) / self.arrays["x_scale"], self.config["block"])
            z = np.concatenate([z, ahead[:, -z.shape[1] :]], axis=2)
        return np.ascontiguousarray(z[:, -self.config["window"] :])

    def roll(
        self, y: Array, x: Array, mean: Array, scale: Array, horizon: int, draw: Callable[..., Any] | None = None
    ) -> Array:
        """Forecasts (n, horizon, O) from the last rows y (n, K, O) of n series, with x (n, K + the future, E).

        `draw(n)`, if given, draws errors (n, block, O) that are added to what the model gives, in its own units.
        """
        block, lags, kept = self.config["block"], self.config["lags"], y.shape[1]
        if block == 1:
            return self._roll_steps(y, x, mean, scale, horizon, draw)
        found = []
        for start in range(0, horizon, block):
            rows = self.rows(y, x[:, start : start + kept + block], mean, scale)
            inputs = Sequences(rows, dtype=self.model.dtype)
            steps = self.model.predict_sequences(inputs).astype(np.float64).reshape(len(y), block, -1)
            if draw is not None:
                steps += draw(len(y))
            steps = integrate(steps * scale[:, None] + mean[:, None], difference(y, lags), lags)
            found.append(steps)
            y = np.concatenate([y, steps], axis=1)[:, -kept:]
        return np.concatenate(found, axis=1)[:, :horizon]

    def _roll_steps(
        self, y: Array, x: Array, mean: Array, scale: Array, horizon: int, draw: Callable[..., Any] | None
    ) -> Array:
        """`roll` step by step, in the model's own units; the steps are put together at the end.

        Every step reads a window anew, as in training. With a state that is carried on, the errors for a noisy sum of
        two sines were 1.5 to 2.4 times as large; for an AR(2) series they were the same, and for weekly carbon dioxide
        the difference was less than that between seeds.
        """
        kept, lags = y.shape[1], self.config["lags"]
        rows, exog, noise = self.rows(y, x[:, : kept + 1], mean, scale), None, None
        if self.config["exogenous"]:
            exog = (x[:, kept + 1 : kept + horizon] - self.arrays["x_mean"]) / self.arrays["x_scale"]
        if draw is not None:
            noise = np.concatenate([draw(len(y)) for _ in range(horizon)], axis=1)
        steps, _ = rollout.run(self.model, rows, horizon, exog=exog, noise=noise, window=self.config["window"])
        return integrate(steps * scale[:, None] + mean[:, None], difference(y, lags), lags)

    def _origin(self, y: Any = None, X: Any = None) -> tuple[_Origin, Any]:
        """(`_Origin`, exogenous variables to come): of the series of `fit`, or of y, whose variables X begins with."""
        config, arrays = self.config, self.arrays
        if not config["exogenous"] and X is not None:
            raise ValueError("X: got exogenous variables, but the model was fitted without; leave X out")
        if y is None:
            names = ("history", "history_x", "y_mean", "y_scale")
            return _Origin(*(arrays[name] for name in names), self.transform, config["many"]), X  # type: ignore[arg-type, call-arg]
        several, kept, gaps = are_several(y), self.kept(config), config["missing"] == "impute"
        series = as_series(y, "y", columns=self.names, gaps=gaps)
        labels = [f"[{n}]" if several else "" for n in range(len(series))]
        for label, a in zip(labels, series, strict=True):
            if a.shape[1] != config["features"]:
                raise ValueError(f"y{label}: got {a.shape[1]} variables, must be {config['features']}, as in fit")
            if len(a) < kept:
                raise ValueError(f"y{label}: got {len(a)} steps, must be at least {kept}: a window of "
                                 f"{config['window']} and differences of {sum(config['lags'])}")  # fmt: skip
        if gaps:
            series = [bridged(a, f"y{label}") for label, a in zip(labels, series, strict=True)]
        past, X = self._past_of(X, series, labels, several)
        transform = self.transform.for_series(series)
        series = [transform.forward(a, n, f"y{label}") for n, (label, a) in enumerate(zip(labels, series, strict=True))]
        mean, scale = np.zeros((len(series), config["features"])), np.ones((len(series), config["features"]))
        if config["standardize"]:
            for n, (label, a) in enumerate(zip(labels, series, strict=True)):
                mean[n], scale[n] = scales(a, config["lags"], f"y{label}:")
        history = np.stack([a[-kept:] for a in series])
        return _Origin(history, np.stack([x[-kept:] for x in past]), mean, scale, transform, several), X

    def _past_of(self, X: Any, series: list[Array], labels: list[str], several: bool) -> tuple[list[Array], Any]:
        """X that begins with the steps of series, cut behind them: (past of each, what is to come)."""
        if not self.config["exogenous"]:
            return [np.zeros((len(a), 0)) for a in series], None
        if X is None:
            raise ValueError("X: must be the exogenous variables of the steps of y and of those to come: the model was "
                             "fitted with such")  # fmt: skip
        gaps, columns = self.config["missing"] == "impute", self.config["columns"]
        found = as_series(X, "X", several, len(series), columns, gaps)
        for label, x, a in zip(labels, found, series, strict=True):
            variables = self.config["exogenous"]
            if x.shape[1] != variables or len(x) <= len(a):
                raise ValueError(f"X{label}: got shape {x.shape}, must be ({len(a)} + the horizon, {variables}): a row "
                                 "for each step of y, then those to come")  # fmt: skip
        if gaps:
            found = [bridged(x, f"X{label}") for label, x in zip(labels, found, strict=True)]
        pairs = [(x[: len(a)], x[len(a) :]) for x, a in zip(found, series, strict=True)]
        return [past for past, _ in pairs], [later for _, later in pairs] if several else pairs[0][1]

    def _start(self, horizon: int | None, X: Any, y: Any) -> tuple[_Origin, int, Array]:
        """(`_Origin`, horizon, exogenous variables (n, kept + future, E)).

        The model reads whole blocks. Rows after the last given are taken to be like it; they lie beyond the horizon.
        """
        config = self.config
        given: Any = horizon
        if hasattr(given, "__len__") and not isinstance(given, str) and getattr(given, "ndim", None) != 0:
            raise TypeError(f"horizon: got {type(horizon).__name__}, must be an integer of at least 1; a series to "
                            "forecast is y=, exogenous variables are X=")  # fmt: skip
        horizon = config["horizon"] if horizon is None else validate.count("horizon", horizon)
        need = -(-horizon // config["block"]) * config["block"]
        origin, X = self._origin(y, X)
        if not config["exogenous"]:
            return origin, horizon, np.zeros((len(origin), self.kept(config) + need, 0))
        steps = f"{horizon} step{'s' * (horizon > 1)}"
        what = f"the exogenous variables of the next {steps}, ({horizon}, {config['exogenous']})"
        if X is None:
            raise ValueError(f"X: must be {what}: the model was fitted with such variables")
        X = as_series(X, "X", origin.many, len(origin), config["columns"], config["missing"] == "impute")
        found = []
        for n, x in enumerate(self._filled(X, "X", origin.x)):
            if x.shape[1] != config["exogenous"] or len(x) < horizon:
                label = f"X[{n}]" if origin.many else "X"
                raise ValueError(f"{label}: got shape {x.shape}, must be {what}{' behind those of y' * (y is not None)}"
                                 "; give fewer steps or more rows")  # fmt: skip
            found.append(x[np.minimum(np.arange(need), len(x) - 1)])
        return origin, horizon, np.concatenate([origin.x, np.stack(found)], axis=1)

    def _exogenous(self, X: ArrayLike) -> Any:
        return self._filled(as_series(X, "X", **self._form(), columns=self.config["columns"]), "X",
                            self.arrays["history_x"])  # fmt: skip

    def _form(self) -> dict[str, Any]:
        """How series must be given, as `as_series` is told."""
        return {"many": self.config["many"], "count": self.config["series"], "gaps": self.config["missing"] == "impute"}

    def _filled(self, series: Any, name: str, history: Any) -> Any:
        """Series without gaps that follow a history."""
        if self.config["missing"] == "error":
            return series
        found = []
        for n, (a, past) in enumerate(zip(series, history, strict=True)):
            same = a.shape[1:] == past.shape[1:] and len(past)  # else it is an error that the caller finds
            label = f"{name}[{n}]" if self.config["many"] else name
            found.append(bridged(np.concatenate([past[-1:], a]), label)[1:] if same else a)
        return found

    def predict(self, horizon: int | None = None, X: Any = None, *, y: Any = None) -> Array | Any:
        """The next steps, of the series of `fit` or of others.

        Parameters
        ----------
        horizon : int, optional
            How many; by default as many as in training.
        X : array (H, E), or a list of them for several series
            Exogenous variables of the steps to come, if the model was fitted with such; H is the horizon or more. The
            network of the direct strategy reads those of the whole horizon of `fit`: from rows beyond the horizon asked
            for it takes what it was trained to read, and rows that are not given it takes to be like the last. With
            variables that change slowly, or do not act before their time, that alters the forecast little.
        y : array (T,) or (T, O), list of such arrays, or array (n, T, O), optional
            Series to forecast in place of those of `fit`, of the same variables, with as much of their past as there
            is: at least window + sum(differences) steps. As in training each is scaled by a mean and a deviation of its
            own, those of y; and "boxcox" finds it a power of its own, to two digits. X then begins with the steps of y:
            (T + H, E). Nothing of y is kept.

        Returns
        -------
        ndarray (horizon,) or (horizon, O), or a list of them for several series
        """
        origin, horizon, x = self._start(horizon, X, y)
        found = self.roll(origin.y, x, origin.mean, origin.scale, horizon)
        return self._give(origin.transform.inverse(found), origin.many)

    forecast = predict

    def predict_interval(
        self,
        horizon: int | None = None,
        X: Any = None,
        *,
        y: Any = None,
        coverage: float = 0.9,
        method: str = "residuals",
        n_paths: int = 500,
        random_state: RandomState = None,
    ) -> tuple[Any, ...]:
        """Lower and upper bounds between which each step lies with probability `coverage`.

        Parameters
        ----------
        horizon, X, y : as in `predict`
            Errors held out are those of the series of `fit`, in units of their scales, for other series too.
        coverage : float in (0, 1)
        method : {"residuals", "paths"}
            Order statistics of the errors that forecasts of that many steps made on the data held out, chosen so that
            a share of `coverage` of exchangeable errors lies between them (split conformal prediction: Papadopoulos and
            others 2002); or quantiles of sample paths, for any horizon. Both are as good as the errors held out are
            like those to come: they are too narrow where a trend bends, where few windows overlap much, and without
            early stopping, when the errors are those on the training data.
        n_paths : int
        random_state : None, int, SeedSequence or Generator
            Of the paths.

        Returns
        -------
        lower, upper : each as `predict` gives

        Warns
        -----
        UserWarning
            If fewer than 2 / (1 - coverage) - 1 windows are held out, too few for order statistics (quantiles of paths
            that repeat their errors). The bounds are then those of Student's t distribution, about the forecast, and
            not within the errors known: its scale at each step is the root mean square of the errors, made to rise with
            the steps by isotonic regression, and its degrees of freedom are as many as windows held out that do not
            overlap up to that step. On simulated autoregressive, seasonal and drifting series of 60 to 150 steps,
            bounds for 0.9 held 0.87 to 0.98 of what came ("paths" 0.86 to 0.97, with the recursive strategy 0.77 to
            0.86); the extremes of the errors alone held 0.19 to 0.83.
        """
        coverage = validate.number("coverage", coverage, 0, 1, open_low=True, open_high=True)
        validate.choice("method", method, ("residuals", "paths"))
        origin, horizon, x = self._start(horizon, X, y)
        if method == "paths":
            tails = (1 - coverage) / 2, (1 + coverage) / 2
            few = intervals.too_few(len(self.arrays["errors"]), coverage)
            lower, upper = np.quantile(self._paths(origin, horizon, x, n_paths, random_state, few), tails, axis=1)
        else:
            if horizon > self.config["horizon"]:
                raise ValueError(
                    f"horizon: got {horizon}, but errors are known up to {self.config['horizon']} steps ahead; fit "
                    'with a larger horizon, or use method="paths"'
                )
            lower, upper = intervals.bounds(self.arrays["residuals"][:, :horizon], coverage)
            middle, scale = self.roll(origin.y, x, origin.mean, origin.scale, horizon), origin.scale[:, None]
            lower, upper = middle + scale * lower, middle + scale * upper
        return tuple(self._give(a, origin.many) for a in origin.transform.bounds(lower, upper))

    def sample(
        self,
        horizon: int | None = None,
        X: Any = None,
        *,
        y: Any = None,
        n_paths: int = 100,
        random_state: RandomState = None,
    ) -> Array | Any:
        """Sample paths: forecasts plus errors drawn from those on the held-out data; each path goes on from itself.

        Returns
        -------
        ndarray (n_paths, horizon) or (n_paths, horizon, O), or a list of them for several series
        """
        origin, horizon, x = self._start(horizon, X, y)
        return self._give(origin.transform.inverse(self._paths(origin, horizon, x, n_paths, random_state)), origin.many)

    def _paths(
        self, origin: _Origin, horizon: int, x: Array, n_paths: int, random_state: RandomState, few: bool = False
    ) -> Array:
        """(series, n_paths, horizon, O), not transformed back; from `few` errors new ones are made, not drawn."""
        n_paths = validate.count("n_paths", n_paths)
        rng = validate.random_generator("random_state", random_state)
        errors = self.arrays["errors"]

        def drawn(count: int) -> Array:
            return errors[rng.integers(len(errors), size=count)]

        draw = intervals.student(errors, rng, len(origin) * n_paths) if few else drawn
        past, mean, scale = origin.repeated(n_paths)
        found = self.roll(past, np.repeat(x, n_paths, axis=0), mean, scale, horizon, draw)
        return found.reshape(-1, n_paths, *found.shape[1:])

    def update(self, y: ArrayLike, X: ArrayLike | None = None) -> Self:
        """Take new observations into account, without training: forecasts then begin after them.

        Parameters
        ----------
        y : array (K,) or (K, O), or a list of them for several series
            What followed the series' ends.
        X : array (K, E), or a list of them
            The exogenous variables of the same steps, if the model was fitted with such.

        Returns
        -------
        self
        """
        config = self.config
        past = self.transform.inverse(self.arrays["history"])
        new = self._filled(as_series(y, "y", **self._form(), columns=self.names), "y", past)
        exogenous = [np.zeros((len(a), 0)) for a in new]
        if config["exogenous"]:
            if X is None:
                raise ValueError("X: must be the exogenous variables of the steps of y: the model was fitted with such")
            exogenous = self._exogenous(X)
        elif X is not None:
            raise ValueError("X: got exogenous variables, but the model was fitted without; leave X out")
        for n, (a, x) in enumerate(zip(new, exogenous, strict=True)):
            label = f"[{n}]" if config["many"] else ""
            if a.shape[1] != config["features"]:
                raise ValueError(f"y{label}: got {a.shape[1]} variables, must be {config['features']}")
            if x.shape != (len(a), config["exogenous"]):
                want = (len(a), config["exogenous"])
                raise ValueError(f"X{label}: got shape {x.shape}, must be {want}, a row for each step of y")
            new[n] = self.transform.forward(a, n, f"y{label}")
        kept = self.kept(config)
        joined = {
            name: np.stack([np.concatenate([old, a])[-kept:] for old, a in zip(self.arrays[name], more, strict=True)])
            for name, more in (("history", new), ("history_x", exogenous))
        }
        self._arrays = self._arrays | joined
        return self

    def trace(self, X: Any = None, *, y: Any = None) -> dict[int, Trace]:
        """What the gates did on the windows from which the next forecast is made.

        Parameters
        ----------
        X, y : as in `predict`, X of one step to come or more

        Returns
        -------
        dict of int to Trace
            By the layer's index in ``model.layers``; (series, window, H) arrays.
        """
        return self.model.trace(self.next_rows(X, y=y))

    def next_rows(self, X: Any = None, *, y: Any = None) -> Array:
        """What the model reads (series, window, features) for the next forecast; X and y as in `trace`."""
        origin, _, x = self._start(1, X, y)
        return self.rows(origin.y, x, origin.mean, origin.scale)

    def _give(self, found: Array, many: bool) -> Array | Any:
        """(series, .., O) as the caller gave series."""
        dtype = self.model.dtype
        found = found[..., 0].astype(dtype) if self.config["single"] else found.astype(dtype)
        return list(found) if many else found[0]
