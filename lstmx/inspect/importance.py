"""What a fitted model's score rests on: features, and steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lstmx.data import panel
from lstmx.functional import validate
from lstmx.predictors import Predictor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import ArrayLike

    from lstmx._types import Array


PARTS = 10  # of relative time, where lengths differ and n_bins is not given


@dataclass(frozen=True, eq=False)
class PermutationImportance:
    """What `permutation_importance` found, for K features, steps or parts of time.

    Attributes
    ----------
    importances : ndarray (K, n_repeats)
        By how much the score fell.
    importances_mean, importances_std : ndarray (K,)
        Over the repeats.
    baseline_score : float
        The score on X as it is: importances of a model that is no good say little.
    names : list of str or None
        Of the features or steps where X or the estimator know them, or of the parts of time.
    """

    importances: Array
    importances_mean: Array
    importances_std: Array
    baseline_score: float
    names: list[str] | None


def permutation_importance(
    estimator: Any,
    X: ArrayLike,
    y: ArrayLike,
    *,
    by: str = "feature",
    n_repeats: int = 5,
    n_bins: int | None = None,
    scoring: str | Callable[..., Any] | None = None,
    sample_weight: ArrayLike | None = None,
    layout: str | None = None,
    random_state: Any = None,
) -> PermutationImportance:
    """How much worse a fitted model scores when a feature, or a step, is exchanged between sequences.

    What scikit-learn's function of this name does for tables, for sequences; it fails on (n, T, F) arrays and on lists.
    ``by="feature"`` gives every sequence the whole course that one feature has in another sequence, so the course stays
    what it may be and only its tie to y is cut. ``by="step"`` exchanges all features of one step. Features (or steps)
    that tell the same can stand in for each other: each then looks unimportant.

    Sequences of different lengths meet at the same relative time: step t of T takes the value of the step that contains
    ``(t + 0.5) / T`` of the other sequence, whose course is so stretched or shortened. Lengths themselves are never
    exchanged. NaN at the end of a sequence is padding and stays where it is.

    Parameters
    ----------
    estimator : object
        A fitted estimator of lstmx or scikit-learn, a pipeline or a search of such; or with a callable `scoring`
        anything that predicts, such as `lstmx.Sequential` or what `lstmx.load` gives.
    X : array (n, T, F), list of n arrays (T_i, F), or array or frame (n, T) of one feature
        At least 2 sequences; best such as the model has not seen. It is not changed.
    y : targets in any form that the score takes
        It is handed on as it is.
    by : {"feature", "step"}
    n_repeats : int
        Random exchanges; all features or steps see the same ones.
    n_bins : int, optional
        For ``by="step"``: exchange this many equal parts of the (relative) time instead of single steps. By default
        single steps where all sequences have one length, else 10 parts.
    scoring : str or callable, optional
        Higher is better: a name that scikit-learn knows, or ``scoring(estimator, X, y)``, which also gets
        ``sample_weight=`` where that is given. By default ``estimator.score``.
    sample_weight : array (n,), optional
        For the score.
    layout : {"NTC", "NCT"}, optional
        Whether features come last or before time in X. By default what the estimator, or the first step of a pipeline
        that has a `layout`, says; else "NTC".
    random_state : None, int, RandomState, SeedSequence or Generator

    Returns
    -------
    PermutationImportance
        With `importances`, `importances_mean` and `importances_std` as scikit-learn names them.

    Raises
    ------
    TypeError
        For a forecaster, which reads one series; for an estimator without a score where `scoring` is not given.
    ValueError
        For fewer than 2 sequences, or arguments out of range.

    Notes
    -----
    The model is scored ``1 + K * n_repeats`` times on data of the size of X, where K is F, T or `n_bins`: for many
    steps `n_bins` and a part of X save time. Memory is that of a few copies of X.

    Examples
    --------
    Only the second of three features matters, and only at the end:

    >>> import numpy as np
    >>> from lstmx import LSTMClassifier
    >>> from lstmx.inspect import permutation_importance
    >>> X = np.random.default_rng(0).normal(size=(300, 8, 3))
    >>> y = X[:, 5:, 1].sum(axis=1) > 0
    >>> clf = LSTMClassifier(8, learning_rate_init=0.02, tol=0.01, n_iter_no_change=2, random_state=0).fit(X, y)
    >>> found = permutation_importance(clf, X, y, random_state=0)
    >>> found.importances.shape, int(found.importances_mean.argmax())
    ((3, 5), 1)
    >>> found = permutation_importance(clf, X, y, by="step", n_bins=2, random_state=0)
    >>> found.names[found.importances_mean.argmax()]
    '50-100%'
    """
    validate.choice("by", by, ("feature", "step"))
    validate.count("n_repeats", n_repeats)
    if n_bins is not None:
        validate.count("n_bins", n_bins)
        if by == "feature":
            raise ValueError('n_bins: parts of the time are exchanged with by="step" alone; leave it out')
    if layout is None:
        layout = next(filter(None, map(_layout_of, _parts(estimator))), "NTC")
    validate.choice("layout", layout, panel.LAYOUTS)
    if isinstance(random_state, np.random.RandomState):
        random_state = int(random_state.randint(np.iinfo(np.int32).max))
    rng = validate.random_generator("random_state", random_state)
    score = _scorer(estimator, scoring, sample_weight)

    baseline = score(X, y)  # first, so that what is wrong with X is told in the estimator's own words
    rows = _Rows(X, layout)
    if by == "feature":
        selections: list[Any] = [(slice(None), k) for k in range(rows.values.shape[1])]
    else:
        bins = rows.bins(n_bins)
        part = rows.part(bins)
        selections = [(np.flatnonzero(part == k),) for k in range(bins)]
    importances = np.empty((len(selections), n_repeats))
    for repeat in range(n_repeats):
        donors = rows.donors(rng.permutation(len(rows.starts)))
        for k, selection in enumerate(selections):
            importances[k, repeat] = baseline - score(rows.exchanged(selection, donors), y)
    if by == "step" and (n_bins is not None or rows.ragged):
        names: list[str] | None = [f"{100 * k / bins:.3g}-{100 * (k + 1) / bins:.3g}%" for k in range(bins)]
    else:
        names = _names(estimator, X, rows, by, len(selections))
    return PermutationImportance(importances, importances.mean(axis=1), importances.std(axis=1), baseline, names)


class _Rows:
    """X in any form as the rows of all its sequences, and back.

    Attributes
    ----------
    values : ndarray (S, F)
        The steps of all sequences, one sequence after the other, padding among them.
    starts, lengths : ndarray of int (n,)
        The first row of each sequence, and its steps without padding.
    """

    _back: Any
    lengths: Any

    def __init__(self, X: Any, layout: str | None) -> None:
        arrays = panel.as_list(X)
        if arrays is None:
            x = validate.real_array("X", X)
            if x.ndim not in (2, 3):
                raise ValueError(f"X: got shape {x.shape}, must be (n, T, F), (n, T) of one feature, or a list of "
                                 "(T_i, F) arrays")  # fmt: skip
            before = x.ndim == 3 and layout == "NCT"
            x = x.swapaxes(1, 2) if before else x
            self.values = x.reshape(-1, x.shape[2] if x.ndim == 3 else 1)
            counts = np.full(len(x), x.shape[1])
            self._back = lambda rows: _like(
                X, rows.reshape(x.shape).swapaxes(1, 2) if before else rows.reshape(x.shape)
            )
        else:
            before, flat = layout == "NCT", arrays[0].ndim == 1
            arrays = [a[:, None] if flat else a.T if before else a for a in arrays]
            self.values, counts = validate.real_array("X", np.concatenate(arrays)), np.array([len(a) for a in arrays])
            ends = np.cumsum(counts)[:-1]
            self._back = lambda rows: [
                a[:, 0] if flat else a.T if before else a for a in np.split(rows, ends)
            ]  # fmt: skip
        if len(counts) < 2:
            raise ValueError(f"X: got {len(counts)} sequence{'s' * (not len(counts))}, must be at least 2, which "
                             "exchange what they have")  # fmt: skip
        self.starts = np.cumsum(counts) - counts
        self.lengths = self._lengths(counts)
        self.ragged = bool((self.lengths != self.lengths[0]).any())
        owner = np.repeat(np.arange(len(counts)), self.lengths)
        self._owner, self._step = owner, np.arange(len(owner)) - (np.cumsum(self.lengths) - self.lengths)[owner]
        self._rows = self.starts[owner] + self._step  # those that are no padding

    def _lengths(self, counts: Array) -> Array:
        if counts.all() and self.values.dtype.kind == "f":
            there = ~np.isnan(self.values).all(axis=1)
            last = np.maximum.reduceat(np.where(there, np.arange(len(there)), -1), self.starts)  # type: ignore[arg-type]
            counts = np.maximum(last - self.starts + 1, 0)
        if not counts.all():
            raise ValueError(f"X: sequence {int(counts.argmin())} has no steps; leave it out")
        return counts

    def donors(self, permutation: Array) -> Array:
        """(S,) the row from which each row takes what is exchanged."""
        other, length = permutation[self._owner], self.lengths
        out = np.arange(len(self.values))
        out[self._rows] = self.starts[other] + (2 * self._step + 1) * length[other] // (2 * length[self._owner])
        return out

    def bins(self, given: int | None) -> int:
        """The number of parts of time."""
        longest = int(self.lengths.max())
        if given is None:
            return min(PARTS, longest) if self.ragged else longest
        if given > longest:
            raise ValueError(f"n_bins: got {given}, must be at most the steps of the longest sequence, {longest}")
        return given

    def part(self, bins: int) -> Array:
        """(S,) the part of its sequence's time in which each row lies; -1 for padding."""
        out = np.full(len(self.values), -1)
        out[self._rows] = (2 * self._step + 1) * bins // (2 * self.lengths[self._owner])
        return out

    def exchanged(self, selection: Any, donors: Array) -> Any:
        """X in its own form, with the selected rows or column taken from the donors."""
        rows = self.values.copy()
        rows[selection] = self.values[(donors[selection[0]], *selection[1:])]
        return self._back(rows)


