"""A probe through PyTorch's own layers and ours."""

import copy

import numpy as np

from lstmx.interop.torch.modules import lstm_sizes, to_array
from lstmx.layers import LSTM

SEQUENCES, STEPS, LENGTHS = 3, 12, [12, 7, 1]


def comparison(chain, model):
    """A function ``() -> (ours, theirs)`` for a `torch_chain.Chain` and the model that it became.

    A module runs itself. What is no module is rebuilt of PyTorch's layers, out of the tensors of the source, and reads
    sequences of several lengths.
    """

    def compare():
        import torch

        module, lengths = _module(torch, chain, model), LENGTHS
        first, x = chain.steps[0], np.random.default_rng(0).normal(size=(SEQUENCES, STEPS, model.input_size or 1))
        if first[1] == "Embedding":
            x = np.random.default_rng(0).integers(first[0].tensors["weight"].shape[0], size=(SEQUENCES, STEPS))
        else:
            x = x.astype(model.dtype)
        with torch.no_grad():
            alone = isinstance(module, torch.nn.LSTM | torch.nn.LSTMCell)
            if module is None or (alone and not isinstance(model, LSTM)):
                theirs = _run_layers(torch, chain, torch.from_numpy(x))
            elif isinstance(module, torch.nn.LSTM):
                theirs = _run_lstm(torch, module, torch.from_numpy(x))
            elif isinstance(module, torch.nn.LSTMCell):
                theirs, lengths = _run_cell(torch, module, torch.from_numpy(x)), None
            else:
                theirs, lengths = _run_module(module, torch.from_numpy(x), chain), None
        if not isinstance(model, LSTM):
            return model.predict(x, lengths=lengths), np.asarray(theirs[0])
        y, state = model(x, lengths=lengths)
        return _joined([y, *state][: len(theirs)]), _joined(theirs)

    return compare


def _joined(arrays):
    return np.concatenate([np.asarray(array).reshape(-1) for array in arrays])


def _module(torch, chain, model):
    """A copy of the module that is the source, or the part of it that was taken; None if it is no module."""
    if not isinstance(chain.source, torch.nn.Module):
        return None
    part = chain.source.get_submodule(chain.prefix) if chain.prefix else chain.source
    return copy.deepcopy(part).to("cpu", getattr(torch, model.dtype.name)).eval()


def _run_module(module, x, chain):
    """[output] of a module as its user calls it: time first, unless its LSTM is batch_first."""
    lstm = next(options for _, kind, options in chain.steps if kind == "LSTM")
    first = lstm.get("batch_first", True)
    try:
        y = module(x if first else x.transpose(0, 1))
    except (TypeError, RuntimeError, NotImplementedError) as error:
        raise ValueError(f"check: the module cannot be called with x alone ({error}); give its state dict, or prefix= "
                         "for a part") from error  # fmt: skip
    y = y[0] if isinstance(y, tuple | list) else y
    return [y if first or y.ndim < 3 else y.transpose(0, 1)]


def _run_cell(torch, cell, x):
    """[y, h_n, c_n] of a cell called step by step."""
    state, outputs = None, []
    for t in range(x.shape[1]):
        state = cell(x[:, t], state)
        outputs.append(state[0])
    return [torch.stack(outputs, 1), *state]


def _run_lstm(torch, lstm, x):
    """[y, h_n, c_n], y (N, T, D*H) being 0 past a sequence's end."""
    pack, pad = torch.nn.utils.rnn.pack_padded_sequence, torch.nn.utils.rnn.pad_packed_sequence
    packed, state = lstm(pack(x, torch.tensor(LENGTHS), batch_first=True, enforce_sorted=False))
    return [pad(packed, batch_first=True, total_length=x.shape[1])[0], *state]


def _run_layers(torch, chain, y):
    """[output], of an LSTM alone with h_n and c_n, of PyTorch's layers made of the tensors of the source."""
    functional, lengths, state = torch.nn.functional, torch.tensor(LENGTHS), ()
    for one, kind, options in chain.steps:
        tensors = {name: torch.from_numpy(to_array(t).copy()) for name, t in one.tensors.items()} if one else {}
        if kind == "Embedding":
            y = functional.embedding(y, tensors["weight"])
        elif kind == "Linear":
            y = functional.linear(y, tensors["weight"].to(y.dtype), _bias(tensors, y.dtype))
        elif kind == "LSTM":
            lstm = torch.nn.LSTM(**lstm_sizes(one), batch_first=True, dtype=_chain_dtype(torch, chain))
            lstm.load_state_dict({n if "_l" in n else n + "_l0": tensor for n, tensor in tensors.items()})
            y, *state = _run_lstm(torch, lstm, y)
        elif kind == "head":
            y = _pooled(torch, options, y, state, lengths)
        elif kind == "activation":
            y = _activations(torch)[options if isinstance(options, str) else options[0]](y, options)
    if y.ndim == 3:  # a Linear gives its bias where there is no step
        y = y * (torch.arange(y.shape[1]) < lengths[:, None])[:, :, None]
    return [y, *(state if len(chain.steps) == 1 else ())]


def _chain_dtype(torch, chain):
    """float64 if any tensor of the chain is."""
    kinds = {str(tensor.dtype) for one, *_ in chain.steps if one for tensor in one.tensors.values()}
    return torch.float64 if any(kind.endswith("float64") for kind in kinds) else torch.float32


def _bias(tensors, dtype):
    return tensors["bias"].to(dtype) if "bias" in tensors else None


def _pooled(torch, head, y, state, lengths):
    if head == "last":
        return y[torch.arange(len(y)), lengths - 1]
    if head == "mean":
        return y.sum(1) / lengths[:, None]
    h_n = state[0]
    directions = 2 if y.shape[2] == 2 * h_n.shape[2] else 1
    return torch.cat(list(h_n[-directions:]), 1)


def _activations(torch):
    """Name -> function of an array and (name, alpha, beta)."""
    f = torch.nn.functional
    return {
        "sigmoid": lambda x, _: torch.sigmoid(x),
        "tanh": lambda x, _: torch.tanh(x),
        "relu": lambda x, _: f.relu(x),
        "affine": lambda x, o: o[1] * x + o[2],
        "leaky_relu": lambda x, o: f.leaky_relu(x, 0.01 if isinstance(o, str) else o[1]),
        "thresholded_relu": lambda x, o: f.threshold(x, 1.0 if isinstance(o, str) else o[1], 0.0),
        "scaled_tanh": lambda x, o: o[1] * torch.tanh(o[2] * x),
        "hard_sigmoid": lambda x, o: (0.2 * x + 0.5 if isinstance(o, str) else o[1] * x + o[2]).clamp(0, 1),
        "elu": lambda x, o: f.elu(x, 1.0 if isinstance(o, str) else o[1]),
        "softsign": lambda x, _: f.softsign(x),
        "softplus": lambda x, _: f.softplus(x),
        "softmax": lambda x, _: f.softmax(x, -1),
        "silu": lambda x, _: f.silu(x),
        "gelu_tanh": lambda x, _: f.gelu(x, approximate="tanh"),
        "selu": lambda x, _: f.selu(x),
        "exp": lambda x, _: torch.exp(x),
    }
