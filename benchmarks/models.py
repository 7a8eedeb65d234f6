"""Models that people use, served by lstmx and by what they were made for: a table of docs/performance.md.

    python benchmarks/models.py [--rounds 5] [--threads 1] [--write docs/performance.md]

Weights come out of packages that pip downloads (see tests/real_models.py). Every engine runs in processes of its own,
in turn; of times the minimum counts, of memory the largest. An engine that is not installed is left out. A difference
is that of outputs, relative to the largest of them, at least 1.

* Resemblyzer's speaker encoder, a PyTorch checkpoint, whole: 3 LSTM layers 40 -> 256, Linear, ReLU; 160 steps.
* The LSTM of silero-vad, 128 -> 128 with a state that is given, beside onnxruntime on the same LSTM; 50 steps.
* The LSTM of ddddocr, bidirectional 512 -> 512, beside onnxruntime; 20 steps.
* The LSTMs of textgenrnn, Embedding, LSTM 100 -> 128, LSTM 128 -> 128, beside Keras 2 on TensorFlow; 40 steps.
"""

import argparse
import contextlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))
WITHIN = 1e-5
BATCH = 16
# Model -> package, file, steps, features (None: integers), the engine beside ours and what it needs.
MODELS = {
    "Resemblyzer": ("resemblyzer==0.1.4", "resemblyzer/pretrained.pt", 160, 40, "torch", "torch"),
    "silero-vad": ("silero-vad==6.2.3", "silero_vad/data/silero_vad_16k_sequence.onnx", 50, 128, "onnxruntime", "onnx"),
    "ddddocr": ("ddddocr==1.6.1", "ddddocr/common.onnx", 20, 1024, "onnxruntime", "onnx"),
    "textgenrnn": ("textgenrnn==2.0.0", "textgenrnn/textgenrnn_weights.hdf5", 40, None, "tf_keras", "h5py"),
}
FIGURES = ("load", "first", "step", "batch")


def convert(name, source, folder):
    """Write what the engines read: model.safetensors of lstmx; for onnxruntime the LSTM alone as model.onnx."""
    import lstmx

    if name == "Resemblyzer":
        model = lstmx.from_torch(source, head="last", activations=["relu"], ignore="similarity_*")
    elif name == "textgenrnn":
        model = lstmx.from_keras(source, layers=["embedding", "rnn_1"], mask_zero=False, return_sequences=True)
        second = lstmx.from_keras(source, layers="rnn_2")
        model = lstmx.Sequential([*(layer.copy() for layer in model.layers), second])
    else:
        lstm = lstmx.from_onnx(source, lstm=0)
        lstmx.to_onnx(lstm, folder / "model.onnx", states=True)
        model = lstmx.Sequential([lstm])
    model.save(folder / "model.safetensors")
    return model


# What an engine makes of the files: (a call on a batch, a call on one step and a state, None to begin).


def of_lstmx(name, source, folder):
    import lstmx

    model = lstmx.load(folder / "model.safetensors")
    return model.predict, model.step if all(layer.causal for layer in model.layers) else None


def of_torch(name, source, folder):
    import torch

    torch.set_grad_enabled(False)
    state = torch.load(source, map_location="cpu")["model_state"]
    lstm, linear = torch.nn.LSTM(40, 256, 3, batch_first=True), torch.nn.Linear(256, 256)
    net = torch.nn.ModuleDict({"lstm": lstm, "linear": linear})
    net.load_state_dict({key: p for key, p in state.items() if not key.startswith("similarity")})

    def step(x, state):
        y, state = lstm(torch.from_numpy(x)[:, None], state)
        return torch.relu(linear(y[:, -1])).numpy(), state

    return lambda x: torch.relu(linear(lstm(torch.from_numpy(x))[1][0][-1])).numpy(), step


def of_onnxruntime(name, source, folder):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = int(os.environ["OMP_NUM_THREADS"])
    path = str(folder / "model.onnx")
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    parts, _, hidden = session.get_inputs()[1].shape

    def run(x, state=None):
        h, c = (np.zeros((parts, len(x), hidden), np.float32),) * 2 if state is None else state
        y, h, c = session.run(["y", "h_n", "c_n"], {"x": x, "h": h, "c": c})
        return y, (h, c)

    def step(x, state):
        y, state = run(x[:, None], state)
        return y[:, 0], state

    return lambda x: run(x)[0], step if parts == 1 else None


def of_tf_keras(name, source, folder):
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import h5py
    import tensorflow
    import tf_keras

    threads = int(os.environ["OMP_NUM_THREADS"])
    tensorflow.config.threading.set_intra_op_parallelism_threads(threads)
    tensorflow.config.threading.set_inter_op_parallelism_threads(threads)
    layers = tf_keras.layers
    given = layers.Input((None,))
    y = layers.Embedding(465, 100, name="embedding")(given)
    for name in ("rnn_1", "rnn_2"):
        y = layers.LSTM(128, return_sequences=True, name=name)(y)
    model = tf_keras.Model(given, y)
    with h5py.File(source) as file, h5py.File(folder / "three.h5", "w") as part:
        part.attrs["layer_names"] = [name.encode() for name in ("embedding", "rnn_1", "rnn_2")]
        for key in ("backend", "keras_version"):
            part.attrs[key] = file.attrs[key]
        for layer in ("embedding", "rnn_1", "rnn_2"):
            file.copy(layer, part)
    model.load_weights(folder / "three.h5", by_name=True)
    call = tensorflow.function(model, reduce_retracing=True)
    return lambda x: call(tensorflow.constant(x)).numpy(), None


