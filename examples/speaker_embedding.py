"""
A network that PyTorch trained, served without it
=================================================

The speaker encoder of Resemblyzer, 3 LSTM layers 40 -> 256. This downloads the package with pip (16 MB; it is not
installed) and reads its ``pretrained.pt``. Voices are synthetic: their embeddings are close to each other where the
voice is the same. Then it measures, each in a process of its own, how long loading, the first prediction, a step and a
batch take, and how much memory; beside PyTorch where that is installed.

.. image:: /figures/speaker-embedding.png
   :alt: How alike the embeddings of fifteen recordings of three voices are
"""

# sphinx_gallery_thumbnail_path = "figures/speaker-embedding.png"

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import numpy as np

RATE, WINDOW, STEP, BANDS, FRAMES = 16_000, 400, 160, 40, 160  # what the network was trained on: 1.6 s at a time


def voice(pitch, formants, seed):
    """1.6 seconds of vowels (FRAMES * STEP,): a buzz of this pitch in Hz through resonances, these times higher."""
    rng, t = np.random.default_rng(seed), np.arange((FRAMES + 3) * STEP) / RATE
    phase = np.cumsum(pitch * (1 + 0.05 * np.sin(2 * np.pi * rng.uniform(2, 4) * t + rng.uniform(0, 6)))) / RATE
    vowels = np.array([[730, 1090, 2440], [270, 2290, 3010], [300, 870, 2240], [530, 1840, 2480]])[rng.permutation(4)]
    at = formants * np.array([np.interp(t, np.linspace(0, t[-1], 4), vowels[:, k]) for k in range(3)])
    sound = np.zeros(len(t))
    for k in range(1, int(4_000 / pitch)):
        gain = sum(1 / (1 + ((k * pitch - one) / 90) ** 2) for one in at)
        sound += gain * np.sin(2 * np.pi * k * phase) / k**0.5
    return sound + 0.003 * rng.normal(size=len(t))


def spectrogram(sound):
    """The energy of 40 mel bands at each step (FRAMES, BANDS), as Resemblyzer's: of 25 ms every 10 ms, at -30 dBFS."""
    sound = sound * 10 ** (-30 / 20) / np.sqrt(np.mean(sound**2))
    frames = np.lib.stride_tricks.sliding_window_view(sound, WINDOW)[::STEP][:FRAMES]
    power = np.abs(np.fft.rfft(frames * np.hanning(WINDOW + 1)[:-1])) ** 2
    # Slaney's scale: linear below 1,000 Hz, logarithmic above; triangles of equal area
    mel = np.linspace(0, 15 + 27 * np.log(8) / np.log(6.4), BANDS + 2)
    ends = np.where(mel < 15, mel * 200 / 3, 1_000 * 6.4 ** ((mel - 15) / 27))
    hertz = np.fft.rfftfreq(WINDOW, 1 / RATE)[:, None]
    rising, falling = (hertz - ends[:-2]) / np.diff(ends)[:-1], (ends[2:] - hertz) / np.diff(ends)[1:]
    filters = np.maximum(0, np.minimum(rising, falling)) * 2 / (ends[2:] - ends[:-2])
    return (power @ filters).astype("float32")


def normalised(y):
    """The last thing that the network does: vectors of length 1."""
    return y / np.linalg.norm(y, axis=1, keepdims=True)


def load_lstmx(path):
    """(prediction of a batch, a step): from what PyTorch wrote, or from what lstmx saved."""
    import lstmx

    if str(path).endswith(".safetensors"):
        model = lstmx.load(path)
    else:
        model = lstmx.from_torch(path, head="last", activations=["relu"], ignore="similarity_*")
    return lambda x: normalised(model.predict(x)), model.step


def load_torch(path):
    """The same in PyTorch."""
    import torch

    torch.set_grad_enabled(False)
    state = torch.load(path, map_location="cpu")["model_state"]
    net = torch.nn.ModuleDict(
        {"lstm": torch.nn.LSTM(40, 256, 3, batch_first=True), "linear": torch.nn.Linear(256, 256)}
    )
    net.load_state_dict({name: p for name, p in state.items() if not name.startswith("similarity")})

    def predict(x):
        _, (h, _) = net["lstm"](torch.from_numpy(x))
        return normalised(torch.relu(net["linear"](h[-1])).numpy())

    def step(x, state=None):
        y, state = net["lstm"](torch.from_numpy(x)[:, None], state)
        return torch.relu(net["linear"](y[:, -1])).numpy(), state

    return predict, step


