"""Make torch_trace.npz: what a loop over PyTorch's LSTM cell does at every step, and the gradients that reach it.

Run ``python tests/data/make_torch_trace.py`` with torch 2.13.0 and numpy. Gates are computed with plain tensor
operations; the loop stops if its h is not that of `torch.nn.LSTMCell`.
"""

from pathlib import Path

import numpy as np
import torch

N, T, I, H, SEED = 2, 6, 3, 4, 7


def main():
    """Write the file."""
    if torch.__version__.split("+")[0] != "2.13.0":
        raise SystemExit(f"These numbers are those of torch 2.13.0; this is {torch.__version__}.")
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    cell = torch.nn.LSTMCell(I, H, dtype=torch.float64)
    for p in cell.parameters():
        torch.nn.init.uniform_(p, -1, 1)
    x = torch.randn(N, T, I, dtype=torch.float64)
    dy = torch.randn(N, T, H, dtype=torch.float64)
    h, c = (torch.randn(N, H, dtype=torch.float64, requires_grad=True) for _ in range(2))
    out = {"x": x, "h0": h, "c0": c, "dy": dy, "weight_ih": cell.weight_ih, "weight_hh": cell.weight_hh}
    out["bias"] = cell.bias_ih + cell.bias_hh
    steps = {name: [] for name in ("i", "f", "g", "o", "c", "tanh_c", "h")}
    loss = 0
    for t in range(T):
        wanted, _ = cell(x[:, t], (h, c))
        a = x[:, t] @ cell.weight_ih.T + h @ cell.weight_hh.T + out["bias"]
        i, f, g, o = a.chunk(4, dim=1)
        i, f, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
        c = f * c + i * g
        tanh_c = c.tanh()
        h = o * tanh_c
        if not torch.allclose(h, wanted, rtol=1e-13, atol=1e-14):
            raise SystemExit("The loop is not the cell.")
        for name, value in zip(steps, (i, f, g, o, c, tanh_c, h), strict=True):
            value.retain_grad()
            steps[name].append(value)
        loss = loss + (h * dy[:, t]).sum()
    loss.backward()
    out |= {name: torch.stack(values, dim=1) for name, values in steps.items()}
    out |= {f"d{name}": torch.stack([v.grad for v in steps[name]], dim=1) for name in "hc"}
    path = Path(__file__).parent / "torch_trace.npz"
    np.savez_compressed(path, **{name: value.detach().numpy() for name, value in out.items()})
    print(f"{path}: {len(out)} arrays, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
