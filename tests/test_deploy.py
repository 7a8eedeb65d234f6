"""Models of every importer, saved and then served where NumPy is all that is installed."""

from pathlib import Path

import numpy as np
import pytest
from test_import import run

import lstmx

DATA = Path(__file__).parent / "data"
# Blocks every package that is not Python's own, NumPy or lstmx.
ALONE = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        root = name.partition(".")[0]
        if root not in {"numpy", "lstmx", *sys.stdlib_module_names} and not root.startswith("_"):
            raise ImportError(f"No module named {name!r}")
sys.meta_path.insert(0, Block())
"""


def of_torch(folder):
    return lstmx.from_torch(DATA / "torch_models" / "classifier.pt", head="final")


def of_rtneural(folder):
    return lstmx.from_rtneural(DATA / "rtneural.json")


def of_keras(folder):
    pytest.importorskip("h5py")
    from keras_cases import unpack

    path, *_ = unpack(folder)["keras_3.keras"]
    return lstmx.from_keras(path)


def of_onnx(folder):
    pytest.importorskip("onnx")
    with np.load(DATA / "onnx_torch.npz") as file:
        return lstmx.from_onnx(file["last_script/model"].tobytes())


def inputs_of(model):
    """A batch that the model takes."""
    rng = np.random.default_rng(0)
    if isinstance(model, lstmx.predictors.GraphModel):
        [(_, _, shape)] = model.inputs
        return rng.normal(size=[n if isinstance(n, int) else 4 for n in shape]).astype("float32")
    if model.embedding is not None:
        return rng.integers(model.embedding.num_embeddings, size=(3, 5))
    return rng.normal(size=(3, 5, model.input_size)).astype("float32")


@pytest.mark.parametrize("make", [of_torch, of_keras, of_onnx, of_rtneural])
def test_what_was_converted_is_served_alone(make, tmp_path):
    """The same bits, from a process that has nothing else, not even numpy.random."""
    folder = tmp_path / "source"
    folder.mkdir()
    model = make(folder)
    x = inputs_of(model)
    lstmx.save(model, tmp_path / "model.safetensors")
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", model.predict(x))
    code = f"""
        import sys, numpy as np, lstmx
        model, x, y = (load({str(tmp_path)!r} + name) for load, name in (
            (lstmx.load, "/model.safetensors"), (np.load, "/x.npy"), (np.load, "/y.npy")))
        print((model.predict(x) == y).all(), "numpy.random" in sys.modules)
    """
    assert run(code, ALONE) == "True False"
