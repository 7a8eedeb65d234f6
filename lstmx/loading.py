"""`lstmx.save` and `lstmx.load`: importing this registers everything that a file can hold."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import lstmx.model
import lstmx.predictors
import lstmx.streams  # noqa: F401
from lstmx import storage
from lstmx.functional import validate

if TYPE_CHECKING:
    from typing import Any

    from lstmx._types import PathLike


def save(model: Any, path: PathLike) -> None:
    """Write a model to one safetensors file, atomically: all of it, or nothing.

    `lstmx.load` reads it. Estimators and pipelines come back as predictors (`lstmx.predictors`), which need no
    scikit-learn and give the same bits.

    Parameters
    ----------
    model : LSTM, another layer, Sequential, predictor, fitted estimator or sklearn.pipeline.Pipeline
        Of layers, models and estimators of lstmx it is what their ``save`` does. A Pipeline may hold estimators of
        lstmx, but for LSTMForecaster, scikit-learn's StandardScaler, MinMaxScaler, MaxAbsScaler and RobustScaler,
        "passthrough", and pipelines of these.
    path : str or path-like

    Raises
    ------
    TypeError
        If `model`, or a step of it, is something else.
    sklearn.exceptions.NotFittedError
        If it is not fitted.
    OSError, ValueError
        As of ``save``.

    Examples
    --------
    >>> import os, tempfile, numpy as np, lstmx
    >>> from sklearn.pipeline import make_pipeline
    >>> X = [np.arange(n, dtype=float)[:, None] for n in (3, 5, 4)]
    >>> detector = lstmx.LSTMAnomalyDetector(hidden_size=4, standardize=False, tol=0.1, random_state=0)
    >>> pipeline = make_pipeline(lstmx.SequenceScaler(), detector).fit(X)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     lstmx.save(pipeline, os.path.join(folder, "detector.safetensors"))
    ...     again = lstmx.load(os.path.join(folder, "detector.safetensors"))
    >>> bool((again.score_samples(X) == pipeline.score_samples(X)).all())
    True
    """
    stored = model if isinstance(model, storage.Stored) else None
    if stored is None and "sklearn" in sys.modules:  # else it cannot be an estimator
        from lstmx.estimators import to_stored

        stored = to_stored(model)
    if stored is None:
        more = "; save its best_estimator_" if hasattr(model, "best_estimator_") else ""
        raise TypeError(f"model: got {type(model).__name__}, must be a layer, Sequential or fitted estimator of lstmx, "
                        f"or a scikit-learn Pipeline of such estimators and scalers{more}")  # fmt: skip
    stored.save(path)


def load(path: PathLike, *, allow_nonfinite: bool = False) -> Any:
    """Read what `save` wrote: the function, or the method of a model or an estimator.

    Parameters
    ----------
    path : str or path-like
    allow_nonfinite : bool
        Whether parameters may be NaN or infinite, to look into a model that diverged, say.

    Returns
    -------
    LSTM, another layer, Sequential, StreamSnapshot, or what was learnt by an estimator or a pipeline
        The latter as a predictor (`lstmx.predictors`), which needs no scikit-learn.

    Raises
    ------
    OSError
        If there is no such file (FileNotFoundError), or something else there, such as a folder.
    ValueError
        If the file is not such a model, or damaged, or holds parameters that are not finite, saying what is wrong.

    Examples
    --------
    >>> import os, tempfile, numpy as np, lstmx
    >>> lstm = lstmx.LSTM(3, 4, random_state=0)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     lstm.save(os.path.join(folder, "lstm.safetensors"))
    ...     again = lstmx.load(os.path.join(folder, "lstm.safetensors"))
    >>> x = np.ones((2, 5, 3))
    >>> bool((lstm(x)[0] == again(x)[0]).all())
    True
    """
    return storage.load(path, validate.flag("allow_nonfinite", allow_nonfinite))
