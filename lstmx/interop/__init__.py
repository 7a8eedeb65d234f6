"""Models from and for other libraries, each of which is needed only where its own code says so.

`torch`, `keras`, `onnx` and `rtneural` read models and write them; `convert` does both by the names of files. `gates`
has the orders of gates, `imported` what every importer gives. Adapters to neighbours of scikit-learn, which import
these at once, are imported by name: ``from lstmx.interop.sktime import SktimeForecaster`` and ``lstmx.interop.aeon``.
"""

from __future__ import annotations

import importlib
from typing import Any

_MODULES = ("convert", "gates", "imported", "keras", "onnx", "rtneural", "torch")


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'lstmx.interop' has no attribute {name!r}")
    return importlib.import_module(f"lstmx.interop.{name}")


def __dir__() -> list[str]:
    return sorted(_MODULES)
