"""Many small models, one for each series, with Dask: `fit_many`."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Sized
from itertools import chain, islice
from numbers import Integral
from typing import TYPE_CHECKING, Any

import numpy as np

from lstmx.distributed._common import as_list, check_times, import_dask
from lstmx.functional import validate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import pandas

    from lstmx._types import PathLike
    from lstmx.distributed._one import Plan


_BUNDLE = 8, 2**22  # series and bytes at most that travel to a worker at once
_SHARE = 32  # tasks that each thread has at least, if there are series enough
_AHEAD = 64  # tasks that a cluster is given beyond four for each thread: what waits is held by its scheduler
_KINDS = ("LSTMForecaster", "LSTMClassifier", "LSTMRegressor", "LSTMAnomalyDetector", "LSTMTransformer")
_COLUMNS = ("epochs", "seconds", "random_state", "file", "model", "warnings", "error")


def fit_many(
    estimator: Any,
    frame: Any,
    by: Any = None,
    *,
    target: Any = None,
    columns: Any = None,
    time: Any = None,
    freq: Any = None,
    sequence: Any = None,
    holdout: int | None = None,
    score: Callable[[Any, Any], float] | dict[str, Callable[[Any, Any], float]] | None = None,
    season: int | None = None,
    folder: PathLike | None = None,
    resume: bool = False,
) -> pandas.DataFrame:
    """Fit one model to each of many series, with Dask, and give a table of what came of it.

    It runs at once, on the cluster of the current ``dask.distributed.Client`` or else with Dask's own scheduler, one
    thread for each fit. A series has the same bits alone and among others, in any order and on any number of workers:
    its random_state is made of that of the estimator and its key, and stands in the table. A series that fails is
    reported in the table, and the others go on. If a worker dies, Dask fits its series again, to the same bits.

    Parameters
    ----------
    estimator : LSTMForecaster, LSTMClassifier, LSTMRegressor, LSTMAnomalyDetector or LSTMTransformer
        It is copied, not changed. Without a random_state each call draws one.
    frame : DataFrame of pandas, polars or Dask; or dict, or iterable of (key, data)
        A long table of all series. Rows of a series may lie anywhere in it, also in several partitions of Dask's; they
        keep their order. Or pairs, of which data is a DataFrame or a series, or a function without arguments that gives
        such: a worker calls it, and so reads a file, say.
    by : column, or list of columns
        The key of a series. Of pairs there is none.
    target : column, or list of columns, optional
        What to forecast, by default the only column left. For LSTMClassifier and LSTMRegressor what is to be learnt,
        one at each row with ``target="step"`` of theirs, else one that is the same in all rows of a sequence.
    columns : column, or list of columns, optional
        Features, by default all columns that are nothing else. Of a forecaster they are exogenous variables, by default
        none.
    time : column, optional
        Dates or numbers by which rows are sorted. Files of forecasters then forecast with dates.
    freq : str or pandas offset, optional
        The step of dates, such as "h": rows that are missing are put in, with NaN, for ``missing="impute"`` of the
        estimator.
    sequence : column, optional
        A series is made of sequences, each the rows that have the same value here, in the order of these values.
        Without, it is one sequence.
    holdout : int, optional
        The last steps of a series (sequences, where `sequence` is given) that are not fitted, but scored. The model of
        a forecaster gets to know them without training (`LSTMForecaster.update`): it forecasts what follows the data.
    score : callable ``(true, predicted) -> float``, or dict of such by name, optional
        What the table says of the part held out, such as a function of `sklearn.metrics`; of a forecast of those steps
        that are not NaN. By default the mean absolute error of a forecaster, else what the ``score`` of the estimator
        gives.
    season : int, optional
        Of a forecaster: the table also says, as "score_naive", what a forecast scores that costs nothing, the values of
        so many steps before.
    folder : path, optional
        Where the files of the models are written, each atomically; it is made if it is not there. All workers must
        reach it. Names of files begin with the key as far as a name can hold it, and no two keys share one. Without a
        folder the table holds the fitted estimators themselves.
    resume : bool
        Whether to go on where a call with the same folder ended early: a series is not fitted again if its file is
        there and was made of the same data with the same parameters (functions are compared by their names). It needs
        an integer as random_state.

    Returns
    -------
    pandas.DataFrame
        A row for each series, by its key, in their order in `frame` (sorted, if that is of Dask): the scores, NaN where
        there is none; "epochs"; "seconds", of the whole work on it, NaN where the file was there already;
        "random_state"; "file", or "model"; "warnings" of the fit, "" if there are none; "error", None if there is none.

    Raises
    ------
    ImportError
        If Dask is not installed.
    TypeError, ValueError
        If arguments are wrong for all series.
    KeyboardInterrupt
        Files that were written stay, each whole; ``resume=True`` goes on.

    Examples
    --------
    >>> import dask, numpy as np, pandas as pd
    >>> from lstmx import LSTMForecaster
    >>> from lstmx.distributed import fit_many
    >>> hours = np.arange(120)
    >>> meters = pd.concat([pd.DataFrame({"meter": name, "kwh": size * (2 + np.sin(hours / 4))})
    ...                     for name, size in {"north": 1, "south": 5, "west": np.nan}.items()])
    >>> forecaster = LSTMForecaster(24, 6, differences=(), hidden_size=4, max_iter=9, tol=0.1, random_state=0)
    >>> with dask.config.set(scheduler="synchronous"):
    ...     table = fit_many(forecaster, meters, by="meter", holdout=6, season=25)
    >>> print(table.error["west"][:39])
    ValueError: y: contains NaN or infinity
    >>> table.score.notna().tolist(), table.model["north"].predict().shape
    ([True, True, False], (6,))
    """
    dask = import_dask()
    plan = _plan(estimator, by, target, columns, time, freq, sequence, holdout, score, season, folder, resume)
    client = _client(dask)
    threads = dask.system.CPU_COUNT if client is None else max(1, sum(client.nthreads().values()))
    if type(frame).__module__.partition(".")[0] == "dask":
        return _sorted(_table(_of_partitions(dask, threads, frame, plan), plan))
    return _table(_of_pairs(dask, client, threads, frame, plan), plan)


def _client(dask: Any) -> Any:
    """The client of a cluster on which Dask computes here and now; None if it is this process that does."""
    owner = getattr(dask.base.get_scheduler(), "__self__", None)
    return owner if hasattr(owner, "nthreads") else None


# Arguments.


def _plan(
    estimator: Any, by: Any, target: Any, columns: Any, time: Any, freq: Any, sequence: Any, holdout: Any, score: Any,
    season: Any, folder: Any, resume: Any,
) -> Plan:  # fmt: skip
    """All that does not depend on the columns of the frame, checked."""
    from lstmx import estimators
    from lstmx.distributed._one import Plan, parameters_of

    kinds: Any = tuple(getattr(estimators, name) for name in _KINDS)
    if not isinstance(estimator, kinds):
        raise TypeError(f"estimator: got {type(estimator).__name__}, must be one of {', '.join(_KINDS)}")
    kind = type(estimator).__name__
    if estimator.checkpoint is not None:
        raise ValueError("checkpoint: all series would write to the same; set it to None, as resume=True of fit_many "
                         "goes on with the series that are left")  # fmt: skip
    own = estimator.__sklearn_clone__().set_params(random_state=_random_state(estimator.random_state))
    if validate.flag("resume", resume) and not (folder is not None and isinstance(estimator.random_state, Integral)):
        raise ValueError("resume: needs the folder of the files, and an estimator with an integer as random_state, "
                         "as otherwise no series is the same again; give both, or set resume=False")  # fmt: skip
    if folder is not None:
        parameters_of(own)  # an error for what no file holds, before anything is fitted
        if not isinstance(folder, str | os.PathLike) or not os.fspath(folder):
            raise TypeError(f"folder: got {folder!r}, must be the path of a folder, such as 'models'")
        folder = os.path.abspath(folder)
    if freq is not None:
        _check_freq(freq)
    forecasts = isinstance(estimator, estimators.LSTMForecaster)
    supervised = isinstance(estimator, estimators.LSTMClassifier | estimators.LSTMRegressor)
    plan = Plan(
        own, as_list(by), as_list(target), as_list(columns), not isinstance(target, list | tuple), time, freq, sequence,
        None if holdout is None else validate.count("holdout", holdout),
        None if season is None else validate.count("season", season),
        _scores(score) if holdout is not None else {}, folder, resume,
    )  # fmt: skip
    if forecasts and sequence is not None:
        raise ValueError(f"sequence: {kind} forecasts series as a whole; leave it out, or make it a part of by")
    if not forecasts and not supervised and (target is not None or holdout is not None):
        raise ValueError(f"{'holdout' if target is None else 'target'}: {kind} learns from features alone; leave it "
                         "out")  # fmt: skip
    if supervised and target is None:
        raise ValueError(f"target: {kind} needs the column that it shall learn to predict")
    if supervised and sequence is None and estimator.target != "step":
        raise ValueError(f"sequence: {kind} learns a label for each of many sequences; name the column that tells them "
                         'apart, or set target="step" of the estimator, for a label at each step')  # fmt: skip
    if holdout is None and (score is not None or season is not None):
        raise ValueError(f"{'season' if score is None else 'score'}: needs steps held out; give holdout")
    if season is not None and not forecasts:
        raise ValueError(f"season: is for forecasts, which {kind} does not make; leave it out")
    return plan


def _check_freq(freq: Any) -> None:
    from pandas.tseries.frequencies import to_offset

    try:
        to_offset(freq)
    except (ValueError, TypeError) as error:
        raise ValueError(f"freq: got {freq!r}, must be an offset of pandas, such as 'h' or 'D'") from error


def _random_state(given: Any) -> int:
    """One number from what an estimator was given."""
    if isinstance(given, Integral):
        return int(given)
    if given is None:
        return int(np.random.SeedSequence().generate_state(1)[0])
    if isinstance(given, np.random.RandomState):
        return int(given.randint(np.iinfo(np.int32).max))
    raise TypeError(f"random_state: got {given!r}, must be None, an integer or a numpy RandomState")


def _scores(score: Any) -> dict[str, Any]:
    scores = score if isinstance(score, dict) else {"score": score}
    for name, function in scores.items():
        if not callable(function) and (function is not None or isinstance(score, dict)):
            raise TypeError(f"score: got {function!r}, must be a function (true, predicted), such as "
                            "sklearn.metrics.mean_absolute_error, or a dict of such by name")  # fmt: skip
        if not isinstance(name, str) or name in ("key", *_COLUMNS) or name.endswith("_naive"):
            raise ValueError(f"score: cannot be named {name!r}, must be a str that does not end with _naive and is "
                             f"none of key, {', '.join(_COLUMNS)}")  # fmt: skip
    return scores


# What is computed.


def _of_partitions(dask: Any, threads: int, frame: Any, plan: Plan) -> list[dict[str, Any]]:
    """Rows of the table, in any order, of a Dask DataFrame: its rows are brought together by their keys."""
    from lstmx.distributed._one import fit_partition

    if not hasattr(frame, "shuffle") or not hasattr(frame, "columns"):
        raise TypeError(f"frame: got {type(frame).__name__} of Dask, must be a DataFrame; of others make one, or pairs "
                        "(key, function)")  # fmt: skip
    frame, plan = _prepared(frame, plan)
    if plan.time is None:
        frame = frame.map_partitions(_numbered)
    frame = frame.shuffle(on=plan.by, npartitions=max(frame.npartitions, 4 * threads))
    work, own = dask.delayed(fit_partition, pure=False), _sent(plan)
    return list(chain.from_iterable(dask.compute(*(work(own, part) for part in frame.to_delayed()))))


def _numbered(part: Any, partition_info: Any = None) -> Any:
    """A partition with a column that says where its rows stand in the whole."""
    from lstmx.distributed._one import ROW

    first = 0 if partition_info is None else partition_info["number"] << 40
    return part.assign(**{ROW: first + np.arange(len(part), dtype=np.int64)})


def _prepared(frame: Any, plan: Plan) -> tuple[Any, Plan]:
    """A frame of pandas or Dask with the columns that are needed alone, and the plan that knows them."""
    import pandas

    if not plan.by:
        raise ValueError("by: must name the column that tells the series apart")
    index, names = getattr(frame.index, "names", None) or [frame.index.name], list(frame.columns)
    if any(name in names for name in index):  # it says what a column says, as after set_index(.., drop=False)
        frame = frame.reset_index(drop=True)
    elif any(name in index for name in plan.named):
        frame = frame.reset_index()
    names = list(frame.columns)
    for name in plan.by:
        if name not in names:
            raise ValueError(f"by: there is no column {name!r} in {names}")
    plan = plan.for_columns(names)
    needed = [*plan.named, *plan.target, *plan.columns]
    twice = next((name for n, name in enumerate(needed) if name in needed[:n]), None)
    if any(names.count(name) > 1 for name in needed):
        raise ValueError(f"frame: has several columns of the same name among {names}; rename them")
    if twice is not None:
        raise ValueError(f"columns: {twice!r} is named twice among by, time, sequence, target and columns")
    if plan.time is not None:
        check_times(pandas.Index([], dtype=frame.dtypes[plan.time]), plan.time)
    return frame[needed], plan


def _of_pairs(dask: Any, client: Any, threads: int, frame: Any, plan: Plan) -> list[dict[str, Any]]:
    """Rows of the table, in the order of (key, data), or of the groups of a frame."""
    from lstmx.distributed._one import fit_pairs, groups

    pairs = _pairs(frame)
    if pairs is None:
        frame, plan = _prepared(frame.to_pandas() if hasattr(frame, "to_pandas") else frame, plan)
        pairs, count = groups(frame, plan), len(frame[plan.by].drop_duplicates())
    elif plan.by:
        raise ValueError("by: pairs bring their keys along; leave it out")
    else:
        count = len(pairs) if isinstance(pairs, Sized) else 0
    size = max(1, min(_BUNDLE[0], count // (_SHARE * threads)))
    bundles, work, own = _bundles(pairs, size), dask.delayed(fit_pairs, pure=False), _sent(plan)
    if client is not None:
        return _gathered(client, threads, ((keys, work(own, data)) for keys, data in bundles))
    found: list[dict[str, Any]] = []
    while wave := list(islice(bundles, _SHARE * threads)):
        found += chain.from_iterable(dask.compute(*(work(own, data) for _, data in wave)))
    return found


def _pairs(frame: Any) -> Iterable[tuple[Any, Any]] | None:
    """(key, data), or None if it is a frame."""
    if hasattr(frame, "collect_schema") and hasattr(frame, "collect"):
        raise TypeError("frame: got a LazyFrame of polars; give frame.collect()")
    if hasattr(frame, "columns"):
        return None
    if isinstance(frame, dict):
        return frame.items()
    if hasattr(frame, "__iter__") and not hasattr(frame, "dtype"):
        return frame
    raise TypeError(f"frame: got {type(frame).__name__}, must be a DataFrame of pandas, polars or Dask, or pairs (key, "
                    "data)")  # fmt: skip


def _bundles(pairs: Iterable[tuple[Any, Any]], size: int) -> Iterator[tuple[list[Any], list[bytes]]]:
    """(keys, pickled pairs) that make one task."""
    from lstmx.distributed._one import text_of

    seen: set[str] = set()
    keys: list[Any] = []
    data: list[bytes] = []
    for pair in pairs:
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise TypeError(f"frame: got {type(pair).__name__} among pairs, must be (key, data)")
        text = text_of(pair[0])
        if text in seen:
            raise ValueError(f"frame: the key {pair[0]!r} comes twice; put the rows of a series together")
        seen.add(text)
        keys.append(pair[0])
        data.append(_pickled(tuple(pair)))
        if len(keys) >= size or sum(map(len, data)) > _BUNDLE[1]:
            yield keys, data
            keys, data = [], []
    if keys:
        yield keys, data


def _sent(plan: Plan) -> bytes:
    """What every task is given; from now on there is the folder."""
    if plan.folder is not None:
        try:
            os.makedirs(plan.folder, exist_ok=True)
            with tempfile.TemporaryFile(dir=plan.folder):  # better now than after the first fit
                pass
        except OSError as error:
            raise OSError(error.errno, f"folder: no files can be written there ({error.strerror})",
                          plan.folder) from error  # fmt: skip
    return _pickled(plan)


def _pickled(value: Any) -> bytes:
    """A value with its functions, of a script or a notebook too."""
    import cloudpickle

    return cloudpickle.dumps(value)


def _gathered(client: Any, threads: int, calls: Iterator[tuple[list[Any], Any]]) -> list[dict[str, Any]]:
    """Rows of the table from a cluster that has some tasks ahead, not all of them, in the order of the calls."""
    from distributed import KilledWorker, as_completed

    waiting = as_completed()
    running: dict[Any, tuple[int, list[Any]]] = {}
    found: dict[int, list[dict[str, Any]]] = {}

    def begin(count: int) -> None:
        for keys, call in islice(calls, count):
            future = client.compute(call)
            running[future] = len(running) + len(found), keys
            waiting.add(future)

    try:
        begin(_AHEAD + 4 * threads)
        with _apart():
            for future in waiting:
                place, keys = running.pop(future)
                error = future.exception() if future.status == "error" else None
                if isinstance(error, KilledWorker):
                    found[place] = [{"key": key, "error": f"KilledWorker: {error}"} for key in keys]
                else:
                    found[place] = future.result()
                begin(1)
    except BaseException:
        client.cancel(list(running))
        raise
    return list(chain.from_iterable(found[place] for place in sorted(found)))


@contextlib.contextmanager
def _apart() -> Iterator[None]:
    """Within it a task of Dask's, which waits for others, leaves its place in its worker to them."""
    from distributed import rejoin, secede

    try:
        secede()
        left = True
    except (ValueError, KeyError):  # this is no task, or one that has left its place already
        left = False
    try:
        yield
    finally:
        if left:
            rejoin()


