"""Two small real data sets, shipped with the package, for examples and tests.

Nothing is downloaded. Origin, licence and changes are described in ``lstmx/data/files/SOURCES.md``.
"""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from lstmx._types import Array


__all__ = ["load_co2", "load_japanese_vowels"]


def load_co2() -> tuple[Array, Array]:
    """Weekly carbon dioxide in the air at Mauna Loa, Hawaii, 1958 to 2001.

    Returns
    -------
    dates : ndarray of datetime64[D], shape (2284,)
        Saturdays, 7 days apart without a gap, from 1958-03-29 to 2001-12-29.
    values : ndarray of float64, shape (2284,)
        Mean CO2 concentration of the week that `dates` labels, in parts per million by volume. The 59 weeks
        without a measurement (all before September 1985, at most 18 in a row) are interpolated linearly
        between their measured neighbours.

    Notes
    -----
    Source: Keeling and Whorf, Scripps Institution of Oceanography, in the copy that statsmodels carries;
    public domain. A 52-week season is 1.25 days short of a year.

    The interpolation uses the first measured week after each gap. Remember this when you cut the series at a
    date before September 1985; later values are all measured.

    Examples
    --------
    >>> from lstmx.datasets import load_co2
    >>> dates, values = load_co2()
    >>> print(dates[0], values[0])
    1958-03-29 316.1
    >>> values.shape
    (2284,)
    >>> print(dates[6], round(values[6], 2))    # no measurement: halfway between 316.9 and 317.5
    1958-05-10 317.2
    """
    lines = files("lstmx").joinpath("data/files/co2_weekly.csv").read_text(encoding="ascii").split()[1:]
    columns = np.array([line.split(",") for line in lines])
    dates = columns[:, 0].astype("datetime64[D]")
    measured = columns[:, 1] != ""
    week = np.arange(len(dates))
    values = np.interp(week, week[measured], columns[measured, 1].astype(np.float64))
    return dates, values


def load_japanese_vowels() -> tuple[tuple[list[Array], Array], tuple[list[Array], Array]]:
    """Nine speakers saying two vowels: ragged sequences, one label each.

    Each sequence is one utterance of the Japanese vowels /ae/ by one of nine men; the task is to tell who
    spoke. The split into training and test set is the one of the original publication.

    Returns
    -------
    train : tuple of (list of 270 ndarrays, ndarray of int64 of shape (270,))
        The sequences, each float32 of shape (T_n, 12) with T_n from 7 to 26, and their labels 0 to 8;
        30 sequences of each speaker, ordered by speaker: shuffle them before you split them.
    test : tuple of (list of 370 ndarrays, ndarray of int64 of shape (370,))
        The same, with T_n from 7 to 29 and 24 to 88 sequences of each speaker.

    Notes
    -----
    A row is one frame of 25.6 ms; frames start 6.4 ms apart. Its 12 columns are LPC cepstrum coefficients,
    which have no unit and lie between -1.9 and 2.3. They are not standardised.

    Source: Kudo, Toyama and Shimbo (1999), Japanese Vowels, UCI Machine Learning Repository,
    https://doi.org/10.24432/C5NS47, CC BY 4.0.

    Examples
    --------
    >>> from lstmx.datasets import load_japanese_vowels
    >>> (train, labels), (test, test_labels) = load_japanese_vowels()
    >>> len(train), len(test)
    (270, 370)
    >>> [x.shape for x in train[:3]]
    [(20, 12), (26, 12), (22, 12)]
    >>> print(labels[0], labels[-1])
    0 8
    """
    path = files("lstmx").joinpath("data/files/japanese_vowels.npz")
    with path.open("rb") as stream, np.load(stream, allow_pickle=False) as data:
        train, test = (
            (np.split(data[part + "_x"], np.cumsum(data[part + "_lengths"])[:-1]), data[part + "_y"])
            for part in ("train", "test")
        )
    return train, test
