"""Writes torch_accuracy.json: how far PyTorch's float32 LSTM is from lstmx's float64 on the models of test_accuracy.

Run it by hand, ``python tests/data/make_accuracy.py``; it prints lstmx's errors beside PyTorch's.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))
from test_accuracy import MODELS, PEER, case, errors, run


def run_torch(parameters, x, dy):
    layers, hidden = len(parameters) // 3, dy.shape[2]
    net = torch.nn.LSTM(x.shape[2], hidden, layers, batch_first=True)
    names = {f"{name}_l{k}" for k in range(layers) for name in ("weight_ih", "weight_hh")}
    values = {name: parameters[name] for name in names}
    for k in range(layers):
        values |= {f"bias_ih_l{k}": parameters[f"bias_l{k}"], f"bias_hh_l{k}": np.zeros(4 * hidden, np.float32)}
    net.load_state_dict({name: torch.from_numpy(value) for name, value in values.items()})
    x = torch.from_numpy(x).requires_grad_()
    y, (h, c) = net(x)
    y.backward(torch.from_numpy(dy))
    found = {"y": y, "h": h, "c": c, "dx": x.grad}
    for k in range(layers):
        found |= {f"dweight_{n}_l{k}": getattr(net, f"weight_{n}_l{k}").grad for n in ("ih", "hh")}
        found[f"dbias_l{k}"] = getattr(net, f"bias_ih_l{k}").grad
    return {name: value.detach().numpy() for name, value in found.items()}


def main():
    torch.set_num_threads(1)
    kept, ratios = [], []
    for seed in range(MODELS):
        problem = case(seed)
        exact = run(*problem, "float64")
        peer, ours = errors(run_torch(*problem), exact), errors(run(*problem, "float32"), exact)
        kept.append({name: float(f"{value:.4g}") for name, value in peer.items()})
        ratios.append([ours[name] / peer[name] for name in peer])
        print(seed, *(f"{name} {ours[name]:.2e} / {peer[name]:.2e} = {ours[name] / peer[name]:.2f}" for name in peer))
    print("geometric mean", np.exp(np.log(ratios).mean(axis=0)).round(3), "worst", np.max(ratios, axis=0).round(2))
    text = ",\n".join(f"  {json.dumps(errors)}" for errors in kept)
    PEER.write_text(f'{{"torch": "{torch.__version__}", "errors": [\n{text}\n]}}\n')


if __name__ == "__main__":
    main()
