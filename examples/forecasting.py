"""
A year of carbon dioxide ahead, with intervals
==============================================

Weekly means at Mauna Loa, the last six years unseen. The network forecasts the changes from week to week, 52 of them at
once. Every week of the test years it is told what was measured since, and forecasts anew.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import lstmx

output = Path("lstmx-examples")
output.mkdir(exist_ok=True)

dates, co2 = lstmx.datasets.load_co2()
YEAR, begin = 52, len(co2) - 6 * 52

# %%
# The last tenth of the training weeks is held out: it ends training, and its errors make the intervals.

forecaster = lstmx.LSTMForecaster(
    window=60, horizon=YEAR, differences=(1,), hidden_size=64, batch_size=64, random_state=0
)
forecaster.fit(co2[:begin])

# %%
# Now week after week: forecast, compare, hear what was measured.

errors, naive_errors, inside, yearly = [], [], [], []
for now in range(begin, len(co2) - YEAR + 1):
    found = forecaster.predict()
    lower, upper = forecaster.predict_interval(coverage=0.9)
    true = co2[now : now + YEAR]
    growth = (co2[now - 1] - co2[now - 1 - 10 * YEAR]) / 10  # ppm a year
    errors.append(found - true)
    naive_errors.append(co2[now - YEAR : now] + growth - true)
    inside.append((lower <= true) & (true <= upper))
    if (now - begin) % YEAR == 0:
        yearly.append((dates[now : now + YEAR], found, lower, upper))
    forecaster.update(co2[now : now + 1])

# %%
# How far off the forecasts are, beside a naive one: last year's weeks, and the growth of ten years.

rmse = [np.sqrt(np.mean(np.square(e), axis=0)) for e in (errors, naive_errors)]
overall = [float(np.sqrt(np.mean(np.square(e)))) for e in (errors, naive_errors)]
print(f"root mean square error over a year: LSTM {overall[0]:.3f} ppm, seasonal naive with drift {overall[1]:.3f} ppm")
print(f"inside the 90 % interval: {np.mean(inside):.1%}")

# %%
# Forecasts made once a year, the error of all of them by weeks ahead, and ways in which the next year could go:

figure, (top, bottom) = plt.subplots(2, 1, figsize=(11, 9), layout="constrained")
top.plot(dates[begin - 2 * YEAR :], co2[begin - 2 * YEAR :], color="0.2", label="measured")
for k, (ahead, found, lower, upper) in enumerate(yearly):
    top.plot(ahead, found, color="tab:red", label=None if k else "forecast")
    top.fill_between(ahead, lower, upper, color="tab:red", alpha=0.2, label=None if k else "9 of 10 should lie here")
top.set(ylabel="CO2, ppm", title="Forecasts made once a year")
top.legend(loc="upper left")
for error, name, colour in zip(rmse, ("LSTM", "seasonal naive with drift"), ("tab:red", "tab:blue"), strict=True):
    bottom.plot(np.arange(1, YEAR + 1), error, color=colour, label=name)
bottom.set(
    xlabel="weeks ahead",
    ylabel="RMSE, ppm",
    ylim=(0, None),
    xticks=range(0, 53, 4),
    title=f"Error of {len(errors)} forecasts",
)
bottom.legend(loc="lower left")
paths = forecaster.sample(n_paths=30, random_state=0)
inset = bottom.inset_axes([0.62, 0.08, 0.36, 0.42])
inset.plot(np.arange(1, YEAR + 1), paths.T, color="tab:red", alpha=0.2, linewidth=0.7)
inset.set_title("30 sample paths of the year to come, ppm", fontsize=9)
figure.savefig(output / "forecasting.png", dpi=110)
print(f"the picture is {output / 'forecasting.png'}")
