"""Files of weights alone: which layers there are, as far as names and shapes tell; the rest is asked, never guessed."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from lstmx.interop.keras.config import NOTHING, RECURRENT, Options, Part, snake

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lstmx.interop.keras.hdf5 import Array


_BEFORE = 'recurrent_activation="sigmoid", what LSTM has by default since Keras 2.3 and in TensorFlow 2, or '
MOST_TRIES = 10_000  # orders of layers


def parts_from_shapes(layers: dict[str, dict[str, Array]], told: dict[str, Any], ordered: bool) -> list[Part]:
    """The parts of a file of weights alone.

    Parameters
    ----------
    layers : dict of str to dict of str to Array
        What `layers` of NamedWeights or GroupWeights gives.
    told : dict
        What the caller says: recurrent_activation, activation, dense_activation, return_sequences, mask_zero, None
        where nothing.
    ordered : bool
        Whether the layers are in the order of the model.

    Returns
    -------
    list of Part
    """
    found = {name: _guess(name, arrays) for name, arrays in layers.items()}
    listing = ", ".join(f"{name} ({_shown(found[name], arrays)})" for name, arrays in layers.items())
    there = f"or config=, a file that model.to_json() wrote. There are: {listing:.3000}"
    unknown = [name for name, one in found.items() if one is None]
    if unknown:
        raise ValueError(f"weights alone, and names and shapes do not tell what {unknown[:10]} are; give layers=, the "
                         f"names of those that you want, {there}")  # fmt: skip
    row = [(name, *one) for name, one in found.items() if one[0] not in NOTHING]
    if not ordered:
        row = _in_order(row)
        if row is None:
            raise ValueError(f"weights alone, whose names and sizes do not tell the order of the layers; give layers=, "
                             f"their names in order, {there}")  # fmt: skip
    _settle_merges(row, there)
    if needs := _missing(row, told):
        raise ValueError(f"weights alone do not say all that the model computes; give {'; '.join(needs)}; {there}")
    return [Part(kind, name, Options(values | {"name": name}, name), name, name) for name, kind, values, _ in
            _with_options(row, told)]  # fmt: skip


def _guess(name: str, arrays: dict[str, Array]) -> Any:
    """(class, configuration, (features in, out)) of a layer; None where it is not known."""
    if not arrays:
        stem = re.sub(r"_\d+$", "", name)
        return ("InputLayer", {}, None) if stem in ("input", "dropout", *map(snake, NOTHING)) else None
    return _recurrent(arrays) or _both_directions(arrays) or _dense(name, arrays) or _embedding(name, arrays)


def _shapes(arrays: dict[str, Array], *choices: Any) -> Any:
    """The shapes of arrays of these names, of the first choice that has all the names there are."""
    return next(([arrays[n].shape for n in names] for names in choices if set(arrays) == set(names)), None)


def _recurrent(arrays: dict[str, Array]) -> Any:
    for folder in ("", "cell/vars/", "vars/"):
        words = [folder + word for word in (("0", "1", "2") if folder else ("kernel", "recurrent_kernel", "bias"))]
        shapes = _shapes(arrays, words, words[:2])
        if shapes is None or [len(shape) for shape in shapes] != [2, 2, 1][: len(shapes)]:
            continue
        (inputs, wide), (units, also), *bias = shapes
        if wide == also == 4 * units and bias in ([], [(wide,)], [(2 * wide,)]):
            kind = "CuDNNLSTM" if folder == "vars/" or bias == [(2 * wide,)] else "LSTM"
            return kind, {"units": units, "use_bias": bool(bias)}, (inputs, units)
    return None


def _both_directions(arrays: dict[str, Array]) -> Any:
    sides = []
    for side in ("forward", "backward"):
        names = [name for name in arrays if name.startswith(f"{side}_layer/") or f"{side}_" in name]
        own = {
            n.removeprefix(f"{side}_layer/") if n.startswith(f"{side}_layer/") else _last(n): arrays[n] for n in names
        }
        sides.append(_recurrent(own))
    if sides[0] is None or sides[0] != sides[1]:
        return None
    kind, values, (inputs, units) = sides[0]
    return "Bidirectional", {"layer": {"class_name": kind, "config": values}}, (inputs, 2 * units)


def _last(name: str) -> str:
    return name.rpartition("/")[2].partition(":")[0]


def _dense(name: str, arrays: dict[str, Array]) -> Any:
    shapes = _shapes(arrays, ["kernel", "bias"], ["kernel"], ["vars/0", "vars/1"], ["layer/vars/0", "layer/vars/1"])
    if shapes is None and re.match("dense|time_distributed", name):
        shapes = _shapes(arrays, ["vars/0"], ["layer/vars/0"])
    if shapes is None or len(shapes[0]) != 2 or shapes[1:] not in ([], [shapes[0][1:]]):
        return None
    values = {"units": shapes[0][1], "use_bias": len(shapes) == 2}
    if any(place.startswith("layer/") for place in arrays):
        return "TimeDistributed", {"layer": {"class_name": "Dense", "config": values}}, shapes[0]
    return "Dense", values, shapes[0]


def _embedding(name: str, arrays: dict[str, Array]) -> Any:
    shapes = _shapes(arrays, ["embeddings"]) or (_shapes(arrays, ["vars/0"]) if name.startswith("embedding") else None)
    if shapes is None or len(shapes[0]) != 2:
        return None
    return "Embedding", {"input_dim": shapes[0][0], "output_dim": shapes[0][1]}, (None, shapes[0][1])


def _shown(one: Any, arrays: dict[str, Array]) -> str:
    shapes = ", ".join(f"{name} {array.shape}" for name, array in list(arrays.items())[:6])
    return f"{one[0] if one else 'not known'}: {shapes or 'no arrays'}"


def _in_order(row: Any) -> Any:
    """Layers whose names have a counter for each class, in the only order that their sizes allow; else None."""
    queues: Any = {}
    for one in row:
        stem, counter = re.fullmatch(r"(.*?)(?:_(\d+))?", one[0], re.DOTALL).groups()  # type: ignore[union-attr]
        queues.setdefault(stem, []).append((int(counter or 0), one))
    queues = [[one for _, one in sorted(queue, key=lambda item: item[0])] for queue in queues.values()]
    found: list[Any] = []
    tries = [MOST_TRIES]

    def search(at: Any, order: Any) -> None:
        tries[0] -= 1
        if tries[0] < 0 or len(found) > 1:
            return
        if len(order) == len(row):
            found.append(order)
            return
        for k, queue in enumerate(queues):
            one = queue[at[k]] if at[k] < len(queue) else None
            first = not order and one is not None
            if first or (one is not None and one[3][0] == order[-1][3][1]):
                search([*at[:k], at[k] + 1, *at[k + 1 :]], [*order, one])

    if len(row) > 200:
        return None
    search([0] * len(queues), [])
    return found[0] if len(found) == 1 and tries[0] >= 0 else None


def _settle_merges(row: Any, there: Any) -> None:
    """An error where sizes do not tell that the outputs of two directions are concatenated."""
    for k, (name, kind, _, sizes) in enumerate(row):
        if kind == "Bidirectional" and not (k + 1 < len(row) and row[k + 1][3][0] == sizes[1]):
            raise ValueError(f"weights alone, and sizes do not tell how {name!r} merges its directions; give {there}")


def _missing(row: Any, told: Any) -> list[str]:
    """What must be told, one phrase each."""
    kinds = [kind for _, kind, _, _ in row]
    needs = []
    if told["recurrent_activation"] is None and any(_gates_are_open(kind, values) for _, kind, values, _ in row):
        needs.append(f'{_BEFORE}("hard_sigmoid", 0.2, 0.5), of Keras before')
    alone = len(row) == 1
    if told["return_sequences"] is None and not alone and any(kind in RECURRENT for kind in kinds):
        needs.append("return_sequences=True or False, of the last LSTM")
    count = sum(kind in ("Dense", "TimeDistributed") for kind in kinds)
    if count and told["dense_activation"] is None:
        needs.append('dense_activation="softmax", "linear", ..' + f", a tuple of {count}" * (count > 1))
    if told["mask_zero"] is None and "Embedding" in kinds:
        needs.append("mask_zero=True or False, of the Embedding")
    return needs


def _gates_are_open(kind: str, values: Any) -> bool:
    """Whether shapes do not tell the activation of an LSTM's gates; cuDNN has but one."""
    return kind == "LSTM" or (kind == "Bidirectional" and values["layer"]["class_name"] == "LSTM")


