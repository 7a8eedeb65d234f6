"""`predict`: what a collection is, and who reads it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lstmx.distributed import _models
from lstmx.distributed._common import import_dask

if TYPE_CHECKING:
    from collections.abc import Sequence


def predict(
    model: Any,
    collection: Any,
    *,
    method: str = "predict",
    lengths: Any = None,
    by: str | None = None,
    time: str | None = None,
    columns: Sequence[str] | str | None = None,
    shuffle: bool | None = None,
    horizon: int | None = None,
) -> Any:
    """Predictions for a Dask collection of sequences, lazily, partition by partition.

    The results have the bits that ``model.predict`` gives for all sequences at once, however they are partitioned.
    Nothing is computed before Dask computes the result. The model is taken as it is now: the bytes of its file are in
    the graph once, travel to a worker once, and are loaded there once. Each task runs on one thread, so that a worker
    takes the threads that Dask gave it.

    Parameters
    ----------
    model : Sequential, fitted estimator or Pipeline, predictor, or the path of a saved one
    collection : dask.array.Array, dask.bag.Bag or dask.dataframe.DataFrame
        An array (N, T, I), or whatever array the model takes, in chunks along N; sizes of chunks along N may be
        unknown. A bag of sequences (T_n, I), each of a length of its own. Or a DataFrame with a row for each step.
    method : str
        That of the model to call, with sequences alone: "predict", "predict_proba", "predict_log_proba",
        "decision_function", "score_samples", "score_steps", "predict_steps" or "transform".
    lengths : dask.array.Array or array of int (N,), optional
        Of an array, as ``Sequential.predict`` takes them.
    by : str
        Of a DataFrame: the column, or the name of the index, whose values tell the sequences apart.
    time : str, optional
        Of a DataFrame: the column, or the name of the index, of dates or numbers that order the steps of a sequence; by
        default they are in the order of the rows.
    columns : list of str, or str, optional
        Of a DataFrame: the features; by default all columns but those of `by` and `time`.
    shuffle : bool, optional
        Of a DataFrame: whether to bring the rows of each sequence together, which moves the data as
        ``groupby(by).apply`` does, and needs `time`, as rows lose their order. With False each sequence must lie in one
        partition; where one does not, computing raises. By default rows are shuffled unless `by` is the index and its
        divisions are known.
    horizon : int, optional
        Of a forecaster: how many steps; by default as many as in training.

    Returns
    -------
    dask.array.Array, dask.bag.Bag, dask.dataframe.DataFrame or dask.dataframe.Series
        Of an array an array, in the same chunks along N. Of a bag a bag with the result of each sequence, in order. Of
        a DataFrame a table with a row for each sequence, whose index is the value of `by`; where there is a result for
        each step, with the rows and the index of the DataFrame (of a shuffled one: of its partitions), and its columns
        `by` and `time` beside the results; of a forecaster a row for each step to come, which the column "step" counts
        from 1. Tables of one column are Series. Columns of probabilities are called as the classes, as text.

    Raises
    ------
    ImportError
        Without Dask.
    TypeError, ValueError
        If an argument is not as it must be. What is wrong in a partition raises when it is computed, and names it.

    Examples
    --------
    >>> import dask.array as da, numpy as np, lstmx, lstmx.distributed
    >>> model = lstmx.Sequential([lstmx.LSTM(3, 4), lstmx.Last()], random_state=0)
    >>> x = da.random.default_rng(0).normal(size=(1000, 20, 3), chunks=(100, 20, 3))
    >>> y = lstmx.distributed.predict(model, x)
    >>> y.shape, y.chunksize
    ((1000, 4), (100, 4))
    >>> bool((y.compute(scheduler="synchronous") == model.predict(x.compute())).all())
    True
    """
    dask = import_dask()
    of_frames = {"by": by, "time": time, "columns": columns, "shuffle": shuffle}
    kind = type(collection).__name__ if dask.is_dask_collection(collection) else None
    if kind not in ("Array", "Bag", "DataFrame"):
        raise TypeError(f"collection: got {type(collection).__name__}, must be a Dask array, bag or DataFrame; for "
                        "data in memory call the model itself")  # fmt: skip
    for name, value in of_frames.items():
        if value is not None and kind != "DataFrame":
            raise ValueError(f"{name}: got {value!r}, but only rows of a DataFrame have it, not a Dask {kind}")
    if lengths is not None and kind != "Array":
        raise ValueError(f"lengths: a Dask {kind} holds sequences of their own lengths; leave it out")
    packed = _models.pack(model)
    served = _models.unpack(packed)
    call = _models.read_call(served, method, horizon)
    sent = dask.delayed(packed, name=f"lstmx-model-{packed.digest}", traverse=False)
    if kind == "Array":
        from lstmx.distributed import _arrays

        return _arrays.predict(served, sent, call, collection, lengths)
    if kind == "Bag":
        from lstmx.distributed import _bags

        return _bags.predict(sent, call, collection)
    from lstmx.distributed import _frames

    return _frames.predict(served, sent, call, collection, **of_frames)
