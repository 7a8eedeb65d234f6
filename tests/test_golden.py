"""Model files of every release load for ever, and predict the same."""

import hashlib
import json
from pathlib import Path

import numpy as np
from safetensors import safe_open

import lstmx

DATA = Path(__file__).parent / "data"
FILES = sorted(DATA.glob("golden_[0-9]*.safetensors"))


def test_there_is_a_file_of_every_schema():
    from lstmx.storage import SCHEMA

    assert [path.stem for path in FILES] == [f"golden_{k + 1}" for k in range(SCHEMA)]


def golden(path):
    with np.load(path.with_suffix(".npz"), allow_pickle=False) as data:
        return lstmx.load(path), dict(data)


# float32 sums of a dozen terms: other instruction sets and BLAS kernels add in other orders
CLOSE = {"rtol": 1e-5, "atol": 1e-6}


def test_schema_1_holds_a_model():
    model, data = golden(FILES[0])
    y = model.predict(data["x"], lengths=data["lengths"])
    np.testing.assert_allclose(y, data["y"], **CLOSE)
    assert np.ptp(data["y"], axis=0).min() > 1e-3


def test_schema_2_holds_what_an_estimator_learnt():
    classifier, data = golden(FILES[1])
    np.testing.assert_allclose(classifier.predict_proba(data["x"]), data["y"], **CLOSE)
    assert np.array_equal(classifier.predict(data["x"]), data["labels"])
    assert np.ptp(data["y"], axis=0).min() > 1e-3


def test_schema_3_holds_a_digest_too():
    forecaster, data = golden(FILES[2])
    np.testing.assert_allclose(forecaster.predict(6, data["X"]), data["y"], **CLOSE)
    for found, wanted in zip(
        forecaster.predict_interval(3, data["X"][:3], coverage=0.5), ("lower", "upper"), strict=True
    ):
        np.testing.assert_allclose(found, data[wanted], **CLOSE)
    assert np.ptp(data["y"], axis=0).min() > 1e-3


def test_pipelines_load_for_ever():
    pipeline, data = golden(DATA / "golden_pipeline.safetensors")
    np.testing.assert_allclose(pipeline.predict_proba(data["x"]), data["y"], **CLOSE)
    assert np.array_equal(pipeline.predict(data["x"]), data["labels"])
    assert np.ptp(data["y"], axis=0).min() > 1e-3
    assert [type(step).__name__ for _, step in pipeline.steps] == [
        "ColumnScaler", "Scaler", "Transformer", "ColumnScaler", "Classifier"
    ]  # fmt: skip


def test_snapshots_of_streams_load_for_ever():
    snapshot, data = golden(DATA / "golden_snapshot.safetensors")
    layers = [lstmx.LSTM(2, 4, 2, proj_size=3), lstmx.Activation("elu"), lstmx.MeanPool(), lstmx.Dense(3, 2)]
    model = lstmx.Sequential(layers)
    model.set_parameters({name: data[name] for name in model.parameters()})
    pool = lstmx.StreamPool(model, 5)
    pool.restore(snapshot)
    assert snapshot.ids.tolist() == [2**32, 1, 2] and snapshot.state[2][1].tolist() == [[6], [4], [6]]
    np.testing.assert_allclose(pool.push(data["ids"], data["x"]), data["y"], **CLOSE)
    assert np.ptp(data["y"], axis=0).min() > 1e-3
    assert pool.open(2).tolist() == data["new"].tolist()


def test_the_digest_is_what_the_module_says():
    """Anybody can compute it, with safetensors alone."""
    with safe_open(FILES[2], "numpy") as file:
        metadata, arrays = file.metadata(), {name: file.get_tensor(name) for name in sorted(file.keys())}
    found = hashlib.sha256(metadata["model"].encode())
    for name, a in arrays.items():
        found.update(json.dumps([name, str(a.dtype), list(a.shape)]).encode() + a.astype(a.dtype, order="C").tobytes())
    assert found.hexdigest() == metadata["digest"] and "model.0.weight_ih_l0" in arrays
