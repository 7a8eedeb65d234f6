"""The parameters of a net while it is trained: one flat buffer, one flat gradient, a table of segments."""

import math

import numpy as np


class Parameters:
    """The parameters of a net as one flat buffer, its gradient, and a table of segments; embeddings apart."""

    def __init__(self, net):
        self.segments = []  # (layer index, name, slice, shape, decays)
        self.embeddings = []  # (layer index, name)
        start = 0
        for k, layer in enumerate(net.layers):
            for p in layer.parameter_table(layer.config()):
                if p.by_row:
                    self.embeddings.append((k, p.name))
                    continue
                size = math.prod(p.shape)
                self.segments.append((k, p.name, slice(start, start + size), p.shape, p.decays))
                start += size
        self.size = start
        self.net = net
        self.gradient = np.zeros(start, net.dtype)

    def read(self):
        """(flat values, tables): copies of what the layers hold."""
        layers = self.net.layers
        parts = [layers[k]._params[name].reshape(-1) for k, name, *_ in self.segments]
        values = np.concatenate(parts) if parts else np.zeros(0, self.net.dtype)
        return values, {f"{k}.{name}": layers[k]._params[name].copy() for k, name in self.embeddings}

    def bind(self, values, tables):
        """Let the layers look into these arrays."""
        for k, name, place, shape, _ in self.segments:
            view = values[place].reshape(shape)
            view.flags.writeable = False
            self.net.layers[k]._params[name] = view
            self.net.layers[k].weights_changed()
        for k, name in self.embeddings:
            view = tables[f"{k}.{name}"].view()
            view.flags.writeable = False
            self.net.layers[k]._params[name] = view

    def freeze(self, values, tables):
        """End of training: the arrays the layers look into become read-only, and old tapes invalid."""
        self.bind(values, tables)
        for array in (values, *tables.values()):
            array.flags.writeable = False
        for layer in self.net.layers:
            layer._version += 1

    def outputs(self):
        """For every layer, where its gradients go: views of the flat gradient, and None for a RowGradient to come.

        Made once: before another pass, the entries of embeddings must be None again.
        """
        out = [{} for _ in self.net.layers]
        for k, name, place, shape, _ in self.segments:
            out[k][name] = self.gradient[place].reshape(shape)
        for k, name in self.embeddings:
            out[k][name] = None
        return out

    def stretches(self, optimizer):
        """(slice, decays) of the flat buffer: one stretch if nothing decays, else runs of segments that decay alike."""
        if not optimizer.weight_decay:
            return [(slice(0, self.size), False)] if self.size else []
        runs = []
        for _, _, place, _, decays in self.segments:
            if runs and runs[-1][1] == decays:
                runs[-1] = slice(runs[-1][0].start, place.stop), decays
            else:
                runs.append((place, decays))
        return runs
