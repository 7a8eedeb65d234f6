"""From fitted estimators to what files hold: `to_step` for each kind, and pipelines of them."""

from __future__ import annotations

import functools
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import sklearn
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import MaxAbsScaler, MinMaxScaler, RobustScaler, StandardScaler
from sklearn.utils.validation import check_is_fitted

from lstmx import predictors
from lstmx.estimators._notes import FileMixin, describe

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lstmx._types import Array


# Of a scaler of scikit-learn: the arrays of a `predictors.ColumnScaler`, None for those it does not use, and bounds.
_SCALERS: dict[Any, Callable[[Any], Any]] = {
    StandardScaler: lambda s: (
        {"subtract": s.mean_ if s.with_mean else None, "divide": s.scale_ if s.with_std else None},
        None,
    ),
    RobustScaler: lambda s: (
        {"subtract": s.center_ if s.with_centering else None, "divide": s.scale_ if s.with_scaling else None},
        None,
    ),
    MinMaxScaler: lambda s: ({"multiply": s.scale_, "add": s.min_}, s.feature_range if s.clip else None),
    MaxAbsScaler: lambda s: ({"divide": s.scale_}, (-1, 1) if getattr(s, "clip", False) else None),
}
_KINDS = f"estimators of lstmx but LSTMForecaster, and {', '.join(kind.__name__ for kind in _SCALERS)} of scikit-learn"


@functools.singledispatch
def to_step(estimator: Any) -> Any:
    """The `predictors.Step` of a fitted estimator, or None of one that no file holds. Ours register themselves.

    Raises
    ------
    NotFittedError
    """
    if type(estimator) in _SCALERS:  # a subclass may do anything
        check_is_fitted(estimator)
        return _column_scaler(estimator, *_SCALERS[type(estimator)](estimator))
    return estimator if isinstance(estimator, predictors.Step) else None


def to_stored(estimator: Any, note: bool = True) -> Any:
    """What a file holds of a fitted estimator or Pipeline; None of one that no file holds.

    Without `note` it is what was learnt alone.

    Raises
    ------
    NotFittedError
    TypeError
        If a step of a Pipeline cannot be saved.
    """
    if isinstance(estimator, FileMixin):
        return to_step(estimator).with_note(describe(estimator) if note else None)
    if type(estimator) is not Pipeline:
        return to_step(estimator)
    steps = list(_steps(estimator, ""))
    if not steps:
        raise ValueError("model: a Pipeline in which every step is passthrough, so there is nothing to save")
    return predictors.Pipeline(steps)


def _steps(pipeline: Any, prefix: str) -> Iterator[tuple[str, predictors.Step]]:
    """(name, `predictors.Step`) of the steps that do something; those of a nested pipeline are "outer__inner"."""
    for name, estimator in pipeline.steps:
        name = prefix + name
        if estimator is None or (isinstance(estimator, str) and estimator == "passthrough"):
            continue
        if type(estimator) is Pipeline:
            yield from _steps(estimator, f"{name}__")
            continue
        step = to_step(estimator)
        what = f"model: the step {name!r} ({type(estimator).__name__})"
        if step is None or not step.in_pipelines:
            remedy = "save the steps before it, pipeline[:k]" if step is None else "save it by itself"
            raise TypeError(f"{what} cannot be saved in a pipeline, where there can be {_KINDS}; {remedy}")
        frames = getattr(estimator, "_sklearn_output_config", {}).get("transform") or "default"
        if frames != "default":
            raise TypeError(f"{what} gives frames of {frames}, but what is loaded gives arrays; call "
                            'pipeline.set_output(transform="default") and fit again')  # fmt: skip
        yield name, step


def _column_scaler(estimator: Any, arrays: dict[str, Any], clip: Any = None) -> predictors.ColumnScaler:
    """A `predictors.ColumnScaler` that gives the bits of `estimator`.

    Versions of scikit-learn differ in whether they round the arrays to the type of X: which is right is tried out.
    """
    arrays = {name: np.array(a, np.promote_types(a.dtype, "f4")) for name, a in arrays.items() if a is not None}
    names = getattr(estimator, "feature_names_in_", None)
    config = {"columns": estimator.n_features_in_, "names": None if names is None else list(map(str, names)),
              "operations": {name: a.dtype.name for name, a in arrays.items()},
              "clip": None if clip is None else list(map(float, clip))}  # fmt: skip
    rows = np.random.default_rng(0).normal(size=(64, estimator.n_features_in_))
    for rounded in (False, True):
        step = predictors.ColumnScaler(config | {"rounded": rounded}, arrays)
        with np.errstate(over="ignore"):
            tables = [step.inverse_transform(rows).astype(dtype) for dtype in (np.float64, np.float32)]
        if all(_same(step, estimator, table) for table in tables if np.isfinite(table).all()):
            return step
    raise TypeError(f"model: {type(estimator).__name__} of scikit-learn {sklearn.__version__} rounds in a way that "
                    "lstmx does not know; use SequenceScaler")  # fmt: skip


def _same(step: predictors.ColumnScaler, estimator: Any, table: Array) -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a table without names
        wanted = np.asarray(estimator.transform(table.copy()))
    found = step.transform(table)
    return found.dtype == wanted.dtype and found.tobytes() == np.ascontiguousarray(wanted).tobytes()
