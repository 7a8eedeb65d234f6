"""A model on plain arrays in inference: the compiled calls of its layers, one after the other."""

from lstmx.layers.base import snapshots


class CompiledLayers:
    """The layers of a model as they are at one moment, each as a call on plain arrays (see `Layer.compiled`).

    Attributes
    ----------
    parameters : list of Snapshot
    calls : list of callable or None
        None if a layer has no such call.
    """

    def __init__(self, layers):
        self.parameters, calls, directions = snapshots(layers), [], 1
        for layer, parameters in zip(layers, self.parameters, strict=True):
            calls.append(layer.compiled(parameters, directions))
            directions = getattr(layer, "directions", directions)
        self.calls = None if None in calls else calls
        self._start = (None,) * len(layers)
        self._stores = [(layer.store, own) for layer, own in zip(layers, self.parameters, strict=True)]

    def are_current(self):
        """Whether no layer has had other parameters since."""
        for store, parameters in self._stores:  # noqa: SIM110 - in a step of microseconds a generator would count
            if store.snapshot is not parameters:
                return False
        return True

    def run(self, x, states=None, step=False):
        """(outputs, states) for an array (N, T, F), with `step` (N, F); None where a call takes other arguments."""
        if self.calls is None or 0 in x.shape:
            return None
        if states is None:
            states = self._start
        elif type(states) is not tuple or len(states) != len(self.calls):
            return None
        after = []
        for call, state in zip(self.calls, states, strict=True):
            found = call(x, state, step)
            if found is None:
                return None
            x, state = found
            after.append(state)
        return x, tuple(after)