def fastest(function, seconds=0.4, least=5):
    """The shortest time that a call takes, after one that may prepare it."""
    function()
    end, found = time.perf_counter() + seconds, []
    while len(found) < least or (time.perf_counter() < end and len(found) < 2000):
        start = time.perf_counter()
        function()
        found.append(time.perf_counter() - start)
    return min(found)


def measure(engine, name, source, folder):
    """In a process of its own: what it takes, on standard output; the outputs of the batch in a file."""
    x = np.load(folder / "x.npy")
    start = time.perf_counter()
    predict, step = globals()[f"of_{engine}"](name, source, folder)
    loaded = time.perf_counter()
    predict(x[:1])
    took = {"load": loaded - start, "first": time.perf_counter() - loaded}
    if step is not None:
        _, state = step(np.ascontiguousarray(x[:1, 0]), None)
        x_t = np.ascontiguousarray(x[:1, 1])
        took["step"] = fastest(lambda: step(x_t, state))
    took["batch"] = fastest(lambda: predict(x))
    with contextlib.suppress(OSError):  # of Linux alone
        took["memory"] = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1e3
    np.save(folder / f"y_{engine}.npy", predict(x))
    print(json.dumps(took))


def inputs(steps, features):
    rng = np.random.default_rng(0)
    if features is None:
        return rng.integers(1, 80, size=(BATCH, steps))
    if features == 40:  # energies, as of quiet speech
        return rng.gamma(0.3, 0.02, size=(BATCH, steps, features)).astype(np.float32)
    return rng.normal(scale=0.5, size=(BATCH, steps, features)).astype(np.float32)


def compare(name, rounds, threads):
    """(figures by engine, the largest difference of outputs or None)."""
    from real_models import member

    requirement, file, steps, features, peer, needs = MODELS[name]
    if importlib.util.find_spec(needs) is None:
        print(f"{name}: left out, {needs} is not installed", file=sys.stderr)
        return None
    source = member(requirement, file)
    engines = ["lstmx", *([peer] if importlib.util.find_spec(peer) else [])]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        model = convert(name, source, folder)
        features = model.input_size if features is not None else None
        np.save(folder / "x.npy", inputs(steps, features))
        names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
        env = os.environ | dict.fromkeys(names, str(threads))
        env |= {"PYTHONPYCACHEPREFIX": str(folder / "bytecode"), "PYTHONDONTWRITEBYTECODE": ""}
        env["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [env.get("PYTHONPATH")])])
        found = {engine: {} for engine in engines}
        for turn in range(rounds + 1):  # the first fills caches, of bytecode too
            for engine in engines:
                command = [sys.executable, __file__, "--engine", engine, name, str(source), place]
                done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=env)
                for what, value in json.loads(done.stdout).items() if turn else ():
                    best = max if what == "memory" else min
                    found[engine][what] = best(found[engine].get(what, value), value)
        outputs = [np.load(folder / f"y_{engine}.npy") for engine in engines]
        error = None
        if len(outputs) > 1:
            error = float(np.abs(outputs[0] - outputs[1]).max() / max(1, np.abs(outputs[1]).max()))
    return found, error


UNITS = {"load": (1, "s"), "first": (1e3, "ms"), "step": (1e6, "µs"), "batch": (1e3, "ms"), "memory": (1, "MB")}


def row(name, engine, took, error):
    cells = []
    for what, (factor, unit) in UNITS.items():
        value = took.get(what)
        cells.append("-" if value is None else f"{factor * value:.3g} {unit}")
    return [name, engine, *cells, "" if error is None else f"{error:.0e}"]


def table(results):
    """Markdown."""
    columns = ["model", "engine", "import and load", "first prediction", "a step", f"{BATCH} sequences", "memory"]
    lines = [[*columns, "largest difference"], ["---"] * 8]
    for name, (found, error) in results.items():
        lines += [row(name, engine, took, None if engine == "lstmx" else error) for engine, took in found.items()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--models", default=",".join(MODELS), help="some of " + ", ".join(MODELS))
    parser.add_argument("--write", type=Path, help="a page with the marks of this table")
    parser.add_argument("--engine", help=argparse.SUPPRESS)
    parser.add_argument("rest", nargs="*", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.engine:
        name, source, folder = options.rest
        measure(options.engine, name, Path(source), Path(folder))
        return
    for variable in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"):
        os.environ.pop(variable, None)
    from lstmx.bench import report
    from lstmx.bench.environment import cpu_name

    if options.write:
        report.parts_of(options.write, "models")  # an error now, not after the measurements
    results = {}
    for name in options.models.split(","):
        found = compare(name, options.rounds, options.threads)
        if found is not None:
            results[name] = found
    text = table(results) + f"\n\n{cpu_name()}, {options.threads} thread{'s' * (options.threads > 1)}."
    print(text)
    if options.write:
        report.write(options.write, "models", text)
    bad = [name for name, (_, error) in results.items() if error is not None and not error <= WITHIN]
    if bad:
        raise SystemExit(f"outputs differ by more than {WITHIN}: {', '.join(bad)}")


if __name__ == "__main__":
    main()
