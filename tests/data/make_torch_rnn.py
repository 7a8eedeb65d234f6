"""Freeze numbers of torch.nn.RNN of PyTorch 2.13.0 that the tests compare lstmx.RNN with.

Run, from the root of the repository:

    pip install torch==2.13.0 numpy
    python tests/data/make_torch_rnn.py

It writes torch_rnn.npz beside itself. For each case NAME in CASES, the keys NAME/...

    config               JSON: the arguments of lstmx.RNN
    x (N, T, I)          h0 (L*D, N, H)         lengths (N,), ragged cases only; x is random past a row's end too
    param/weight_ih_l0   and weight_hh_l0, bias_l0 (= bias_ih + bias_hh), .._l0_reverse, .._l1, ...
    y (N, T, D*H), h_n   as h0; y is 0 past a row's end
    dy, dh_n             factors of the loss  sum(y*dy) + sum(h_n*dh_n)
    grad/x, h0           and grad/weight_ih_l0, ..., for each param/...
"""

import json
from pathlib import Path

import numpy as np
import torch
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

# name: I, H, L, bidirectional, activation, dtype, T, N, lengths. A case is seeded by its place: add at the end.
CASES = {
    "plain": (3, 5, 1, False, "tanh", "float64", 5, 3, None),
    "relu": (3, 5, 1, False, "relu", "float64", 5, 3, None),
    "ragged_stacked_bidirectional": (3, 4, 2, True, "tanh", "float64", 6, 4, [2, 4, 1, 5]),  # all end before T
    "float32": (3, 5, 2, False, "tanh", "float32", 5, 3, None),
}


def case(inputs, hidden, layers, bidirectional, activation, dtype, T, N, lengths):
    """Run one network forward and backward; return its arrays by key."""
    kind, directions = getattr(torch, dtype), 2 if bidirectional else 1
    rnn = torch.nn.RNN(
        inputs, hidden, layers, nonlinearity=activation, batch_first=True, bidirectional=bidirectional, dtype=kind
    )
    for p in rnn.parameters():
        torch.nn.init.uniform_(p, -1, 1)
    x = torch.randn(N, T, inputs, dtype=kind, requires_grad=True)
    h0 = torch.randn(layers * directions, N, hidden, dtype=kind, requires_grad=True)
    dy, dh_n = torch.randn(N, T, directions * hidden, dtype=kind), torch.randn(h0.shape, dtype=kind)
    tensors = {"x": x, "h0": h0, "dy": dy, "dh_n": dh_n}
    if lengths is None:
        y, h_n = rnn(x, h0)
    else:
        tensors["lengths"] = torch.tensor(lengths)
        packed, h_n = rnn(pack_padded_sequence(x, tensors["lengths"], batch_first=True, enforce_sorted=False), h0)
        y, _ = pad_packed_sequence(packed, batch_first=True, total_length=T)
    ((y * dy).sum() + (h_n * dh_n).sum()).backward()
    tensors |= {"y": y, "h_n": h_n, "grad/x": x.grad, "grad/h0": h0.grad}
    params = dict(rnn.named_parameters())
    for name, p in params.items():
        if name.startswith("weight"):
            tensors |= {f"param/{name}": p, f"grad/{name}": p.grad}
        elif name.startswith("bias_ih"):
            single, other = name.replace("bias_ih", "bias"), params[name.replace("bias_ih", "bias_hh")]
            tensors |= {f"param/{single}": p + other, f"grad/{single}": p.grad}
    config = {"input_size": inputs, "hidden_size": hidden, "num_layers": layers, "bidirectional": bidirectional}
    config |= {"activation": activation, "dtype": dtype}
    arrays = {key: value.detach().numpy() for key, value in tensors.items()}
    return {"config": np.array(json.dumps(config))} | arrays


def main():
    """Write the file."""
    if torch.__version__.split("+")[0] != "2.13.0":
        raise SystemExit(f"These numbers are those of torch 2.13.0; this is {torch.__version__}.")
    torch.set_num_threads(1)
    out = {}
    for seed, (name, sizes) in enumerate(CASES.items()):
        torch.manual_seed(seed)
        out |= {f"{name}/{key}": value for key, value in case(*sizes).items()}
    path = Path(__file__).resolve().parent / "torch_rnn.npz"
    np.savez_compressed(path, **out)
    print(f"{path}: {len(out)} arrays, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
