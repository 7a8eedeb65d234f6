"""The frozen models of data/make_keras_models.py, and files of them as Keras writes them."""

import functools
import json
import zipfile
from pathlib import Path

import numpy as np

DATA = Path(__file__).parent / "data"


@functools.cache
def frozen():
    """{case: (configuration, {layer: [(name, array), ..]}, x, y)}"""
    with np.load(DATA / "keras_models.npz") as file:
        cases, numbers, y = json.loads(str(file["cases"])), file["weights"], file["y"]
        inputs = {name: file[name] for name in file.files if name.startswith("x")}
    found, at = {}, 0
    for name, case in cases.items():
        weights, used = {}, 0
        for layer, arrays in case["layout"].items():
            weights[layer] = []
            for array, shape in arrays:
                weights[layer].append((array, numbers[used : used + int(np.prod(shape))].reshape(shape)))
                used += int(np.prod(shape))
        size = int(np.prod(case["y"]))
        found[name] = case["config"], weights, inputs[case["x"]], y[at : at + size].reshape(case["y"])
        at += size
    assert at == len(y)
    return found


def write_h5(path, config, weights):
    """A model in the layout of Keras 2 and of .h5 in Keras 3; without a configuration a file of weights alone."""
    import h5py

    with h5py.File(path, "w") as file:
        group = file
        if config is not None:
            file.attrs["model_config"] = json.dumps(config)
            file.attrs["keras_version"] = config["keras_version"].encode()
            group = file.create_group("model_weights")
        group.attrs["layer_names"] = [name.encode() for name in weights]
        for layer, arrays in weights.items():
            own = group.create_group(layer)
            own.attrs["weight_names"] = [name.encode() for name, _ in arrays]
            for name, array in arrays:
                own[name] = array
    return path


def unpack(folder):
    """The files that Keras wrote, in a folder: {name: (path, x, y)}, x and y None for those of JSON."""
    with zipfile.ZipFile(DATA / "keras_files.zip") as archive:
        archive.extractall(folder)
    found = {}
    for path in sorted(folder.iterdir()):
        if path.suffix != ".npy":
            numbers = [folder / f"{path.name}.{one}.npy" for one in "xy"]
            found[path.name] = path, *(np.load(one) if one.exists() else None for one in numbers)
    return found
