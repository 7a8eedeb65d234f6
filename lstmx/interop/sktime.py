"""lstmx in sktime: a forecaster and a classifier that sktime's pipelines, splitters and tuners take (needs sktime)."""

from __future__ import annotations

from typing import Any, Self

import pandas as pd
from sktime.classification.base import BaseClassifier
from sktime.forecasting.base import BaseForecaster

from lstmx.estimators import LSTMClassifier, LSTMForecaster
from lstmx.interop.neighbours import unfitted


class SktimeForecaster(BaseForecaster):
    """An `lstmx.LSTMForecaster` as sktime wants its forecasters.

    Frames of several columns are one series of several variables, which are forecast together. Exogenous variables must
    be there for every step up to the last that is asked for. A step in the past cannot be forecast. ``update`` takes
    new steps into account without training; ``UpdateRefitsEvery`` of sktime trains.

    Parameters
    ----------
    estimator : lstmx.LSTMForecaster, optional
        Its parameters are those of this one too: ``set_params(estimator__window=24)``.

    Attributes
    ----------
    estimator_ : lstmx.LSTMForecaster
        Fitted.

    Examples
    --------
    >>> from lstmx import LSTMForecaster
    >>> from lstmx.interop.sktime import SktimeForecaster
    >>> from sktime.datasets import load_airline
    >>> forecaster = SktimeForecaster(LSTMForecaster(24, 12, differences=(12,), tol=0.01, random_state=0))
    >>> forecast = forecaster.fit(load_airline()).predict(fh=[1, 12])
    >>> list(map(str, forecast.index))
    ['1961-01', '1961-12']
    """

    _tags = {  # noqa: RUF012  as sktime reads it
        "capability:multivariate": True,
        "capability:exogenous": True,
        "capability:insample": False,
        "capability:pred_int": True,
        "capability:pred_int:insample": False,
        "capability:missing_values": False,
        "capability:non_contiguous_X": False,
        "capability:update": True,
        "capability:categorical_in_X": False,
        "requires-fh-in-fit": False,
        "y_inner_mtype": "pd.DataFrame",
        "X_inner_mtype": "pd.DataFrame",
    }

    def __init__(self, estimator: LSTMForecaster | None = None) -> None:
        self.estimator = estimator
        super().__init__()
        if getattr(estimator, "missing", None) == "impute":
            self.set_tags(**{"capability:missing_values": True})

    def _fit(self, y: Any, X: Any, fh: Any) -> Self:
        self.estimator_ = unfitted(self.estimator, LSTMForecaster)
        self.estimator_.fit(y.to_numpy(), None if X is None else X.to_numpy())
        self._exogenous, self._columns, self._end = X is not None, y.columns, y.index[-1]
        return self

    def _update(self, y: Any, X: Any = None, update_params: bool = True) -> Self:
        new = y.index > self._end  # the others are known
        if new.any():
            self.estimator_.update(y[new].to_numpy(), X.loc[y.index[new]].to_numpy() if self._exogenous else None)
            self._end = y.index[-1]
        return self

    def _ahead(self, fh: Any, X: Any) -> tuple[Any, int, Any, Any]:
        """(steps, the last of them, exogenous variables up to it, places in time)."""
        steps = fh.to_relative(self.cutoff).to_numpy().astype(int)
        return steps, int(steps.max()), X.to_numpy() if self._exogenous else None, fh.to_absolute_index(self.cutoff)

    def _predict(self, fh: Any, X: Any) -> Any:
        steps, last, X, index = self._ahead(fh, X)
        return pd.DataFrame(self.estimator_.predict(last, X)[steps - 1], index, self._columns)

    def _predict_interval(self, fh: Any, X: Any, coverage: Any) -> Any:
        steps, last, X, index = self._ahead(fh, X)
        # Errors are known up to the horizon of the estimator; what lies further ahead are paths.
        how = {"method": "residuals"} if last <= self.estimator_.horizon else {"method": "paths", "random_state": 0}
        names = self._get_varnames()
        found: dict[Any, Any] = {}
        for share in coverage:
            bounds = self.estimator_.predict_interval(last, X, coverage=share, **how)
            for side, bound in zip(("lower", "upper"), bounds, strict=True):
                found |= {(name, share, side): bound[steps - 1, k] for k, name in enumerate(names)}
        columns = pd.MultiIndex.from_product([names, coverage, ["lower", "upper"]])
        return pd.DataFrame(found, index)[list(columns)].set_axis(columns, axis=1)

    @classmethod
    def get_test_params(cls, parameter_set: str = "default") -> list[dict[str, Any]]:
        """Parameters for sktime's own checks."""
        small: dict[str, Any] = {"window": 4, "hidden_size": 4, "max_iter": 3, "random_state": 0}
        return [{"estimator": LSTMForecaster(**small, horizon=3)},
                {"estimator": LSTMForecaster(**small, strategy="recursive", early_stopping=False)}]  # fmt: skip


class SktimeClassifier(BaseClassifier):
    """An `lstmx.LSTMClassifier` as sktime wants its classifiers; sequences may have different lengths.

    Parameters
    ----------
    estimator : lstmx.LSTMClassifier, optional
        Its parameters are those of this one too: ``set_params(estimator__hidden_size=32)``.

    Attributes
    ----------
    estimator_ : lstmx.LSTMClassifier
        Fitted.
    """

    _tags = {  # noqa: RUF012
        "X_inner_mtype": "df-list",
        "y_inner_mtype": "numpy1D",
        "capability:multivariate": True,
        "capability:unequal_length": True,
        "capability:missing_values": False,
        "capability:predict_proba": True,
        "capability:categorical_in_X": False,
    }

    def __init__(self, estimator: LSTMClassifier | None = None) -> None:
        self.estimator = estimator
        super().__init__()

    def _fit(self, X: Any, y: Any) -> Self:
        self.estimator_ = unfitted(self.estimator, LSTMClassifier, layout="NTC", target="sequence")
        self.estimator_.fit(self._arrays(X), y)
        return self

    @staticmethod
    def _arrays(X: Any) -> list[Any]:
        return [x.to_numpy() for x in X]

    def _predict(self, X: Any) -> Any:
        return self.estimator_.predict(self._arrays(X))

    def _predict_proba(self, X: Any) -> Any:
        return self.estimator_.predict_proba(self._arrays(X))

    @classmethod
    def get_test_params(cls, parameter_set: str = "default") -> list[dict[str, Any]]:
        """Parameters for sktime's own checks."""
        return [{"estimator": LSTMClassifier(hidden_size=4, max_iter=3, random_state=0)},
                {"estimator": LSTMClassifier(hidden_size=3, max_iter=2, pooling="mean", random_state=0)}]  # fmt: skip
