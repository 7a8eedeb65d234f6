"""Long Short-Term Memory networks for CPUs.

Start with `lstmx.LSTM` (arrays in, arrays out, gradients by hand), `lstmx.Sequential` (fit and predict), the estimators
in the manner of scikit-learn (`lstmx.LSTMClassifier`, `LSTMRegressor`, `LSTMForecaster` and others in
`lstmx.estimators`), or `lstmx.reference` (what an LSTM is, on one page).
"""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

from lstmx import functional, reference
from lstmx._version import __version__
from lstmx.functional.cell import Cell
from lstmx.functional.threads import get_num_threads, num_threads, set_num_threads
from lstmx.layers import (
    LSTM,
    RNN,
    Activation,
    Dense,
    Dropout,
    Embedding,
    FinalState,
    Last,
    Masking,
    MeanPool,
    Reversed,
    Trace,
    Unmask,
)
from lstmx.model import Sequential

if TYPE_CHECKING:  # what `_LAZY` loads, for type checkers and editors
    from typing import Any

    from lstmx import datasets as datasets
    from lstmx import distributed as distributed
    from lstmx import estimators as estimators
    from lstmx import init as init
    from lstmx import inspect as inspect
    from lstmx import interop as interop
    from lstmx import lesson as lesson
    from lstmx import predictors as predictors
    from lstmx import testing as testing
    from lstmx.cli import show_config as show_config
    from lstmx.estimators import LossCurveDisplay as LossCurveDisplay
    from lstmx.estimators import LSTMAnomalyDetector as LSTMAnomalyDetector
    from lstmx.estimators import LSTMClassifier as LSTMClassifier
    from lstmx.estimators import LSTMForecaster as LSTMForecaster
    from lstmx.estimators import LSTMRegressor as LSTMRegressor
    from lstmx.estimators import LSTMTransformer as LSTMTransformer
    from lstmx.estimators import SequenceImputer as SequenceImputer
    from lstmx.estimators import SequenceScaler as SequenceScaler
    from lstmx.interop.keras import from_keras as from_keras
    from lstmx.interop.keras import to_keras_weights as to_keras_weights
    from lstmx.interop.onnx import from_onnx as from_onnx
    from lstmx.interop.onnx.export import to_onnx as to_onnx
    from lstmx.interop.rtneural import from_rtneural as from_rtneural
    from lstmx.interop.torch import from_torch as from_torch
    from lstmx.interop.torch import to_safetensors as to_safetensors
    from lstmx.interop.torch import to_torch_state_dict as to_torch_state_dict
    from lstmx.loading import load as load
    from lstmx.loading import save as save
    from lstmx.optim import SGD as SGD
    from lstmx.optim import Adam as Adam
    from lstmx.optim import AdamW as AdamW
    from lstmx.optim import CosineDecay as CosineDecay
    from lstmx.optim import ExponentialDecay as ExponentialDecay
    from lstmx.optim import RMSprop as RMSprop
    from lstmx.optim import StepDecay as StepDecay
    from lstmx.optim import Warmup as Warmup
    from lstmx.streams import StreamPool as StreamPool
    from lstmx.training import Callback as Callback
    from lstmx.training import EarlyStopping as EarlyStopping
    from lstmx.training import History as History

_ESTIMATORS = (
    *("LSTMAnomalyDetector", "LSTMClassifier", "LSTMForecaster", "LSTMRegressor", "LSTMTransformer"),
    *("LossCurveDisplay", "SequenceImputer", "SequenceScaler"),
)

# Loaded on first use: what needs more than numpy, and what a program that only predicts can do without.
_LAZY: dict[str, tuple[str, str | None]] = {
    **{name: ("lstmx.training", name) for name in ("Callback", "EarlyStopping", "History")},
    **{name: ("lstmx.optim", name) for name in ("SGD", "Adam", "AdamW", "RMSprop")},
    **{name: ("lstmx.optim", name) for name in ("CosineDecay", "ExponentialDecay", "StepDecay", "Warmup")},
    **{name: ("lstmx.estimators", name) for name in _ESTIMATORS},
    **{name: ("lstmx.loading", name) for name in ("load", "save")},
    **{name: ("lstmx.interop.torch", name) for name in ("from_torch", "to_torch_state_dict", "to_safetensors")},
    **{name: ("lstmx.interop.keras", name) for name in ("from_keras", "to_keras_weights")},
    "from_onnx": ("lstmx.interop.onnx", "from_onnx"),
    "to_onnx": ("lstmx.interop.onnx.export", "to_onnx"),
    "from_rtneural": ("lstmx.interop.rtneural", "from_rtneural"),
    "StreamPool": ("lstmx.streams", "StreamPool"),
    "show_config": ("lstmx.cli", "show_config"),
    "datasets": ("lstmx.datasets", None),
    "distributed": ("lstmx.distributed", None),
    "estimators": ("lstmx.estimators", None),
    "init": ("lstmx.init", None),
    "interop": ("lstmx.interop", None),
    "inspect": ("lstmx.inspect", None),
    "lesson": ("lstmx.lesson", None),
    "predictors": ("lstmx.predictors", None),
    "testing": ("lstmx.testing", None),
}

__all__ = [
    "LSTM",
    "RNN",
    "Activation",
    "Cell",
    "Dense",
    "Dropout",
    "Embedding",
    "FinalState",
    "Last",
    "Masking",
    "MeanPool",
    "Reversed",
    "Sequential",
    "Trace",
    "Unmask",
    "__version__",
    "functional",
    "get_num_threads",
    "num_threads",
    "reference",
    "set_num_threads",
    *(name for name, (module, _) in _LAZY.items() if module != "lstmx.estimators"),
]


def _is_installed(package: str) -> bool:
    """Whether a package can be found; it is not loaded."""
    try:
        return importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):  # a finder, or a module in its place, that refuses
        return False


# What asks for every name, as `help`, inspect.getmembers and completion do, must not meet one that cannot be loaded.
if _is_installed("sklearn"):
    __all__ += [name for name, (module, _) in _LAZY.items() if module == "lstmx.estimators"]


if not TYPE_CHECKING:  # which would take every name for one that there is

    def __getattr__(name: str) -> Any:
        if name not in _LAZY:
            raise AttributeError(f"module 'lstmx' has no attribute {name!r}")
        module, attribute = _LAZY[name]
        found = importlib.import_module(module)
        globals()[name] = found if attribute is None else getattr(found, attribute)
        return globals()[name]


def __dir__() -> list[str]:
    return sorted(__all__)