def fastest(function, repeats):
    """Seconds that a call takes, undisturbed."""
    found = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        found.append(time.perf_counter() - start)
    return min(found)


def measure(loader, path, x):
    """Run in a process of its own: the embeddings of x, and what it took."""
    start = time.perf_counter()
    predict, step = loader(path)
    loaded = time.perf_counter()
    predict(x[:1])
    first = time.perf_counter()
    _, state = step(x[:1, 0])
    took = {
        "load": loaded - start,
        "first": first - loaded,
        "step": fastest(lambda: step(x[:1, 1], state), 300),
        "batch": fastest(lambda: predict(x), 9),
    }
    try:
        import resource

        took["memory"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (
            2**20 if sys.platform == "darwin" else 1024
        )
    except ImportError:  # Windows
        took["memory"] = float("nan")
    return predict(x), took


def download(folder):
    """The weights, out of the package."""
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--dest", str(folder), "resemblyzer==0.1.4"]
    if subprocess.run(command).returncode:
        raise SystemExit("pip cannot download resemblyzer, whose weights this example is about")
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        return Path(wheel.extract("resemblyzer/pretrained.pt", folder))


def draw(alike, names, path):
    """How alike every two recordings are, (voices * 5, voices * 5)."""
    import matplotlib.pyplot as plt

    figure, ax = plt.subplots(figsize=(6, 5), layout="constrained")
    image = ax.imshow(alike, vmin=0, vmax=1, cmap="viridis")
    middles = 5 * np.arange(len(names)) + 2
    ax.set_xticks(middles, [f"{name} voice" for name in names])
    ax.set_yticks(middles, [f"{name} voice" for name in names], rotation=90, va="center")
    ax.set_title("How alike embeddings are: 5 recordings of each voice")
    figure.colorbar(image, label="cosine similarity")
    figure.savefig(path, dpi=90, metadata={"Software": None})


def main():
    """Embed, compare, measure."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = download(folder)
        from lstmx.interop.torch import read

        found = read(path, head="last", activations=["relu"], ignore="similarity_*")
        print(found.report(), "\n")
        found.model.save(folder / "encoder.safetensors")

        speakers = {"low": (95, 0.95), "middle": (140, 1.05), "high": (215, 1.2)}
        x = np.stack([spectrogram(voice(*one, seed)) for one in speakers.values() for seed in range(5)])
        np.save(folder / "x.npy", x)
        engines = {"lstmx": path, "lstmx, its own file": folder / "encoder.safetensors"}
        engines |= {"PyTorch": path} if importlib.util.find_spec("torch") else {}
        outputs, rows = {}, {}
        for engine, file in engines.items():
            command = [sys.executable, __file__, "--measure", engine, "--path", str(file), "--folder", name]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            rows[engine], outputs[engine] = json.loads(done.stdout), np.load(folder / "y.npy")

    y = outputs["lstmx"]
    alike = np.einsum("id,jd->ij", y, y)
    means = alike.reshape(3, 5, 3, 5).mean((1, 3))
    print("mean similarity of the embeddings of", ", ".join(speakers), "voices:\n", means.round(3), "\n")
    output = Path("lstmx-examples")
    output.mkdir(exist_ok=True)
    draw(alike, speakers, output / "speaker-embedding.png")
    print(f"the picture is {output / 'speaker-embedding.png'}\n")
    print(f"{'':20s} {'load':>8s} {'first':>9s} {'a step':>9s} {f'{len(x)} x 1.6 s':>10s} {'memory':>9s}")
    for engine, took in rows.items():
        print(f"{engine:20s} {took['load']:6.2f} s {1e3 * took['first']:6.1f} ms {1e6 * took['step']:6.0f} us "
              f"{1e3 * took['batch']:7.1f} ms {took['memory']:6.0f} MB")  # fmt: skip
    if "PyTorch" in outputs:
        error = max(np.abs(outputs[engine] - outputs["PyTorch"]).max() for engine in outputs)
        print(f"largest difference to PyTorch: {error:.1e}, of vectors of length 1")
        if not error <= 1e-5:
            raise SystemExit("which is more than rounding explains")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    for option in ("--measure", "--path", "--folder"):
        parser.add_argument(option, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure is None:
        main()
    else:
        loader = load_torch if given.measure == "PyTorch" else load_lstmx
        embeddings, took = measure(loader, given.path, np.load(Path(given.folder) / "x.npy"))
        np.save(Path(given.folder) / "y.npy", embeddings)
        print(json.dumps(took))
