"""textgenrnn 2.0.0, a character model of Keras 2: its LSTMs here, its attention in NumPy, beside TensorFlow's."""

import json

import numpy as np
import pytest
from real_models import member
from tolerances import ENGINES, PEER

from lstmx.interop.keras import from_keras
from lstmx.storage import ModelFileError

pytestmark = pytest.mark.long

LENGTH = 40  # characters that it sees
TEXT = "The best way to learn a new language is to talk to people who have spoken it all their life."


@pytest.fixture(scope="module")
def weights():
    pytest.importorskip("h5py")
    return member("textgenrnn==2.0.0", "textgenrnn/textgenrnn_weights.hdf5")


@pytest.fixture(scope="module")
def vocabulary():
    return json.loads(member("textgenrnn==2.0.0", "textgenrnn/textgenrnn_vocab.json").read_text())


@pytest.fixture(scope="module")
def contexts(vocabulary):
    """(characters before each place of the text, padded with 0 in front; the character there)"""
    tokens = [vocabulary["<s>"], *(vocabulary[letter] for letter in TEXT)]
    rows = [([0] * LENGTH + tokens[:k])[-LENGTH:] for k in range(1, len(tokens))]
    return np.array(rows), np.array(tokens[1:])


def layers_of(path):
    """[embedding and first LSTM, second LSTM], each a model of its own."""
    told = {"mask_zero": False, "return_sequences": True}
    return from_keras(path, layers=["embedding", "rnn_1"], **told), from_keras(path, layers="rnn_2")


def probabilities(path, x):
    """Of the next character: (N, 465)."""
    import h5py

    first, second = layers_of(path)
    embedded = first.layers[0].parameters()["weight"][x]
    lower = first.predict(x)
    every = np.concatenate([embedded, lower, second(lower)[0]], axis=-1).astype(float)
    with h5py.File(path) as file:
        attention = file["attention/attention/attention_W:0"][:, 0]
        kernel, bias = (file[f"output/output/{name}:0"][()] for name in ("kernel", "bias"))
    each = np.exp(every @ attention)
    logits = np.einsum("nt,ntf->nf", each / each.sum(1, keepdims=True), every) @ kernel + bias
    return np.exp(logits - np.logaddexp.reduce(logits, axis=1, keepdims=True))


def test_the_file_says_what_it_holds(weights):
    with pytest.raises(ModelFileError, match=r"rnn_1 \(CuDNNLSTM: kernel \(100, 512\).*attention_W \(356, 1\)"):
        from_keras(weights)


def test_it_knows_english(weights, contexts):
    x, letters = contexts
    found = probabilities(weights, x)[np.arange(len(letters)), letters]
    bits = -np.log2(found).mean()
    assert bits < 2.5  # a uniform guess has log2(465) = 8.9, the frequencies of letters about 4.3
    shuffled = np.random.default_rng(0).permutation(letters)
    assert -np.log2(probabilities(weights, x)[np.arange(len(letters)), shuffled]).mean() > 5


def test_outputs_are_those_of_tensorflow(weights, contexts):
    keras = pytest.importorskip("tf_keras")
    L, x = keras.layers, contexts[0][:20]
    given = L.Input((LENGTH,))
    embedded = L.Embedding(465, 100, name="embedding", dtype="float64")(given)
    lower = L.LSTM(128, return_sequences=True, name="rnn_1", dtype="float64")(embedded)
    model = keras.Model(given, [lower, L.LSTM(128, return_sequences=True, name="rnn_2", dtype="float64")(lower)])
    model.load_weights(weights, by_name=True)
    first, second = (model.astype("float64") for model in layers_of(weights))
    for mine, theirs in zip((first.predict(x), second(first.predict(x))[0]), model(x), strict=True):
        np.testing.assert_allclose(mine, np.asarray(theirs), **ENGINES["float64"])


def test_outputs_are_those_of_the_file_s_own_layout(weights):
    """The layout of cuDNN, unpacked by hand: the memory of a gate's block is (H, I)."""
    import h5py

    with h5py.File(weights) as file:
        kernel, recurrent, bias = (file[f"rnn_2/rnn_2/{name}:0"][()].astype(float) for name in
                                   ("kernel", "recurrent_kernel", "bias"))  # fmt: skip
    bias = (bias[:512] + bias[512:]).astype("float32")
    x = np.random.default_rng(0).normal(size=(10, 128)) / 3
    h, c, wanted = np.zeros(128), np.zeros(128), []
    gates = [slice(128 * k, 128 * k + 128) for k in range(4)]
    for step in x:
        i, f, g, o = (kernel[:, at].ravel().reshape(128, 128) @ step + recurrent[:, at] @ h + bias[at] for at in gates)
        c = c / (1 + np.exp(-f)) + np.tanh(g) / (1 + np.exp(-i))
        h = np.tanh(c) / (1 + np.exp(-o))
        wanted.append(h)
    found = from_keras(weights, layers="rnn_2").astype("float64")(x)[0]
    np.testing.assert_allclose(found, wanted, **PEER["float64"])
