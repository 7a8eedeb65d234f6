"""Forecasts of series: differencing, scaling and windows around a model that sees a window and gives a block of steps.

The model reads, at step t of its window, the differenced and scaled y_t and, where there are exogenous variables, those
of the next B steps, x_{t+1} .. x_{t+B}; from its last step it gives y_{t+1} .. y_{t+B}. The direct strategy has B = the
horizon, the recursive one B = 1; a longer forecast goes on from its own results, block by block, in both.

If there is a transform, y is what it gives, from beginning to end; only results are transformed back.
"""

import functools
from typing import ClassVar

import numpy as np

from lstmx import storage
from lstmx.data import missing
from lstmx.data.series import as_series, bridged
from lstmx.functional import validate
from lstmx.functional.messages import warn
from lstmx.functional.read import Sequences
from lstmx.model import rollout
from lstmx.predictors import transforms
from lstmx.predictors.base import FINITE, POSITIVE, UNIT, Predictor

LONGEST = 10**6  # horizon


def difference(y, lags):
    """Levels [y, then after each lag]: y_t - y_{t-lag} along the second axis from the end, each `lag` rows shorter."""
    levels = [y]
    for lag in lags:
        y = y[..., lag:, :] - y[..., :-lag, :]
        levels.append(y)
    return levels


def integrate(steps, levels, lags):
    """The next values of the first of `levels` (from `difference`), given the next `steps` (n, B, O) of the last."""
    for lag, level in zip(reversed(lags), reversed(levels[:-1]), strict=True):
        ends = level[..., -lag:, :]
        out = np.empty_like(steps)
        for j in range(steps.shape[-2]):
            out[..., j, :] = steps[..., j, :] + (ends[..., j, :] if j < lag else out[..., j - lag, :])
        steps = out
    return steps


def lead(x, count):
    """(.., T - count, count * E) from (.., T, E): in row t the rows t + 1 to t + count."""
    rows = x.shape[-2] - count
    return np.concatenate([x[..., k : k + rows, :] for k in range(1, count + 1)], axis=-1)


