"""PyTorch as an engine of the benchmark."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lstmx.bench.engine import EPOCHS, RATE, SAMPLE, Job

if TYPE_CHECKING:
    from collections.abc import Callable

    from lstmx._types import Array
    from lstmx.bench.engine import Case


class TorchEngine:
    """Prepares cases, in PyTorch's own layout (T, N, I) and with its inputs made beforehand."""

    def __init__(self, threads: int) -> None:
        import torch

        self.torch = torch
        torch.set_num_threads(threads)
        torch.set_num_interop_threads(1)
        torch.manual_seed(0)

    def versions(self) -> dict[str, str]:
        return {"torch": self.torch.__version__}

    def _tensor(self, array: Array, **options: Any) -> Any:
        return self.torch.tensor(np.ascontiguousarray(array), **options)

    def _layer(self, case: Case, kind: str = "LSTM", **options: Any) -> Any:
        torch = self.torch
        if case.cell.slstm:
            return SLSTM(torch, {name: self._tensor(w) for name, w in case.weights.items()}, case.cell.heads)
        if case.proj_size:
            options["proj_size"] = case.proj_size
        layer = getattr(torch.nn, kind)(case.shape.I, case.shape.H, dtype=getattr(torch, case.dtype), **options)
        suffix = "_l0" if kind == "LSTM" else ""
        w = case.weights
        values = {
            "weight_ih": w["weight_ih"],
            "weight_hh": w["weight_hh"],
            "bias_ih": w["bias"],
            "bias_hh": 0 * w["bias"],
        }
        if case.proj_size:
            values["weight_hr"] = w["weight_hr"]
        layer.load_state_dict({name + suffix: self._tensor(value) for name, value in values.items()})
        return layer

    def _inference(self, call: Callable[..., Any]) -> Callable[[], Any]:
        def quietly() -> Any:
            with self.torch.inference_mode():
                return call()

        return quietly

    def inference(self, case: Case) -> dict[str, Callable[[], Job]]:
        lstm, x = self._layer(case), self._tensor(case.x.swapaxes(0, 1))
        call = self._inference(lambda: lstm(x))
        return {"": lambda: Job(call, lambda: {"y": call()[0].numpy().swapaxes(0, 1)})}

    stream = inference

    def _training(self, case: Case, lstm: Any, x: Any, leaf: Any, dy: Any, batch_first: Callable[[Any], Any]) -> Job:
        """`x` is what the layer reads, `leaf` the tensor whose gradient is wanted, `batch_first` brings it back."""
        named = dict(lstm.named_parameters())
        wanted = [leaf, *named.values()]

        def call() -> Any:
            y = lstm(x)[0]
            y = y if isinstance(y, self.torch.Tensor) else y.data  # of a PackedSequence
            return y, self.torch.autograd.grad(y, wanted, dy)

        def outputs() -> Any:
            y, grads = call()
            found = {"y": batch_first(y.detach()), "dx": batch_first(grads[0])}
            grads = dict(zip(named, grads[1:], strict=True))
            grads["bias_l0"] = grads.pop("bias_ih_l0")  # that of bias_hh is the same
            return found | {f"d_{name.removesuffix('_l0')}": d.numpy() for name, d in grads.items()}

        return Job(call, outputs)

    def training(self, case: Case) -> dict[str, Callable[[], Job]]:
        def make() -> Any:
            x = self._tensor(case.x.swapaxes(0, 1), requires_grad=True)
            dy = self._tensor(case.dy.swapaxes(0, 1))
            return self._training(case, self._layer(case), x, x, dy, lambda a: a.numpy().swapaxes(0, 1))

        return {"": make}

    def _pack(self, case: Case, array: Array) -> Any:
        lengths = self.torch.from_numpy(case.lengths)
        return self.torch.nn.utils.rnn.pack_padded_sequence(
            self._tensor(array), lengths, batch_first=True, enforce_sorted=False
        )

    def _unpack(self, packed: Any, data: Any, T: int) -> Any:
        unpack = self.torch.nn.utils.rnn.pad_packed_sequence
        return unpack(packed._replace(data=data), batch_first=True, total_length=T)[0].numpy()

    def ragged(self, case: Case) -> dict[str, Callable[[], Job]]:
        lstm, x, T = self._layer(case), case.x, case.shape.T
        packed, padded = self._pack(case, x), self._tensor(x.swapaxes(0, 1))
        of_packed, of_padded = self._inference(lambda: lstm(packed)), self._inference(lambda: lstm(padded))

        def unpadded() -> Any:
            return {"y": of_padded()[0].numpy().swapaxes(0, 1) * case.valid[..., None]}

        return {
            "packed": lambda: Job(of_packed, lambda: {"y": self._unpack(packed, of_packed()[0].data, T)}),
            "padded": lambda: Job(of_padded, unpadded),
        }

    def ragged_training(self, case: Case) -> dict[str, Callable[[], Job]]:
        lstm, x, dy, T = self._layer(case), case.x, case.dy, case.shape.T

        def packed() -> Any:
            start = self._pack(case, x)
            data = start.data.requires_grad_()
            return self._training(
                case, lstm, start._replace(data=data), data, self._pack(case, dy).data,
                lambda a: self._unpack(start, a.detach(), T),
            )  # fmt: skip

        def padded() -> Any:
            leaf = self._tensor(x.swapaxes(0, 1), requires_grad=True)
            valid = case.valid[..., None]
            return self._training(
                case, lstm, leaf, leaf, self._tensor(dy.swapaxes(0, 1)), lambda a: a.numpy().swapaxes(0, 1) * valid
            )

        return {"packed": packed, "padded": padded}

    def step(self, case: Case) -> dict[str, Callable[[], Job]]:
        x = self._tensor(case.x[:, 0])
        return {"LSTM": lambda: self._step(self._layer(case), x[None]), "LSTMCell": lambda: self._cell(case, x)}

    def _step(self, lstm: Any, x: Any) -> Job:
        state = None

        def advance() -> Any:
            nonlocal state
            y, state = lstm(x, state)
            return y[0]

        return self._stepping(advance)

    def _cell(self, case: Case, x: Any) -> Job:
        cell, state = self._layer(case, "LSTMCell"), None

        def advance() -> Any:
            nonlocal state
            state = cell(x, state)
            return state[0]

        return self._stepping(advance)

    def _stepping(self, advance: Callable[..., Any]) -> Job:
        call = self._inference(advance)
        return Job(call, lambda: {"y": np.concatenate([call().numpy() for _ in range(3)])})

    def fit(self, case: Case) -> dict[str, Callable[[], Job]]:
        return {name: lambda loader=name == "DataLoader": self._fit(case, loader) for name in ("indices", "DataLoader")}  # type: ignore[misc]

    def _fit(self, case: Case, loader: bool) -> Job:
        torch = self.torch
        lstm, head = self._layer(case, batch_first=True), torch.nn.Linear(case.shape.H, 1)
        head.load_state_dict({"weight": self._tensor(case.head), "bias": torch.zeros(1)})
        x, y = (self._tensor(a) for a in case.series())
        parameters = [*lstm.parameters(), *head.parameters()]
        try:
            optimizer = torch.optim.Adam(parameters, lr=RATE, fused=True)
        except (RuntimeError, TypeError):  # older versions fuse on GPUs alone
            optimizer = torch.optim.Adam(parameters, lr=RATE)
        loss_of = torch.nn.MSELoss()
        size = case.shape.N
        data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), size, shuffle=True)

        def batches() -> Any:
            if loader:
                yield from data
            else:
                order = torch.randperm(len(x))
                for start in range(0, len(x), size):
                    chosen = order[start : start + size]
                    yield x[chosen], y[chosen]

        def call() -> None:
            for _ in range(EPOCHS):
                for a, b in batches():
                    optimizer.zero_grad(set_to_none=True)
                    loss_of(head(lstm(a)[0][:, -1]), b).backward()
                    optimizer.step()

        predict = self._inference(lambda: head(lstm(x[:SAMPLE])[0][:, -1]))
        return Job(call, lambda: {"y": predict().numpy()}, EPOCHS)


