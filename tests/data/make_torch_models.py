"""Files as PyTorch 2.13.0 writes them, with the outputs of their models.

Run, from the root of the repository:

    pip install torch==2.13.0 numpy safetensors
    python tests/data/make_torch_models.py

It writes the folder torch_models beside itself:

    lstm.pt, lstm_old.pt      the state dict of an LSTM of 2 layers and 2 directions, in both formats of torch.save
    projected.pt              the same of an LSTM in float64, projected, without bias
    lstm.pkl                  that of lstm.pt by pickle.dump
    tagger.ckpt               a checkpoint as Lightning writes them: Embedding, LSTM, Linear, and what Adam remembers
    classifier.pt             a whole module, by torch.save(module): LSTM, Dropout, Linear, ReLU, Linear of h_n
    classifier_script.pt      the same by torch.jit.script
    half.safetensors          a bfloat16 and a float16 LSTM, "a." and "b."
    outputs.npz               x (3, 12, 3), tokens (3, 12), lengths (3,), and for each of them NAME/y, of an LSTM also
                              NAME/h, NAME/c; those of half.safetensors are computed in float32
"""

import pickle
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

FOLDER = Path(__file__).resolve().parent / "torch_models"
LENGTHS = [12, 7, 1]


class Tagger(nn.Module):
    """One output at each step."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(9, 5, padding_idx=0)
        self.lstm = nn.LSTM(5, 4, batch_first=True)
        self.out = nn.Linear(4, 3)

    def forward(self, tokens):
        """Logits (N, T, 3)."""
        return self.out(self.lstm(self.embedding(tokens))[0])


class Classifier(nn.Module):
    """One output for each sequence."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(3, 4, batch_first=True, bidirectional=True)
        self.head = nn.Sequential(nn.Dropout(0.25), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2))

    def forward(self, x):
        """Logits (N, 2)."""
        _, (h, _) = self.lstm(x)
        return self.head(torch.cat([h[-2], h[-1]], 1))


def wide(module):
    """The module, with parameters so large that gates leave their linear range."""
    for p in module.parameters():
        nn.init.uniform_(p, -1, 1)
    return module.eval()


def outputs(lstm, x):
    """y, h and c of an LSTM on sequences of several lengths."""
    packed, (h, c) = lstm(pack_padded_sequence(x, torch.tensor(LENGTHS), batch_first=True))
    return {"y": pad_packed_sequence(packed, batch_first=True)[0], "h": h, "c": c}


def main():
    """Write all files."""
    if torch.__version__.split("+")[0] != "2.13.0":
        raise SystemExit(f"These files are those of torch 2.13.0; this is {torch.__version__}.")
    torch.manual_seed(0)
    torch.set_num_threads(1)
    FOLDER.mkdir(exist_ok=True)
    x, tokens = torch.randn(3, 12, 3), torch.randint(9, (3, 12))
    found = {"x": x, "tokens": tokens, "lengths": torch.tensor(LENGTHS)}

    lstm = wide(nn.LSTM(3, 4, 2, bidirectional=True))
    torch.save(lstm.state_dict(), FOLDER / "lstm.pt")
    torch.save(lstm.state_dict(), FOLDER / "lstm_old.pt", _use_new_zipfile_serialization=False)
    (FOLDER / "lstm.pkl").write_bytes(pickle.dumps(lstm.state_dict(), 2))
    found |= {f"lstm/{key}": value for key, value in outputs(lstm, x).items()}

    projected = wide(nn.LSTM(3, 6, proj_size=2, bias=False, dtype=torch.float64))
    torch.save(projected.state_dict(), FOLDER / "projected.pt")
    found |= {f"projected/{key}": value for key, value in outputs(projected, x.double()).items()}

    tagger = wide(Tagger())
    optimizer = torch.optim.Adam(tagger.parameters(), 1e-30)
    tagger(tokens).sum().backward()
    optimizer.step()
    state = {f"model.{name}": p for name, p in tagger.state_dict().items()}
    hyper = {"hidden": 4, "folder": Path("runs"), "rate": np.float64(0.1)}
    checkpoint = {"epoch": 3, "state_dict": state, "optimizer_states": [optimizer.state_dict()], "hyper": hyper}
    torch.save(checkpoint, FOLDER / "tagger.ckpt")
    found["tagger/y"] = tagger(tokens)

    classifier = wide(Classifier())
    torch.save(classifier, FOLDER / "classifier.pt")
    torch.jit.script(classifier).save(str(FOLDER / "classifier_script.pt"))
    found["classifier/y"] = classifier(x)

    half = {"a": wide(nn.LSTM(3, 4)).bfloat16(), "b": wide(nn.LSTM(3, 4)).half()}
    tensors = {f"{name}.{key}": p for name, one in half.items() for key, p in one.state_dict().items()}
    save_file(tensors, FOLDER / "half.safetensors")
    for name, one in half.items():
        found |= {f"half_{name}/{key}": value for key, value in outputs(one.float(), x).items()}

    np.savez_compressed(FOLDER / "outputs.npz", **{key: value.detach().numpy() for key, value in found.items()})
    for path in sorted(FOLDER.iterdir()):
        print(f"{path.name}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
