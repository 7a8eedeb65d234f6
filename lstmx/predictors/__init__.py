"""What is served: what fitted estimators know, without scikit-learn, and graphs of models that others have trained.

`lstmx.load` gives the former for a file that an estimator saved. An estimator hands its predictions to the predictor
that it holds, so both give the same bits.
"""

from lstmx.predictors.base import Predictor, Step
from lstmx.predictors.forecaster import Forecaster
from lstmx.predictors.graph import GraphModel
from lstmx.predictors.imputer import Imputer
from lstmx.predictors.nextstep import AnomalyDetector, NextStep, Transformer
from lstmx.predictors.pipeline import Pipeline
from lstmx.predictors.scalers import ColumnScaler, Scaler
from lstmx.predictors.supervised import Classifier, Regressor

__all__ = [
    "AnomalyDetector",
    "Classifier",
    "ColumnScaler",
    "Forecaster",
    "GraphModel",
    "Imputer",
    "NextStep",
    "Pipeline",
    "Predictor",
    "Regressor",
    "Scaler",
    "Step",
    "Transformer",
]
