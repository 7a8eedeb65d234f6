"""Displays and the drawn cell: what is drawn is what was traced, and it can be read at every size.

matplotlib draws into a file's buffer here.
"""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.exceptions import NotFittedError
from tolerances import PRECISION

import lstmx
from lstmx import LSTM, Cell
from lstmx.inspect import (
    Attribution,
    AttributionDisplay,
    GateDisplay,
    GradientFlowDisplay,
    HalfLifeDisplay,
    MemoryDisplay,
    WeightsDisplay,
    cell_diagram,
    gradient_flow,
)
from lstmx.plots import draw_heat, usual_limit

plt = pytest.importorskip("matplotlib.pyplot")


@pytest.fixture(autouse=True)
def _no_window():
    plt.switch_backend("agg")
    yield
    plt.close("all")


def data(T=30, features=2, seed=0):
    return np.random.default_rng(seed).normal(size=(T, features))


def network(units=6, features=2, **options):
    return LSTM(features, units, random_state=0, **options)


def words(figure):
    """(text, box) of all that is written in a figure and in sight."""
    figure.canvas.draw()
    for ax in figure.axes:
        texts = [*ax.texts, ax.title]
        if ax.axison:
            for axis in (ax.xaxis, ax.yaxis):
                low, high = sorted(axis.get_view_interval())
                ticks = [tick for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
                texts += [axis.label, *(label for tick in ticks for label in (tick.label1, tick.label2))]
        if ax.get_legend() is not None:
            texts += ax.get_legend().get_texts()
        for text in texts:
            if text.get_visible() and text.get_text().strip():
                yield text.get_text(), text.get_window_extent()


def check_readable(figure):
    """Nothing that is written overlaps anything else written, or lies outside the figure."""
    found = list(words(figure))
    width, height = figure.canvas.get_width_height()
    for text, box in found:
        assert box.x0 >= -1 and box.y0 >= -1 and box.x1 <= width + 1 and box.y1 <= height + 1, text
    for (one, a), (other, b) in itertools.combinations(found, 2):
        apart = a.x1 <= b.x0 + 1 or b.x1 <= a.x0 + 1 or a.y1 <= b.y0 + 1.5 or b.y1 <= a.y0 + 1.5
        assert apart, (one, other)


def check_display(display):
    assert display.figure_ is display.ax_.figure
    check_readable(display.figure_)


# Readable at every size.

SIZES = [(1, 1, 1), (30, 6, 2), (1000, 512, 40)]


@pytest.mark.parametrize(("T", "units", "features"), SIZES)
def test_what_is_drawn_of_a_trace_is_readable(T, units, features):
    x = data(T, features)
    trace = network(units, features).trace(x)
    check_display(GateDisplay.from_trace(trace, x=x))
    check_display(GateDisplay.from_trace(trace, quantities="f"))
    check_display(MemoryDisplay.from_trace(trace))
    check_readable(cell_diagram(trace, step=T - 1, x=x).figure)


@pytest.mark.parametrize(("T", "units", "features"), SIZES)
def test_what_is_drawn_of_a_model_is_readable(T, units, features):
    check_display(WeightsDisplay.from_model(network(units, features)))
    check_display(AttributionDisplay(data(T, features)).plot())
    halves = np.exp(data(units, 1)[:, 0] + 3)
    halves[0] = np.inf
    check_display(HalfLifeDisplay(halves, steps=T).plot())


@pytest.mark.parametrize("by", ["step", "lag"])
def test_a_long_gradient_flow_of_many_layers_is_readable(by):
    fall = np.exp(-np.arange(1000)[::-1] / 40)
    norms = {(index, layer, d): fall / (1 + layer) for index in (0, 2) for layer in range(2) for d in range(2)}
    check_display(GradientFlowDisplay({"h": norms, "c": norms}, by).plot())


@pytest.mark.parametrize("size", [(6, 3.5), (11.4, 6.3), (20, 10)])
def test_the_drawn_cell_fits_its_axes(size):
    ax = plt.figure(figsize=size, layout="constrained").subplots()
    trace = network().trace(100 * data())
    check_readable(cell_diagram(trace, 3, x=data(), ax=ax, title="a step").figure)


# Other cells, and directions.

SLSTM, RELU = Cell(slstm=True), Cell(activations=("sigmoid", "tanh", "relu"))


@pytest.mark.parametrize(
    ("options", "memory", "output"),
    [({}, "memory cell\n$c_t = f c_{t-1} + i g$", "output\nh = o tanh(c)"),
     ({"cell": SLSTM}, "memory cell\n$c_t = f c_{t-1} + i g$", "output\nh = o c / n"),
     ({"cell": RELU}, "memory cell\n$c_t = f c_{t-1} + i g$", "output h"),
     ({"proj_size": 3}, "memory cell\n$c_t = f c_{t-1} + i g$", "output h"),
     ({"proj_size": 6}, "memory cell\n$c_t = f c_{t-1} + i g$", "output h"),
     ({"cell": Cell(zoneout=0.1)}, "memory cell c", "output h"),
     ({"cell": Cell(cell_clip=0.5)}, "memory cell c", "output\nh = o tanh(c)"),
     ({"cell": Cell(layer_norm="haste")}, "memory cell\n$c_t = f c_{t-1} + i g$", "output h")],
)  # fmt: skip
def test_equations_stand_beside_cells_that_have_them(options, memory, output):
    axes = GateDisplay.from_trace(network(**options).trace(data())).axes_
    assert axes["c"].get_ylabel() == memory and axes["h"].get_ylabel() == output


def test_of_an_slstm_the_memory_alone_is_drawn():
    trace = network(cell=SLSTM).trace(data())
    display = MemoryDisplay.from_trace(trace)
    assert "all 6 units" in [text.get_text() for text in display.ax_.get_legend().get_texts()]
    np.testing.assert_array_equal(display.c, trace.c[0, 0][:, :6])
    assert images(GateDisplay.from_trace(trace))["c"].get_array().shape == (6, 30)


def test_gates_that_are_no_shares_are_drawn_in_full():
    trace = network(cell=Cell(activations=("softplus", "tanh", "tanh"))).trace(3 * data())
    display = GateDisplay.from_trace(trace, quantities="f")
    assert trace.f[0, 0].max() > 1 and display.axes_["f"].get_ylabel() == "forget gate f"
    low, high = images(display)["f"].get_clim()
    assert low == -high and high > 1


def test_what_reads_from_the_end_says_so():
    trace = network(bidirectional=True).trace(data())
    for direction in (0, 1):
        axes = GateDisplay.from_trace(trace, 0, direction).axes_
        for label in (axes["h"].get_xlabel(), MemoryDisplay.from_trace(trace, 0, direction).ax_.get_xlabel()):
            assert ("read from the end" in label) == bool(direction)
        assert ("c_{t+1}" if direction else "c_{t-1}") in axes["c"].get_ylabel()


# Heat maps.


def images(display):
    return {name: ax.images[0] for name, ax in display.axes_.items() if ax.images}


def test_gates_are_drawn_as_they_were_traced():
    x = data()
    trace = network().trace(x)
    display = GateDisplay.from_trace(trace, x=x, quantities="foc")
    order = np.argsort(trace.f[0, 0].mean(axis=0))
    assert list(display.axes_) == ["x", "f", "o", "c"] and display.ax_ is display.axes_["x"]
    for name, image in images(display).items():
        np.testing.assert_array_equal(image.get_array(), getattr(trace, name)[0, 0].T[order])
    assert images(display)["f"].get_clim() == (0, 1)
    low, high = images(display)["c"].get_clim()
    assert low == -high


def test_neighbours_are_averaged_where_pixels_run_out_and_the_label_says_so():
    trace = network(512).trace(data(1000))
    display = GateDisplay.from_trace(trace, quantities="f")
    found = display.axes_["f"].get_xlabel()
    image = images(display)["f"].get_array()
    rows, columns = 512 / image.shape[0], 1000 / image.shape[1]
    assert rows > 1 and columns > 1
    assert f"mean of {np.ceil(rows):.0f} of 512 units" in found and f"mean of {np.ceil(columns):.0f} steps" in found
    sorted_units = trace.f[0, 0].T[np.argsort(trace.f[0, 0].mean(axis=0))]
    block = sorted_units[: int(np.ceil(rows)), : int(np.ceil(columns))].mean()
    np.testing.assert_allclose(image[0, 0], block, **PRECISION)
    np.testing.assert_allclose(image.mean(), sorted_units.mean(), **PRECISION)
    assert display.axes_["f"].get_xlim() == (-0.5, 999.5)


def test_of_many_weights_the_largest_are_seen():
    ax = plt.figure(figsize=(1, 1)).subplots()
    image = np.zeros((500, 500))
    image[123, 321], image[400, 7] = -3, 2
    drawn, block = draw_heat(ax, image, "", how="extreme", vmin=-3, vmax=3, cmap="RdBu_r")
    found = drawn.get_array()
    assert min(block) > 1 and found.min() == -3 and found.max() == 2 and np.count_nonzero(found) == 2


def pixels(figure):
    """(rows, columns, 3) of a drawn figure."""
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3].astype(int)


