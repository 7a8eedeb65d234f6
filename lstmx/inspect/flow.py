"""How the gradient of a loss flows back through an LSTM."""

import numpy as np

from lstmx.functional import allocate, read_gradient, sequences
from lstmx.layers import LSTM, Run


class GradientFlow:
    """How much of a loss's gradient reaches every step.

    Attributes
    ----------
    dh, dc : dict of (layer, direction) to array as `Trace` gives them
        dL/dh_t and dL/dc_t.
    """

    def __init__(self, dh, dc):
        self.dh, self.dc = dh, dc


def gradient_flow(lstm, x, dy, *, lengths=None, mask=None, reset=None):
    """Run forward and backward, and keep the gradient of the output and of the memory at every step.

    Where the forget gates stay open, dL/dc_t hardly shrinks on its way back: that is why an LSTM learns what a plain
    recurrent network forgets.

    Parameters
    ----------
    lstm : LSTM
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
    >>> flow = lstmx.inspect.gradient_flow(lstm, np.zeros((50, 2)), dy)
    >>> bool(np.abs(flow.dc[0, 0][0]).sum() > 0.5 * np.abs(flow.dc[0, 0][-1]).sum())
    True
    """
    if not isinstance(lstm, LSTM):
        raise TypeError(f"lstm: got {type(lstm).__name__}, must be an LSTM; a model's are in model.layers")
    found = sequences(x, lstm.input_size, lstm.dtype, lengths=lengths, mask=mask, reset=reset, single=True)
    rows, context = found.all(own=True)
    *_, tape = lstm.forward_rows(rows, context, None, Run(keep=True))
    dy = read_gradient(dy, context, lstm.output_size(), lstm.dtype)
    if dy is None:
        raise ValueError("dy: got None, must have the form and shape of y")
    pairs = [(layer, direction) for layer in range(lstm.num_layers) for direction in range(lstm.directions)]
    shapes = [(context.rows, width) for width in lstm.cell.widths(lstm.hidden_size, lstm.proj_size)]
    slabs = {pair: [allocate.empty(shape, lstm.dtype) for shape in shapes] for pair in pairs}
    out = {name: np.empty_like(p) for name, p in lstm.parameters().items()}
    lstm.backward_rows(tape, dy, out, False, flow=slabs)
    dh, dc = ({pair: context.unpack(slabs[pair][k]) for pair in pairs} for k in (0, 1))
    return GradientFlow(dh, dc)
