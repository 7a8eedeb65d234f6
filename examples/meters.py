"""
A year of many meters, forecast with Dask
=========================================

Homes, offices and shops have a meter each, and each meter gets a model of its own, fitted by the workers of a Dask
cluster. Here these are two processes of this machine; on a cluster nothing changes but the address that ``Client`` is
given. Some meters have gaps, and some cannot be forecast at all: the table says so.
"""

import tempfile
import textwrap
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from distributed import Client, LocalCluster

import lstmx
from lstmx.distributed import fit_many

WEEK, AHEAD = 7 * 24, 48
HOLIDAYS = pd.to_datetime([
    "2026-04-03", "2026-04-06", "2026-05-01", "2026-05-14", "2026-05-25", "2026-10-03", "2026-12-24", "2026-12-25",
    "2026-12-26", "2026-12-31", "2027-01-01", "2027-03-26", "2027-03-29",
])  # fmt: skip
COLOURS = {"home": "tab:orange", "office": "tab:blue", "shop": "tab:green"}

# %%
# A year of hours, and the two days after it, in kWh. The weather is the same for all; the rest each meter has for
# itself. Known beforehand is the calendar: the hour of the day as two waves, working days, Saturdays.

hours = pd.date_range("2026-04-01", periods=365 * 24 + AHEAD, freq="h")
holiday = hours.normalize().isin(HOLIDAYS)
working, saturday = (hours.day_of_week < 5) & ~holiday, (hours.day_of_week == 5) & ~holiday
waves = {f"{wave.__name__}{k}": wave(2 * np.pi * k * hours.hour / 24) for k in (1, 2) for wave in (np.sin, np.cos)}
calendar = pd.DataFrame(waves | {"working": working, "saturday": saturday}, index=hours, dtype=float)


def bump(middle, width):
    """How near an hour of the day is to another."""
    away = (hours.hour - middle + 12) % 24 - 12
    return np.exp(-((away / width) ** 2))


def wandering(rng, memory, size):
    """Noise that goes on for some hours."""
    steps = rng.normal(size=len(hours)) * np.sqrt(1 - memory**2) * size
    return pd.Series(steps).ewm(alpha=1 - memory, adjust=False).mean().to_numpy() / (1 - memory)


cold = 0.5 + 0.5 * np.cos(2 * np.pi * (hours.day_of_year - 20) / 365) + wandering(np.random.default_rng(99), 0.98, 0.2)


def consumption(kind, seed):
    """One meter, (hours,)."""
    rng = np.random.default_rng(seed)
    if kind == "home":
        morning, evening, late = bump(7, 1.5), bump(19 + rng.normal(), 2.5), bump(13, 4)
        shape = 0.3 + np.where(working, morning, 0.7 * late) + 1.5 * evening + 0.8 * np.maximum(cold, 0)
    elif kind == "office":
        shape = 0.4 + np.where(working, 2.5 * bump(12.5 + rng.normal() / 2, 5) ** 0.7, 0) + 0.3 * np.maximum(cold, 0)
    else:
        shape = (
            0.8
            + np.where((working | saturday) & (hours.hour >= 8) & (hours.hour < 20), 1.4, 0)
            + 0.4 * np.maximum(1 - cold, 0)
        )
    size = np.exp(rng.normal({"home": -0.5, "office": 2.5, "shop": 1.5}[kind], 0.5))
    return size * shape * np.exp(wandering(rng, 0.9, 0.12)) * rng.gamma(40, 1 / 40, len(hours))


def everything():
    """(a long table of the year, what comes after it by meter)."""
    kinds = ["home"] * 20 + ["office"] * 8 + ["shop"] * 8
    meters = {f"{kind} {n:02}": consumption(kind, n) for n, kind in enumerate(kinds)}
    future = {name: kwh[-AHEAD:] for name, kwh in meters.items()}
    year = {name: calendar[:-AHEAD].assign(kwh=kwh[:-AHEAD]) for name, kwh in meters.items()}
    year["home 03"].loc["2026-08-10":"2026-08-16", "kwh"] = np.nan  # no value was sent: imputed
    year["shop 30"] = year["shop 30"].drop(hours[5000:5100])  # nor was the row: put in, then imputed
    year["home 07"] = year["home 07"][-5 * 24 :]  # was installed last week
    year["office 24"].loc["2027-02-01 10:00", "kwh"] = np.inf
    year["shop 33"].index += pd.to_timedelta(np.where(np.arange(365 * 24) > 8000, 7, 0), unit="min")  # its clock runs
    table = pd.concat(year, names=["meter", "hour"]).reset_index()
    return table.sort_values("hour", kind="stable", ignore_index=True), future