def _sorted(table: pandas.DataFrame) -> pandas.DataFrame:
    """A table by its keys; by their texts, where they are of kinds that do not compare."""
    from lstmx.distributed._one import text_of

    try:
        return table.sort_index()
    except TypeError:
        texts = [text_of(key) for key in table.index]
        return table.iloc[sorted(range(len(table)), key=texts.__getitem__)]


def _table(rows: list[dict[str, Any]], plan: Plan) -> pandas.DataFrame:
    import pandas

    from lstmx.distributed._one import seed_of

    keys, names = [row["key"] for row in rows], plan.by or ["key"]
    if len(names) > 1:
        index = pandas.MultiIndex.from_tuples(keys, names=names)
    else:
        index = pandas.Index(keys, name=names[0], tupleize_cols=False)

    def column(name: str, kind: Any, otherwise: Any = None) -> Any:
        return pandas.Series([row.get(name, otherwise) for row in rows], index, dtype=kind)

    found = {name: column(name, float, np.nan) for name in plan.table()}
    found |= {"epochs": column("epochs", "Int64"), "seconds": column("seconds", float, np.nan)}
    seeds = [seed_of(plan.estimator.random_state, key) for key in keys]
    found["random_state"] = pandas.Series(seeds, index, dtype=np.int64)
    where = "model" if plan.folder is None else "file"
    found[where] = column(where, object)
    found |= {"warnings": column("warnings", object, ""), "error": column("error", object)}
    return pandas.DataFrame(found, index)
