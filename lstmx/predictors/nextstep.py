"""Models that predict each step from those before it: what they learn, and what their errors and states tell.

The model reads a row of zeros and then the sequence, one step behind: its t-th output predicts x_t from x_0 to
x_{t-1}. In packed rows (lstmx.functional.context) "one step behind" is a shift: the sequences that run at a step are
the first of those that ran at the step before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from lstmx.data import missing
from lstmx.data.batches import Data
from lstmx.functional import validate
from lstmx.functional.context import SequenceContext
from lstmx.layers import LSTM, Last, MeanPool, Run
from lstmx.layers.base import snapshots
from lstmx.predictors.base import FINITE, Predictor

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from types import MappingProxyType

    from numpy.typing import ArrayLike

    from lstmx._types import Array, Arrays, ArrayShape, Config, Context
    from lstmx.data import panel
    from lstmx.functional.read import Sequences
    from lstmx.functional.segments import Segment
    from lstmx.model import Sequential


def behind(rows: Array, context: Context) -> Array:
    """Rows (S, F) one step later: zeros, then each sequence without its last step."""
    row, time = context.sorted_places
    out = np.zeros_like(rows)
    late = time > 0
    out[late] = rows[context.offsets[time[late] - 1] + row[late]]
    return out


def refuse_single_steps(data: panel.Panel) -> None:
    """An error for sequences of one step each, for which one series is easily taken."""
    raise ValueError(
        f"X: got {len(data)} sequences of one step (for a table n_features = 1), which predict nothing; one "
        "series of shape (T, F) is X[None], and one of shape (T,) is X[None, :, None]"
    )


def distances(d: Array, precision: Array, gaps: Array | None = None) -> Array:
    """The part (T, F) of each feature in the squared Mahalanobis distances of deviations (T, F); of `gaps` (T, F) it is
    0, and the distance is that of the others.
    """
    if gaps is not None and gaps.any():
        parts, covariance = np.zeros(d.shape), inverse(precision)
        for pattern in np.unique(gaps, axis=0):
            steps, there = (gaps == pattern).all(axis=1), np.flatnonzero(~pattern)
            own = inverse(covariance[np.ix_(there, there)]) if pattern.any() else precision
            parts[np.ix_(steps, there)] = distances(d[np.ix_(steps, there)], own)
        return parts
    weighed = np.zeros(d.shape)
    for column, row in zip(d.T, precision, strict=True):  # the same bits for any number of steps
        weighed += column[:, None] * row
    return d * weighed


def inverse(covariance: Array) -> Array:
    """The precision (F, F) of a covariance, or the other way round."""
    sizes = np.sqrt(np.abs(np.diag(covariance)))
    sizes = np.where(sizes > 0, sizes, 1)  # a feature of small errors is not nothing beside others
    sizes = np.outer(sizes, sizes)
    return np.linalg.pinv(covariance / sizes, hermitian=True) / sizes


class NextStep(Data):
    """Sequences and their `RowWeights`, whose targets are they themselves."""

    per_step = True
    inputs: Any
    weights: Any

    def __init__(self, inputs: Sequences, weights: Any) -> None:
        super().__init__(inputs, self, weights)

    def batch(self, chosen: Array) -> tuple[Array, Context, Array, Array | None]:  # type: ignore[override]
        """(rows, context, target rows, weight rows) of a batch."""
        context = self.inputs.context(chosen)
        rows = self.inputs.rows_of(chosen, context)
        return behind(rows, context), context, rows, self.weights.rows_of(chosen, context, rows, True)

    def judge(self, chosen: Array, segment: Segment) -> tuple[Array, Array]:
        """(target rows, weight rows) of a segment of a batch."""
        rows = self.read(chosen, segment)
        return rows, self.weights.rows_of(chosen, segment, rows, True)


class _NextStepPredictor(Predictor, abstract=True):
    @classmethod
    def outputs(cls, config: Config) -> int:
        """Outputs that the model must have."""
        return config["features"]

    @classmethod
    def per_step(cls, config: Config) -> bool:
        """Whether the model must give an output for every step."""
        return True

    def fed(self, rows: Array, context: Context) -> Array:
        """What the model is fed, of standardised packed rows: the same one step later."""
        return behind(rows, context)

    def _batches(self, data: panel.Panel) -> Iterator[tuple[Array, Context]]:
        """(rows, context) of successive batches of a panel."""
        return (part.all() for part in self.sequences(data).parts(256))

    def errors(self, data: panel.Panel) -> list[Array]:
        """What was predicted less what came, standardised if the model is: a list of (T_i, F)."""
        found, run = [], Run(parameters=snapshots(self.model.layers))
        for rows, context in self._batches(data):
            predicted = self.model.forward_rows(self.fed(rows, context), context, None, run)[0]
            found += SequenceContext(context.lengths, form="list").unpack(predicted - rows)
        return found


class AnomalyDetector(_NextStepPredictor):
    """Sequences, and steps of them, that the model could not predict.

    The error of a step is measured by its squared Mahalanobis distance from the errors seen in training. Where missing
    values are imputed, the distance is that of the features that are there (the least that it can be whatever the
    others are): a step without any scores 0, and has no part in the score of its sequence.
    """

    fields: ClassVar[tuple[str, ...]] = (*_NextStepPredictor.fields, "aggregate", "offset", "step_offset", "missing")
    defaults: ClassVar[dict[str, Any] | MappingProxyType[str, Any]] = {"missing": "error"}

    @classmethod
    def check(cls, config: Config) -> None:
        super().check(config)
        validate.choice("aggregate", config["aggregate"], ("mean", "max"))
        validate.choice("missing", config["missing"], missing.MISSING)
        for name in ("offset", "step_offset"):
            validate.number(name, config[name])

    @classmethod
    def own_shapes(cls, config: Config) -> Iterable[ArrayShape]:
        yield from super().own_shapes(config)
        yield "location", (config["features"],), "float64", FINITE
        yield "precision", (config["features"], config["features"]), "float64", FINITE
        if config["missing"] == "impute":
            yield "x_fill", (config["features"],), "float64", FINITE

    def read(self, X: ArrayLike | panel.Panel, gaps: bool = False) -> panel.Panel:
        """A `panel.Panel` of X without missing values."""
        gaps = self.config["missing"] == "impute"
        data = super().read(X, gaps)
        if data.flat and not data.ragged and data.x.shape[1] < 2:
            refuse_single_steps(data)
        return missing.fill_panel(data, "linear", self.arrays["x_fill"]) if gaps and data.missing is None else data

    def step_scores(self, data: panel.Panel) -> list[Array]:
        """The score of every step: a list of (T_i,) for a panel."""
        return [self.score_errors(*pair) for pair in zip(self.errors(data), data.each_missing(), strict=True)]

    def score_errors(self, errors: Array, gaps: Array | None = None) -> Array:
        """The scores (T,) of errors (T, F), of which some may be of `gaps` (T, F)."""
        score = np.zeros(len(errors))
        for part in self.parts(errors, gaps).T:
            score -= part
        return score

    def parts(self, errors: Array, gaps: Array | None = None) -> Array:
        """The part (T, F) of each feature in minus the score of errors (T, F)."""
        return distances(errors.astype(np.float64) - self.arrays["location"], self.arrays["precision"], gaps)

    def summarise(self, scores: list[Array], data: panel.Panel) -> Array:
        """One score per sequence of a panel from those of its steps."""
        function = np.mean if self.config["aggregate"] == "mean" else np.min
        gaps = data.each_missing()
        return np.array([function(s if g is None else s[~g.all(axis=1)]) for s, g in zip(scores, gaps, strict=True)])

    def score_samples(self, X: ArrayLike) -> Array:
        """The score of every sequence (n,), the lower, the stranger: minus the mean (or the largest) squared distance
        of its steps' errors.
        """
        data = self.read(X)
        return self.summarise(self.step_scores(data), data)

    def decision_function(self, X: ArrayLike) -> Array:
        """`score_samples` less the offset: negative for outliers."""
        return self.score_samples(X) - self.config["offset"]

    def predict(self, X: ArrayLike) -> Array:
        """-1 for sequences that are outliers, 1 for others (n,)."""
        return np.where(self.decision_function(X) < 0, -1, 1)

    def score_steps(self, X: ArrayLike) -> Array | Any:
        """The score of every step, the lower, the stranger: (n, T), NaN where X is padding, or a list of (T_i,).

        A step whose features are all missing scores 0.
        """
        data = self.read(X)
        scores = self.step_scores(data)
        return scores if data.ragged else data.padded(scores)

    def predict_steps(self, X: ArrayLike) -> Array | Any:
        """-1 for steps that are outliers, 1 for others, 0 where X is padding: (n, T) or a list of (T_i,)."""
        scores = self.score_steps(X)
        if isinstance(scores, list):
            return [np.where(s < self.config["step_offset"], -1, 1) for s in scores]
        return np.where(np.isnan(scores), 0, np.where(scores < self.config["step_offset"], -1, 1))


class Transformer(_NextStepPredictor):
    """The hidden state of a model that has learnt to predict, as features of a sequence."""

    fields: ClassVar[tuple[str, ...]] = (*_NextStepPredictor.fields, "pooling")

    def __init__(self, config: Config, arrays: Arrays, model: Sequential) -> None:
        super().__init__(config, arrays, model)
        if not isinstance(model.layers[0], LSTM):
            raise ValueError(f"model: must begin with an LSTM, got {model!r}")

    @property
    def gives(self) -> tuple[int | None, ...]:  # type: ignore[override]
        """A table of the hidden units."""
        return 1, self.model.layers[0].output_size()  # type: ignore[call-arg]

    @classmethod
    def check(cls, config: Config) -> None:
        super().check(config)
        validate.choice("pooling", config["pooling"], ("last", "mean"))

    def transform(self, X: ArrayLike) -> Array:
        """The hidden state after the last step, or its mean over all steps: (n, H)."""
        lstm, last, found = self.model.layers[0], self.config["pooling"] == "last", []
        run = Run(parameters=lstm.store.snapshot)
        for rows, context in self._batches(self.read(X)):
            zeros = np.zeros((context.batch, rows.shape[1]), rows.dtype)  # stand first, and have no part in the mean
            _, _, state, _ = lstm.forward_rows(zeros, SequenceContext.step(context.batch), None, run)
            y, after, *_ = lstm.forward_rows(rows, context, state, run)
            pooled, after, *_ = (Last() if last else MeanPool()).forward_rows(y, after, None, Run())
            found.append(after.unpack(pooled))
        return np.concatenate(found)
