"""What `predict` and `fit_many` have in common: Dask, names of columns, and times."""

from __future__ import annotations

from typing import Any


def import_dask() -> Any:
    """The module.

    Raises
    ------
    ImportError
        If it is not installed, saying what to install.
    """
    try:
        import dask
        import dask.system
    except ImportError as error:
        raise ImportError("lstmx.distributed needs Dask: pip install 'lstmx-cpu[dask]' brings it") from error
    return dask


def as_list(names: Any) -> list[Any]:
    """Columns as users name them: none, one, or a list of them."""
    return [] if names is None else list(names) if isinstance(names, list | tuple) else [names]


def check_times(times: Any, label: Any) -> None:
    """An error for times, a pandas.Index, whose order is not that of time."""
    kind = times.inferred_type
    if kind in ("string", "categorical"):
        raise TypeError(f"time: {label!r} holds {kind}s, whose order may not be that of time, must be dates or "
                        "numbers; convert it, such as by pandas.to_datetime")  # fmt: skip
