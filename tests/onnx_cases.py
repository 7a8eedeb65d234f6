"""LSTM nodes of ONNX with any attributes and inputs, what they must give, and models of a few nodes."""

from types import SimpleNamespace

import numpy as np
import onnx
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from lstmx import Cell, reference_cells

KINDS = {np.dtype(np.float32): TensorProto.FLOAT, np.dtype(np.float64): TensorProto.DOUBLE,
         np.dtype(np.float16): TensorProto.FLOAT16, np.dtype(np.int64): TensorProto.INT64,
         np.dtype(np.int32): TensorProto.INT32, np.dtype(bool): TensorProto.BOOL}  # fmt: skip

# name in ONNX -> (ours, whether it takes alpha, beta); those of gates stay in (0, 1), so that memories stay small
GATES = {"Sigmoid": ("sigmoid", False, False), "HardSigmoid": ("hard_sigmoid", True, True)}
OTHERS = {
    "Tanh": ("tanh", False, False),
    "Relu": ("relu", False, False),
    "Softsign": ("softsign", False, False),
    "Softplus": ("softplus", False, False),
    "LeakyRelu": ("leaky_relu", True, False),
    "Elu": ("elu", True, False),
    "ThresholdedRelu": ("thresholded_relu", True, False),
    "ScaledTanh": ("scaled_tanh", True, True),
    "Affine": ("affine", True, True),
    **GATES,
}
NUMBERS = {"hard_sigmoid": (0.3, 0.4), "leaky_relu": (0.1,), "elu": (0.7,), "thresholded_relu": (0.1,),
           "scaled_tanh": (0.8, 0.6), "affine": (0.4, 0.1)}  # fmt: skip


def value_info(name, array_or_shape, dtype=None):
    """A declared input or output."""
    array = np.asarray(array_or_shape) if dtype is None else None
    kind = KINDS[np.dtype(dtype) if array is None else array.dtype]
    return helper.make_tensor_value_info(name, kind, array_or_shape if array is None else array.shape)


def model_of(nodes, inputs, outputs, constants=(), opset=17, **more):
    """A ModelProto: inputs and outputs {name: (shape, dtype)}, constants {name: array}."""
    tensors = [numpy_helper.from_array(np.ascontiguousarray(a), name) for name, a in dict(constants).items()]
    sides = ([value_info(name, *v) for name, v in side.items()] for side in (inputs, outputs))
    graph = helper.make_graph(nodes, "test", *sides, tensors)
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8, **more)


@st.composite
def lstm_nodes(draw):
    """An LSTM node: attributes, arrays by the names of its inputs, opset, and what is given as an input."""
    flag, size = st.booleans(), st.integers(1, 5)
    direction = draw(st.sampled_from(["forward", "reverse", "bidirectional"]))
    D, N, T, I, H = 1 + (direction == "bidirectional"), draw(size), draw(size), draw(size), draw(size)
    attributes = {"hidden_size": H, "direction": direction} if direction != "forward" or draw(flag) else {
        "hidden_size": H}  # fmt: skip
    cells, names, alphas, betas = [], [], [], []
    special = draw(flag)
    for _ in range(D):
        chosen = ["Sigmoid", "Tanh", "Tanh"]
        if special:
            chosen = [draw(st.sampled_from(sorted(table))) for table in (GATES, OTHERS, OTHERS)]
        ours = []
        for name in chosen:
            kind, *takes = OTHERS[name]
            numbers = NUMBERS.get(kind, ())
            for given, value in zip((alphas, betas), numbers, strict=False):
                given.append(value)
            ours.append((kind, *numbers) if numbers else kind)
            assert len(numbers) == sum(takes)
        names += chosen
        cells.append(tuple(ours))
    if special:
        attributes |= {"activations": names}
        attributes |= ({"activation_alpha": alphas} if alphas else {}) | ({"activation_beta": betas} if betas else {})
    clip = draw(st.sampled_from([None, 0.3, 2.0]))
    attributes |= {} if clip is None else {"clip": clip}
    coupled = draw(flag)
    attributes |= {"input_forget": 1} if coupled else {}
    batch_first = draw(flag)
    attributes |= {"layout": 1} if batch_first else {}
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    dtype = np.float64 if batch_first and draw(flag) else np.float32

    def normal(*shape):
        return rng.normal(scale=0.7, size=shape).astype(dtype)

    arrays = {"X": normal(T, N, I), "W": normal(D, 4 * H, I), "R": normal(D, 4 * H, H)}
    arrays |= {"B": normal(D, 8 * H)} if draw(flag) else {}
    arrays |= {"sequence_lens": rng.integers(0, T + 1, N).astype(np.int32)} if draw(flag) else {}
    arrays |= {"initial_h": normal(D, N, H)} if draw(flag) else {}
    arrays |= {"initial_c": normal(D, N, H)} if draw(flag) else {}
    arrays |= {"P": normal(D, 3 * H)} if draw(flag) else {}
    if batch_first:
        arrays = {n: a.swapaxes(0, 1) if n in ("X", "initial_h", "initial_c") else a for n, a in arrays.items()}
    return SimpleNamespace(
        attributes=attributes, arrays=arrays, cells=cells, clip=clip, coupled=coupled, reverse=direction == "reverse",
        batch_first=batch_first, opset=draw(st.sampled_from([14, 22] if batch_first else [7, 14, 22])),
        as_inputs=draw(flag), dtype=dtype,
    )  # fmt: skip


