"""Freeze numbers of PyTorch 2.13.0 that the tests compare lstmx with.

Run, from the root of the repository:

    pip install torch==2.13.0 numpy
    python tests/data/make_torch.py

It writes two files beside itself. Neither holds pickled objects, and the same machine writes the same bytes again
(another CPU may change the last bits).

torch_lstm.npz: forward and backward of torch.nn.LSTM. For each case NAME in LSTM_CASES, the keys NAME/...

    config               JSON: input_size, hidden_size, num_layers, bidirectional, proj_size if projected, dtype, N, T
    x (N, T, I)          h0 (L*D, N, P or H)         c0 (L*D, N, H)
    lengths (N,), ragged cases only; x is random past a row's end too
    param/weight_ih_l0   and weight_hh_l0, bias_l0 (= bias_ih + bias_hh), weight_hr_l0, .._l0_reverse, .._l1, ...
    y (N, T, D*(P or H)) h_n, c_n as h0, c0; y is 0 past a row's end
    dy, dh_n, dc_n       factors of the loss  sum(y*dy) + sum(h_n*dh_n) + sum(c_n*dc_n);
                         dy is random past a row's end, where the loss ignores it
    grad/x, h0, c0       and grad/weight_ih_l0, ..., for each param/...; grad/bias_l0 is the gradient of bias_ih,
                         which equals that of bias_hh and of the single bias

torch_optim.npz: float64 trajectories of torch.optim, and losses.

    p0 (37,), grads (6, 37)     the start, and the gradient given at each step
    NAME/config                 JSON: class and arguments, both in lstmx spelling, for NAME in OPTIM_CASES
    NAME/p (6, 37)              the parameters after each step
    loss/NAME/pred, target      NAME: mse, mae, huber (delta 1), binary_crossentropy (logits), categorical_crossentropy
    loss/NAME/value, grad       (logits, integer labels); mean reduction, gradient with respect to pred
"""

import json
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

HERE = Path(__file__).resolve().parent

# name: I, H, L, bidirectional, dtype, T, N, lengths, P. A case is seeded by its place: add new ones at the end.
LSTM_CASES = {
    "plain": (3, 5, 1, False, "float64", 5, 3, None),
    "stacked": (4, 5, 2, False, "float64", 6, 3, None),
    "bidirectional": (3, 4, 1, True, "float64", 5, 4, None),
    "stacked_bidirectional": (5, 4, 2, True, "float64", 5, 3, None),
    "ragged": (3, 6, 1, False, "float64", 5, 4, [3, 5, 1, 4]),
    "ragged_stacked_bidirectional": (4, 5, 2, True, "float64", 6, 4, [2, 4, 1, 5]),  # every row ends before T
    "one_step": (4, 7, 1, False, "float64", 1, 1, None),
    "float32": (3, 5, 1, False, "float32", 5, 3, None),
    "projected": (4, 7, 2, True, "float64", 5, 3, None, 3),
    "projected_ragged": (3, 6, 2, True, "float64", 6, 4, [2, 6, 1, 5], 4),
    "projected_float32": (3, 6, 1, False, "float32", 5, 3, None, 1),
}

SGD = {"learning_rate": 0.1, "momentum": 0.0, "nesterov": False, "weight_decay": 0.0}
RMSPROP = {"learning_rate": 0.01, "rho": 0.9, "epsilon": 1e-3, "momentum": 0.0, "weight_decay": 0.0}
ADAM = {"learning_rate": 0.02, "beta_1": 0.8, "beta_2": 0.95, "epsilon": 1e-3, "weight_decay": 0.0}
# epsilon is large, so that its place in the formula shows; in SGD, momentum tells L2 from decoupled decay
OPTIM_CASES = {
    "sgd": ("SGD", SGD),
    "sgd_momentum": ("SGD", SGD | {"momentum": 0.9}),
    "sgd_nesterov": ("SGD", SGD | {"momentum": 0.9, "nesterov": True}),
    "sgd_decay": ("SGD", SGD | {"momentum": 0.9, "weight_decay": 0.1}),
    "rmsprop": ("RMSprop", RMSPROP),
    "rmsprop_momentum": ("RMSprop", RMSPROP | {"momentum": 0.9}),
    "rmsprop_decay": ("RMSprop", RMSPROP | {"weight_decay": 0.1}),
    "adam": ("Adam", ADAM),
    "adam_decay": ("Adam", ADAM | {"weight_decay": 0.1}),
    "adamw": ("AdamW", ADAM | {"weight_decay": 0.1}),
}


