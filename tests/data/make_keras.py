"""Freeze numbers of Keras 3.15.1 on TensorFlow 2.21.0 that the tests compare lstmx with.

Run, from the root of the repository:

    pip install keras==3.15.1 tensorflow==2.21.0 numpy
    python tests/data/make_keras.py

It writes keras.npz beside itself: no pickled objects, and the same bytes again on the same machine (another CPU may
change the last bits). To keep the file small, the arrays of a case are joined end to end in one; `layout` has their
names and shapes.

    mask (N, T)          which steps there are; row 0 has all, row 1 holes, row 2 none, row 3 ends early
    layout               JSON: {joined array: {name: shape}}
    given                what all cases share, in float32 so that it is exact in both types:
        x (N, T, I)      random on masked steps too
        h0, c0           (4, N, H), index 2 * layer + direction; a case uses the first L*D, or starts at zero
        dy (N, T, 2H)    and dh_n, dc_n (4, N, H): factors of the loss
                         sum(y * dy, over steps that there are) + sum(h_n * dh_n) + sum(c_n * dc_n);
                         a case uses the first features of dy, and the first L*D of the others
        kernel_l0        (I, 4H), recurrent_kernel_l0 (H, 4H), bias_l0 (4H,), .._l0_reverse, .._l1, .._l1_reverse
    NAME                 for each case in CASES, in its type:
        y (N, T, D*H or H), h_n, c_n (L*D, N, H)
        grad/x, grad/h0, grad/c0 if it has a state, and grad/kernel_l0, ...: of the loss; "dropout" has none, for
                         a backward pass of lstmx is always one of training
        bias_l0          only where Keras's own initial bias is used
        drop_x, drop_h   (4 or 1, N, I or H), only where training=True: the dropout masks that Keras drew, one for
                         each of the gates i, f, g, o or one for all

y is as Keras gives it: go_backwards leaves it reversed in time, and a masked step repeats the output before, or 0 where
there is none, even if there is an initial state. Bidirectional gives 0 on every masked step.
"""

import json
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from keras.src.legacy.backend import hard_sigmoid as hard_sigmoid_of_keras_2

HERE = Path(__file__).resolve().parent
VERSIONS = {"keras": "3.15.1", "tensorflow": "2.21.0"}
I, H, N, T = 3, 5, 4, 6
MASK = np.array([[1, 1, 1, 1, 1, 1], [0, 1, 0, 0, 1, 1], [0, 0, 0, 0, 0, 0], [1, 1, 1, 1, 0, 0]], bool)

# name: arguments of keras.layers.LSTM, and of `run`
CASES = {
    "plain": ({}, {"masked": False, "state": False}),
    "masked": ({}, {}),
    "backwards": ({"go_backwards": True}, {"masked": False, "dtype": "float32"}),
    "backwards_masked": ({"go_backwards": True}, {}),
    "concat": ({}, {"merge": "concat"}),
    "sum": ({}, {"merge": "sum", "dtype": "float32"}),
    "mul": ({}, {"merge": "mul"}),
    "ave": ({}, {"merge": "ave", "dtype": "float32"}),
    "stacked": ({}, {"merge": "ave", "layers": 2}),
    "no_bias": ({"use_bias": False}, {"dtype": "float32"}),
    "hard_sigmoid_keras_3": ({"recurrent_activation": "hard_sigmoid"}, {}),
    "hard_sigmoid_keras_2": ({"recurrent_activation": hard_sigmoid_of_keras_2}, {}),
    "relu": ({"activation": "relu"}, {"dtype": "float32"}),
    "dropout": ({"dropout": 0.3, "recurrent_dropout": 0.4}, {"gradients": False}),
    "dropout_training": ({"dropout": 0.3, "recurrent_dropout": 0.4}, {"training": True, "dtype": "float32"}),
    "input_dropout_training": ({"dropout": 0.3}, {"training": True, "dtype": "float32"}),
    "unit_forget_bias": ({"unit_forget_bias": True}, {"dtype": "float32", "own_bias": True}),
    "no_unit_forget_bias": ({"unit_forget_bias": False}, {"dtype": "float32", "own_bias": True}),
}