INPUTS = ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P")


def lstm_model(case):
    """(ModelProto, what to feed it) of such a case: weights are inputs or constants."""
    names = [name if name in case.arrays else "" for name in INPUTS]
    while not names[-1]:
        names.pop()
    node = helper.make_node("LSTM", names, ["Y", "Y_h", "Y_c"], **case.attributes)
    fixed = set() if case.as_inputs else {"W", "R", "B", "P"}
    feed = {name: a for name, a in case.arrays.items() if name not in fixed}
    constants = {name: a for name, a in case.arrays.items() if name in fixed}
    outputs = {"Y": ((None,) * 4, case.dtype)} | dict.fromkeys(("Y_h", "Y_c"), ((None,) * 3, case.dtype))
    model = model_of([node], {n: (a.shape, a.dtype) for n, a in feed.items()}, outputs, constants, case.opset)
    onnx.checker.check_model(model)
    return model, feed


def _gates(a, want):
    """Rows of an array in the order i, o, f, g as those of `want`."""
    blocks = dict(zip("iofg", np.split(a, len(a) // (len(a) // 4)), strict=True))
    return np.concatenate([blocks[gate] for gate in want])


def expected(case):
    """Y, Y_h, Y_c by lstmx.reference_cells in float64."""
    a = {n: v.astype(float) if v.dtype.kind == "f" else v for n, v in case.arrays.items()}
    if case.batch_first:
        a |= {n: a[n].swapaxes(0, 1) for n in ("X", "initial_h", "initial_c") if n in a}
    D, H = len(a["W"]), a["R"].shape[2]
    x, want = a["X"].swapaxes(0, 1), "igo" if case.coupled else "ifgo"
    every = []
    for d in range(D):
        params = {"weight_ih": _gates(a["W"][d], want), "weight_hh": _gates(a["R"][d], want)}
        if "B" in a:
            params["bias"] = _gates(a["B"][d][: 4 * H] + a["B"][d][4 * H :], want)
        if "P" in a:
            i, o, f = np.split(a["P"][d], 3)
            params["peephole"] = np.concatenate([i, o] if case.coupled else [i, f, o])
        cell = Cell(peephole="P" in a, cifg=case.coupled, clip=case.clip, activations=case.cells[d])
        state = [a[n][d] if n in a else np.zeros((len(x), H)) for n in ("initial_h", "initial_c")]
        y, (h, c), _ = reference_cells.lstm_forward(
            x, params, state, lengths=a.get("sequence_lens"), reverse=case.reverse or d == 1, cell=cell
        )
        every.append((y, h, c))
    y, h, c = (np.stack(parts) for parts in zip(*every, strict=True))
    if case.batch_first:
        return y.transpose(1, 2, 0, 3), h.swapaxes(0, 1), c.swapaxes(0, 1)
    return y.transpose(2, 0, 1, 3), h, c
