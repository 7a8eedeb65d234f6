"""What the tests of exported models share: onnxruntime's sessions, and how near its outputs must be."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from tolerances import FAMILY, ONNXRUNTIME

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")


def session(model):
    """onnxruntime's session of a model that the checker accepts."""
    onnx.checker.check_model(model, full_check=True)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def assert_close(found, wanted, dtype="float32"):
    """Arrays of one shape and type, near for their largest value, at least 1."""
    assert found.shape == wanted.shape and found.dtype == wanted.dtype, (found.shape, wanted.shape, found.dtype)
    size = max(1, np.abs(wanted).max(initial=0))
    tolerance = {"float32": ONNXRUNTIME["rtol"], "float64": FAMILY["float64"]}[dtype]
    assert_allclose(found / size, wanted / size, rtol=0, atol=tolerance)