def inside(ax, picture):
    """The part of a picture that shows an axes, without its frame."""
    box = ax.get_window_extent()
    height = len(picture)
    return picture[height - int(box.y1) + 3 : height - int(box.y0) - 3, int(box.x0) + 3 : int(box.x1) - 3]


@pytest.mark.parametrize("T", [300, 1000, 3000, 10_000])
def test_a_spike_is_seen_in_both_panels_and_in_no_other_row(T):
    values = np.zeros((T, 2))
    values[T // 2 + 1, 1] = 1
    display = AttributionDisplay(values).plot()
    picture = pixels(display.figure_)
    for name, ax in display.axes_.items():
        red = (lambda part: part[..., 0] - part[..., 1] > 80)(inside(ax, picture))
        assert red.any(), name
        upper = red[: len(red) // 2 - 3]
        assert name == "sum" or not upper.any()


def test_both_signs_of_neighbours_are_seen():
    values = np.zeros(4000)
    values[2000], values[2001] = 1, -2
    up, down = (patch.get_data() for patch in AttributionDisplay(values).plot().ax_.patches)
    assert up.values.max() == 1 and down.values.min() == -2 and len(up.values) < 1000
    assert up.edges[0] == -0.5 and up.edges[-1] == 3999.5


def test_values_that_are_not_finite_are_drawn_grey():
    x = data()
    trace = network().trace(np.where(np.arange(30)[:, None] == 20, np.nan, x))
    display = GateDisplay.from_trace(trace)
    figure = display.figure_
    figure.canvas.draw()
    image = images(display)["c"]
    assert np.isfinite(image.get_clim()).all()
    assert tuple(np.round(image.cmap(np.ma.masked_invalid([np.nan]))[0], 2)) == (0.5, 0.5, 0.5, 1)


def test_outliers_do_not_hide_the_rest():
    values = np.append(np.linspace(-1, 1, 1000), 500.0)
    limit, beyond = usual_limit(values)
    assert limit < 2 and beyond
    assert usual_limit(np.linspace(-1, 1, 1000)) == (1, False)
    assert usual_limit(np.array([np.nan])) == (1e-9, False)


@pytest.mark.parametrize("quantities", ["", "ff", "z", "fgx"])
def test_unknown_quantities_are_refused(quantities):
    with pytest.raises(ValueError, match=r'^quantities: got .* must be some of "ifgoch"'):
        GateDisplay.from_trace(network().trace(data()), quantities=quantities)


def test_panels_go_where_the_caller_wants_them():
    trace = network().trace(data())
    ax = plt.figure().subplots()
    assert GateDisplay.from_trace(trace, quantities="f", ax=ax).ax_ is ax
    figure, (left, right) = plt.subplots(1, 2, figsize=(16, 8), layout="constrained")
    display = GateDisplay.from_trace(trace, quantities="fc", ax=left)
    assert display.figure_ is figure and not left.axison and right.axison
    check_readable(figure)
    parts = plt.figure(figsize=(16, 8), layout="constrained").subfigures(1, 2)
    display = WeightsDisplay.from_model(network(), ax=parts[1])
    assert display.figure_ is parts[1]
    with pytest.raises(ValueError, match=r"^ax: is at a place of its own"):
        GateDisplay.from_trace(trace, ax=figure.add_axes((0, 0, 1, 1)))
    with pytest.raises(TypeError, match=r"^ax: got str, must be matplotlib Axes"):
        GateDisplay.from_trace(trace, ax="left")
    with pytest.raises(TypeError, match=r"^ax: got int"):
        MemoryDisplay.from_trace(trace, ax=3)


@pytest.mark.parametrize("features", [2, 6])
def test_names_are_shown_as_they_are(features):
    x, names = data(30, features), ["$\\frac", "_hidden", "$a$", "%d", "{x}", "ü"][:features]
    ax = GateDisplay.from_trace(network(6, features).trace(x), x=x, feature_names=names).axes_["x"]
    ax.figure.canvas.draw()
    texts = ax.get_legend().get_texts() if features == 2 else ax.get_yticklabels()
    assert [text.get_text().strip() for text in texts] == names and not any(text.get_parse_math() for text in texts)


# Memory.


def test_memory_of_chosen_units():
    trace = network().trace(data())
    display = MemoryDisplay.from_trace(trace, units=[4, 0])
    assert [line.get_label() for line in display.lines_] == ["unit 4", "unit 0"]
    np.testing.assert_array_equal(display.lines_[0].get_ydata(), trace.c[0, 0][:, 4])


def test_of_many_units_those_that_vary_most_are_lines():
    trace = network().trace(data())
    display = MemoryDisplay.from_trace(trace)
    assert display.units == sorted(np.argsort(-trace.c[0, 0].std(axis=0))[:3].tolist())
    assert MemoryDisplay(np.zeros((5, 4))).units == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("units", "message"),
    [([6], "got 6, must be ints from 0 to 5"), ([-1], "got -1"), (range(9), "got 9, must be at most 8")],
)
def test_units_that_cannot_be_drawn_are_refused(units, message):
    with pytest.raises(ValueError, match=f"^units: {message}"):
        MemoryDisplay(np.zeros((5, 6)), units)


# Half-lives.


def test_half_lives_are_sorted_and_endless_ones_marked():
    display = HalfLifeDisplay([5.0, np.inf, 1.0], steps=10).plot()
    dots, triangles, longest = display.ax_.lines
    assert dots.get_ydata().tolist() == [1, 5] and dots.get_xdata().tolist() == [0, 1]
    assert triangles.get_xdata().tolist() == [2] and longest.get_ydata()[0] == 10
    assert [tick.get_text() for tick in display.ax_.get_xticklabels()] == ["2", "0", "1"]
    display = HalfLifeDisplay([0.0, np.nan, 2.0]).plot()
    assert [line.get_xdata().tolist() for line in display.ax_.lines] == [[1], [0]]
    check_display(display)
    with pytest.raises(ValueError, match=r"^half_lives: got shape \(\), must be \(H,\)"):
        HalfLifeDisplay(3.0)


# Gradients.


def test_a_gradient_flow_is_drawn_by_step_and_by_lag():
    lstm, dy = network(dtype="float64"), np.zeros((30, 6))
    dy[-1] = 1
    flow = gradient_flow(lstm, data(), dy)
    by_step, by_lag = (GradientFlowDisplay.from_flow(flow, by=by).lines_ for by in ("step", "lag"))
    assert [line.get_label() for line in by_step] == ["dL/dh", "dL/dc"]
    for line, lagged, name in zip(by_step, by_lag, "hc", strict=True):
        wanted = flow.norms(name)[0, 0]
        np.testing.assert_array_equal(line.get_ydata(), wanted)
        np.testing.assert_array_equal(lagged.get_ydata(), wanted[::-1])


def test_zeros_of_a_gradient_are_left_out_and_it_is_said():
    display = GradientFlowDisplay({"h": {(0, 0): [0, 1.0, 2.0]}, "c": {}}).plot()
    assert np.isnan(display.lines_[0].get_ydata()[0]) and "zeros" in display.ax_.get_ylabel()


def test_a_gradient_flow_of_a_model_is_drawn():
    model = lstmx.Sequential([network(), lstmx.Last(), lstmx.Dense(6, 1)], random_state=0)
    X = np.random.default_rng(0).normal(size=(3, 8, 2))
    display = GradientFlowDisplay.from_model(model, X, np.ones(3), loss="mse", by="lag")
    assert len(display.lines_) == 2 and len(display.lines_[0].get_ydata()) == 8


def test_what_is_no_gradient_flow_is_refused():
    with pytest.raises(TypeError, match=r"^flow: got dict"):
        GradientFlowDisplay.from_flow({})
    with pytest.raises(TypeError, match=r"^model: got LSTM, must be a Sequential"):
        GradientFlowDisplay.from_model(network(), data(), 1)
    with pytest.raises(ValueError, match=r"^by: got \"?'?time"):
        GradientFlowDisplay({}, "time")
    model = lstmx.Sequential([lstmx.Dense(2, 1)])
    with pytest.raises(ValueError, match=r"^norms: hold no gradient to draw, must be of a model with an LSTM"):
        GradientFlowDisplay.from_model(model, np.ones((1, 4, 2)), np.ones((1, 4, 1)), loss="mse")


# Weights.


def test_weights_are_drawn_by_gate():
    lstm = network(num_layers=2, bidirectional=True)
    display = WeightsDisplay.from_model(lstmx.Sequential([lstm]), 1, 1)
    found = images(display)
    np.testing.assert_array_equal(found["x"].get_array(), lstm.parameters()["weight_ih_l1_reverse"])
    np.testing.assert_array_equal(found["h"].get_array(), lstm.parameters()["weight_hh_l1_reverse"])
    np.testing.assert_array_equal(found["b"].get_array()[:, 0], lstm.parameters()["bias_l1_reverse"])
    gates = [tick.get_text() for tick in display.ax_.get_yticklabels()]
    assert gates == ["input gate i", "forget gate f", "candidate g", "output gate o"]
    low, high = found["h"].get_clim()
    assert low == -high and found["x"].get_clim() == found["b"].get_clim() == (low, high)


def test_weights_of_other_cells_are_drawn():
    display = WeightsDisplay.from_model(LSTM(2, 4, cell=Cell(cifg=True), bias=False, random_state=0))
    assert list(display.axes_) == ["x", "h"]
    assert [tick.get_text() for tick in display.ax_.get_yticklabels()] == [
        "input gate i",
        "candidate g",
        "output gate o",
    ]


@pytest.mark.parametrize("units", [1, 8, 300])
def test_weights_of_a_plain_network_have_no_gates(units):
    display = WeightsDisplay.from_model(lstmx.RNN(2, units, random_state=0))
    assert display.ax_.get_ylabel() == f"{units} unit{'s' * (units > 1)}"
    check_display(display)


def test_columns_of_weights_have_names():
    names = ["wind", "$\\frac"]
    display = WeightsDisplay.from_model(network(), feature_names=names)
    assert [tick.get_text() for tick in display.axes_["x"].get_xticklabels()] == names
    check_display(display)
    check_display(WeightsDisplay.from_model(network(6, 40), feature_names=[f"feature {k}" for k in range(40)]))
    with pytest.raises(ValueError, match=r"^feature_names: got 1, must be 2, one for each column of x"):
        WeightsDisplay.from_model(network(), feature_names=["a"])


def test_columns_of_weights_have_the_names_of_the_fit(fitted):
    reg, _ = fitted
    reg = SimpleNamespace(model_=reg.model_, feature_names_in_=np.array(["wind", "rain"], object))
    ticks = WeightsDisplay.from_estimator(reg).axes_["x"].get_xticklabels()
    assert [tick.get_text() for tick in ticks] == ["wind", "rain"]


def test_weights_that_are_not_there_are_refused():
    with pytest.raises(IndexError, match=r"^layer, direction: there is no \(1, 0\)"):
        WeightsDisplay.from_model(network(), 1)
    with pytest.raises(ValueError, match=r"^lstm: got 1, there are \[0\]"):
        WeightsDisplay.from_model(lstmx.Sequential([network(), lstmx.Last()]), lstm=1)
    with pytest.raises(ValueError, match=r"^model: has no LSTM or RNN"):
        WeightsDisplay.from_model(lstmx.Sequential([lstmx.Dense(2, 1)]))
    with pytest.raises(TypeError, match=r"^model: got Dense"):
        WeightsDisplay.from_model(lstmx.Dense(2, 1))
    with pytest.raises(TypeError, match=r"^estimator: got int"):
        WeightsDisplay.from_estimator(3)


def test_what_cannot_be_drawn_of_an_estimator_says_why():
    X = np.random.default_rng(0).normal(size=(8, 5, 2))
    options = {"max_iter": 5, "tol": 1e9, "n_iter_no_change": 1, "random_state": 0}
    reg = lstmx.LSTMRegressor(4, **options).fit(X, X.sum(axis=(1, 2)))
    with pytest.raises(ValueError, match=r"^X: must be the sequences to trace; LSTMRegressor holds none"):
        GateDisplay.from_estimator(reg)
    for display in (GateDisplay, AttributionDisplay):
        with pytest.raises(IndexError, match=r"^sequence: got 999, there are 8 sequences"):
            display.from_estimator(reg, X, sequence=999)
    with pytest.raises(NotFittedError):
        WeightsDisplay.from_estimator(lstmx.LSTMRegressor())
    with pytest.raises(ValueError, match=r"^model: has no LSTM or RNN"):
        WeightsDisplay.from_model(lstmx.Sequential([lstmx.Dense(2, 1)]))
    pd = pytest.importorskip("pandas")
    frames = [pd.DataFrame(x, columns=["wind", "rain"]) for x in X]
    assert GateDisplay.from_estimator(reg, frames).feature_names == ["wind", "rain"]


# Attributions.


def attribution(values, method, count):
    return Attribution(values, np.ones(count), np.zeros(count), np.full(count, -0.25), None, method, values.ndim == 3)


def test_attributions_are_drawn_with_their_sum():
    values = data(20, 3)
    found = attribution(values, "gradient_x_input", 1)
    display = AttributionDisplay.from_attribution(found, feature_names=["a", "$b", "c"])
    np.testing.assert_array_equal(images(display)["values"].get_array(), values.T)
    heights = sum(np.array([bar.get_height() for bar in bars]) for bars in display.ax_.containers)
    np.testing.assert_allclose(heights, values.sum(axis=1), rtol=1e-12, atol=1e-12)
    assert [tick.get_text() for tick in display.axes_["values"].get_yticklabels()] == ["a", "$b", "c"]
    assert "gradient × input" in display.ax_.get_ylabel()
    check_readable(display.figure_)


def test_attributions_of_a_batch_need_a_sequence():
    found = attribution(np.zeros((2, 5, 1)), "occlusion", 2)
    with pytest.raises(ValueError, match=r"^sequence: the attributions are of a batch"):
        AttributionDisplay.from_attribution(found)
    display = AttributionDisplay.from_attribution(found, sequence=1)
    assert list(display.axes_) == ["sum"] and display.ax_.get_title() == "unexplained +0.25 of 1"
    with pytest.raises(IndexError, match=r"^sequence: got 2, there are 2 sequences, from 0"):
        AttributionDisplay.from_attribution(found, sequence=2)
    with pytest.raises(TypeError, match=r"^attribution: got ndarray"):
        AttributionDisplay.from_attribution(np.zeros((5, 1)))


def test_what_decides_an_output_of_a_model_is_drawn():
    model = lstmx.Sequential([network(), lstmx.Last(), lstmx.Dense(6, 1)], random_state=0)
    x = np.zeros((2, 10, 2))
    x[1, 3, 1] = 2.0
    display = AttributionDisplay.from_model(model, x, sequence=1, method="occlusion")
    assert np.unravel_index(np.abs(display.values).argmax(), (10, 2)) == (3, 1) and display.label == "occlusion"
    words = lstmx.Sequential([lstmx.Embedding(5, 3), LSTM(3, 4), lstmx.Last()], random_state=0)
    assert AttributionDisplay.from_model(words, np.array([[1, 2, 3]])[:1], sequence=0).values.shape == (3, 1)


# Estimators.


@pytest.fixture(scope="module")
def fitted():
    pytest.importorskip("sklearn")
    X = [np.random.default_rng(k).normal(size=(5 + k, 2)) for k in range(6)]
    reg = lstmx.LSTMRegressor(hidden_size=5, max_iter=1, random_state=0)
    with pytest.warns(Warning):
        return reg.fit(X, np.arange(6.0)), X


def test_estimators_are_drawn(fitted):
    reg, X = fitted
    display = GateDisplay.from_estimator(reg, X, sequence=2)
    np.testing.assert_array_equal(display.axes_["x"].lines[1].get_ydata(), X[2][:, 1])
    assert images(display)["f"].get_array().shape == (5, 7)
    assert len(MemoryDisplay.from_estimator(reg, X, sequence=1, units=[0]).lines_[0].get_ydata()) == 6
    assert WeightsDisplay.from_estimator(reg).hidden_size == 5
    assert HalfLifeDisplay.from_estimator(reg, X).steps == 10


def test_what_decided_an_estimator_is_drawn(fitted):
    reg, X = fitted
    display = AttributionDisplay.from_estimator(reg, X, sequence=3, feature_names=["wind", "rain"])
    assert display.values.shape == (8, 2) and "the target: " in display.ax_.get_title()
    np.testing.assert_array_equal(display.values, lstmx.inspect.explain(reg, X).shares[3])
    check_display(display)


def test_steps_have_names_where_they_are_known():
    display = AttributionDisplay(data(5, 1), step_names=[f"lag {5 - k}" for k in range(5)]).plot()
    display.figure_.canvas.draw()
    assert [t.get_text() for t in display.ax_.get_xticklabels() if t.get_text()] == [f"lag {5 - k}" for k in range(5)]
    check_display(display)
    with pytest.raises(ValueError, match=r"^step_names: got 2, must be 5"):
        AttributionDisplay(data(5, 1), step_names=["a", "b"])


def test_padding_is_not_drawn(fitted):
    reg, X = fitted
    padded = np.full((6, 10, 2), np.nan)
    for row, x in zip(padded, X, strict=True):
        row[: len(x)] = x
    display = GateDisplay.from_estimator(reg, padded, sequence=2)
    assert images(display)["f"].get_array().shape == (5, 7)


def test_models_are_drawn_as_estimators_are():
    model, X = lstmx.Sequential([network(), lstmx.Last()], random_state=0), data(30)[None]
    display = GateDisplay.from_estimator(model, X)
    np.testing.assert_array_equal(display.axes_["x"].lines[0].get_ydata(), X[0, :, 0])
    assert MemoryDisplay.from_estimator(model, X).c.shape == (30, 6)
    assert HalfLifeDisplay.from_estimator(model, X).steps == 30


@pytest.mark.parametrize("display", [GateDisplay, MemoryDisplay, HalfLifeDisplay])
def test_a_model_without_an_lstm_is_refused(display):
    model = lstmx.Sequential([lstmx.RNN(2, 3), lstmx.Last()], random_state=0)
    with pytest.raises(ValueError, match=r"^trace: the model has no LSTM, and of other layers nothing is traced"):
        display.from_estimator(model, data(5)[None])


def test_what_cannot_be_drawn_of_an_estimator_is_refused(fitted):
    reg, X = fitted
    with pytest.raises(ValueError, match=r"^lstm: got 7, there are \[0\]"):
        GateDisplay.from_estimator(reg, X, lstm=7)
    with pytest.raises(TypeError, match=r"^estimator: got list, must be a fitted estimator"):
        GateDisplay.from_estimator([], X)


# The drawn cell.


def written(ax):
    """What is written at each place of the diagram."""
    return {text.get_gid(): text.get_text() for text in ax.texts if text.get_gid()}


def figure_of(value):
    return f"{value:.2f}".replace("-", "−").replace("−0.00", "0.00")


def test_the_values_of_a_unit_are_written():
    x = data()
    trace = network().trace(x)
    i, f, g, o, c, h = (getattr(trace, name)[0, 0][:, 3].astype(float) for name in "ifgoch")
    found = written(cell_diagram(trace, 12, unit=3, x=x))
    wanted = {"f": f[12], "i": i[12], "g": g[12], "o": o[12], "c": c[12], "h": h[12], "c_before": c[11],
              "h_before": h[11], "kept": f[12] * c[11], "added": i[12] * g[12], "tanh_c": np.tanh(c[12])}  # fmt: skip
    assert {f"value-{name}": figure_of(value) for name, value in wanted.items()} == {
        name: value for name, value in found.items() if name != "value-x"
    }
    assert found["value-x"] == f"{figure_of(x[12, 0])}   {figure_of(x[12, 1])}"


def test_mean_and_range_of_all_units_are_written():
    trace = network().trace(data())
    found = written(cell_diagram(trace, -1))
    f = trace.f[0, 0][-1].astype(float)
    assert found["value-f"] == figure_of(f.mean())
    assert found["range-f"] == f"{figure_of(f.min())} … {figure_of(f.max())}"
    assert "value-x" not in found


def test_of_a_reverse_direction_the_step_before_is_the_next_in_time():
    trace = network(bidirectional=True).trace(data())
    ax = cell_diagram(trace, 12, direction=1, unit=0)
    assert written(ax)["value-c_before"] == figure_of(trace.c[0, 1][13, 0])
    assert "read from the end" in ax.get_title()
    assert "read from the end" in cell_diagram(network(reverse=True).trace(data()), 12).get_title()


def test_the_drawn_cell_says_what_it_leaves_out():
    lstm = network(cell=Cell(zoneout=(0, 0.5)))
    assert "leaves out what the cell has besides: zoneout" in cell_diagram(lstm.trace(data()), 3).get_title()
    assert "besides: peephole" in cell_diagram(network(cell=Cell(peephole=True)).trace(data()), 3).get_title()
    assert "leaves out" not in cell_diagram(network(cell=Cell(input_dropout=0.5)).trace(data()), 3).get_title()


def test_a_projected_output_has_units_of_its_own():
    trace = network(proj_size=2).trace(data())
    found = written(cell_diagram(trace, 3, unit=1))
    assert "range-f" not in found and found["value-h"] == figure_of(trace.h[0, 0][3].astype(float).mean())


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"step": 30}, IndexError, "^step: got 30, there are 30"),
        ({"step": 2.0}, TypeError, "^step: got 2.0, must be an int"),
        ({"step": 1, "unit": 6}, IndexError, "^unit: got 6, there are 6"),
        ({"step": 1, "unit": True}, TypeError, "^unit: got True"),
        ({"step": 1, "layer": 1}, IndexError, "no layer and direction"),
        ({"step": 1, "x": np.zeros((3, 2))}, ValueError, r"^x: got shape \(3, 2\)"),
    ],
)
def test_steps_and_units_that_are_not_there_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        cell_diagram(network().trace(data()), **options)


