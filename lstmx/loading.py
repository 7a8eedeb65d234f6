"""`lstmx.load`: importing this registers everything that a file can hold."""

import lstmx.model
import lstmx.predictors  # noqa: F401
from lstmx import storage
from lstmx.functional import validate


def load(path, *, allow_nonfinite=False):
    """Read what `save` wrote.

    Parameters
    ----------
    path : str or path-like
    allow_nonfinite : bool
        Whether parameters may be NaN or infinite, to look into a model that diverged, say.

    Returns
    -------
    LSTM, another layer, Sequential, or what an estimator saved
        The latter as a predictor (`lstmx.predictors`), which needs no scikit-learn.

    Raises
    ------
    OSError
        If there is no such file (FileNotFoundError), or something else there, such as a folder.
    ValueError
        If the file is not such a model, or damaged, or holds parameters that are not finite, saying what is wrong.

    Examples
    --------
    >>> import os, tempfile, numpy as np, lstmx
    >>> lstm = lstmx.LSTM(3, 4, random_state=0)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     lstm.save(os.path.join(folder, "lstm.safetensors"))
    ...     again = lstmx.load(os.path.join(folder, "lstm.safetensors"))
    >>> x = np.ones((2, 5, 3))
    >>> bool((lstm(x)[0] == again(x)[0]).all())
    True
    """
    return storage.load(path, validate.flag("allow_nonfinite", allow_nonfinite))