def _like(X: Any, array: Array) -> Any:
    """An array as a frame where X is one."""
    if not hasattr(X, "iloc"):
        return array
    return type(X)(array, index=X.index, columns=X.columns).astype(X.dtypes)


def _parts(estimator: Any) -> Iterator[Any]:
    """The estimator and what it is made of, in the order in which X passes through them."""
    yield estimator
    inner = [getattr(estimator, "best_estimator_", getattr(estimator, "estimator", None))]
    if isinstance(getattr(estimator, "steps", None), list):
        inner = [step for _, step in estimator.steps]
    for part in inner:
        if hasattr(part, "__dict__"):
            yield from _parts(part)


def _layout_of(part: Any) -> str | None:
    layout = part.config["layout"] if isinstance(part, Predictor) else getattr(part, "layout", None)
    return layout if layout in panel.LAYOUTS else None


def _scorer(estimator: Any, scoring: Any, sample_weight: Any) -> Callable[[Any, Any], float]:
    """A function (X, y) -> float."""
    name = type(estimator).__name__
    if any(hasattr(part, "update") and hasattr(part, "predict_interval") for part in _parts(estimator)):
        raise TypeError(f"estimator: got {name}, which forecasts series and reads no sequences X; compare its score "
                        "with and without a variable of X instead")  # fmt: skip
    if not (scoring is None or isinstance(scoring, str) or callable(scoring)):
        raise TypeError(f"scoring: got {scoring!r}, must be None, the name of a score, or a callable "
                        "(estimator, X, y) -> float")  # fmt: skip
    remedy = (
        "give scoring=, a callable (estimator, X, y) -> float; for classes lambda m, X, y: (m.predict(X) == y).mean()"
    )
    if scoring is None:
        if not hasattr(estimator, "score"):
            raise TypeError(f"estimator: got {name}, which has no score; {remedy}")
        scoring = _own_score
    elif isinstance(scoring, str):
        if not hasattr(estimator, "__sklearn_tags__"):
            raise TypeError(f"scoring: got {scoring!r}, which scikit-learn computes for its own kind of estimator, not "
                            f"for {name}; {remedy}")  # fmt: skip
        from lstmx.estimators._scoring import named_scorer

        scoring = named_scorer(scoring)
    weight = {} if sample_weight is None else {"sample_weight": sample_weight}

    def score(X: Any, y: Any) -> float:
        found = scoring(estimator, X, y, **weight)
        if np.ndim(found) or not isinstance(found, int | float | np.number | np.bool_ | np.ndarray):
            raise TypeError(f"scoring: gave {type(found).__name__}, must give one number")
        return float(found)

    return score


def _own_score(estimator: Any, X: Any, y: Any, **weight: Any) -> Any:
    return estimator.score(X, y, **weight)


def _names(estimator: Any, X: Any, rows: _Rows, by: str, count: int) -> list[str] | None:
    table = rows.values.shape[1] == 1
    names = getattr(X, "columns", None) if by == "step" else None
    if names is None and table == (by == "step"):
        names = getattr(estimator, "feature_names_in_", None)
    return [str(name) for name in names] if names is not None and len(names) == count else None
