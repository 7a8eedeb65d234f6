"""How the gradient of a loss flows back through an LSTM."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lstmx.functional import read_gradient, sequences
from lstmx.layers import Layer, Run
from lstmx.layers.flow import GradientFlow, is_recurrent, room

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from lstmx.layers import LSTM, RNN


def gradient_flow(
    lstm: LSTM | RNN,
    x: ArrayLike,
    dy: ArrayLike,
    *,
    lengths: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    reset: ArrayLike | None = None,
) -> GradientFlow:
    """Run forward and backward, and keep the gradient of the output and of the memory at every step.

    Where the forget gates stay open, dL/dc_t hardly shrinks on its way back: that is why an LSTM learns what a plain
    recurrent network forgets. `Sequential.gradient_flow` does the same for the loss of a model.

    Parameters
    ----------
    lstm : LSTM or RNN
    x : array (N, T, I), array (T, I), or list of arrays (T_n, I)
    dy : in the form and shape of y
        The gradient of the loss with respect to the outputs.
    lengths, mask, reset : as in a call of the LSTM

    Returns
    -------
    GradientFlow

    Examples
    --------
    The gradient of the last output with respect to the memory, in a network that keeps its memory:

    >>> import numpy as np, lstmx
    >>> lstm = lstmx.LSTM(2, 3, random_state=0)
    >>> bias = np.repeat([0.0, 20.0, 0.0, 0.0], 3)       # forget gates wide open
    >>> lstm.set_parameters({"bias_l0": bias})
    >>> dy = np.zeros((50, 3))
    >>> dy[-1] = 1
    >>> norms = lstmx.inspect.gradient_flow(lstm, np.zeros((50, 2)), dy).norms("c")[0, 0]
    >>> bool(norms[0] > 0.5 * norms[-1])
    True
    """
    if not isinstance(lstm, Layer) or not is_recurrent(lstm):
        raise TypeError(f"lstm: got {type(lstm).__name__}, must be an LSTM; a model's are in model.layers, and "
                        "model.gradient_flow(X, y) is that of its loss")  # fmt: skip
    found = sequences(x, lstm.input_size, lstm.dtype, lengths=lengths, mask=mask, reset=reset, single=True)
    rows, context = found.all(own=True)
    *_, tape = lstm.forward_rows(rows, context, None, Run(keep=True))
    dy = read_gradient(dy, context, lstm.output_size(), lstm.dtype)
    if dy is None:
        raise ValueError("dy: got None, must have the form and shape of y")
    flow = room(lstm, context)
    out = {name: np.empty_like(p) for name, p in lstm.parameters().items()}
    lstm.backward_rows(tape, dy, out, False, flow=flow)
    return GradientFlow({key: (context, lstm.hidden_size, pair) for key, pair in flow.items()})
