"""Freeze models of Keras 3.15.1 and 2.21.0 (tf_keras), and what they compute, for the tests of from_keras.

Run, from the root of the repository:

    pip install keras==3.15.1 tf_keras==2.21.0 tensorflow==2.21.0 numpy h5py
    python tests/data/make_keras_models.py

It writes two files beside itself, without pickled objects.

keras_models.npz: many small models, "3/..." and "2/..." by the version of Keras.

    cases           JSON: {name: {"config": .., "layout": {layer: [[name, shape], ..]}, "x": name}}; a configuration
                    lacks what says how weights begin
    weights         numbers: the arrays of every model, in the order of its layout, are the first of them
    x_...           inputs
    y               outputs in inference, end to end in the order of the cases

keras_files.zip: a few files as Keras wrote them, and x and y of each as .npy beside it. keras_3_vowels.keras has been
trained; its x are the test sequences of lstmx.datasets.load_japanese_vowels.
"""

import io
import json
import os
import tempfile
import zipfile
from pathlib import Path

os.environ.update(TF_CPP_MIN_LOG_LEVEL="3", CUDA_VISIBLE_DEVICES="", TF_ENABLE_ONEDNN_OPTS="0")

import keras
import numpy as np
import tf_keras

HERE = Path(__file__).resolve().parent
VERSIONS = {"keras": "3.15.1", "tf_keras": "2.21.0"}
I, H, N, T, V = 3, 4, 3, 7, 6
DROPPED = (  # of configurations: what the tests do not need
    *("kernel_initializer", "recurrent_initializer", "bias_initializer", "embeddings_initializer"),
    *("build_config", "shared_object_id", "registered_name"),
)


def cases(L):
    """{name: layers}, of the layers L of Keras 3 or 2; the input is one of I features, or where an Embedding comes
    first of V integers.
    """

    def lstm(units=H, sequences=True, **options):
        return L.LSTM(units, return_sequences=sequences, **options)

    def both(sequences=True, **options):
        return L.Bidirectional(lstm(sequences=sequences), **options)

    def words(mask=True):
        return L.Embedding(V, I, mask_zero=mask)

    found = {
        "last": [lstm(sequences=False), L.Dense(2)],
        "sequences": [lstm(), L.Dropout(0.3), lstm(5), L.TimeDistributed(L.Dense(2, activation="softmax"))],
        "no_bias": [lstm(use_bias=False), L.Dense(2, use_bias=False, activation="tanh")],
        "hard_sigmoid": [lstm(recurrent_activation="hard_sigmoid"), L.Activation("hard_sigmoid")],
        "relu": [lstm(activation="relu"), L.Dense(2, activation="elu")],
        "linear": [lstm(activation=None, recurrent_activation="tanh"), L.Dense(3, "selu")],
        "softsign": [lstm(activation="softsign"), L.Dense(3, "softplus"), L.Dense(3, "swish")],
        "exponential": [lstm(activation="elu"), L.Dense(3, "exponential"), L.Dense(2, "sigmoid")],
        "leaky": [lstm(), L.LeakyReLU(0.2), L.Dense(3), L.ELU(0.5), L.Dense(3), L.ReLU(), L.Dense(3), L.Softmax()],
        "slope": [lstm(), L.Dense(3), L.ReLU(negative_slope=0.1), L.Dense(3), L.ReLU(threshold=0.3)],
        "backwards": [lstm(go_backwards=True), L.Dense(2)],
        "backwards_last": [lstm(go_backwards=True, sequences=False), L.Dense(2)],
        "backwards_masked": [L.Masking(), lstm(go_backwards=True)],
        "backwards_masked_zero": [L.Masking(), lstm(go_backwards=True, zero_output_for_mask=True)],
        "backwards_masked_last": [L.Masking(), lstm(go_backwards=True, sequences=False)],
        "backwards_masked_last_zero": [
            L.Masking(), lstm(go_backwards=True, sequences=False, zero_output_for_mask=True)
        ],
        "masked": [L.Masking(), lstm(), L.Dense(2, "relu")],
        "masked_twice": [L.Masking(0.5), lstm(), L.Dense(3), lstm(), L.Dense(2)],
        "masked_zero": [L.Masking(), lstm(), lstm(zero_output_for_mask=True), L.Dense(2)],
        "masked_last": [L.Masking(), lstm(), lstm(sequences=False), L.Dense(2)],
        "masked_last_zero": [L.Masking(), lstm(sequences=False, zero_output_for_mask=True), L.Dense(2)],
        "masked_mean": [L.Masking(), lstm(), L.GlobalAveragePooling1D(), L.Dense(2)],
        "masked_both": [L.Masking(), both(), L.Dense(2)],
        "masked_both_last": [L.Masking(), both(), both(sequences=False)],
        "words": [words(), lstm(), both(), L.Dense(2)],
        "words_last": [words(), L.SpatialDropout1D(0.2), lstm(sequences=False)],
        "words_unmasked": [words(mask=False), lstm(sequences=False)],
        "words_unseen": [words(), L.Dense(2)],
        "mean": [lstm(), L.GlobalAveragePooling1D(), L.Dense(2)],
        "cells": [L.RNN(L.LSTMCell(H), return_sequences=True),
                  L.RNN(L.StackedRNNCells([L.LSTMCell(5), L.LSTMCell(H)]))],
        "cells_backwards": [L.RNN(L.StackedRNNCells([L.LSTMCell(5), L.LSTMCell(H)]), return_sequences=True,
                                  go_backwards=True)],
        "dropped": [lstm(dropout=0.2, recurrent_dropout=0.3), L.GaussianNoise(0.1), lstm(dropout=0.1), L.Dense(1)],
        "both_of_two": [L.Bidirectional(lstm(), backward_layer=lstm(go_backwards=True)), L.Dense(2)],
    }  # fmt: skip
    for merge in ("concat", "sum", "mul", "ave"):
        found |= {f"both_{merge}": [both(merge_mode=merge), both(merge_mode=merge, sequences=False), L.Dense(2)]}
    return found


