"""What every layer has: parameters, configuration, and three methods on packed rows."""

import copy
import math

import numpy as np

from lstmx import storage
from lstmx.functional import validate

LARGEST, MOST_ARRAYS = 2**40, 100_000  # of parameters, in a layer
_UNFILLED = object()  # as random_state: leave the parameters to `fill`


class Layer(storage.Stored):
    """The protocol of a layer.

    A subclass gives `parameter_table`, `config`, and

    * ``forward_rows(rows, context, training, key) -> rows, context, tape``
    * ``backward_rows(tape, dy, out, need_dx) -> dx or None``, writing gradients into the arrays ``out[name]``
    * ``step_rows(x_t, state) -> y_t, state``

    where rows are packed (see lstmx.functional.context), `key` seeds dropout masks and `tape` is whatever backward
    needs. Parameters are read-only arrays that are replaced, never changed: a running call keeps those that it began
    with.
    """

    input_size = None  # features it takes; None: any
    per_sequence = False  # whether it pools time away
    reads_windows = False  # whether in inference its rows may be `Windows`, where they gain by it

    def __init_subclass__(cls):
        storage.register(cls)

    def _setup(self, dtype, random_state):
        self.dtype = validate.dtype(dtype)
        self._random_state = random_state
        self._version = 0
        self._owner = None
        self._params = {}
        self.weights_changed()
        if random_state is not _UNFILLED:
            self._check_size()
            self._initialise(validate.random_generator("random_state", random_state))

    def _check_size(self):
        total = 0
        for arrays, parameter in enumerate(self.parameter_table(self.config())):
            total += math.prod(parameter.shape)
            if total > LARGEST or arrays > MOST_ARRAYS:
                raise MemoryError(
                    f"{self!r} would have more than {LARGEST} parameters, or {MOST_ARRAYS} arrays of them"
                )

    def _initialise(self, rng):
        table = self.parameter_table(self.config())
        self._params = {p.name: frozen(p.start(rng, p.shape), self.dtype) for p in table}
        self.weights_changed()

    @staticmethod
    def parameter_table(config):
        """A `Parameter` for every array of a layer with this configuration, one at a time."""
        return iter(())

    def config(self):
        """The constructor arguments that `load` needs, as plain JSON values."""
        return {}

    def output_size(self, input_size):
        """Features that it gives for `input_size` features."""
        return input_size

    @property
    def size(self):
        """The number of parameters."""
        return sum(p.size for p in self._params.values())

    def parameters(self):
        """The parameters by name, read-only.

        Returns
        -------
        dict of str to ndarray
        """
        return {name: p if not writable(p) else frozen(p, self.dtype) for name, p in self._params.items()}

    def set_parameters(self, parameters, *, allow_nonfinite=False):
        """Replace some or all parameters.

        Parameters
        ----------
        parameters : dict of str to array
            Any subset. Values are copied; all are checked before the first is set.
        allow_nonfinite : bool
            Whether values may be NaN or infinite, or become so in the layer's type.

        Raises
        ------
        KeyError, ValueError, TypeError
            For a name that does not exist, another shape, or values that are not real numbers or not finite.
        RuntimeError
            While a fit is changing them.
        """
        self._replace(self.check_parameters(parameters, allow_nonfinite))

    def check_parameters(self, parameters, allow_nonfinite, prefix=""):
        """Frozen copies of `parameters`, or an error."""
        if self._owner is not None and self._owner.fitting:
            raise RuntimeError("parameters: a fit is changing them; set them before or after it")
        if not isinstance(parameters, dict):
            raise TypeError(f"parameters: got {type(parameters).__name__}, must be a dict of name to array")
        validate.flag("allow_nonfinite", allow_nonfinite)
        checked = {}
        for name, value in parameters.items():
            if name not in self._params:
                raise KeyError(
                    f"parameters: no {prefix + str(name)!r} here; there are {[prefix + n for n in self._params]}"
                )
            array = validate.parameter(prefix + name, value, self._params[name].shape, self.dtype, allow_nonfinite)
            checked[name] = frozen(array, self.dtype)
        return checked

    def _replace(self, frozen_parameters):
        self._params = self._params | frozen_parameters
        self.weights_changed()
        self._version += 1

    def weights_changed(self):
        """Drop what was derived from the parameters; running calls keep what they hold."""
        self._derived = {"params": self._params}  # one object has both, so that no call sees some old and some new

    def now(self):
        """The layer as it is: parameters set later change only the original."""
        same = object.__new__(type(self))
        same.__dict__.update(self.__dict__)
        return same

    def copy(self):
        """An independent layer with the same configuration and parameters."""
        return self.astype(self.dtype)

    def astype(self, dtype):
        """A copy that computes in `dtype`, "float32" or "float64"."""
        dtype = validate.dtype(dtype)
        layer = type(self).from_state(self.config() | {"dtype": dtype.name}, self._params)
        layer.__dict__.update(copy.deepcopy(self._more()))
        return layer

    @classmethod
    def without_parameters(cls, config):
        """A validated layer of a configuration; `fill` must follow."""
        return cls(**config, random_state=_UNFILLED)

    def fill(self, parameters):
        """Take parameters that are known to fit."""
        self._params = {name: frozen(p, self.dtype) for name, p in parameters.items()}
        self.weights_changed()
        return self

    @classmethod
    def array_shapes(cls, config):
        """(name, shape, dtype, what its numbers must be) of every parameter; an error for a wrong configuration."""
        try:
            layer = cls.without_parameters(config)
            validate.keys("its keys", config, layer.config())
        except (TypeError, ValueError) as error:
            raise ValueError(f"the configuration of {cls.__name__} is not valid ({error})") from error
        for p in cls.parameter_table(layer.config()):
            yield p.name, p.shape, layer.dtype.name, storage.PARAMETER

    def state(self):
        """(configuration, parameters): what `from_state` takes."""
        return self.config(), self.parameters()

    @classmethod
    def from_state(cls, config, arrays):
        """A layer from what `state` gave."""
        return cls.without_parameters(config).fill(arrays)

    def __repr__(self):
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in self.config().items())})"


def writable(array):
    """Whether the memory behind an array can still change: during fit it can."""
    base = array if array.base is None else array.base
    return base.flags.writeable


def frozen(value, dtype):
    """A C-contiguous copy that nobody can write to, not even through its base."""
    owner = np.array(value, dtype, order="C", copy=True)
    owner.flags.writeable = False
    return owner.view()
