"""The command ``lstmx convert``."""

import json

import numpy as np
import pytest
from tolerances import PEER

import lstmx
from lstmx import cli
from lstmx.interop import convert
from lstmx.interop.imported import Imported

pytest.importorskip("onnx")
pytest.importorskip("h5py")


@pytest.fixture
def model(tmp_path, monkeypatch):
    """A model that is saved as a.safetensors in the folder of the test."""
    monkeypatch.chdir(tmp_path)
    model = lstmx.Sequential([lstmx.LSTM(3, 8), lstmx.Last(), lstmx.Dense(8, 1)], random_state=0)
    model.save("a.safetensors")
    return model


@pytest.fixture
def command(capsys):
    """(status, output, errors) of the command."""

    def run(*arguments):
        status = cli.main(["convert", *map(str, arguments)])
        return status, *capsys.readouterr()

    return run


def test_back_and_forth(model, command):
    pytest.importorskip("onnxruntime")
    assert command("a.safetensors", "b.onnx")[0] == 0
    status, out, _ = command("b.onnx", "c.safetensors", "--check")
    assert status == 0 and "largest error" in out and "LSTM 3 -> 8" in out and "written: c.safetensors" in out
    x = np.random.default_rng(0).normal(size=(4, 5, 3)).astype("float32")
    np.testing.assert_allclose(lstmx.load("c.safetensors").predict(x), model.predict(x), **PEER["float32"])


@pytest.mark.parametrize("ending", [".safetensors", ".onnx", ".pt", ".weights.h5"])
@pytest.mark.parametrize("source", ["a.safetensors", "a.onnx"])
def test_every_target_is_written_and_checked(source, ending, model, command):
    pytest.importorskip("onnxruntime")
    if ending == ".pt":
        pytest.importorskip("torch")
    lstmx.to_onnx(model, "a.onnx")
    status, out, errors = command(source, f"b{ending}", "--check")
    assert (status, errors) == (0, "")
    assert "not checked" not in out
    assert ("largest error" if ending == ".onnx" else "arrays come back bit for bit") in out.splitlines()[-1]
    assert (model.summary() in out, "in the source" in out) == (source == "a.safetensors", source == "a.onnx")


@pytest.mark.parametrize("name", ["b.safetensors", "b.weights.h5"])
def test_a_file_of_another_model_is_found(name, model):
    target = convert.Target(name)
    target.write(lstmx.Sequential([lstmx.LSTM(3, 8), lstmx.Last(), lstmx.Dense(8, 1)], random_state=1))
    with pytest.raises(ValueError, match="does not hold the arrays of the model"):
        target.check(model)


def test_a_graph_that_is_no_chain_stays_one(model, command):
    lstmx.to_onnx(lstmx.LSTM(3, 8), "a.onnx", lengths=True)
    status, _, errors = command("a.onnx", "b.weights.h5")
    assert status == 1 and "no chain of layers, so Keras weights cannot be written" in errors and "lengths" in errors
    assert command("a.onnx", "b.safetensors")[0] == 0


def failing(error):
    def compare():
        raise error

    return compare


@pytest.mark.parametrize("compare", [None, failing(ImportError("no framework")), failing(ValueError("check: 16 bits"))])
def test_what_cannot_be_checked_is_written(compare, model, command, monkeypatch):
    monkeypatch.setattr(convert, "read", lambda path: Imported("RTNeural model", model, compare=compare))
    status, out, _ = command("a.safetensors", "b.safetensors", "--check")
    assert status == 0 and "\nnot checked: " in out and "check: 16" not in out
    assert lstmx.load("b.safetensors").size == model.size


def test_what_differs_is_not_written(model, command, monkeypatch, tmp_path):
    differing = Imported("PyTorch module", model, compare=lambda: (np.zeros(3), np.ones(3)))
    monkeypatch.setattr(convert, "read", lambda path: differing)
    status, _, errors = command("a.safetensors", "b.safetensors", "--check")
    assert status == 1 and "not the same model" in errors and not (tmp_path / "b.safetensors").exists()


