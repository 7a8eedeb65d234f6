"""A model of Keras 3 in RTNeural's JSON, with its outputs.

Run, from the root of the repository:

    pip install keras tensorflow
    python tests/data/make_rtneural.py

It writes rtneural.json beside itself: "in_shape" and "layers", each with "type", "activation", "shape" and "weights",
as RTNeural's exporter for Keras writes them and its `json_parser` reads them; and "x" (T,) and "y" (T,), which it
ignores.
"""

import json
from pathlib import Path

import keras
import numpy as np
from keras import layers

PATH = Path(__file__).resolve().parent / "rtneural.json"
TYPES = {"TimeDistributed": "time-distributed-dense", "LSTM": "lstm", "Dense": "dense", "Activation": "activation"}


def main():
    """Write the file."""
    rng = np.random.default_rng(0)
    model = keras.Sequential(
        [
            keras.Input((None, 1)),
            layers.TimeDistributed(layers.Dense(4, activation="tanh")),
            layers.LSTM(5, return_sequences=True),
            layers.Dense(3, activation="elu"),
            layers.Activation("sigmoid"),
            layers.Dense(1, use_bias=False),
        ]
    )
    entries = []
    for layer in model.layers:
        layer.set_weights([rng.uniform(-1.5, 1.5, array.shape) for array in layer.get_weights()])
        activation = getattr(layer, "layer", layer).activation.__name__
        entries.append(
            {
                "type": TYPES[type(layer).__name__],
                "activation": "" if activation == "linear" else activation,
                "shape": list(layer.output.shape),
                "weights": [array.tolist() for array in layer.get_weights()],
            }
        )
    x = rng.normal(size=(1, 40, 1)).astype("float32")
    y = model.predict(x, verbose=0)
    content = {"in_shape": [None, None, 1], "layers": entries, "x": x[0, :, 0].tolist(), "y": y[0, :, 0].tolist()}
    PATH.write_text(json.dumps(content) + "\n", encoding="utf-8")
    print(f"{PATH}: {PATH.stat().st_size} bytes")


if __name__ == "__main__":
    main()
