"""from_torch, to_torch_state_dict, to_safetensors: beside PyTorch where it is installed, and beside its files."""

import io
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
from real_models import member
from tolerances import PEER

import lstmx
from lstmx.interop import torch as interop
from lstmx.interop.torch import from_torch, to_safetensors, to_torch_state_dict
from lstmx.storage import ModelFileError

FOLDER = Path(__file__).parent / "data" / "torch_models"

# Frozen files, without PyTorch.

FILES = {
    "lstm.pt": ("lstm", {}),
    "lstm_old.pt": ("lstm", {}),
    "lstm.pkl": ("lstm", {}),
    "projected.pt": ("projected", {}),
    "tagger.ckpt": ("tagger", {"head": "step", "activations": [None]}),
    "classifier.pt": ("classifier", {"head": "final"}),
    "classifier_script.pt": ("classifier", {"head": "final", "activations": ["relu", None]}),
    "half.safetensors": ("half_a", {"prefix": "a."}),
    "half.safetensors ": ("half_b", {"prefix": "b"}),
}


@pytest.fixture(scope="module")
def frozen():
    with np.load(FOLDER / "outputs.npz") as file:
        return dict(file)


@pytest.mark.parametrize("file", FILES)
def test_models_of_files_compute_what_pytorch_did(file, frozen):
    name, options = FILES[file]
    model = from_torch(FOLDER / file.strip(), **options)
    x = frozen["tokens" if name == "tagger" else "x"]
    tolerance = PEER["float64" if name == "projected" else "float32"]
    assert model.dtype == ("float64" if name == "projected" else "float32")
    if isinstance(model, lstmx.LSTM):
        y, state = model(x, lengths=frozen["lengths"])
        for ours, key in zip((y, *state), "yhc", strict=True):
            np.testing.assert_allclose(ours, frozen[f"{name}/{key}"], **tolerance)
    else:
        np.testing.assert_allclose(model.predict(x), frozen[f"{name}/y"], **tolerance)


def test_what_was_found_is_told():
    found = interop.read(FOLDER / "classifier.pt", head="final")
    assert found.source == "PyTorch file"
    assert [(part.name, part.found, part.layer) for part in found.parts] == [
        ("lstm", "LSTM 3 -> 4, bidirectional", "0: LSTM"), ("", "head='final'", "1: FinalState"),
        ("head.0", "Dropout", "2: Dropout"), ("head.1", "Linear 8 -> 6", "3: Dense with relu"),
        ("head.2", "ReLU", "3: Dense with relu"), ("head.3", "Linear 6 -> 2", "4: Dense"),
    ]  # fmt: skip
    assert found.model.layers[2].p == 0.25
    assert "2 layers" in interop.read(FOLDER / "lstm.pt").report()


