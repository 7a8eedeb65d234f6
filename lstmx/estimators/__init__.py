"""scikit-learn estimators; they need scikit-learn, 1.6 or newer."""

try:
    import sklearn  # noqa: F401
except ImportError as error:
    raise ImportError("the estimators need scikit-learn: pip install 'scikit-learn>=1.6'") from error

from lstmx.estimators._classifier import LSTMClassifier
from lstmx.estimators._display import LossCurveDisplay
from lstmx.estimators._forecaster import LSTMForecaster
from lstmx.estimators._imputer import SequenceImputer
from lstmx.estimators._nextstep import LSTMAnomalyDetector, LSTMTransformer
from lstmx.estimators._regressor import LSTMRegressor
from lstmx.estimators._saving import to_stored  # noqa: F401  what lstmx.save takes
from lstmx.estimators._scaler import SequenceScaler

__all__ = [
    "LSTMAnomalyDetector",
    "LSTMClassifier",
    "LSTMForecaster",
    "LSTMRegressor",
    "LSTMTransformer",
    "LossCurveDisplay",
    "SequenceImputer",
    "SequenceScaler",
]
