"""A probe through the original, or PyTorch's own layers, and ours."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import numpy as np

from lstmx.interop.torch.modules import lstm_sizes, to_array
from lstmx.layers import LSTM

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lstmx._types import Array
    from lstmx.interop.torch.chain import Chain
    from lstmx.model import Sequential


SEQUENCES, STEPS, LENGTHS = 3, 12, [12, 7, 1]
HOOKS = ("_forward_hooks", "_forward_pre_hooks")


class NotRun(ValueError):
    """The original cannot be called with x alone."""


class Comparison:
    """Runs a probe: ``() -> (ours, theirs)``.

    A module, or a script, runs itself: a copy of it, in evaluation mode, without its hooks and without what `ignore`
    leaves out. What has no forward is rebuilt of PyTorch's layers, and reads sequences of several lengths.

    Parameters
    ----------
    chain : Chain
    model : LSTM or Sequential
        What it became.

    Attributes
    ----------
    against : str
        After a call: what the model was held against.
    whole : bool
        Whether that was the forward of the source, so that nothing is left to guess.
    ordered : bool
        Whether all layers surely follow each other.
    remedy : str
        For outputs that differ.
    hooked : list of str
        After a call: the modules whose hooks were left out.
    """

    def __init__(self, chain: Chain, model: LSTM | Sequential) -> None:
        self._chain, self._model = chain, model
        self.against, self.whole, self.remedy = "", False, ""
        self.hooked: list[str] = []
        self.ordered = all(one.ordered for one in chain.chain)

    def __call__(self) -> tuple[Any, Any]:
        import torch

        x = torch.from_numpy(self._inputs())
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            module = self._module(torch)
            alone = isinstance(module, torch.nn.LSTM | torch.nn.LSTMCell)
            if module is None or (alone and not isinstance(self._model, LSTM)):
                return self._beside_layers(torch, x)
            self.whole, self.remedy = True, (
                "forward may call functions that are no layers, layers in another order, or read something else of the "
                "LSTM: say so by activations=, layers= and head="
            )  # fmt: skip
            if not alone:
                return self._beside_forward(module, x)
            self.against = "beside the module itself"
            cell = isinstance(module, torch.nn.LSTMCell)
            theirs = _run_cell(torch, module, x) if cell else _run_lstm(torch, module, x)
            return self._ours(x, None if cell else LENGTHS, theirs), _joined(theirs)

    def _inputs(self) -> Any:
        """Sequences of which all but the first end in padding, as a forward may look for it: zeros, or such tokens."""
        rng, (first, kind, _) = np.random.default_rng(0), self._chain.steps[0]
        if kind == "Embedding":
            x, nothing = rng.integers(first.tensors["weight"].shape[0], size=(SEQUENCES, STEPS)), self._padding()
        else:
            x, nothing = rng.normal(size=(SEQUENCES, STEPS, self._model.input_size or 1)).astype(self._model.dtype), 0
        for row, length in zip(x, LENGTHS, strict=True):
            row[length:] = nothing
        return x

    def _padding(self) -> Any:
        padding = self._model.embedding.padding_idx  # type: ignore[union-attr]
        return 0 if padding is None else padding

    def _ours(self, x: Any, lengths: Any, theirs: Any) -> Any:
        """The outputs of the model; of an LSTM y, h_n and c_n in one, as many as there are on the other side."""
        if not isinstance(self._model, LSTM):
            return self._model.predict(x.numpy(), lengths=lengths)
        y, state = self._model(x.numpy(), lengths=lengths)
        return _joined([y, *state][: len(theirs)])

    def _module(self, torch: Any) -> Any:
        """A copy of the module that is the source, or the part of it that was taken; None if it is no module."""
        if self._chain.live is None:
            return None
        module = self._chain.live()
        for name in filter(None, self._chain.prefix.split(".")):
            module = getattr(module, name)
        if not hasattr(module, "forward"):  # an LSTM in a script
            return None
        try:
            module = copy.deepcopy(module).to("cpu", getattr(torch, self._model.dtype.name)).eval()
        except Exception as error:
            raise NotRun(f"check: the module cannot be copied ({error}); give its state dict") from error
        hooked = []
        for name, part in list(module.named_modules()):
            for hooks in HOOKS:
                hooked += [name or "the module itself"] * bool(vars(part).get(hooks))
                vars(part).get(hooks, {}).clear()
            if name and self._chain.ignores(name) and not isinstance(module, torch.jit.ScriptModule):
                above, _, end = name.rpartition(".")
                setattr(module.get_submodule(above), end, torch.nn.Identity())
        self.hooked = list(dict.fromkeys(hooked))
        return module

    def _beside_layers(self, torch: Any, x: Any) -> tuple[Any, Any]:
        theirs = _run_layers(torch, self._chain, x)
        self.against = "beside an LSTM of PyTorch with the same tensors"
        if len(self._chain.steps) > 1:
            self.against = (
                "beside the same layers rebuilt in PyTorch; head, activations and order are not checked by this"
            )
        ours = self._ours(x, LENGTHS, theirs)
        return ours, _joined(theirs) if isinstance(self._model, LSTM) else np.asarray(theirs[0])

    def _beside_forward(self, module: Any, x: Any) -> tuple[Any, Any]:
        """The nearest of the outputs, whichever axis of x is that of the steps."""
        found, failed = [], None
        ours = self._model(x.numpy())[0] if isinstance(self._model, LSTM) else self._model.predict(x.numpy())
        for form, turned in (("N, T", False), ("T, N", True)):
            try:
                outputs = list(_tensors(module(x.transpose(0, 1) if turned else x)))
            except Exception as error:
                failed = failed or error
                continue
            for k, y in enumerate(outputs):
                y = y.transpose(0, 1) if turned and y.ndim == 3 else y
                which = f", output {k + 1} of {len(outputs)}" if len(outputs) > 1 else ""
                found.append((to_array(y), f"beside its own forward, of x ({form}{', I' * (x.ndim == 3)}){which}"))
        if not found:
            why = failed or "it gives no tensor"
            raise NotRun(f"check: the module cannot be called with x alone ({why}); give its state dict, or prefix= "
                         "for a part") from failed  # fmt: skip
        fitting = [(y.reshape(ours.shape), said) for y, said in found if _without_ones(y) == _without_ones(ours)]
        theirs, self.against = min(fitting, key=lambda pair: _distance(ours, pair[0])) if fitting else found[0]
        return ours, theirs


def _joined(arrays: Any) -> Array:
    return np.concatenate([np.asarray(array).reshape(-1) for array in arrays])


def _tensors(value: Any) -> Iterator[Any]:
    """The tensors of nested tuples, lists and dicts."""
    if hasattr(value, "detach"):
        yield value
    elif isinstance(value, tuple | list | dict):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _tensors(item)


def _without_ones(array: Array) -> list[int]:
    """The shape, of which forward may have squeezed axes."""
    return [length for length in array.shape if length != 1]


def _distance(ours: Any, theirs: Any) -> float:
    distance = np.abs(ours - theirs).max(initial=0)
    return distance if np.isfinite(distance) else np.inf


def _run_cell(torch: Any, cell: Any, x: Any) -> list[Any]:
    """[y, h_n, c_n] of a cell called step by step."""
    state, outputs = None, []
    for t in range(x.shape[1]):
        state = cell(x[:, t], state)
        outputs.append(state[0])
    return [torch.stack(outputs, 1), *state]  # type: ignore[misc]


def _run_lstm(torch: Any, lstm: Any, x: Any) -> list[Any]:
    """[y, h_n, c_n], y (N, T, D*H) being 0 past a sequence's end."""
    pack, pad = torch.nn.utils.rnn.pack_padded_sequence, torch.nn.utils.rnn.pad_packed_sequence
    packed, state = lstm(pack(x, torch.tensor(LENGTHS), batch_first=True, enforce_sorted=False))
    return [pad(packed, batch_first=True, total_length=x.shape[1])[0], *state]


