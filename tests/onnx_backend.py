"""lstmx as a backend of onnx.backend.test: the cases of single nodes that it has all operators for."""

import importlib
import warnings

from onnx import TensorProto
from onnx.backend.base import Backend, BackendRep
from onnx.backend.test.case import node
from onnx.backend.test.loader import load_model_tests

from lstmx.interop.onnx import from_onnx
from lstmx.interop.onnx.nodes import CONVERTERS


class Prepared(BackendRep):
    """A model that has been read."""

    def __init__(self, model):
        self.model = model

    def run(self, inputs, **_):
        """Outputs in their order, of inputs in theirs."""
        found = self.model.run({name: a for (name, *_), a in zip(self.model.inputs, inputs, strict=True)})
        return tuple(found[name] for name, *_ in self.model.outputs)


class LstmxBackend(Backend):
    """Reads models by `from_onnx`."""

    @classmethod
    def prepare(cls, model, device="CPU", **_):
        """A model that can be run."""
        return Prepared(from_onnx(model))

    @classmethod
    def supports_device(cls, device):
        """The CPU alone."""
        return device == "CPU"


def node_cases():
    """The cases of onnx.backend.test.loader: of all operators, which takes seconds."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its data overflow, on purpose
        return load_model_tests(kind="node")


def lstm_cases():
    """Those of LSTM: each operator's are made when its module is imported."""
    importlib.import_module("onnx.backend.test.case.node.lstm")
    return [case for case in node._NodeTestCases if "LSTM" in {n.op_type for n in case.model.graph.node}]


# Types whose numbers are computed as they are: others are converted, which a case of overflow would show.
TYPES = {TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.INT64, TensorProto.BOOL, TensorProto.INT32}


def is_for_us(case):
    """Whether a case has nothing but our operators, on types that we compute in."""
    values = [*case.model.graph.input, *case.model.graph.output]
    types = {value.type.tensor_type.elem_type for value in values}
    ops = {n.op_type for n in case.model.graph.node}
    return not case.model.functions and types <= TYPES and ops <= set(CONVERTERS) - {"If", "Cast"}