def draw():
    """What all cases share."""
    rng = np.random.default_rng(0)
    given = {"x": rng.normal(size=(N, T, I))}
    for name in ("h0", "c0", "dh_n", "dc_n"):
        given[name] = rng.normal(size=(4, N, H))
    given["dy"] = rng.normal(size=(N, T, 2 * H))
    for suffix, inputs in (("_l0", I), ("_l0_reverse", I), ("_l1", H), ("_l1_reverse", H)):
        # far wider than Keras's own, so that gates leave their linear range and hard sigmoids reach their ends
        given[f"kernel{suffix}"] = rng.uniform(-1.5, 1.5, (inputs, 4 * H))
        given[f"recurrent_kernel{suffix}"] = rng.uniform(-1.5, 1.5, (H, 4 * H))
        given[f"bias{suffix}"] = rng.uniform(-1, 1, 4 * H)
    return {name: value.astype(np.float32) for name, value in given.items()}


def layer_of(arguments, merge, dtype):
    """(the layer, its LSTMs by the direction's suffix)"""
    lstm = keras.layers.LSTM(H, return_sequences=True, return_state=True, dtype=dtype, seed=1, **arguments)
    if merge is None:
        return lstm, {"": lstm}
    both = keras.layers.Bidirectional(lstm, merge_mode=merge, dtype=dtype)
    return both, {"": both.forward_layer, "_reverse": both.backward_layer}


def record_dropout(cell, out):
    """Make a cell keep in `out` the dropout masks that it draws."""
    create = cell._create_dropout_mask

    def recorded(inputs, rate):
        made = create(inputs, rate)
        masks = made if isinstance(made, list) else [made]
        out["drop_x" if inputs.shape[1] == I else "drop_h"] = np.stack([mask.numpy() for mask in masks])
        return made

    cell._create_dropout_mask = recorded


def run(
    given, arguments, *, masked=True, state=True, merge=None, layers=1, dtype="float64", own_bias=False, training=False,
    gradients=True,
):  # fmt: skip
    """The arrays of one case, by name."""
    kind = tf.as_dtype(dtype)
    x = tf.constant(given["x"], kind)
    mask = tf.constant(MASK) if masked else None
    directions = 1 if merge is None else 2
    count = layers * directions
    h0, c0 = (tf.constant(given[name][:count], kind) for name in ("h0", "c0"))
    sources, out = {"x": x} | ({"h0": h0, "c0": c0} if state else {}), {}

    stack = []
    for k in range(layers):
        layer, parts = layer_of(arguments, merge, dtype)
        layer.build((N, T, I if k == 0 else H))
        for suffix, lstm in parts.items():
            if training:
                record_dropout(lstm.cell, out)
            for variable in lstm.cell.trainable_variables:
                name = f"{variable.name}_l{k}{suffix}"
                sources[name] = variable.value
                if variable.name == "bias" and own_bias:
                    out[name] = variable.numpy()
                else:
                    variable.assign(given[name])
        stack.append(layer)

    with tf.GradientTape() as tape:
        tape.watch([x, h0, c0])
        y, states = x, []
        for k, layer in enumerate(stack):
            first = k * directions
            start = [s[i] for i in range(first, first + directions) for s in (h0, c0)] if state else None
            y, *last = layer(y, mask=mask, initial_state=start, training=training)
            states += last
        h_n, c_n = tf.stack(states[::2]), tf.stack(states[1::2])
        factor = given["dy"][..., : y.shape[2]] * (MASK if masked else np.ones_like(MASK))[..., None]
        if arguments.get("go_backwards"):
            factor = factor[:, ::-1]
        loss = tf.reduce_sum(y * tf.constant(factor, kind))
        for value, name in ((h_n, "dh_n"), (c_n, "dc_n")):
            loss += tf.reduce_sum(value * tf.constant(given[name][:count], kind))
    out |= {"y": y.numpy(), "h_n": h_n.numpy(), "c_n": c_n.numpy()}
    if gradients:
        out |= {f"grad/{name}": value.numpy() for name, value in tape.gradient(loss, sources).items()}
    assert {value.dtype.name for value in out.values()} == {dtype}
    return out


def main():
    """Write the file."""
    for module in (keras, tf):
        wanted, found = VERSIONS[module.__name__], module.__version__
        if found != wanted:
            raise SystemExit(f"These numbers are those of {module.__name__} {wanted}; this is {found}.")
    given = draw()
    groups = {"given": given}
    for name, (arguments, options) in CASES.items():
        groups[name] = run(given, arguments, **options)
    layout = {group: {name: value.shape for name, value in arrays.items()} for group, arrays in groups.items()}
    joined = {group: np.concatenate([value.ravel() for value in arrays.values()]) for group, arrays in groups.items()}
    path = HERE / "keras.npz"
    np.savez_compressed(path, mask=MASK, layout=np.array(json.dumps(layout)), **joined)
    print(f"{path}: {sum(map(len, layout.values()))} arrays, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