def test_files_need_no_torch(tmp_path):
    """Neither to be read nor to be written."""
    import subprocess
    import sys

    program = (
        "import sys; sys.modules['torch'] = None; from lstmx.interop.torch import *\n"
        f"for file in {[f.strip() for f in FILES if 'half' not in f]}:\n"
        f"    from_torch({str(FOLDER)!r} + '/' + file, head='final' if 'classifier' in file else 'step')\n"
        f"to_safetensors(from_torch({str(FOLDER / 'lstm.pt')!r}), 'lstm.safetensors')\n"
        "try: to_torch_state_dict(from_torch('lstm.safetensors'))\n"
        "except ImportError as error: print(error)\n"
        f"try: from_torch({str(FOLDER / 'lstm.pt')!r}, check=True)\n"
        "except ImportError as error: print('no check')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert re.search("needs PyTorch.*to_safetensors.*\nno check", done.stdout)


# State dicts of arrays, without PyTorch.


def lstm_arrays(inputs=3, hidden=4, layers=1, directions=1, proj=0, prefix="", dtype="float32", bias=True, seed=0):
    rng, found = np.random.default_rng(seed), {}
    for layer in range(layers):
        for end in ("", "_reverse")[:directions]:
            shapes = {"weight_ih": (4 * hidden, inputs), "weight_hh": (4 * hidden, proj or hidden)}
            shapes |= {"bias_ih": (4 * hidden,), "bias_hh": (4 * hidden,)} if bias else {}
            shapes |= {"weight_hr": (proj, hidden)} if proj else {}
            for name, shape in shapes.items():
                found[f"{prefix}{name}_l{layer}{end}"] = rng.normal(size=shape).astype(dtype)
        inputs = directions * (proj or hidden)
    return found


def linear_arrays(inputs, outputs, prefix, bias=True):
    rng = np.random.default_rng(inputs)
    found = {f"{prefix}weight": rng.normal(size=(outputs, inputs)).astype("float32")}
    return found | ({f"{prefix}bias": rng.normal(size=outputs).astype("float32")} if bias else {})


@pytest.mark.parametrize("sizes", [{}, {"layers": 3, "directions": 2}, {"proj": 2}, {"bias": False},
                                   {"dtype": "float64", "hidden": 5}, {"dtype": "float16"}])  # fmt: skip
def test_matrices_are_taken_bit_by_bit_and_biases_are_summed(sizes):
    arrays = lstm_arrays(**sizes)
    model = from_torch(arrays)
    assert isinstance(model, lstmx.LSTM) and model.bias == sizes.get("bias", True)
    for name, array in model.parameters().items():
        if name.startswith("bias"):
            pair = (arrays[name.replace("bias", kind)].astype(np.float64) for kind in ("bias_ih", "bias_hh"))
            np.testing.assert_array_equal(array, sum(pair).astype(model.dtype))
        else:
            np.testing.assert_array_equal(array, arrays[name])
    assert model.dtype == ("float64" if sizes.get("dtype") == "float64" else "float32")


NET = lstm_arrays(prefix="rnn.") | linear_arrays(4, 5, "fc.") | linear_arrays(5, 2, "out.")
EMBEDDED = linear_arrays(3, 9, "emb.", bias=False) | lstm_arrays(prefix="rnn.")  # (9, 3)


def kinds(model):
    return [type(layer).__name__ for layer in model.layers]


@pytest.mark.parametrize(("head", "pool"), [("step", []), ("last", ["Last"]), ("mean", ["MeanPool"]),
                                            ("final", ["FinalState"])])  # fmt: skip
def test_head_says_what_the_layers_after_the_lstm_read(head, pool):
    model = from_torch(NET, head=head, activations=["relu", "softmax"])
    assert kinds(model) == ["LSTM", *pool, "Dense", "Dense"]
    assert [layer.activation for layer in model.layers[-2:]] == ["relu", "softmax"]
    alone = from_torch(lstm_arrays(), head=head)
    assert isinstance(alone, lstmx.LSTM) if head == "step" else kinds(alone) == ["LSTM", *pool]


def test_activations_by_name():
    found = from_torch(NET, head="last", activations={"fc": ("leaky_relu", 0.2), "rnn": "relu"})
    assert kinds(found) == ["LSTM", "Last", "Activation", "Dense", "Activation", "Dense"]
    assert found.layers[4].activation == ("leaky_relu", 0.2)


def test_one_activation_needs_no_list():
    arrays = lstm_arrays(prefix="rnn.") | linear_arrays(4, 2, "fc.")
    assert from_torch(arrays, head="last", activations="sigmoid").layers[2].activation == "sigmoid"


def test_an_embedding_is_told_from_a_linear_layer_by_its_size():
    assert kinds(from_torch(EMBEDDED)) == ["Embedding", "LSTM"]
    wide = linear_arrays(7, 3, "emb.", bias=False) | lstm_arrays(prefix="rnn.")
    assert kinds(from_torch(wide, activations=[None])) == ["Dense", "LSTM"]
    square = linear_arrays(3, 3, "emb.", bias=False) | lstm_arrays(prefix="rnn.")
    with pytest.raises(ValueError, match=r'emb: an Embedding, or .*layers={"emb": "embedding", ...}'):
        from_torch(square)
    assert kinds(from_torch(square, layers={"emb": "embedding", "rnn": None})) == ["Embedding", "LSTM"]
    last = lstm_arrays(prefix="rnn.") | linear_arrays(4, 3, "out.", bias=False)
    assert kinds(from_torch(last, head="step", activations=[None])) == ["LSTM", "Dense"]


def test_layers_gives_an_order():
    arrays = lstm_arrays(4, 2, prefix="second.") | lstm_arrays(3, 4, prefix="first.") | linear_arrays(2, 3, "unused.")
    with pytest.raises(ValueError, match=r"there are 2 LSTMs \(second: LSTM 4 -> 2; first: LSTM 3 -> 4\), and how"):
        from_torch(arrays, head="step")
    found = interop.read(arrays, layers=["first", "second"])
    assert [layer.hidden_size for layer in found.model.layers] == [4, 2] and found.notes == ("not used: unused",)
    with pytest.raises(ValueError, match="first: takes 3 features, but second gives 2; give layers="):
        from_torch(arrays, layers=["second", "first"])
    numbered = lstm_arrays(4, 2, prefix="net.10.") | lstm_arrays(3, 4, prefix="net.2.")
    assert [layer.hidden_size for layer in from_torch(numbered).layers] == [4, 2]


def test_wrappers_and_prefixes():
    parallel = {"module." + name: array for name, array in NET.items()}
    for wrapped in ({"state_dict": NET}, {"epoch": 3, "model_state": NET}, {"model": {"state_dict": NET}},
                    {"model_state_dict": NET, "loss": np.ones(())}, {"model": {"kind": "rnn"}, "weights": NET},
                    parallel, {"encoder": NET, "epoch": 3}):  # fmt: skip
        model = from_torch(wrapped, head="last", activations=["relu", None])
        assert kinds(model) == ["LSTM", "Last", "Dense", "Dense"]
    for prefix in ("rnn", "rnn."):
        assert isinstance(from_torch(NET, prefix=prefix), lstmx.LSTM)


def test_a_cell_is_an_lstm_of_one_layer():
    arrays = {name.removesuffix("_l0"): array for name, array in lstm_arrays().items()}
    found = interop.read(arrays)
    assert found.model.num_layers == 1 and "step(x_t, state)" in found.notes[0]


def test_what_is_ignored():
    more = {"scale": np.ones(3, "float32"), "norm.weight": np.ones(4, "float32"), "norm.bias": np.ones(4, "float32")}
    message = r"scale \(3,\); norm: LayerNorm or the like norm.weight \(4,\), norm.bias \(4,\); if .*ignore="
    with pytest.raises(ValueError, match=message):
        from_torch(lstm_arrays() | more)
    for ignore in (["scale", "norm"], ["*scale*", "norm.*"], ["scale", "norm.weight", "norm.bias"]):
        found = interop.read(lstm_arrays() | more, ignore=ignore)
        assert isinstance(found.model, lstmx.LSTM) and "ignored: scale, norm" in found.notes[0]


def without(arrays, name, **more):
    return {key: array for key, array in arrays.items() if key != name} | more


BAD = {
    "no tensors": ({"epoch": 3}, {}, r"it holds no tensors; its keys are \['epoch'\]"),
    "no LSTM": (linear_arrays(3, 2, "fc."), {}, "there is no LSTM in it; it has fc: Linear 3 -> 2"),
    "nothing of it": (3, {}, "neither a state dict nor a module, but a int"),
    "GRU": ({n: a[:12] for n, a in lstm_arrays().items()}, {}, "source itself: GRU weight"),
    "RNN": ({n: a[:4] for n, a in lstm_arrays().items()}, {}, "the source itself: RNN weight_ih_l0"),
    "a missing bias": (without(lstm_arrays(), "bias_hh_l0"), {}, r"bias_hh_l0: missing, must be \(16,\)"),
    "the other missing bias": (without(lstm_arrays(), "bias_ih_l0"), {}, r"bias_ih_l0: missing, must be \(16,\)"),
    "activations of nothing": (lstm_arrays(), {"activations": [None]}, "there is no Linear to follow"),
    "a missing layer": (without(lstm_arrays(layers=2), "weight_ih_l1"), {}, "weight_ih_l1: missing, must be"),
    "no weights of its inputs": (without(NET, "rnn.weight_ih_l0"), {}, "rnn.weight_ih_l0: missing, must.*ignore="),
    "another size": (without(lstm_arrays(), "x", bias_hh_l0=np.zeros(3)), {}, r"bias_hh_l0: \(3,\), must be \(16,\)"),
    "raw weights": (lstm_arrays() | {"weight_hh_l0_raw": np.zeros((16, 4))}, {}, "weight_hh_l0_raw"),
    "quantized": (without(lstm_arrays(), "x", weight_ih_l0=np.zeros((16, 3), "int8")), {}, "of type int8"),
    "not finite": (without(lstm_arrays(), "x", bias_hh_l0=np.full(16, np.nan)), {}, "bias_hh_l0: 16 of 16 .*NaN"),
    "no head": (NET, {}, r'there are layers after the LSTM \(fc, out\).*"last" for y\[:, -1\].*"final" for h_n'),
    "head": (NET, {"head": "first"}, "head: got 'first', must be one of 'step', 'last'"),
    "one activation": (linear_arrays(2, 3, "fc.") | lstm_arrays(prefix="rnn."), {},
                       r"activations=\[\"relu\"\], .*layers=\[names\].*ignore="),
    "sizes before activations": (linear_arrays(2, 5, "fc.") | lstm_arrays(prefix="rnn."), {}, "rnn: takes 3 .*gives 5"),
    "sizes before the head": (lstm_arrays(prefix="rnn.") | linear_arrays(5, 2, "fc."), {}, "fc: takes 5 .*gives 4"),
    "a weight cut short": (linear_arrays(2, 3, "fc.") | lstm_arrays(3, prefix="rnn.")
                           | {"rnn.weight_ih_l0": np.ones((15, 3))}, {}, r"rnn.weight_ih_l0: \(15, 3\), must be \(16"),
    "no activations": (NET, {"head": "last"}, r"between 'fc' and 'out' .*activations=\[\"relu\", None\]"),
    "few activations": (NET, {"head": "last", "activations": ["relu"]}, "must be a list of 2, for fc, out"),
    "an activation": (NET, {"head": "last", "activations": ["relu", "rel"]}, "activation"),
    "activations by name": (NET, {"head": "last", "activations": {"fd": "relu"}}, "no layer is called 'fd'"),
    "prefix": (NET, {"prefix": "lstm."}, r"prefix: nothing is called 'lstm'; there is 1 LSTM \(rnn: LSTM 3 -> 4\)"),
    "a kind of prefix": (NET, {"prefix": 3}, "prefix: got int"),
    "ignore": (NET, {"ignore": "fd"}, "ignore: nothing is called 'fd'; there are rnn, fc, out"),
    "layers": (NET, {"layers": ["rnn", "fd"]}, "layers: nothing is called 'fd'; there are rnn, fc, out"),
    "layers twice": (NET, {"layers": ["rnn", "rnn"]}, "must be a list of different names"),
    "layers as text": (NET, {"layers": "rnn"}, "layers: got 'rnn', must be a list"),
    "activations as text": (NET, {"activations": "relu"}, "must be a list of 2, for fc, out"),
    "activations as a number": (NET, {"activations": 3}, "activations: got 3, must be a list"),
    "ignore nothing": (NET, {"ignore": None}, "ignore: got None, must be a list"),
    "a kind of layer": (EMBEDDED, {"layers": {"emb": "lookup", "rnn": None}}, '.lookup. .*"embedding" or "linear"'),
    "a late embedding": (EMBEDDED, {"layers": {"rnn": None, "emb": "embedding"}, "head": "step"}, "must come first"),
    "sizes": (lstm_arrays(prefix="rnn.") | linear_arrays(5, 2, "fc."), {"head": "last"}, "fc: takes 5 .*rnn gives 4"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_errors_say_what_is_wrong_and_what_helps(case):
    source, options, message = BAD[case]
    with pytest.raises((ValueError, TypeError), match=message) as error:
        from_torch(source, **options)
    assert not isinstance(error.value, ModelFileError)


def test_errors_of_files_name_the_path(path):
    with pytest.raises(ModelFileError, match=r"tagger.ckpt: head: there are layers"):
        from_torch(FOLDER / "tagger.ckpt")
    lstmx.LSTM(3, 4).save(path)
    with pytest.raises(ModelFileError, match=r"saved by lstmx; read it with lstmx.load"):
        from_torch(path)
    with pytest.raises(ModelFileError, match=r"lstmx.from_torch reads it"):
        lstmx.load(FOLDER / "lstm.pt")


def test_a_storage_that_is_used_again_and_again_makes_no_large_model(tmp_path):
    from test_torch_files import archive, mapping, tensor

    names = [f"weight_{kind}_l{k}" for k in range(40) for kind in ("ih", "hh")]
    content = mapping(**{n: tensor((1024, 256), (256, 1), count=2**18) for n in names})
    (tmp_path / "m.pt").write_bytes(archive(content, bytes(2**20)))
    with pytest.raises(ModelFileError, match="20,971,520 parameters, far more than the file has"):
        from_torch(tmp_path / "m.pt")


# Beside PyTorch.


@pytest.fixture(scope="module")
def torch():
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    return torch


LSTMS = {
    "plain": {}, "stacked": {"num_layers": 3, "dropout": 0.4}, "no bias": {"bias": False},
    "both": {"bidirectional": True, "num_layers": 2}, "projected": {"proj_size": 3},
    "all": {"bidirectional": True, "num_layers": 2, "proj_size": 3, "bias": False},
    "batch first": {"batch_first": True},
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", LSTMS)
def test_lstms(torch, case, dtype, capsys):
    lstm = torch.nn.LSTM(5, 7, **LSTMS[case], dtype=getattr(torch, dtype))
    lstm.train()
    for source in (lstm, lstm.state_dict()):
        found = interop.read(source)
        ours, theirs = found.compare()
        np.testing.assert_allclose(ours, theirs, **PEER[dtype])
        assert np.abs(theirs).max() > 0.1
    assert lstm.training
    model = from_torch(lstm, check=True)
    assert "PyTorch module: largest error" in capsys.readouterr().out
    assert model.dropout == LSTMS[case].get("dropout", 0) and model.dtype == dtype
    x = np.random.default_rng(1).normal(size=(2, 9, 5)).astype(dtype)
    given = torch.from_numpy(x if lstm.batch_first else x.swapaxes(0, 1).copy())
    with torch.no_grad():
        y, state = lstm.eval()(given)
    y = y if lstm.batch_first else y.swapaxes(0, 1)
    for a, b in zip((lambda y, s: (y, *s))(*model(x)), (y, *state), strict=True):
        np.testing.assert_allclose(a, b, **PEER[dtype])
    assert any("batch_first" in note for note in interop.read(lstm).notes) == (not lstm.batch_first)


@pytest.mark.parametrize("case", LSTMS)
def test_round_trips_keep_the_bits(torch, case):
    lstm = torch.nn.LSTM(5, 7, **LSTMS[case])
    model = from_torch(lstm)
    back = to_torch_state_dict(model)
    assert list(back) == list(lstm.state_dict())
    for name, tensor in lstm.state_dict().items():
        if name.startswith("weight"):
            assert torch.equal(back[name], tensor)
    lstm.load_state_dict(back)
    for name, array in from_torch(lstm).parameters().items():
        np.testing.assert_array_equal(array, model.parameters()[name])


def test_round_trips_of_a_sequential(torch, tmp_path):
    model = lstmx.Sequential(
        [lstmx.Embedding(9, 5), lstmx.LSTM(5, 4, 2, bidirectional=True), lstmx.FinalState(), lstmx.Dense(8, 3, "relu"),
         lstmx.Dense(3, 2)], random_state=0,
    )  # fmt: skip
    given = {"default": (None, "0.weight"), "named": (["emb", "rnn", "fc1", "fc2"], "emb.weight")}
    for names, first in given.values():
        state = to_torch_state_dict(model, names=names, prefix="net.")
        assert next(iter(state)) == "net." + first
        path = tmp_path / "m.safetensors"
        to_safetensors(model, path, names=names, prefix="net.")
        loaded = pytest.importorskip("safetensors.torch").load_file(path)
        assert all(torch.equal(loaded[name], state[name]) for name in state) and loaded.keys() == state.keys()
        for source in (state, path):
            again = from_torch(source, head="final", activations=["relu", None])
            assert [repr(a) for a in again.layers] == [repr(a) for a in model.layers]
            for name, array in again.parameters().items():
                np.testing.assert_array_equal(array, model.parameters()[name])


def test_a_safetensors_file_has_no_order(path):
    """Its writers sort the names; sizes may tell."""
    from safetensors.numpy import save_file

    save_file(NET | {"z.weight": linear_arrays(3, 9, "")["weight"]}, path)
    model = from_torch(path, head="last", activations={"fc": "relu"})
    assert kinds(model) == ["Embedding", "LSTM", "Last", "Dense", "Dense"]
    save_file(NET | linear_arrays(5, 5, "b.") | linear_arrays(5, 5, "c."), path)
    with pytest.raises(ModelFileError, match=r"give layers=\['b', 'c', 'fc', 'out', 'rnn'\], in the order of forward"):
        from_torch(path, head="last")
    order = ["rnn", "fc", "c", "b", "out"]
    assert len(from_torch(path, head="last", layers=order, activations=["relu"] * 3 + [None]).layers) == 6


def test_state_dicts_are_saved(torch, path):
    model = lstmx.LSTM(3, 4, random_state=0)
    interop.save_state_dict(model, path, prefix="a.")
    wanted = to_torch_state_dict(model, prefix="a.")
    found = torch.load(path, weights_only=True)
    assert found.keys() == wanted.keys() and all(torch.equal(found[name], wanted[name]) for name in wanted)


def build(torch, name):
    """Modules as people write them."""
    nn = torch.nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(9, 5, padding_idx=1)
            self.lstm = nn.LSTM(5, 4, num_layers=2, bidirectional=True, batch_first=name != "time first", dropout=0.2)
            self.dropout = nn.Dropout(0.3)
            self.fc = nn.Linear(8, 6)
            self.act = {
                "leaky": nn.LeakyReLU(0.3),
                "elu": nn.ELU(0.7),
                "gelu": nn.GELU("tanh"),
                "exact gelu": nn.GELU(),
            }.get(name, nn.Tanh())
            self.out = nn.Linear(6, 3)
            self.end = nn.Sequential(nn.Identity(), nn.Softmax(-1))
            self.loss = nn.CrossEntropyLoss(weight=torch.ones(3))

        def forward(self, tokens):
            y, (h, _) = self.lstm(self.embedding(tokens))
            time = 1 if self.lstm.batch_first else 0
            y = {"mean": y.mean(time), "last": y.select(time, -1), "time first": y}.get(
                name, torch.cat([h[-2], h[-1]], 1)
            )
            return self.end(self.out(self.act(self.fc(self.dropout(y)))))

    return Net()


@pytest.mark.parametrize(("name", "head"), [("mean", "mean"), ("last", "last"), ("time first", "step"),
                                            ("leaky", "final"), ("elu", "final"), ("gelu", "final"),
                                            ("exact gelu", "final")])  # fmt: skip
def test_modules_as_people_write_them(torch, name, head):
    net = build(torch, name)
    for source, options in ((net, {}), (net.state_dict(), {"ignore": "loss", "activations": [None, None]})):
        if source is not net:
            after = {"leaky": ("leaky_relu", 0.3), "elu": ("elu", 0.7), "gelu": "gelu_tanh", "exact gelu": "gelu"}.get(
                name, "tanh"
            )
            options["activations"] = {"fc": after, "out": "softmax"}
        found = interop.read(source, head=head, **options)
        found.check()
        ours, theirs = found.compare()
        np.testing.assert_allclose(ours, theirs, **PEER["float32"])
    assert net.training and net.lstm.training
    model = from_torch(net, head=head)
    assert model.layers[0].padding_idx == 1 and model.layers[1].dropout == 0.2
    wrong = "last" if head in ("final", "mean") else "final"
    with pytest.raises(ValueError, match="check: "):
        from_torch(net, head=wrong, check=True)


def test_modules_of_other_kinds_are_refused_by_name(torch):
    nn = torch.nn
    kinds = {
        "Conv1d": nn.Conv1d(3, 3, 1), "BatchNorm1d": nn.BatchNorm1d(3), "GRU": nn.GRU(3, 3),
        "LayerNorm": nn.LayerNorm(3), "MultiheadAttention with out_proj": nn.MultiheadAttention(4, 2),
        "Flatten": nn.Flatten(),
    }  # fmt: skip
    for kind, one in kinds.items():
        net = nn.Sequential(nn.LSTM(3, 4), one)
        with pytest.raises(ValueError, match=rf"it has what has no place .*: 1: {kind}"):
            from_torch(net, head="step")
        assert isinstance(from_torch(net, ignore="1"), lstmx.LSTM)
    with pytest.raises(ValueError, match="1: a Softplus with options that lstmx has no layer for"):
        from_torch(nn.Sequential(nn.LSTM(3, 4), nn.Softplus(2)), head="step")
    weighted = nn.Sequential(nn.Embedding(9, 3, max_norm=1.0), nn.LSTM(3, 4))
    with pytest.raises(ValueError, match="0: an Embedding with max_norm"):
        from_torch(weighted)
    bare = nn.Sequential(nn.LSTM(3, 4), nn.Linear(4, 2))
    bare[1].weight = None
    with pytest.raises(ValueError, match=r"1\.weight: missing, or no matrix"):
        from_torch(bare, head="step")


@pytest.mark.parametrize("dim", [-1, 0, 1, 2])
def test_a_softmax_must_be_over_features(torch, dim):
    for head in ("step", "last"):
        net = torch.nn.Sequential(torch.nn.LSTM(3, 4), torch.nn.Softmax(dim))
        if dim in (-1, 2 if head == "step" else 1):
            assert from_torch(net, head=head).layers[-1].activation == "softmax"
        else:
            shape = r"\(N, T, F\)" if head == "step" else r"\(N, F\)"
            with pytest.raises(ValueError, match=f"1: a Softmax over dim={dim}, .* features {shape}; if dim=-1"):
                from_torch(net, head=head)


def test_weights_that_are_computed_are_named_with_what_makes_them_plain(torch):
    nn, utils = torch.nn, torch.nn.utils
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # weight_norm is deprecated, and what people have
        old = {"remove_weight_norm": utils.weight_norm(nn.Linear(4, 2)),
               "remove_spectral_norm": utils.spectral_norm(nn.Linear(4, 2))}  # fmt: skip
    from torch.nn.utils import prune

    prune.random_unstructured(pruned := nn.Linear(4, 2), "weight", 0.5)
    new = utils.parametrizations.weight_norm(nn.Linear(4, 2))
    for remedy, linear in (old | {"prune.remove": pruned, "parametrize.remove_parametrizations": new}).items():
        net = nn.ModuleDict({"lstm": nn.LSTM(3, 4), "out": linear})
        with pytest.raises(ValueError, match=rf"torch.nn.utils.{remedy}\(out, 'weight'\)"):
            from_torch(net.state_dict(), head="last")
        named = "tensor_name" if "parametrize" in remedy else "'weight'"
        with pytest.raises(ValueError, match=rf"torch.nn.utils.{remedy}\(out, {named}\)"):
            from_torch(net, head="last")
    lstm = utils.parametrizations.weight_norm(nn.LSTM(3, 4), "weight_hh_l0")
    with pytest.raises(ValueError, match=r"remove_parametrizations\(module, 'weight_hh_l0'\)"):
        from_torch(lstm.state_dict())


def test_a_module_without_numbers(torch):
    with pytest.raises(ValueError, match="the source itself: LSTM 3 -> 4: it is on the meta device"):
        from_torch(torch.nn.LSTM(3, 4, device="meta"))


def test_an_open_file_is_given_by_its_path():
    with open(FOLDER / "lstm.pt", "rb") as file:
        for source in (file, io.BytesIO(b"x"), b"x"):
            with pytest.raises(TypeError, match=f"source: got {type(source).__name__}, .*give the path"):
                from_torch(source)


def test_an_expanded_tensor_that_is_not_needed_is_no_obstacle(torch, path):
    arrays = {name: torch.from_numpy(array) for name, array in lstm_arrays().items()}
    torch.save({"model": arrays, "mask": torch.ones(1, 1).expand(4000, 4000)}, path)
    assert isinstance(from_torch(path), lstmx.LSTM)
    arrays["bias_ih_l0"] = torch.ones(1).expand(16)
    torch.save(arrays, path)
    wanted = 1 + arrays["bias_hh_l0"].numpy()
    np.testing.assert_array_equal(from_torch(path).parameters()["bias_l0"], wanted)
    arrays["weight_ih_l0"] = torch.ones(1, 1).expand(16, 2**16)
    torch.save(arrays, path)
    with pytest.raises(ModelFileError, match="far more than the file has"):
        from_torch(path)


def nets(torch):
    """Name -> a module whose forward its layers do not tell."""
    nn = torch.nn

    class Net(nn.Module):
        def __init__(self, batch_first=True):
            super().__init__()
            self.lstm, self.relu = nn.LSTM(3, 4, batch_first=batch_first), nn.ReLU()
            self.fc = nn.Linear(4, 2)

    class LateRelu(Net):
        def forward(self, x):
            return self.relu(self.fc(self.lstm(x)[0][:, -1]))

    class Functional(Net):
        def forward(self, x):
            return torch.sigmoid(self.fc(self.relu(self.lstm(x)[0][:, -1])))

    class Asks(Net):
        def forward(self, x, lengths):
            return self.fc(self.relu(self.lstm(x)[0][:, -1])) * lengths

    class Tuple(Net):
        def forward(self, x):
            y = self.lstm(x)[0]
            return y, {"logits": self.fc(self.relu(y[-1 if not self.lstm.batch_first else slice(None), ...]))}

    class Squeezes(Net):
        def forward(self, x):
            y = self.fc(self.relu(self.lstm(x)[0][:, -1]))
            return (y[:, :1] + 0 * torch.rand(1)).squeeze(1), y

    return {cls.__name__: cls() for cls in (LateRelu, Functional, Asks, Tuple, Squeezes)}


def test_a_module_that_computes_something_else_is_a_warning_and_with_check_an_error(torch):
    modules = nets(torch)
    for name, options, right in (
        ("LateRelu", {}, {"layers": ["lstm", "fc", "relu"]}),
        ("Functional", {}, {"activations": {"lstm": "relu", "fc": "sigmoid"}}),
        ("Functional", {"head": "mean"}, {"activations": {"lstm": "relu", "fc": "sigmoid"}}),
    ):  # fmt: skip
        given = {"head": "last"} | options
        with pytest.warns(
            UserWarning, match="does not compute what the module does: .*error .*activations=, layers= and"
        ):
            from_torch(modules[name], **given)
        with pytest.raises(ValueError, match=r"check: largest error .* beside its own forward"):
            from_torch(modules[name], **given, check=True)
        from_torch(modules[name], **{"head": "last"} | right)


def test_a_module_that_cannot_be_asked_is_a_warning_where_its_order_is_a_guess(torch):
    net = nets(torch)["Asks"]
    with pytest.warns(
        UserWarning, match="cannot be called with x alone .*lengths.*order in which they were registered"
    ):
        from_torch(net, head="last")
    from_torch(net, head="last", layers=["lstm", "fc"], activations={"lstm": "relu"})
    from_torch(torch.nn.Sequential(torch.nn.LSTM(3, 4), torch.nn.ReLU()), head="step")  # its LSTM gives a tuple


def test_outputs_of_a_module_are_found_in_tuples_and_without_axes_of_one(torch, capsys):
    from_torch(nets(torch)["Tuple"], head="step", check=True)
    assert "beside its own forward, of x (N, T, I), output 2 of 2" in capsys.readouterr().out
    from_torch(nets(torch)["Squeezes"], head="last")


def test_the_comparison_leaves_the_module_and_the_random_numbers_alone(torch):
    net, calls = nets(torch)["Squeezes"], []
    net.fc.register_forward_hook(lambda *_: calls.append(1))
    net.fc.eval()
    torch.manual_seed(3)
    wanted = torch.rand(3)
    torch.manual_seed(3)
    with pytest.warns(UserWarning, match="hooks of fc were left out"):
        from_torch(net, head="last")
    assert torch.equal(torch.rand(3), wanted) and not calls
    assert net.training and not net.fc.training and torch.is_grad_enabled()


def test_what_is_ignored_is_left_out_of_the_comparison(torch):
    net = nets(torch)["LateRelu"]
    net.relu = torch.nn.Softplus(2)
    ours, theirs = interop.read(net, head="last", ignore="relu").compare()
    np.testing.assert_allclose(ours, theirs, **PEER["float32"])
    from_torch(net, head="last", ignore="relu")


@pytest.mark.filterwarnings("ignore:`torch.jit")
@pytest.mark.parametrize("batch_first", [True, False])
def test_scripts_are_held_against_their_own_forward(torch, path, batch_first, capsys):
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = torch.nn.LSTM(3, 4, bidirectional=True, batch_first=batch_first)
            self.fc = torch.nn.Linear(8, 2)

        def forward(self, x):
            _, (h, _) = self.lstm(x)
            return self.fc(torch.cat([h[-2], h[-1]], 1)), h

    script = torch.jit.script(Net())
    script.save(path)
    for source in (path, script):
        model = from_torch(source, head="final", check=True)
        form = "N, T, I" if batch_first else "T, N, I"
        assert f"beside its own forward, of x ({form}), output 1 of 2" in capsys.readouterr().out
        with pytest.raises(ValueError, match="check: largest error"):
            from_torch(source, head="last", check=True)
        assert isinstance(from_torch(source, prefix="lstm", check=True), lstmx.LSTM)
        assert [type(layer) for layer in model.layers] == [lstmx.LSTM, lstmx.FinalState, lstmx.Dense]
    with pytest.warns(UserWarning, match="does not compute what the module does"):
        from_torch(script, head="last")
    with pytest.warns(UserWarning, match="functions that forward calls are not seen: .* check=True"):
        from_torch(path, head="last")


def test_a_check_says_what_it_leaves_open(torch, capsys):
    pytest.importorskip("torch")
    from_torch(NET, head="last", activations=["relu", None], check=True)
    assert "rebuilt in PyTorch; head, activations and order are not checked by this" in capsys.readouterr().out
    from_torch(lstm_arrays(), check=True)
    assert "beside an LSTM of PyTorch with the same tensors" in capsys.readouterr().out


def test_a_guess_of_a_state_dict_is_a_warning():
    arrays = lstm_arrays(prefix="rnn.") | linear_arrays(4, 2, "fc.")
    with pytest.warns(UserWarning, match="fc: the last layer is taken to have no activation; activations= says"):
        from_torch(arrays, head="last")
    from_torch(arrays, head="last", activations=[None])
    assert "note: fc: the last layer" in interop.read(arrays, head="last").report()


def test_the_padding_of_an_embedding_is_that_of_the_module(torch):
    net = torch.nn.Sequential(torch.nn.Embedding(9, 3, padding_idx=2), torch.nn.LSTM(3, 4))
    assert from_torch(net).layers[0].padding_idx == 2
    assert from_torch(net.state_dict()).layers[0].padding_idx is None


def test_a_part_of_a_module(torch):
    net = torch.nn.Sequential(torch.nn.Conv1d(3, 3, 1), torch.nn.ModuleDict({"lstm": torch.nn.LSTM(3, 4)}))
    for options in ({}, {"head": "final"}):
        found = interop.read(net, prefix="1.lstm", **options)
        ours, theirs = found.compare()
        np.testing.assert_allclose(ours, theirs, **PEER["float32"])


def test_half_and_cells(torch):
    for lstm in (torch.nn.LSTM(3, 4).half(), torch.nn.LSTM(3, 4).bfloat16(), torch.nn.LSTMCell(3, 4)):
        for source in (lstm, lstm.state_dict()):
            found = interop.read(source)
            ours, theirs = found.compare()
            np.testing.assert_allclose(ours, theirs, **PEER["float32"])
            assert found.model.dtype == "float32"


def test_options_that_pytorch_has_not():
    cells = {"peephole": True, "cifg": True, "clip": 1.0, "cell_clip": 1.0, "activations": ("relu", "tanh", "tanh"),
             "layer_norm": "haste", "zoneout": 0.1, "learn_state": True, "slstm": True}  # fmt: skip
    models = {name: lstmx.LSTM(3, 4, cell=lstmx.Cell(**{name: value})) for name, value in cells.items()}
    models |= {"reverse": lstmx.LSTM(3, 4, reverse=True), "merge": lstmx.LSTM(3, 4, bidirectional=True, merge="sum")}
    models["mask_padding"] = lstmx.Embedding(3, 4, padding_idx=0, mask_padding=True)
    for name, model in models.items():
        with pytest.raises(ValueError, match=f"model: .*{name}"):
            to_torch_state_dict(model)
    net = lstmx.Sequential([lstmx.LSTM(3, 4), models["clip"].__class__(4, 4, cell=lstmx.Cell(clip=1.0))])
    with pytest.raises(ValueError, match=r"layers\[1\]: torch.nn.LSTM has no clip"):
        to_torch_state_dict(net)
    for options, error in (({"names": ["a"]}, ValueError), ({"names": "ab"}, ValueError), ({"prefix": 1}, TypeError)):
        with pytest.raises(error, match=next(iter(options))):
            to_torch_state_dict(net, **options)
    with pytest.raises(ValueError, match="names: "):
        to_torch_state_dict(lstmx.LSTM(3, 4), names=["a"])
    with pytest.raises(TypeError, match="model: got dict"):
        to_torch_state_dict({})


@pytest.mark.parametrize(("word", "layers"), [
    ("mask", [lstmx.Masking(), lstmx.LSTM(3, 4)]),
    ("mask", [lstmx.Embedding(9, 3, padding_idx=0, mask_padding=True), lstmx.LSTM(3, 4)]),
    ("merge", [lstmx.LSTM(3, 4, bidirectional=True), lstmx.FinalState("sum"), lstmx.Dense(4, 2)]),
    ("merge", [lstmx.LSTM(3, 4, bidirectional=True, merge="average")]),
    ("reverse", [lstmx.LSTM(3, 4, reverse=True)]),
    ("reverse", [lstmx.Reversed(), lstmx.LSTM(3, 4)]),
])  # fmt: skip
def test_what_no_layer_of_pytorch_does_must_be_said_to_be_in_forward(word, layers, tmp_path):
    model = lstmx.Sequential(layers, random_state=0)
    with pytest.raises(ValueError, match=rf'layers\[[01]\]: .*lstmx.save keeps it; .*in_forward=\["{word}"\]'):
        to_safetensors(model, tmp_path / "m.safetensors")
    for given in (word, ["mask", "merge", "reverse"]):
        to_safetensors(model, tmp_path / "m.safetensors", in_forward=given)
    with pytest.raises(ValueError, match="in_forward: got 'masks'"):
        to_safetensors(model, tmp_path / "m.safetensors", in_forward=["masks"])


def test_merges_between_layers_are_no_matter_of_forward(tmp_path):
    model = lstmx.LSTM(3, 4, 2, bidirectional=True, merge="sum")
    with pytest.raises(ValueError, match=r"model: torch.nn.LSTM has no merge between layers"):
        to_safetensors(model, tmp_path / "m.safetensors", in_forward="merge")


def test_dropout_of_training_is_no_obstacle(torch):
    cell = lstmx.Cell(input_dropout=0.1, recurrent_dropout=0.2, dropout_per_gate=True, weight_dropout=0.3)
    torch.nn.LSTM(3, 4).load_state_dict(to_torch_state_dict(lstmx.LSTM(3, 4, cell=cell)))


def test_a_model_trained_on_real_data_predicts_the_same(torch, tmp_path):
    dates, co2 = lstmx.datasets.load_co2()
    assert len(dates) == len(co2)
    series = np.asarray(co2, "float32").reshape(-1)
    series = (series - series.mean()) / series.std()
    windows = np.lib.stride_tricks.sliding_window_view(series, 25)[::4]
    x, y = (torch.from_numpy(part.copy()) for part in (windows[:, :24, None], windows[:, 24:]))

    class Forecaster(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm, self.out = torch.nn.LSTM(1, 16, batch_first=True), torch.nn.Linear(16, 1)

        def forward(self, x):
            return self.out(self.lstm(x)[0][:, -1])

    net, losses = Forecaster(), []
    optimizer = torch.optim.Adam(net.parameters(), 0.02)
    for _ in range(30):
        optimizer.zero_grad()
        loss = ((net(x) - y) ** 2).mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.1 * losses[0]
    torch.save({"state_dict": net.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "co2.ckpt")
    model = from_torch(tmp_path / "co2.ckpt", head="last", activations=[None])
    with torch.no_grad():
        np.testing.assert_allclose(model.predict(x.numpy()), net(x), **PEER["float32"])


# A model that people use.


@pytest.mark.long
def test_resemblyzer(torch):
    """The speaker encoder, 3 layers 40 -> 256: outputs within 1e-5 of PyTorch's."""
    path = member("resemblyzer==0.1.4", "resemblyzer/pretrained.pt")
    options = {"head": "last", "activations": ["relu"], "ignore": "similarity_*"}
    found = interop.read(path, **options)
    ours, theirs = found.compare()
    assert np.abs(ours - theirs).max() < 1e-5 and np.abs(theirs).max() > 0.1
    state = torch.load(path, map_location="cpu")["model_state"]
    lstm, linear = torch.nn.LSTM(40, 256, 3, batch_first=True), torch.nn.Linear(256, 256)
    for name, module in (("lstm.", lstm), ("linear.", linear)):
        module.load_state_dict({k.removeprefix(name): v for k, v in state.items() if k.startswith(name)})
    x = np.random.default_rng(0).gamma(1, 0.1, size=(4, 160, 40)).astype("float32")
    with torch.no_grad():
        wanted = torch.relu(linear(lstm(torch.from_numpy(x))[1][0][-1])).numpy()
    found = found.model.predict(x)
    for outputs in (wanted, found):
        outputs /= np.linalg.norm(outputs, axis=1, keepdims=True)
    assert np.abs(found - wanted).max() < 1e-5


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:`torch.jit.load` is deprecated")
def test_the_cell_of_silero_in_its_script(torch):
    path = member("silero-vad==6.2.3", "silero_vad/data/silero_vad.jit")
    with pytest.raises(ModelFileError, match="Conv1d"):
        from_torch(path)
    model = from_torch(path, prefix="_model.decoder.rnn")
    cell = torch.jit.load(path)._model.decoder.rnn
    x, state = torch.randn(2, 128), (torch.randn(2, 128), torch.randn(2, 128))
    with torch.no_grad():
        wanted = cell(x, state)
    _, found = model.step(x.numpy(), tuple(part.numpy()[None] for part in state))
    for ours, theirs in zip(found, wanted, strict=True):
        np.testing.assert_allclose(ours[0], theirs, **PEER["float32"])


def mean_of(torch, scale=1.0, offset=0.0):
    """A network that reads the mean over steps, with outputs of any size."""

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm, self.fc = torch.nn.LSTM(3, 8, batch_first=True), torch.nn.Linear(8, 2)
            with torch.no_grad():
                self.fc.weight *= scale
                self.fc.bias.mul_(scale).add_(offset)

        def forward(self, x):
            return self.fc(self.lstm(x)[0].mean(1))

    torch.manual_seed(0)
    return Net().eval()


@pytest.mark.parametrize(("scale", "offset"), [(1, 0), (1e-3, 0), (1e-6, 0), (1, 1e3), (1e3, 0)])
def test_what_is_wrong_is_wrong_at_any_size_of_the_outputs(torch, scale, offset, capsys):
    net = mean_of(torch, scale, offset)
    from_torch(net, head="mean", check=True)
    with pytest.raises(ValueError, match="this is not the same model"):
        from_torch(net, head="last", check=True)


def test_a_probe_whose_outputs_are_all_alike_says_so(torch, capsys):
    from_torch(mean_of(torch, scale=0), head="last", check=True)
    assert "all of them are alike, so that this probe tells little" in capsys.readouterr().out


@pytest.mark.parametrize("words", [5, 5000])
def test_the_probe_has_padding(torch, words):
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = torch.nn.Embedding(words, 3, padding_idx=0)
            self.lstm, self.fc = torch.nn.LSTM(3, 4, batch_first=True), torch.nn.Linear(4, 2)

        def forward(self, tokens):
            there = (tokens != 0)[..., None].float()
            return self.fc((self.lstm(self.embed(tokens))[0] * there).sum(1) / there.sum(1).clamp(min=1))

    torch.manual_seed(0)
    with pytest.raises(ValueError, match="this is not the same model"):
        from_torch(Net().eval(), head="mean", check=True)


def test_a_part_of_a_checkpoint_that_has_several_is_reached_by_its_name(torch, path):
    one, other = (torch.nn.LSTM(3, 4).state_dict() for _ in range(2))
    torch.save({"ema": one, "model": other}, path)
    for options, wanted in (({"prefix": "ema"}, one), ({"prefix": "model."}, other), ({}, other)):
        found = from_torch(path, **options).parameters()["weight_ih_l0"]
        assert (found == wanted["weight_ih_l0"].numpy()).all()