def test_arguments_of_exporters(model, command):
    import onnx

    assert command("a.safetensors", "b.onnx", "--export", "states=true", "--export", "opset=17")[0] == 0
    made = onnx.load("b.onnx")
    assert [one.name for one in made.graph.input] == ["x", "h", "c"] and made.opset_import[0].version == 17
    status, _, errors = command("a.safetensors", "c.onnx", "--export", "opest=17")
    assert status == 1 and "opest" in errors and "it has states, lengths, opset, dtype" in errors
    convert.convert("a.safetensors", "c.onnx", export={"lengths": True})
    assert [one.name for one in onnx.load("c.onnx").graph.input] == ["x", "lengths"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("last", "last"),
        ("encoder.", "encoder."),
        ("3", 3),
        ("-1", -1),
        ("007", 7),
        ("0.2", 0.2),
        ("0.", "0."),
        ("True", True),
        ("false", False),
        ("None", None),
        ("null", None),
        ("relu,none", ["relu", None]),
        ("hard_sigmoid,0.2,0.5", ["hard_sigmoid", 0.2, 0.5]),
        ('["relu", null]', ["relu", None]),
        ('{"hidden": "relu"}', {"hidden": "relu"}),
        ('"0"', "0"),
        ("", ""),
    ],
)
def test_values(text, value, model, command, monkeypatch):
    given = {}
    monkeypatch.setattr(convert, "read", lambda path, **options: given.update(options) or Imported("it", model))
    assert command("a.safetensors", "b.safetensors", "--set", f"name={text}")[0] == 0
    assert json.dumps(given) == json.dumps({"name": value})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "source=x"], "source: lstmx.load, which reads this file, has no such argument"),
        (["--set", "last"], "must be NAME=VALUE"),
        (["--set", "a=[relu]"], "must be JSON, with double quotes"),
        (["--export", "path=x"], "path: what writes this file (lstmx) has no such argument"),
    ],
)
def test_bad_arguments(arguments, message, model, command):
    status, out, errors = command("a.safetensors", "b.safetensors", *arguments)
    assert (status, out) == (1, "") and message in errors


def test_an_argument_that_begins_like_the_source(model, command):
    lstmx.to_onnx(model, "a.onnx")
    status, _, errors = command("a.onnx", "b.safetensors", "--set", "source=x")
    assert status == 1 and "source: lstmx.from_onnx, which reads this file, has no such argument; it has lstm" in errors


def test_places(model, command, tmp_path):
    (tmp_path / "folder.pt").mkdir()
    (tmp_path / "file.pt").write_bytes(b"")
    for source, target, message in (
        ("folder.pt", "b.onnx", "source: 'folder.pt' is a folder"),
        ("nothing.pt", "b.onnx", "source: there is no file 'nothing.pt'"),
        ("a.safetensors", "folder.pt", "target: 'folder.pt' is a folder"),
        ("a.safetensors", "file.pt", "target: there is a file 'file.pt'"),
        ("a.safetensors", "b.zip", "target: 'b.zip' must end with one of .safetensors"),
    ):
        status, _, errors = command(source, target)
        assert status == 1 and message in errors


def test_activations_of_keras_weights(tmp_path):
    lstm = lstmx.LSTM(3, 4, cell=lstmx.Cell(activations=(("hard_sigmoid", 0.2, 0.5), "tanh", "tanh")))
    lstmx.to_keras_weights(lstm, tmp_path / "a.weights.h5")
    found = convert.read(tmp_path / "a.weights.h5", recurrent_activation=["hard_sigmoid", 0.2, 0.5]).model
    assert found.cell == lstm.cell


def test_what_a_check_leaves_open_is_said(model, command):
    pytest.importorskip("torch")
    assert command("a.safetensors", "b.pt")[0] == 0
    status, out, _ = command("b.pt", "c.safetensors", "--set", "head=mean", "--set", "activations=none", "--check")
    assert status == 0 and "head, activations and order are not checked by this" in out
    assert "is taken to have no activation" not in out