# %%
# All models, in one call. The last two days of each meter are held out and scored, beside what was there a week before;
# then each model gets to know them, so that it forecasts what follows the data. Workers that are processes import this
# file, hence the ``if``.

forecaster = lstmx.LSTMForecaster(
    window=24, horizon=AHEAD, strategy="recursive", differences=(), missing="impute", hidden_size=16, batch_size=128,
    learning_rate_init=0.01, max_iter=8, tol=1e-3, n_iter_no_change=2, random_state=0,
)  # fmt: skip

if __name__ == "__main__":
    folder = tempfile.TemporaryDirectory()
    year, future = everything()
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster, Client(cluster):
        table = fit_many(
            forecaster, year, by="meter", target="kwh", columns=list(calendar), time="hour", freq="h",
            holdout=AHEAD, season=WEEK, folder=folder.name,
        )  # fmt: skip
    print(table[["score", "score_naive", "epochs", "seconds"]].describe().round(3))
    print(table.error.dropna().to_string())

# %%
# Three of the forecasts, with what then came; all scores; and what failed. The Friday a week before was Good Friday, so
# that last week's values mislead; the networks know the calendar.

if __name__ == "__main__":
    figure = plt.figure(figsize=(13, 8), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1.5, 1))
    for ax, name in zip(left.subplots(3, 1, sharex=True), ("home 11", "office 22", "shop 31"), strict=True):
        model, colour = lstmx.LSTMForecaster.load(table.file[name]), COLOURS[name.split()[0]]
        coming = calendar[-AHEAD:]
        forecast = model.predict(X=coming)
        lower, upper = model.predict_interval(X=coming, coverage=0.9)
        past = year[year.meter == name].set_index("hour").kwh[-5 * 24 :]
        ax.plot(past, color="0.45", linewidth=1, label="measured")
        ax.plot(coming.index, future[name], color="0.1", linewidth=1.4, label="what then came")
        before = year[year.meter == name].kwh[-WEEK:][:AHEAD]
        ax.plot(coming.index, before, color="0.5", linestyle=":", label="a week before")
        ax.plot(forecast, color=colour, linewidth=2, label="forecast")
        ax.fill_between(coming.index, lower, upper, color=colour, alpha=0.2, linewidth=0, label="9 of 10 lie here")
        ax.axvline(coming.index[0], color="0.7", linewidth=0.8)
        ax.set(title=name, ylabel="kWh", ylim=(0, None), xlim=(past.index[0], coming.index[-1]))
    ax.xaxis.set_major_formatter(plt.matplotlib.dates.DateFormatter("%a %d %b"))
    left.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False)

    top, bottom = right.subplots(2, 1, height_ratios=(3, 1))
    good = table[table.error.isna()]
    for kind, colour in COLOURS.items():
        own = good[good.index.str.startswith(kind)]
        top.scatter(own.score_naive, own.score, color=colour, alpha=0.8, label=f"{kind}s")
    both = good[["score", "score_naive"]].to_numpy()
    ends = np.array([both.min() / 1.3, both.max() * 1.3])
    top.plot(ends, ends, color="0.6", linewidth=0.8)
    top.fill_between(ends, ends, ends[1], color="0.6", alpha=0.12, linewidth=0)
    top.text(ends[0] * 1.15, ends[1] / 1.15, "last week's values are better", color="0.4", va="top")
    middle = (good.score / good.score_naive).median()
    top.set(xscale="log", yscale="log", xlim=ends, ylim=ends, xlabel="mean error of last week's values, kWh")
    top.set(
        ylabel="mean error of the network, kWh",
        title=f"{len(good)} meters, half of them below {middle:.0%} of last week's error",
    )
    top.legend(loc="lower right")
    bottom.axis("off")
    reasons = table.error.dropna().str.extract(r"\w+: ([^;,]+)", expand=False)
    lines = [textwrap.shorten(f"{name}: {reason}", 60, placeholder=" ...") for name, reason in reasons.items()]
    bottom.text(0, 1, "\n".join(["Not forecast:", *lines]), va="top", fontsize=9, transform=bottom.transAxes)

    output = Path("lstmx-examples")
    output.mkdir(exist_ok=True)
    figure.savefig(output / "meters.png", dpi=110)
    folder.cleanup()
    print(f"the picture is {output / 'meters.png'}")