def lstm_case(input_size, hidden_size, num_layers, bidirectional, dtype, T, N, lengths, proj_size=0):
    """Run one LSTM forward and backward; return its arrays by key."""
    config = {"input_size": input_size, "hidden_size": hidden_size, "num_layers": num_layers}
    config |= {"bidirectional": bidirectional, "dtype": dtype} | ({"proj_size": proj_size} if proj_size else {})
    kind = getattr(torch, dtype)
    lstm = torch.nn.LSTM(
        input_size, hidden_size, num_layers, batch_first=True, bidirectional=bidirectional, proj_size=proj_size,
        dtype=kind,
    )  # fmt: skip
    for p in lstm.parameters():
        torch.nn.init.uniform_(p, -1, 1)  # wider than PyTorch's own, so that the gates leave their linear range

    directions = 2 if bidirectional else 1
    outputs = proj_size or hidden_size
    state_shapes = [(num_layers * directions, N, width) for width in (outputs, hidden_size)]
    x = torch.randn(N, T, input_size, dtype=kind, requires_grad=True)
    h0, c0 = (torch.randn(shape, dtype=kind, requires_grad=True) for shape in state_shapes)
    dy = torch.randn(N, T, directions * outputs, dtype=kind)
    dh_n, dc_n = (torch.randn(shape, dtype=kind) for shape in state_shapes)

    if lengths is None:
        y, (h_n, c_n) = lstm(x, (h0, c0))
        valid = torch.ones(N, T, dtype=torch.bool)
    else:
        lengths = torch.tensor(lengths, dtype=torch.int64)
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        packed, (h_n, c_n) = lstm(packed, (h0, c0))
        y, _ = pad_packed_sequence(packed, batch_first=True, total_length=T)
        valid = torch.arange(T) < lengths[:, None]
    ((y * dy * valid[:, :, None]).sum() + (h_n * dh_n).sum() + (c_n * dc_n).sum()).backward()

    out = {"config": np.array(json.dumps(config | {"N": N, "T": T}))}
    tensors = {"x": x, "h0": h0, "c0": c0, "y": y, "h_n": h_n, "c_n": c_n, "dy": dy, "dh_n": dh_n, "dc_n": dc_n}
    tensors |= {"grad/x": x.grad, "grad/h0": h0.grad, "grad/c0": c0.grad}
    if lengths is not None:
        tensors["lengths"] = lengths
    params = dict(lstm.named_parameters())
    for name, p in params.items():
        if name.startswith("weight"):
            tensors |= {f"param/{name}": p, f"grad/{name}": p.grad}
        elif name.startswith("bias_ih"):
            single, other = name.replace("bias_ih", "bias"), params[name.replace("bias_ih", "bias_hh")]
            tensors |= {f"param/{single}": p + other, f"grad/{single}": p.grad}
    return out | {key: value.detach().numpy() for key, value in tensors.items()}


def optim_case(class_name, arguments, p0, grads):
    """Feed the given gradients to one torch optimiser; return its configuration and the parameters after each step."""
    torch_names = {"learning_rate": "lr", "rho": "alpha", "epsilon": "eps"}
    kwargs = {torch_names.get(k, k): v for k, v in arguments.items() if not k.startswith("beta_")}
    if "beta_1" in arguments:
        kwargs["betas"] = (arguments["beta_1"], arguments["beta_2"])
    p = p0.clone().requires_grad_()
    optimizer = getattr(torch.optim, class_name)([p], **kwargs)
    steps = []
    for grad in grads:
        p.grad = grad.clone()
        optimizer.step()
        steps.append(p.detach().numpy().copy())
    config = {"class": class_name, "arguments": arguments}
    return {"config": np.array(json.dumps(config)), "p": np.stack(steps)}


def loss_case(function, pred, target):
    """Return one loss and its gradient with respect to pred."""
    pred = pred.clone().requires_grad_()
    value = function(pred, target)
    value.backward()
    arrays = {"pred": pred, "target": target, "value": value, "grad": pred.grad}
    return {key: tensor.detach().numpy() for key, tensor in arrays.items()}


def make_lstm():
    """Return every array of torch_lstm.npz."""
    out = {}
    for seed, (name, case) in enumerate(LSTM_CASES.items()):
        torch.manual_seed(seed)
        out |= {f"{name}/{key}": value for key, value in lstm_case(*case).items()}
    return out


def make_optim():
    """Return every array of torch_optim.npz."""
    torch.manual_seed(100)
    p0 = torch.randn(37, dtype=torch.float64)
    grads = torch.randn(6, 37, dtype=torch.float64) * torch.logspace(-4, 1, 37, dtype=torch.float64)
    out = {"p0": p0.numpy(), "grads": grads.numpy()}
    for name, (class_name, arguments) in OPTIM_CASES.items():
        out |= {f"{name}/{key}": value for key, value in optim_case(class_name, arguments, p0, grads).items()}

    torch.manual_seed(200)
    logits, values = 2 * torch.randn(2, 7, 5, dtype=torch.float64)
    binary_logits = 3 * torch.randn(7, 1, dtype=torch.float64)
    binary = torch.tensor([0, 1, 1, 0, 1, 0, 0], dtype=torch.float64)[:, None]
    labels = torch.tensor([4, 0, 2, 2, 1, 3, 0])
    losses = {
        "mse": (functional.mse_loss, logits, values),
        "mae": (functional.l1_loss, logits, values),
        "huber": (functional.huber_loss, logits, values),
        "binary_crossentropy": (functional.binary_cross_entropy_with_logits, binary_logits, binary),
        "categorical_crossentropy": (functional.cross_entropy, logits, labels),
    }
    for name, case in losses.items():
        out |= {f"loss/{name}/{key}": value for key, value in loss_case(*case).items()}
    return out


def main():
    """Write both files."""
    if torch.__version__.split("+")[0] != "2.13.0":
        raise SystemExit(f"These numbers are those of torch 2.13.0; this is {torch.__version__}.")
    torch.set_num_threads(1)
    for name, arrays in {"torch_lstm.npz": make_lstm(), "torch_optim.npz": make_optim()}.items():
        path = HERE / name
        np.savez_compressed(path, **arrays)
        print(f"{path}: {len(arrays)} arrays, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