class Forecaster(Predictor):
    """What comes next in series that it has seen the end of."""

    fields = (*Predictor.fields, "window", "block", "horizon", "lags", "series", "exogenous", "single", "many",
              "columns", "calibrated", "drawn", "transform", "missing")  # fmt: skip
    defaults: ClassVar = {"transform": None, "missing": "error"}
    in_pipelines = False  # it takes series

    @classmethod
    def check(cls, config):
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

    @classmethod
    def inputs(cls, config):
        """Features that the model must take."""
        return config["features"] + config["block"] * config["exogenous"]

    @classmethod
    def outputs(cls, config):
        """Outputs that the model must have."""
        return config["features"] * config["block"]

    @classmethod
    def kept(cls, config):
        """Rows of each series that a forecast needs."""
        return config["window"] + sum(config["lags"])

    @classmethod
    def own_shapes(cls, config):
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
    def array_shapes(cls, config):
        if config.get("transform") == transforms.FUNCTIONS:
            raise ValueError("transform: a pair of functions is in no file; make the file again")
        yield from super().array_shapes(config)

    @functools.wraps(storage.Stored.save)
    def save(self, path):
        if self.config["transform"] == transforms.FUNCTIONS:
            raise TypeError(f"transform: functions ({transforms.names_of(self._functions)}) cannot be saved to a file, "
                            'as it holds no code; pickle the forecaster, or fit with "log" or "boxcox"')  # fmt: skip
        super().save(path)

    def _more(self):
        return {} if self._functions is None else {"_functions": self._functions}

    @property
    def transform(self):
        """The `transforms.Transform` of y."""
        return transforms.Transform(self.config["transform"], self.arrays.get("y_lambda"), self._functions)

    def rows(self, y, x, mean, scale):
        """What the model reads (n, window, features): from the last rows y (n, K, O) and x (n, K + block, E)."""
        z = (difference(y, self.config["lags"])[-1] - mean[:, None]) / scale[:, None]
        if self.config["exogenous"]:
            ahead = lead((x - self.arrays["x_mean"]) / self.arrays["x_scale"], self.config["block"])
            z = np.concatenate([z, ahead[:, -z.shape[1] :]], axis=2)
        return np.ascontiguousarray(z[:, -self.config["window"] :])

    def roll(self, y, x, mean, scale, horizon, draw=None):
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

    def _roll_steps(self, y, x, mean, scale, horizon, draw):
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

    def _future(self, horizon, X):
        """(horizon, exogenous variables (series, kept + future, E)).

        The model reads whole blocks. Rows after the last given are taken to be like it; they lie beyond the horizon.
        """
        config = self.config
        horizon = config["horizon"] if horizon is None else validate.count("horizon", horizon)
        need = -(-horizon // config["block"]) * config["block"]
        if not config["exogenous"]:
            if X is not None:
                raise ValueError("X: got exogenous variables, but the model was fitted without; leave X out")
            return horizon, np.zeros((config["series"], self.kept(config) + need, 0))
        steps = f"{horizon} step{'s' * (horizon > 1)}"
        what = f"the exogenous variables of the next {steps}, ({horizon}, {config['exogenous']})"
        if X is None:
            raise ValueError(f"X: must be {what}: the model was fitted with such variables")
        found = []
        for n, x in enumerate(self._exogenous(X)):
            if x.shape[1] != config["exogenous"] or len(x) < horizon:
                label = f"X[{n}]" if config["many"] else "X"
                raise ValueError(f"{label}: got shape {x.shape}, must be {what}; give fewer steps or more rows")
            found.append(x[np.minimum(np.arange(need), len(x) - 1)])
        return horizon, np.concatenate([self.arrays["history_x"], np.stack(found)], axis=1)

    def _exogenous(self, X):
        return self._filled(as_series(X, "X", **self._form(), columns=self.config["columns"]), "X",
                            self.arrays["history_x"])  # fmt: skip

    def _form(self):
        """How series must be given, as `as_series` is told."""
        return {"many": self.config["many"], "count": self.config["series"], "gaps": self.config["missing"] == "impute"}

    def _filled(self, series, name, history):
        """Series without gaps that follow a history."""
        if self.config["missing"] == "error":
            return series
        found = []
        for n, (a, past) in enumerate(zip(series, history, strict=True)):
            same = a.shape[1:] == past.shape[1:] and len(past)  # else it is an error that the caller finds
            label = f"{name}[{n}]" if self.config["many"] else name
            found.append(bridged(np.concatenate([past[-1:], a]), label)[1:] if same else a)
        return found

    def _scales(self):
        return self.arrays["y_mean"], self.arrays["y_scale"]

    def predict(self, horizon=None, X=None):
        """The next steps.

        Parameters
        ----------
        horizon : int, optional
            How many; by default as many as in training.
        X : array (H, E), or a list of them for several series
            Exogenous variables of the steps to come, if the model was fitted with such; H is the horizon or more. The
            network of the direct strategy reads those of the whole horizon of `fit`: from rows beyond the horizon asked
            for it takes what it was trained to read, and rows that are not given it takes to be like the last. With
            variables that change slowly, or do not act before their time, that alters the forecast little.

        Returns
        -------
        ndarray (horizon,) or (horizon, O), or a list of them for several series
        """
        horizon, x = self._future(horizon, X)
        return self._give(self.transform.inverse(self.roll(self.arrays["history"], x, *self._scales(), horizon)))

    forecast = predict

    def predict_interval(
        self, horizon=None, X=None, *, coverage=0.9, method="residuals", n_paths=500, random_state=None
    ):
        """Lower and upper bounds between which each step lies with probability `coverage`.

        Parameters
        ----------
        horizon, X : as in `predict`
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
        if method == "paths":
            tails = (1 - coverage) / 2, (1 + coverage) / 2
            few = _too_few(len(self.arrays["errors"]), coverage)
            lower, upper = np.quantile(self._paths(horizon, X, n_paths, random_state, few), tails, axis=1)
            return tuple(map(self._give, self.transform.bounds(lower, upper)))
        horizon, x = self._future(horizon, X)
        if horizon > self.config["horizon"]:
            raise ValueError(
                f"horizon: got {horizon}, but errors are known up to {self.config['horizon']} steps ahead; fit with a "
                'larger horizon, or use method="paths"'
            )
        lower, upper = _bounds(self.arrays["residuals"][:, :horizon], coverage)
        middle = self.roll(self.arrays["history"], x, *self._scales(), horizon)
        scale = self.arrays["y_scale"][:, None]
        return tuple(map(self._give, self.transform.bounds(middle + scale * lower, middle + scale * upper)))

    def sample(self, horizon=None, X=None, *, n_paths=100, random_state=None):
        """Sample paths: forecasts plus errors drawn from those on the held-out data; each path goes on from itself.

        Returns
        -------
        ndarray (n_paths, horizon) or (n_paths, horizon, O), or a list of them for several series
        """
        return self._give(self.transform.inverse(self._paths(horizon, X, n_paths, random_state)))

    def _paths(self, horizon, X, n_paths, random_state, few=False):
        """(series, n_paths, horizon, O), not transformed back; from `few` errors new ones are made, not drawn."""
        horizon, x = self._future(horizon, X)
        n_paths = validate.count("n_paths", n_paths)
        rng = validate.random_generator("random_state", random_state)
        errors = self.arrays["errors"]

        def drawn(count):
            return errors[rng.integers(len(errors), size=count)]

        draw = _student(errors, rng, self.config["series"] * n_paths) if few else drawn
        repeated = [np.repeat(a, n_paths, axis=0) for a in (self.arrays["history"], x, *self._scales())]
        found = self.roll(*repeated, horizon, draw)
        return found.reshape(-1, n_paths, *found.shape[1:])

    def update(self, y, X=None):
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
        new = self._filled(as_series(y, "y", **self._form()), "y", past)
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

    def trace(self, X=None):
        """What the gates did on the windows from which the next forecast is made.

        Parameters
        ----------
        X : as in `predict`, of one step or more

        Returns
        -------
        dict of int to Trace
            By the layer's index in ``model.layers``; (series, window, H) arrays.
        """
        return self.model.trace(self.next_rows(X))

    def next_rows(self, X=None):
        """What the model reads (series, window, features) for the next forecast; X as in `trace`."""
        _, x = self._future(1, X)
        return self.rows(self.arrays["history"], x, *self._scales())

    def _give(self, found):
        """(series, .., O) as the caller gave series."""
        dtype = self.model.dtype
        found = found[..., 0].astype(dtype) if self.config["single"] else found.astype(dtype)
        return list(found) if self.config["many"] else found[0]


def _bounds(errors, coverage):
    """(lower, upper), each (horizon, O), of errors (n, horizon, O)."""
    count = len(errors)
    if not count:
        raise ValueError("method: no window was followed by the whole horizon of fit, so its errors are not known; "
                         'use method="paths", or fit to longer series or with early_stopping=True')  # fmt: skip
    few = _too_few(count, coverage)
    place = max(int((count + 1) * (1 - coverage) / 2 + 1e-9), 1)
    ordered = np.sort(errors, axis=0)
    lower, upper = ordered[place - 1], ordered[count - place]
    if few:
        steps = np.arange(1, errors.shape[1] + 1)[:, None]
        factor = _t_quantile(_apart(count, steps), coverage)
        half = factor * np.sqrt(_rising(np.mean(errors**2, axis=0)))
        lower, upper = np.minimum(lower, -half), np.maximum(upper, half)
    return lower, upper


def _too_few(count, coverage):
    """Whether so few errors cannot bound such a share; if so, warn of what is done."""
    need = int(np.ceil(2 / (1 - coverage) - 1e-9)) - 1
    if count < need:
        warn(
            f"coverage: {coverage:g} needs the errors of {need} windows or more, there are {count}: the bounds are "
            "those of a Student t distribution with the scale of these errors, not quantiles of them. Fit to longer "
            "series, or raise validation_fraction"
        )
    return count < need


def _apart(count, steps):
    """How many of `count` windows in a row are followed by stretches of `steps` that do not overlap, with fractions."""
    return (count + steps - 1) / steps


def _t_quantile(degrees, coverage):
    """The bound that the absolute value of Student's t of >= 1 `degrees` of freedom keeps with probability `coverage`.

    With t = sqrt(degrees) tan(a) the density of a is proportional to cos(a)**(degrees - 1).
    """
    angles = np.linspace(0, np.pi / 2, 20001)
    out = np.empty(np.shape(degrees))
    for place, d in np.ndenumerate(degrees):
        density = np.maximum(np.cos(angles), 0) ** (d - 1)
        below = np.concatenate([[0], np.cumsum(density[1:] + density[:-1])])
        out[place] = np.sqrt(d) * np.tan(np.interp(coverage, below / below[-1], angles))
    return out


def _rising(values):
    """The values (n, O) that do not fall along the first axis and are nearest, by squares: isotonic regression."""
    out = np.empty_like(values)
    for o, column in enumerate(values.T):
        runs = []  # (mean, length); one that is less than the one before is joined with it
        for value in column:
            runs.append((value, 1))
            while len(runs) > 1 and runs[-2][0] > runs[-1][0]:
                (a, m), (b, n) = runs[-2:]
                runs[-2:] = [((a * m + b * n) / (m + n), m + n)]
        out[:, o] = np.repeat(*zip(*runs, strict=True))
    return out


def _student(errors, rng, paths):
    """A function that draws, block by block, errors for so many paths: normal with the second moments of `errors`.

    Each path has them times a factor, as in a t distribution: what so few errors leave open about their scale.
    """
    degrees = _apart(len(errors), np.arange(1, errors.shape[1] + 1))
    more = rng.gamma(-np.diff(degrees, append=0) / 2, 2, size=(paths, len(degrees)))
    chi_squared = np.cumsum(more[:, ::-1], axis=1)[:, ::-1]
    factor = np.sqrt(degrees / chi_squared)[..., None]

    def draw(count):
        weights = rng.normal(size=(count, len(errors))) / np.sqrt(len(errors))
        return factor * np.einsum("cn,nbo->cbo", weights, errors)

    return draw