WEIGHTS = np.random.default_rng(0).uniform(-1, 1, 2000).astype("float32")


def inputs():
    """{name: x}"""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(N, T, I)).astype("float32")
    mask = rng.random((N, T)) < 0.4
    mask[0], mask[1, -1], mask[2, 0] = False, True, True
    masked = {f"x_{value}": np.where(mask[..., None], np.float32(value), x) for value in (0.0, 0.5)}
    return {"x": x, "x_words": rng.integers(V, size=(N, T))} | masked


def fill(model):
    """Give a model the weights."""
    ends = np.cumsum([w.size for w in model.get_weights()])
    parts = np.split(WEIGHTS[: ends[-1]], ends[:-1])
    model.set_weights([p.reshape(w.shape) for p, w in zip(parts, model.get_weights(), strict=True)])


def model_of(package, layers):
    """A Sequential of layers with these weights, and the name of its input."""
    words = isinstance(layers[0], package.layers.Embedding)
    model = package.Sequential([package.layers.Input((T,) if words else (T, I)), *layers])
    fill(model)
    masks = [layer.mask_value for layer in layers if isinstance(layer, package.layers.Masking)]
    return model, "x_words" if words else f"x_{float(masks[0])}" if masks else "x"


def cut(config):
    """A configuration less what the tests do not need."""
    if isinstance(config, dict):
        return {key: cut(value) for key, value in config.items() if key not in DROPPED and value is not None}
    return [cut(value) for value in config] if isinstance(config, list | tuple) else config


def freeze_cases():
    """The arrays of keras_models.npz."""
    given, out, y = inputs(), {}, []
    for package in (keras, tf_keras):
        for name, layers in cases(package.layers).items():
            model, x = model_of(package, layers)
            layout = {layer.name: [[w.name if package is tf_keras else w.path, list(w.shape)] for w in layer.weights]
                      for layer in model.layers}  # fmt: skip
            config = cut(json.loads(model.to_json())) | {"keras_version": package.__version__}
            y.append(np.asarray(model(given[x])))
            out[f"{package.__version__[0]}/{name}"] = {"config": config, "layout": layout, "x": x, "y": y[-1].shape}
    joined = np.concatenate([one.ravel() for one in y])
    return {"cases": np.array(json.dumps(out)), "weights": WEIGHTS, "y": joined} | given