class SLSTM:
    """The sLSTM as PyTorch can have it without kernels of its own, a loop over the steps; called as torch.nn.LSTM is.

    Parameters
    ----------
    torch : module
    weights : dict
        weight_ih (4H, I), weight_hh (4H, H / heads) and bias (4H,): tensors, blocks i, f, z, o.
    heads : int
    """

    def __init__(self, torch: Any, weights: dict[str, Any], heads: int) -> None:
        self.torch, self.heads = torch, heads
        self._parameters = {
            "weight_ih_l0": weights["weight_ih"],
            "weight_hh_l0": weights["weight_hh"],
            "bias_ih_l0": weights["bias"],
        }
        for value in weights.values():
            value.requires_grad_()

    def named_parameters(self) -> Any:
        return self._parameters.items()

    def _mixed(self, weight: Any) -> Any:
        """weight_hh as (heads, H / heads, 4H / heads): a head's units to their own gates."""
        width = weight.shape[1]
        return weight.view(4, self.heads, width, width).permute(1, 3, 0, 2).reshape(self.heads, width, 4 * width)

    def _recurrent(self, h: Any, mixed: Any) -> Any:
        """(N, 4H), blocks i, f, z, o."""
        N, width = len(h), mixed.shape[1]
        if self.heads == 1:
            return self.torch.mm(h, mixed[0])
        by_head = self.torch.bmm(h.view(N, self.heads, width).transpose(0, 1), mixed)
        return by_head.view(self.heads, N, 4, width).permute(1, 2, 0, 3).reshape(N, -1)

    def __call__(self, x: Any) -> tuple[Any, Any]:
        torch, (weight_ih, weight_hh, bias) = self.torch, self._parameters.values()
        projected = torch.nn.functional.linear(x, weight_ih, bias)
        mixed, found = self._mixed(weight_hh), []
        h = c = n = x.new_zeros(x.shape[1], len(bias) // 4)
        m = torch.full_like(h, -torch.inf)  # nothing to keep yet: the first f is 0
        for a in projected:
            a_i, a_f, a_z, a_o = (a + self._recurrent(h, mixed)).chunk(4, 1)
            kept = m + torch.nn.functional.logsigmoid(a_f)
            m = torch.maximum(a_i, kept)
            i, f = torch.exp(a_i - m), torch.exp(kept - m)
            c = f * c + i * torch.tanh(a_z)
            n = f * n + i
            h = torch.sigmoid(a_o) * c / n
            found.append(h)
        return torch.stack(found), (h, (c, n, m))
