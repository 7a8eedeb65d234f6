"""Freeze models that others export to ONNX, with inputs and outputs of their own, for tests/test_interop_onnx.py.

Run, from the root of the repository, each in an environment of its own:

    pip install torch==2.13.0 onnx==1.23.2 onnxscript==0.7.2 onnxruntime==1.32.0
    python tests/data/make_onnx.py torch
    pip install keras==3.15.1 tensorflow==2.21.0 tf2onnx==1.17.0
    python tests/data/make_onnx.py keras

They write onnx_torch.npz and onnx_keras.npz beside this file. For each case: NAME/model, the bytes of the model without
what exporters note about themselves; NAME/in/.. and NAME/out/.., arrays by the names of its inputs and outputs, the
latter as PyTorch or Keras gives them, and for "quantised" as onnxruntime does.
"""

import io
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx

HERE = Path(__file__).resolve().parent
I, H, N, T, TOKENS = 3, 4, 2, 5, 11


def stripped(model):
    """A model without notes, such as the paths of sources."""
    for thing in (model, model.graph, *model.graph.node, *model.graph.value_info, *model.graph.input,
                  *model.graph.output, *model.graph.initializer):  # fmt: skip
        thing.doc_string = ""
        if hasattr(thing, "metadata_props"):
            del thing.metadata_props[:]
    return model


def torch_cases():
    """(name, model, inputs, outputs) of PyTorch's two exporters, and of onnxruntime's quantisation."""
    import torch
    from torch import nn

    class Network(nn.Module):
        """An LSTM, what is read of it, and layers after that."""

        def __init__(self, head, layers=1, embedding=False, **options):
            super().__init__()
            self.head, self.time_first = head, not options.get("batch_first", True)
            self.embedding = nn.Embedding(TOKENS, I) if embedding else nn.Identity()
            self.lstm = nn.LSTM(I, H, layers, **{"batch_first": True} | options)
            width = H * (1 + self.lstm.bidirectional)
            self.hidden, self.out = nn.Linear(width, 5), nn.Linear(5, 2)

        def forward(self, x, h0=None, c0=None):
            y, (h, c) = self.lstm(self.embedding(x), None if h0 is None else (h0, c0))
            read = {
                "last": lambda: y[-1] if self.time_first else y[:, -1],
                "steps": lambda: y,
                "state": lambda: h[-1],
                "both states": lambda: torch.cat([h[-2], h[-1]], dim=1),
                "mean": lambda: y.mean(dim=1),
            }[self.head]()
            out = self.out(torch.relu(self.hidden(read)))
            return torch.softmax(out, dim=-1) if h0 is None else (torch.sigmoid(out), h, c)

    torch.manual_seed(0)
    x, tokens = torch.randn(N, T, I), torch.randint(0, TOKENS, (N, T))
    states = torch.randn(2, N, H), torch.randn(2, N, H)
    cases = {
        "last": (Network("last", 2), (x,)),
        "steps": (Network("steps", 2, bidirectional=True), (x,)),
        "state": (Network("state", 2), (x,)),
        "both_states": (Network("both states", 2, bidirectional=True), (x,)),
        "time_first": (Network("last", batch_first=False), (x.transpose(0, 1),)),
        "mean": (Network("mean", embedding=True), (tokens,)),
        "with_states": (Network("steps", 2), (x, *states)),
    }
    axes = {"x": {0: "batch", 1: "time"}, "h0": {1: "batch"}, "c0": {1: "batch"}}
    for name, (module, args) in cases.items():
        module.eval()
        names, outs = ["x", "h0", "c0"][: len(args)], ["y", "hn", "cn"][: 3 if len(args) > 1 else 1]
        with torch.no_grad():
            found = module(*args)
        inputs = {key: a.numpy() for key, a in zip(names, args, strict=True)}
        outputs = dict(zip(outs, (a.numpy() for a in (found if isinstance(found, tuple) else (found,))), strict=True))
        free = {key: {1 - k if name == "time_first" else k: v for k, v in axes[key].items()} for key in names}
        buffer = io.BytesIO()
        torch.onnx.export(module, args, buffer, input_names=names, output_names=outs, dynamo=False, dynamic_axes=free)
        yield f"{name}_script", onnx.load_from_string(buffer.getvalue()), inputs, outputs
        if name != "time_first":  # its steps would be fixed by a reshape of the exporter
            auto = tuple(dict.fromkeys(free[key], torch.export.Dim.AUTO) for key in names)
            program = torch.onnx.export(
                module, args, None, input_names=names, output_names=outs, dynamo=True, dynamic_shapes=auto
            )
            yield f"{name}_dynamo", program.model_proto, inputs, outputs
        if name == "steps":
            yield quantised(buffer.getvalue(), inputs)


def quantised(data, inputs):
    """The model as onnxruntime.quantization.quantize_dynamic writes it."""
    import onnxruntime
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / name for name in ("float.onnx", "int8.onnx")]
        paths[0].write_bytes(data)
        quantize_dynamic(*paths, weight_type=QuantType.QInt8)
        outputs = onnxruntime.InferenceSession(paths[1]).run(None, inputs)
        return "quantised", onnx.load(paths[1]), inputs, {"y": outputs[0]}


def keras_cases():
    """(name, model, inputs, outputs) of Keras models by tf2onnx."""
    import keras
    import tensorflow as tf
    import tf2onnx
    from keras import layers

    keras.utils.set_random_seed(0)
    series, tokens = layers.Input((None, I)), layers.Input((None,), dtype="int32")
    cases = {
        "last": [series, layers.LSTM(H), layers.Dense(5, "relu"), layers.Dense(2, "softmax")],
        "bidirectional": [
            series, layers.Bidirectional(layers.LSTM(H, return_sequences=True)),
            layers.Bidirectional(layers.LSTM(H)), layers.Dense(1, "sigmoid"),
        ],
        "sum": [series, layers.Bidirectional(layers.LSTM(H, return_sequences=True), "sum"), layers.Dense(1)],
        "backwards": [series, layers.LSTM(H, go_backwards=True), layers.Dense(1, "tanh")],
        "embedding": [tokens, layers.Embedding(TOKENS, I), layers.LSTM(H), layers.Dense(2, "softmax")],
    }  # fmt: skip
    rng = np.random.default_rng(0)
    for name, parts in cases.items():
        model = keras.Sequential(parts)
        model.set_weights([w + rng.normal(scale=0.1, size=w.shape) for w in model.get_weights()])
        kind = "int32" if name == "embedding" else "float32"
        x = rng.integers(0, TOKENS, (N, T)) if name == "embedding" else rng.normal(size=(N, T, I))
        spec = tf.TensorSpec([None, *model.inputs[0].shape[1:]], kind, name="x")
        function = tf.function(lambda x, model=model: model(x, training=False), input_signature=[spec])
        found, _ = tf2onnx.convert.from_function(function, [spec], opset=15)
        y = model(x.astype(kind), training=False).numpy()
        yield name, found, {"x": x.astype(kind)}, {found.graph.output[0].name: y}


def main():
    which = sys.argv[1]
    arrays = {}
    for name, model, inputs, outputs in {"torch": torch_cases, "keras": keras_cases}[which]():
        arrays[f"{name}/model"] = np.frombuffer(stripped(model).SerializeToString(), np.uint8)
        arrays |= {f"{name}/in/{key}": a for key, a in inputs.items()}
        arrays |= {f"{name}/out/{key}": a for key, a in outputs.items()}
    np.savez_compressed(HERE / f"onnx_{which}.npz", **arrays)


if __name__ == "__main__":
    main()