def test_an_slstm_is_no_cell_of_the_diagram():
    with pytest.raises(ValueError, match=r"^trace: an sLSTM has a memory of three"):
        cell_diagram(network(cell=Cell(slstm=True)).trace(data()), 0)


# Masks, resets, padding.


def test_masked_steps_are_no_steps():
    x, mask = data(), np.arange(30) % 3 != 1
    trace = network(dtype="float64").trace(x, mask=mask)
    display = GateDisplay.from_trace(trace, quantities="fc")
    order = np.argsort(trace.f[0, 0][mask].mean(axis=0), kind="stable")
    image = images(display)["c"].get_array()
    assert image.mask[:, ~mask].all() and not image.mask[:, mask].any()
    np.testing.assert_array_equal(image[:, mask], trace.c[0, 0][mask].T[order])
    found = written(cell_diagram(trace, 5, unit=0))
    assert found["value-c_before"] == figure_of(trace.c[0, 0][3, 0])  # step 4 is masked
    assert written(cell_diagram(trace, 4, unit=0))["value-c"] == "nan"


def test_after_a_reset_the_memory_is_empty():
    trace = network().trace(data(), reset=np.arange(30) == 10)
    found = written(cell_diagram(trace, 10, unit=0))
    assert found["value-c_before"] == found["value-kept"] == found["value-h_before"] == "0.00"


def test_padded_x_is_cut_where_the_sequence_ends():
    x = np.random.default_rng(0).normal(size=(2, 9, 2))
    trace = network().trace(x, lengths=[9, 4])
    display = GateDisplay.from_trace(trace, sequence=1, x=x[1], quantities="c")
    assert images(display)["c"].get_array().shape == (6, 4) and len(display.axes_["x"].lines[0].get_ydata()) == 4
    cell_diagram(trace, 3, sequence=1, x=x[1])
    with pytest.raises(IndexError, match=r"^step: got 4, there are 4"):
        cell_diagram(trace, 4, sequence=1, x=x[1])
