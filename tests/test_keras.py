"""lstmx.LSTM beside the frozen numbers of Keras in data/keras.npz; data/make_keras.py has what its arrays are."""

import json
from pathlib import Path

import numpy as np
import pytest
from lstm_cases import assert_close, everything
from tolerances import PEER

import lstmx.layers.stack
from lstmx import LSTM, Cell

HIDDEN = 5
OURS = {"kernel": "weight_ih", "recurrent_kernel": "weight_hh", "bias": "bias"}

# name: the arguments of lstmx.LSTM that give what Keras's give; whether it is fed the mask, and a state
CASES = {
    "plain": ({}, False, False),
    "masked": ({}, True, True),
    "backwards": ({"reverse": True}, False, True),
    "backwards_masked": ({"reverse": True}, True, True),
    "concat": ({"bidirectional": True}, True, True),
    "sum": ({"bidirectional": True, "merge": "sum"}, True, True),
    "mul": ({"bidirectional": True, "merge": "mul"}, True, True),
    "ave": ({"bidirectional": True, "merge": "average"}, True, True),
    "stacked": ({"bidirectional": True, "merge": "average", "num_layers": 2}, True, True),
    "no_bias": ({"bias": False}, True, True),
    "hard_sigmoid_keras_2": ({"cell": Cell(activations=(("hard_sigmoid", 0.2, 0.5), "tanh", "tanh"))}, True, True),
    "hard_sigmoid_keras_3": ({"cell": Cell(activations=(("hard_sigmoid", 1 / 6, 0.5), "tanh", "tanh"))}, True, True),
    "relu": ({"cell": Cell(activations=("sigmoid", "relu", "relu"))}, True, True),
}
STARTS = {"unit_forget_bias": None, "no_unit_forget_bias": 0.0}
DROPS = {
    "dropout_training": Cell(input_dropout=0.3, recurrent_dropout=0.4, dropout_per_gate=True),
    "input_dropout_training": Cell(input_dropout=0.3),
}


@pytest.fixture(scope="module")
def frozen():
    """All arrays, by case and name."""
    with np.load(Path(__file__).parent / "data" / "keras.npz") as file:
        data = {}
        for group, shapes in json.loads(str(file["layout"])).items():
            ends = np.cumsum([np.prod(shape) for shape in shapes.values()])
            parts = zip(shapes.items(), np.split(file[group], ends[:-1]), strict=True)
            data[group] = {name: part.reshape(shape) for (name, shape), part in parts}
        data["mask"] = file["mask"]
    return data


def named(arrays):
    """Those of Keras's arrays that are parameters, named and laid out as lstmx's."""
    found = {}
    for name, value in arrays.items():
        kind, at, place = name.partition("_l")
        if kind in OURS:
            found[OURS[kind] + at + place] = value.T
    return found


def network(frozen, case, **options):
    """The network of a case, with Keras's parameters."""
    lstm = LSTM(3, HIDDEN, dtype=frozen[case]["y"].dtype.name, **options)
    given = named(frozen["given"])
    lstm.set_parameters({name: given[name] for name in lstm.parameters()})
    return lstm


def fed(frozen, lstm, masked=True, state=True):
    """What a case feeds: the arguments of `everything`; masked steps are NaN, which must not matter."""
    given, count = frozen["given"], lstm.num_layers * lstm.directions
    mask = frozen["mask"] if masked else np.ones_like(frozen["mask"])
    first = {name: given[name][:count] for name in ("h0", "c0", "dh_n", "dc_n")}
    return {
        "x": np.where(mask[..., None], given["x"], np.nan),
        "state": (first["h0"], first["c0"]) if state else None,
        "dy": np.where(mask[..., None], given["dy"][..., : lstm.output_size()], np.nan),
        "dstate": (first["dh_n"], first["dc_n"]),
        "mask": mask if masked else None,
    }


def shown(frozen, case, lstm, mask):
    """Keras's y as lstmx gives it: at the time of its input, and 0 on masked steps."""
    y = frozen[case]["y"]
    y = y[:, ::-1] if lstm.reverse else y
    return y if mask is None else np.where(mask[..., None], y, 0)


def compare(frozen, case, lstm, feed):
    """All results of a case beside Keras's; without gradients those of a call."""
    wanted = {name: frozen[case][name] for name in ("h_n", "c_n")} | {"y": shown(frozen, case, lstm, feed["mask"])}
    grads = {key.removeprefix("grad/"): value for key, value in frozen[case].items() if key.startswith("grad/")}
    if grads:
        found = everything(lstm, **feed)
        wanted |= {f"d{name}": value for name, value in (named(grads) | grads).items() if f"d{name}" in found}
        assert len(wanted) == len(grads) + 3
        if feed["state"] is None:
            del found["dh0"], found["dc0"]
    else:
        y, (h_n, c_n) = lstm(feed["x"], feed["state"], mask=feed["mask"])
        found = {"y": y, "h_n": h_n, "c_n": c_n}
    assert_close(found, wanted, **PEER[lstm.dtype.name])


def test_every_case_is_compared(frozen):
    assert frozen.keys() - {"mask", "given"} == {*CASES, *STARTS, *DROPS, "dropout"}


@pytest.mark.parametrize("case", CASES)
def test_equals_keras(frozen, case):
    options, masked, state = CASES[case]
    lstm = network(frozen, case, **options)
    compare(frozen, case, lstm, fed(frozen, lstm, masked, state))


@pytest.mark.parametrize("case", STARTS)
def test_the_initial_bias_is_keras_s(frozen, case):
    lstm = LSTM(3, HIDDEN, forget_bias=STARTS[case], dtype="float32")
    np.testing.assert_array_equal(lstm.parameters()["bias_l0"], frozen[case]["bias_l0"])
    weights = named(frozen["given"])
    lstm.set_parameters({name: weights[name] for name in ("weight_ih_l0", "weight_hh_l0")})
    compare(frozen, case, lstm, fed(frozen, lstm))


def test_inference_drops_nothing_as_in_keras(frozen):
    lstm = network(frozen, "dropout", cell=DROPS["dropout_training"])
    compare(frozen, "dropout", lstm, fed(frozen, lstm))


@pytest.mark.parametrize("case", DROPS)
def test_training_with_the_masks_that_keras_drew_equals_keras(frozen, case, monkeypatch):
    lstm = network(frozen, case, cell=DROPS[case])
    drawn = {name: value for name, value in frozen[case].items() if name.startswith("drop_")}
    assert tuple(len(drawn.get(name, ())) for name in ("drop_x", "drop_h")) == lstm.cell.masks
    for name, rate in (("drop_x", lstm.cell.input_dropout), ("drop_h", lstm.cell.recurrent_dropout)):
        if rate:
            kept = np.unique(drawn[name])
            np.testing.assert_allclose(kept, [0, 1 / (1 - rate)], **PEER["float32"])

    def draw(cell, key, context, *sizes):
        return {name: mask.take(context.owners, axis=1) for name, mask in drawn.items()}

    monkeypatch.setattr(lstmx.layers.stack.masks, "draw", draw)
    compare(frozen, case, lstm, fed(frozen, lstm))
