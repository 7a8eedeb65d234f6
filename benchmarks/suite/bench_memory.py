"""Peak memory of the process: interpreter, inputs and call; `peakmem_inputs` is what stood before the call."""

import numpy as np

from .common import Benchmark, batch, layer, limit_threads, sizes


class Memory(Benchmark):
    """One call in float32."""

    params = (("T1000 N32 I32 H128", "T50..1000 N64 I16 H64"),)
    param_names = ("shape",)

    def setup(self, shape):
        limit_threads(1)
        shape = sizes(shape)
        self.lstm, self.x = layer(shape), batch(shape)

    def peakmem_inputs(self, shape):
        pass

    def peakmem_inference(self, shape):
        self.lstm(self.x)

    def peakmem_training(self, shape):
        """Gradients of y included, as it is with any loss."""
        y, _, tape = self.lstm.forward(self.x)
        dy = [np.ones_like(a) for a in y] if isinstance(y, list) else np.ones_like(y)
        self.lstm.backward(tape, dy)

    def track_predicted_training(self, shape):
        """What LSTM.memory says of a padded batch of this size, to hold against peakmem_training - peakmem_inputs."""
        shape = sizes(shape)
        return self.lstm.memory(shape["N"], shape["T"], training=True) / 2**20

    track_predicted_training.unit = "MiB"
