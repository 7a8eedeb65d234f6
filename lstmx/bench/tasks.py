"""What is measured: the tasks, and which engines take part in each."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

from lstmx.bench.cells import CELLS


@dataclass(frozen=True)
class Task:
    """One row of `TASKS`.

    Parameters
    ----------
    kind : str
        The kind of shapes it takes: dense, cells, ragged, fit, step, stream or start.
    method : str
        The method of an engine that prepares it.
    peers : tuple of str
    dtype : {"float32", "float64"}
    work : int
        Floating-point operations, in forward passes.
    about : str
    """

    kind: str
    method: str
    peers: tuple[str, ...]
    dtype: str = "float32"
    work: int = 1
    about: str = ""


TASKS = {
    "inference": Task("dense", "inference", ("torch", "onnxruntime", "openvino"), about="inference, float32"),
    "training": Task("dense", "training", ("torch",), work=3, about="training step with dx, float32"),
    "inference64": Task("dense", "inference", ("torch",), "float64", about="inference, float64"),
    "training64": Task("dense", "training", ("torch",), "float64", 3, "training step with dx, float64"),
    "ragged": Task("ragged", "ragged", ("torch",), about="ragged inference, float32"),
    "ragged-training": Task("ragged", "ragged_training", ("torch",), work=3, about="ragged training step, float32"),
    "fit": Task("fit", "fit", ("torch", "keras-tf", "keras-jax"), work=3, about="one epoch of training, Adam, float32"),
    "step": Task("step", "step", ("torch", "onnxruntime", "openvino"), about="one step called from Python, float32"),
    "stream": Task("stream", "stream", ("torch", "onnxruntime", "openvino"), about="per step of one long sequence"),
    "cells": Task("cells", "inference", ("torch", "onnxruntime"), about="options of the cell, inference, float32"),
    "cells-training": Task("cells", "training", ("torch",), work=3, about="options of the cell, training, float32"),
    "import": Task("start", "start", ("onnxruntime", "openvino"), about="a fresh process: import, load, predict once"),
}
DEFAULT = ("inference", "training", "inference64", "training64", "ragged", "ragged-training", "step", "stream")
QUICK = ("inference", "training", "ragged", "step", "stream")

PLAIN = "plain"  # lstmx again, with the plain cell, in a process of its own
OWN = "lstmx", PLAIN

# Engine -> (the class that runs it, the packages it needs, environment variables of its own).
ENGINES = {
    "lstmx": ("lstmx.bench.lstmx_engine:LstmxEngine", (), {}),
    PLAIN: ("lstmx.bench.lstmx_engine:LstmxEngine", (), {}),
    "torch": ("lstmx.bench.torch_engine:TorchEngine", ("torch",), {}),
    "onnxruntime": ("lstmx.bench.onnx_engines:OnnxRuntimeEngine", ("onnxruntime", "onnx"), {}),
    "openvino": ("lstmx.bench.onnx_engines:OpenVinoEngine", ("openvino", "onnx"), {}),
    "keras-tf": ("lstmx.bench.keras_engine:KerasEngine", ("keras", "tensorflow"), {"KERAS_BACKEND": "tensorflow"}),
    "keras-jax": ("lstmx.bench.keras_engine:KerasEngine", ("keras", "jax"), {"KERAS_BACKEND": "jax"}),
}
PEERS = tuple(name for name in ENGINES if name not in OWN)


def missing(name: str) -> list[str]:
    """The packages that a peer needs and that are not installed."""
    if name not in ENGINES:
        return []
    return [package for package in ENGINES[name][1] if importlib.util.find_spec(package) is None]


def takes_part(name: str, task: Task, cell: str = "plain") -> bool:
    """Whether an engine is measured in a task, and with a cell of `CELLS`; one from outside ("module:Class") is asked
    in all but `import`.
    """
    if name == PLAIN:
        return task.kind == "cells"
    if ":" in name:
        return task.kind != "start"
    return name == "lstmx" or (name in task.peers and (task.kind != "cells" or name in CELLS[cell].peers))
