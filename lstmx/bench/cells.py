"""The cells that the tasks `cells` and `cells-training` hold against the plain one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lstmx.functional.cell import Cell

if TYPE_CHECKING:
    from lstmx.bench.shapes import Shape


@dataclass(frozen=True)
class Option:
    """One row of `CELLS`.

    Parameters
    ----------
    cell : Cell
    width : float
        Of the projection: P = width * H; 0 is none.
    peers : tuple of str
        The engines that have it too.
    """

    cell: Cell
    width: float = 0
    peers: tuple[str, ...] = ()

    def proj_size(self, hidden: int) -> int:
        """P, or 0 without projection."""
        return max(1, int(self.width * hidden)) if self.width else 0

    def parameters(self, shape: Shape) -> dict[str, tuple[int, ...]]:
        """Name -> shape of the arrays of one layer."""
        table = self.cell.parameters(shape.I, shape.H, True, self.proj_size(shape.H))
        return {p.name: p.shape for p in table}

    def flops(self, shape: Shape) -> int:
        """Floating-point operations of a forward pass, those of its matrices alone."""
        return 2 * shape.steps * sum(size[0] * size[1] for size in self.parameters(shape).values() if len(size) == 2)


CELLS = {
    "plain": Option(Cell()),  # its ratio to itself tells how far to trust the others
    "peephole": Option(Cell(peephole=True), peers=("onnxruntime",)),
    "cifg": Option(Cell(cifg=True)),
    "clip": Option(Cell(clip=3.0)),
    "cell-clip": Option(Cell(cell_clip=3.0)),
    "projection-half": Option(Cell(), 0.5, ("torch",)),
    "projection": Option(Cell(), 1),  # PyTorch has none of this width
    "hard-sigmoid": Option(Cell(activations=("hard_sigmoid", "tanh", "tanh"))),
    "relu": Option(Cell(activations=("sigmoid", "relu", "relu"))),
    "haste": Option(Cell(layer_norm="haste")),
    "fastrnn": Option(Cell(layer_norm="fastrnn")),
    "tflite": Option(Cell(layer_norm="tflite")),
    "zoneout": Option(Cell(zoneout=0.1)),
    "dropout": Option(Cell(input_dropout=0.2, recurrent_dropout=0.2)),
    "dropout-per-gate": Option(Cell(input_dropout=0.2, recurrent_dropout=0.2, dropout_per_gate=True)),
    "weight-dropout": Option(Cell(weight_dropout=0.2)),
    "learn-state": Option(Cell(learn_state=True)),
    "slstm": Option(Cell(slstm=True), peers=("torch",)),
    "slstm-4-heads": Option(Cell(slstm=True, heads=4), peers=("torch",)),
}