def _with_options(row: Any, told: Any) -> Iterator[Any]:
    """The layers with what has been told."""
    dense = _dense_activations(row, told["dense_activation"])
    last = max((k for k, one in enumerate(row) if one[1] in RECURRENT), default=None)
    for k, (name, kind, values, sizes) in enumerate(row):
        if kind in ("LSTM", "CuDNNLSTM", "Bidirectional"):
            sequences = k != last or told["return_sequences"] is not False
            more = {"return_sequences": sequences}
            if _gates_are_open(kind, values):
                more |= {name: told[name] for name in ("recurrent_activation", "activation") if told[name] is not None}
            inner = values.get("layer")
            values = values | more if inner is None else {"layer": inner | {"config": inner["config"] | more}}
        elif kind == "Dense":
            values = values | {"activation": next(dense)}
        elif kind == "TimeDistributed":
            inner = values["layer"]
            values = {"layer": inner | {"config": inner["config"] | {"activation": next(dense)}}}
        elif kind == "Embedding":
            values = values | {"mask_zero": told["mask_zero"]}
        yield name, kind, values, sizes


def _dense_activations(row: Any, told: Any) -> Iterator[Any]:
    count = sum(kind in ("Dense", "TimeDistributed") for _, kind, _, _ in row)
    if count == 1:
        return iter([told])
    if count and (not isinstance(told, tuple | list) or len(told) != count):
        raise ValueError(f"dense_activation is {told!r}, must be a tuple of {count}, one for each Dense")
    return iter(told or ())