def _run_layers(torch: Any, chain: Chain, y: Any) -> list[Any]:
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


def _chain_dtype(torch: Any, chain: Chain) -> Any:
    """float64 if any tensor of the chain is."""
    kinds = {str(tensor.dtype) for one, *_ in chain.steps if one for tensor in one.tensors.values()}
    return torch.float64 if any(kind.endswith("float64") for kind in kinds) else torch.float32


def _bias(tensors: Any, dtype: Any) -> Any:
    return tensors["bias"].to(dtype) if "bias" in tensors else None


def _pooled(torch: Any, head: Any, y: Any, state: Any, lengths: Any) -> Any:
    if head == "last":
        return y[torch.arange(len(y)), lengths - 1]
    if head == "mean":
        return y.sum(1) / lengths[:, None]
    h_n = state[0]
    directions = 2 if y.shape[2] == 2 * h_n.shape[2] else 1
    return torch.cat(list(h_n[-directions:]), 1)


def _activations(torch: Any) -> dict[str, Callable[..., Any]]:
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
        "gelu": lambda x, _: f.gelu(x),
        "gelu_tanh": lambda x, _: f.gelu(x, approximate="tanh"),
        "selu": lambda x, _: f.selu(x),
        "exp": lambda x, _: torch.exp(x),
    }
