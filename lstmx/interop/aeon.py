"""lstmx in aeon: a classifier and a forecaster (needs aeon)."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from aeon.classification import BaseClassifier
from aeon.forecasting.base import BaseForecaster

from lstmx.estimators import LSTMClassifier, LSTMForecaster
from lstmx.interop.neighbours import unfitted


class AeonClassifier(BaseClassifier):
    """An `lstmx.LSTMClassifier` as aeon wants its classifiers: (n, channels, T), or a list of (channels, T_i).

    Parameters
    ----------
    estimator : lstmx.LSTMClassifier, optional
        Its layout is that of aeon, whatever it says.

    Attributes
    ----------
    estimator_ : lstmx.LSTMClassifier
        Fitted.
    """

    _tags = {  # noqa: RUF012  as aeon reads it
        "X_inner_type": ["np-list", "numpy3D"],
        "capability:multivariate": True,
        "capability:unequal_length": True,
        "algorithm_type": "deeplearning",
    }

    def __init__(self, estimator: LSTMClassifier | None = None) -> None:
        self.estimator = estimator
        super().__init__()

    def _fit(self, X: Any, y: Any) -> Self:
        self.estimator_ = unfitted(self.estimator, LSTMClassifier, layout="NCT", target="sequence").fit(X, y)
        return self

    def _predict(self, X: Any) -> Any:
        return self.estimator_.predict(X)

    def _predict_proba(self, X: Any) -> Any:
        return self.estimator_.predict_proba(X)

    @classmethod
    def _get_test_params(cls, parameter_set: str = "default") -> dict[str, Any]:
        return {"estimator": LSTMClassifier(hidden_size=4, max_iter=3, random_state=0)}


class AeonForecaster(BaseForecaster):
    """An `lstmx.LSTMForecaster` as aeon wants its forecasters: one number, `horizon` steps ahead.

    ``predict`` takes any series, with as much of its past as the window and the differences need; it is scaled by its
    own mean and deviation, as that of ``fit`` was.

    Parameters
    ----------
    estimator : lstmx.LSTMForecaster, optional
    horizon : int

    Attributes
    ----------
    estimator_ : lstmx.LSTMForecaster
        Fitted.

    Examples
    --------
    >>> import numpy as np
    >>> from lstmx import LSTMForecaster
    >>> from lstmx.interop.aeon import AeonForecaster
    >>> y = np.sin(np.arange(200) / 5)
    >>> forecaster = AeonForecaster(LSTMForecaster(30, tol=0.01, random_state=0), horizon=2).fit(y[:150])
    >>> bool(abs(forecaster.predict(y[:180]) - y[181]) < 0.2)
    True
    """

    _tags = {"capability:horizon": True}  # noqa: RUF012

    def __init__(self, estimator: LSTMForecaster | None = None, horizon: int = 1) -> None:
        self.estimator = estimator
        super().__init__(horizon=horizon, axis=1)

    def _fit(self, y: Any, exog: Any = None) -> Self:
        self.estimator_ = unfitted(self.estimator, LSTMForecaster, horizon=self.horizon).fit(np.ravel(y))
        self.forecast_ = float(self.estimator_.predict()[-1])
        return self

    def _predict(self, y: Any, exog: Any = None) -> Any:
        return float(self.estimator_.predict(y=np.ravel(y))[-1])

    @classmethod
    def _get_test_params(cls, parameter_set: str = "default") -> dict[str, Any]:
        return {"estimator": LSTMForecaster(4, hidden_size=4, max_iter=3, random_state=0)}
