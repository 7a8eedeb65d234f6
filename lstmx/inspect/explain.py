"""Which steps and columns decided what a fitted estimator says of each sequence."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lstmx.functional import validate
from lstmx.functional.read import Sequences
from lstmx.inspect.attribution import METHODS, Net, read_tolerance, unexplained
from lstmx.predictors import AnomalyDetector, Classifier, Forecaster, Pipeline, Predictor, Regressor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lstmx._types import Array
    from lstmx.inspect.attribution import Attribution


SHOWN = 1e-3  # of what is unexplained, less is not worth a word
MEAN, ZEROS = "an average input", "an input of zeros"


class Cause(NamedTuple):
    """One value of the input, and its share."""

    sequence: int
    step: int
    column: int
    step_name: str
    column_name: str
    share: float


@dataclass(frozen=True, eq=False)
class Explanation:
    """What `explain` found, for n sequences.

    Attributes
    ----------
    values : array or list, in the form of X
        The share of every step and column; NaN where X is padding. Of a forecaster (series, window, columns), of those
        steps that its network has read.
    shares : list of n ndarrays (T_i, F)
        The same, always in this form.
    output : ndarray (n,)
        What is explained, in the words of `subject`.
    baseline_output : ndarray (n,)
        What it would be of the `baseline`; 0 of an anomaly's distance.
    completeness : ndarray (n,)
        The sum of the shares less ``output - baseline_output``: 0 where they explain all of the difference.
    unexplained : ndarray (n,)
        Its size as a share of ``output - baseline_output``.
    subject : list of n str
        Such as "class 'a', as log odds"; it says so where a sequence has no such step, whose output is NaN.
    step_names, column_names : list of str, or None
        None where the number of the step is its name.
    method : str
    baseline : str or None
        What says nothing, "an average input": the mean of the training data, if the estimator was fitted with
        ``standardize=True``, else "an input of zeros"; None of an anomaly's distance.
    ahead : list of F int, or None
        Of a forecaster: how many steps later than y each column is.
    """

    values: Any
    shares: list[Array]
    output: Array
    baseline_output: Array
    completeness: Array
    subject: list[str]
    step_names: list[str] | None
    column_names: list[str]
    method: str
    baseline: str | None
    ahead: list[int] | None = None

    @property
    def unexplained(self) -> Array:
        """See the class."""
        return unexplained(self)

    @property
    def _answered(self) -> Array:
        """(n,): whether there is something to explain."""
        return ~np.isnan(self.output)

    @functools.cached_property
    def decisive_steps(self) -> Array:
        """(n,): of each sequence the step whose columns have the largest shares, whatever their sign; -1 of one whose
        output is NaN.
        """
        each = zip(self.shares, self._answered, strict=True)
        return np.array([int(np.abs(a).sum(axis=1).argmax()) if good else -1 for a, good in each])

    @functools.cached_property
    def decisive_columns(self) -> Array:
        """(n,): of each sequence the column with the largest share at the decisive step; -1 as of `decisive_steps`."""
        each = zip(self.shares, self.decisive_steps, strict=True)
        return np.array([int(np.abs(a[t]).argmax()) if t >= 0 else -1 for a, t in each])

    def column_weights(self) -> Array:
        """(F,): how much each column counts: the sum of its shares' sizes, the mean over sequences that have an
        output.
        """
        each = zip(self.shares, self._answered, strict=True)
        return np.mean([np.abs(a).sum(axis=0) for a, good in each if good], axis=0)

    def top(self, count: int = 5, sequence: int | None = None) -> list[Cause]:
        """The values with the largest shares, whatever their sign.

        Parameters
        ----------
        count : int
        sequence : int, optional
            Of this one; by default of all, `count` of each.

        Returns
        -------
        list of Cause
            Nothing of a sequence whose output is NaN.
        """
        validate.count("count", count)
        every: Sequence[int] = range(len(self.shares))
        if sequence is not None:
            every = [validate.place("sequence", sequence, len(self.shares), "sequences")]
        found = []
        for n in every:
            if not self._answered[n]:
                continue
            a = self.shares[n]
            for place in np.argsort(-np.abs(a), axis=None, kind="stable")[:count]:
                t, k = (int(i) for i in np.unravel_index(place, a.shape))
                found.append(Cause(n, t, k, *self._names(t, k, len(a)), float(a[t, k])))
        return found

    def _names(self, t: int, k: int, steps: int) -> tuple[str, str]:
        """(of the step, of the column) of a value."""
        column = self.column_names[k]
        if self.ahead is not None and self.ahead[k]:  # lag 0 is the first step of the forecast
            lag = steps - t - self.ahead[k]
            return f"lag {lag}" if lag > 0 else f"step {-lag} of the forecast", column.rpartition(", ")[0] or column
        return f"step {t}" if self.step_names is None else self.step_names[t], column

    def answer(self, n: int) -> str:
        """What is explained of sequence n, its value, that of the baseline, and what the shares leave, in words."""
        what = self.subject[n]
        if not self._answered[n]:
            return what
        known = [] if self.baseline is None else [f"of {self.baseline} {self.baseline_output[n]:.4g}"]
        if self.unexplained[n] > SHOWN:
            known.append(f"unexplained {-self.completeness[n]:+.2g}")
        return f"{what}: {self.output[n]:.4g}" + (f" ({', '.join(known)})" if known else "")

    def __str__(self) -> str:
        lines = []
        only = self.column_names == ["feature 0"]  # one that has no name
        for n in range(len(self.subject)):
            lines.append(f"sequence {n}: {self.answer(n)}")
            for cause in self.top(5, n):
                where = cause.step_name if only else f"{cause.column_name} at {cause.step_name}"
                lines.append(f"  {cause.share:+.4g}  {where}")
            if n == 9 and len(self.subject) > 10:
                return "\n".join([*lines, f".. and {len(self.subject) - 10} more"])
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"<Explanation of {len(self.shares)} sequences by {self.method}>"


def explain(
    estimator: Any,
    X: Any = None,
    *,
    output: Any = None,
    step: int | None = None,
    method: str = "integrated_gradients",
    steps: int = 64,
    tolerance: float | None = 0.01,
    feature_names: Sequence[str] | None = None,
) -> Explanation:
    """Name the steps and columns that decided, for every sequence.

    `permutation_importance` says what a score rests on over many sequences; this, what each answer rests on.

    Parameters
    ----------
    estimator : fitted estimator of lstmx, what `lstmx.load` gives of one, a pipeline that ends with one, or a search
        - A classifier: the log odds of the class that it predicts; of more than two classes how far what enters the
          softmax for the class lies above the mean of the others.
        - A regressor: the target, in its unit.
        - A forecaster: one step of the forecast, by the lags of its window (lag 1 is the last step known), in the unit
          of y; of differences with `differences`, and of what `transform` gives.
          What a forecast knows of an exogenous variable at a step to come counts as of that step.
        - An anomaly detector: the squared distance of each step from what was to be expected, and each column's part
          of it, which is negative where its error speaks for the others'.
    X : as its ``predict`` takes it; of a forecaster the exogenous variables to come, or None
        Pipelines: what their first step takes; shares are of what their last one is given.
    output : int or label, optional
        Which class, target or variable, from 0, or the label of a class that is no integer: by default the class that
        is predicted, or the only one.
    step : int, optional
        With ``target="step"``: which step of a sequence, by default the last, -1. Of a forecaster: which step of the
        forecast, by default the first, 0.
    method, steps, tolerance : as in `attribute`
        An anomaly detector needs none.
    feature_names : list of str, optional
        By default those of frames, or "feature 0", ...

    Returns
    -------
    Explanation

    Examples
    --------
    >>> import numpy as np, lstmx
    >>> from lstmx import LSTMAnomalyDetector
    >>> rng = np.random.default_rng(0)
    >>> X = np.sin(np.arange(300) / 4)[None, :, None] + 0.05 * rng.normal(size=(1, 300, 2))
    >>> detector = LSTMAnomalyDetector(16, window=50, max_iter=40, tol=0.05, random_state=0).fit(X)
    >>> X[0, 200, 1] += 2
    >>> found = lstmx.inspect.explain(detector, X, feature_names=["left", "right"])
    >>> found.top(1)[0].step_name, found.top(1)[0].column_name
    ('step 200', 'right')
    """
    validate.choice("method", method, METHODS)
    validate.count("steps", steps)
    tolerance = read_tolerance(tolerance)
    predictor, X, given_names = _last(estimator, X)
    if output is not None:
        classes = predictor.config["classes"] if isinstance(predictor, Classifier) else []
        output = _class(output, classes) if classes else validate.count("output", output, 0)
    if step is not None:
        step = validate.whole("step", step)
    how: dict[str, Any] = {"output": output, "step": step, "method": method, "steps": steps, "tolerance": tolerance}
    if isinstance(predictor, Forecaster):
        return _forecast(predictor, X, feature_names, **how)
    if X is None:
        raise ValueError("X: must be the sequences whose answers are to be explained")
    if isinstance(predictor, AnomalyDetector):
        if output is not None or step is not None:
            raise ValueError("output, step: an anomaly detector explains every step; leave them out")
        shares, *found = _anomalies(predictor, data := predictor.read(X))
    elif isinstance(predictor, Classifier | Regressor):
        data = predictor.read(X)
        shares, *found = _supervised(predictor, data, **how)
    else:
        raise TypeError(f"estimator: got {type(estimator).__name__}, must be a classifier, regressor, forecaster or "
                        "anomaly detector of lstmx; a Sequential has lstmx.inspect.attribute")  # fmt: skip
    columns = _names(feature_names, given_names, X, data)
    frame = getattr(X, "columns", None)
    named = [str(name) for name in frame] if frame is not None and data.flat else None
    *found, method = found
    mean = MEAN if predictor.config["standardize"] else ZEROS
    baseline = None if method == "distance" else mean
    return Explanation(data.give(shares), shares, *found, named, columns, method, baseline)  # type: ignore[call-arg]


def _class(output: Any, classes: list[Any]) -> int:
    """The index of a class, which may be given by its label."""
    if output in classes and not isinstance(output, int | np.integer):
        return classes.index(output)
    there = f"{len(classes)} classes: {', '.join(map(repr, classes[:20]))}{', ..' * (len(classes) > 20)}"
    if isinstance(output, bool | np.bool_) or not isinstance(output, int | np.integer):
        raise ValueError(f"output: got {output!r}, must be the index of one of {there}; or its label, unless integers")
    if not 0 <= output < len(classes):
        raise ValueError(f"output: got {output}, must be from 0 to {len(classes) - 1}; there are {there}")
    return int(output)


def _last(estimator: Any, X: Any) -> tuple[Any, Any, Any]:
    """(the predictor of an estimator, what X is when it comes there, names of features that it was fitted with)."""
    if hasattr(estimator, "best_estimator_"):
        estimator = estimator.best_estimator_
    if isinstance(estimator, Pipeline) or isinstance(getattr(estimator, "steps", None), list):
        *before, (_, estimator) = estimator.steps
        for _, part in before:
            X = X if part is None or isinstance(part, str) else part.transform(X)
    if hasattr(estimator, "__sklearn_tags__"):
        from lstmx.estimators._saving import to_step

        return to_step(estimator), X, getattr(estimator, "feature_names_in_", None)
    return (estimator if isinstance(estimator, Predictor) else None), X, None


def _names(given: Any, fitted: Any, X: Any, data: Any) -> list[str]:
    """F names of features."""
    if given is not None:
        names = [str(name) for name in given]
        if len(names) != data.features:
            raise ValueError(f"feature_names: got {len(names)}, must be {data.features}, one for each feature")
        return names
    found = getattr(X[0], "columns", fitted) if isinstance(X, list | tuple) else fitted
    if found is not None and len(found) == data.features:
        return [str(name) for name in found]
    return [f"feature {k}" for k in range(data.features)]


def _supervised(
    predictor: Any, data: Any, *, output: Any, step: int | None, method: str, steps: int, tolerance: float | None
) -> tuple[Any, ...]:
    """(shares, output, that of the baseline, completeness, subject, method) of a classifier or regressor."""
    if step is not None and predictor.config["target"] != "step":
        raise ValueError('step: the model gives one output for a sequence; leave it out, or fit with target="step"')
    inputs, how = predictor.sequences(data), (method, 0.0, steps, tolerance, step)
    find: Any = _of_target if isinstance(predictor, Regressor) else _of_class
    found, scale, shift, subject = find(predictor, inputs, output, how)
    shares = [a[:n] * k for a, n, k in zip(found.values, data.lengths.tolist(), scale, strict=True)]
    missing = np.isnan(found.output)
    subject = [f"has no step {step}" if gone else what for what, gone in zip(subject, missing, strict=True)]
    ends = (found.output * scale + shift, found.baseline_output * scale + shift, found.completeness * scale)
    return shares, *ends, subject, method


def _of_target(
    predictor: Any, inputs: Sequences, output: Any, how: tuple[Any, ...]
) -> tuple[Attribution, Any, Any, list[str]]:
    """(Attribution, scale (n,), shift, subject) of a target in its unit."""
    config, arrays = predictor.config, predictor.arrays
    if output is None and config["outputs"] > 1:
        raise ValueError(f"output: must be one of the {config['outputs']} targets, from 0")
    k = output or 0
    found = Net(predictor.model).attribute(inputs, k, *how)
    scale, shift = (arrays["y_scale"][k], arrays["y_mean"][k]) if config["standardize"] else (1.0, 0.0)
    subject = "the target" if config["outputs"] == 1 else f"target {k}"
    return found, np.full(len(inputs), scale), shift, [subject] * len(inputs)


def _of_class(
    predictor: Any, inputs: Sequences, output: Any, how: tuple[Any, ...]
) -> tuple[Attribution, Any, float, list[str]]:
    """(Attribution, scale (n,), shift, subject) of the class that is predicted, or of a given one."""
    classes, multilabel = predictor.config["classes"], predictor.config["multilabel"]
    net, sign, unit = Net(predictor.model, logits=True), np.ones(len(inputs)), "log odds"
    if net.outputs < len(classes):  # the log odds of the second class
        found = net.attribute(inputs, 0, *how)
        chosen: Any = found.output > 0
    else:
        count, weights = net.outputs, np.eye(net.outputs)
        if not multilabel:  # beside the mean of the others
            weights, unit = (count * weights - 1) / (count - 1), "lead in what enters the softmax"
        found = net.attribute(inputs, None if output is None else weights[output], *how, of_largest=weights)  # type: ignore[misc]
        chosen = found.chosen
    chosen = chosen.astype(int) if output is None else np.full(len(inputs), output)
    if net.outputs < len(classes):
        sign = np.where(chosen == 1, 1.0, -1.0)
    what = "label" if multilabel else "class"
    return found, sign, 0.0, [f"{what} {classes[k]!r}, as {unit}" for k in chosen]


def _anomalies(predictor: Any, data: Any) -> tuple[Any, ...]:
    """As `_supervised`, of an anomaly detector."""
    found = list(zip(predictor.errors(data), data.each_missing(), strict=True))
    shares = [predictor.parts(errors, gaps) for errors, gaps in found]
    score = predictor.summarise([predictor.score_errors(errors, gaps) for errors, gaps in found], data)
    left = -predictor.summarise([-a.sum(axis=1) for a in shares], data) + score
    what = "the mean" if predictor.config["aggregate"] == "mean" else "the largest"
    subject = [f"{what} squared distance of a step from what was to be expected"] * len(shares)
    return shares, -score, np.zeros(len(shares)), left, subject, "distance"


def _forecast(
    predictor: Any,
    X: Any,
    feature_names: Any,
    *,
    output: Any,
    step: int | None,
    method: str,
    steps: int,
    tolerance: float | None,
) -> Explanation:
    """The `Explanation` of one step of a forecast."""
    config, arrays = predictor.config, predictor.arrays
    step, count, block = 0 if step is None else validate.count("step", step, 0), config["features"], config["block"]
    if step >= block:
        raise ValueError(f"step: got {step}, the network gives {block} step{'s' * (block > 1)} of the forecast, "
                         "from 0; the steps after are made of its own forecasts")  # fmt: skip
    if output is None and count > 1:
        raise ValueError(f"output: must be one of the {count} variables of y, from 0")
    output = output or 0
    if output >= count:
        raise ValueError(f"output: got {output}, y has {count} variable{'s' * (count > 1)}, from 0")
    rows = predictor.next_rows(X)
    inputs = Sequences(rows, dtype=predictor.model.dtype)
    found = Net(predictor.model).attribute(inputs, step * count + output, method, 0.0, steps, tolerance, None)
    scale, shift = arrays["y_scale"][:, output], arrays["y_mean"][:, output]
    values = found.values * scale[:, None, None]
    y = ["y"] if count == 1 else [f"y[{k}]" for k in range(count)]
    variable = y[output]
    if config["lags"]:
        y = [f"{name} (differences {tuple(config['lags'])})" for name in y]
    exogenous = config["columns"] or [f"X[{k}]" for k in range(config["exogenous"])]
    if feature_names is not None:
        given = [str(name) for name in feature_names]
        if len(given) != count + config["exogenous"]:
            raise ValueError(f"feature_names: got {len(given)}, must be {count + config['exogenous']}: of y, then of "
                             "X")  # fmt: skip
        y, exogenous = given[:count], given[count:]
        variable = y[output]
    columns = y + [f"{name}, {k} ahead" for k in range(1, block + 1) for name in exogenous]
    window = values.shape[1]
    ahead = [0] * count + [k for k in range(1, block + 1) for _ in exogenous]
    what = f"{_changed(variable, config['lags'])} in {step + 1} step{'s' * (step > 0)}"
    return Explanation(
        values, list(values), found.output * scale + shift, found.baseline_output * scale + shift,
        found.completeness * scale, [what] * len(values), [f"lag {window - t}" for t in range(window)], columns, method,
        MEAN if config["standardize"] else ZEROS, ahead,
    )  # fmt: skip


def _changed(variable: str, lags: Sequence[int]) -> str:
    """What differences of a variable are."""
    if len(lags) == 1:
        return f"change of {variable} from {'the step before' if lags[0] == 1 else f'{lags[0]} steps before'}"
    return f"differences {tuple(lags)} of {variable}" if lags else variable