def cudnn(package, folder):
    """Weights in the layout of cuDNN, and what they compute once Keras has laid them out for a plain LSTM."""
    from tf_keras.src.layers.rnn.cudnn_lstm import CuDNNLSTM

    L = package.layers
    model, _ = model_of(package, [CuDNNLSTM(H, return_sequences=True), L.Bidirectional(CuDNNLSTM(H))])
    model.save(folder / "keras_2_cudnn.h5")
    plain, _ = model_of(package, [L.LSTM(H, return_sequences=True), L.Bidirectional(L.LSTM(H))])
    plain.load_weights(folder / "keras_2_cudnn.h5")
    x = inputs()["x"]
    return {"keras_2_cudnn.h5": (x, np.asarray(plain(x)))}


def freeze_files(folder):
    """{file: (x, y)}, having written the files."""
    found, x = {}, inputs()["x_words"]
    for package, version in ((keras, 3), (tf_keras, 2)):
        L = package.layers
        words = L.Input((None,), dtype="int32")
        y = L.Embedding(V, I, mask_zero=True)(words)
        y = L.Bidirectional(L.LSTM(H, return_sequences=True))(y)
        y = L.LSTM(H, recurrent_activation="hard_sigmoid", name="second")(y)
        model = package.Model(words, L.Dense(2, activation="softmax")(y))
        fill(model)
        for ending in (".keras", ".h5", ".weights.h5", *(["_weights.h5"] if version == 2 else [])):
            path = folder / f"keras_{version}{ending}"
            (model.save_weights if "weights" in ending else model.save)(path)
            found[path.name] = x, np.asarray(model(x))
        (folder / f"keras_{version}.json").write_text(model.to_json())
    L, given = keras.layers, keras.layers.Input((T, I))
    y = L.LSTM(H, return_sequences=True)(L.Dropout(0.1)(L.Masking(0.5)(given)))
    model = keras.Model([given], [L.GlobalAveragePooling1D()(L.TimeDistributed(L.Dense(2))(y))])
    fill(model)
    model.save(folder / "keras_3_masking.keras")
    x = inputs()["x_0.5"]
    found["keras_3_masking.keras"] = x, np.asarray(model(x))
    return found | cudnn(tf_keras, folder)


def trained(folder):
    """A model that Keras has trained on the Japanese vowels that lstmx carries, padded with -9, and what it gives for
    the test set.
    """
    with np.load(HERE.parents[1] / "lstmx/data/files/japanese_vowels.npz") as data:
        found = {}
        for part in ("train", "test"):
            sequences = np.split(data[f"{part}_x"], np.cumsum(data[f"{part}_lengths"])[:-1])
            x = np.full((len(sequences), 29, 12), -9, "float32")
            for row, sequence in zip(x, sequences, strict=True):
                row[: len(sequence)] = sequence
            found[part] = x, data[f"{part}_y"]
    keras.utils.set_random_seed(0)
    L = keras.layers
    both = L.Bidirectional(L.LSTM(8, dropout=0.1), merge_mode="sum")
    model = keras.Sequential([L.Input((None, 12)), L.Masking(-9.0), both, L.Dense(9, activation="softmax")])
    model.compile(keras.optimizers.Adam(0.02), "sparse_categorical_crossentropy")
    model.fit(*found["train"], epochs=30, verbose=0)
    plain = keras.models.clone_model(model)  # without the optimiser
    plain.set_weights(model.get_weights())
    plain.save(folder / "keras_3_vowels.keras")
    return {"keras_3_vowels.keras": (np.empty(0), np.asarray(plain(found["test"][0])))}


def main():
    """Write the two files."""
    for module in (keras, tf_keras):
        wanted, found = VERSIONS[module.__name__], module.__version__
        if found != wanted:
            raise SystemExit(f"These numbers are those of {module.__name__} {wanted}; this is {found}.")
    np.savez_compressed(HERE / "keras_models.npz", **freeze_cases())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        numbers = freeze_files(folder) | trained(folder)
        with zipfile.ZipFile(HERE / "keras_files.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
            for path in sorted(folder.iterdir()):
                archive.write(path, path.name)
            for path, arrays in numbers.items():
                for array, ending in zip(arrays, ("x", "y"), strict=True):
                    data = io.BytesIO()
                    np.save(data, array)
                    archive.writestr(f"{path}.{ending}.npy", data.getvalue())
    for file in ("keras_models.npz", "keras_files.zip"):
        print(file, (HERE / file).stat().st_size)


if __name__ == "__main__":
    main()
