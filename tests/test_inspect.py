"""Gradient flow against lstmx.reference, and the plots.

Tolerances. FLOW: float64 sums of a few dozen terms in another order.
"""

import matplotlib
import numpy as np
import pytest

import lstmx
from lstmx import LSTM, reference
from lstmx.inspect import gradient_flow, plot_history, plot_trace
from lstmx.training import History

matplotlib.use("Agg")

FLOW = {"rtol": 1e-11, "atol": 1e-14}


@pytest.fixture(autouse=True)
def close_figures():
    yield
    import matplotlib.pyplot as plt

    plt.close("all")


def network(**options):
    lstm = LSTM(2, 4, dtype="float64", random_state=0, **options)
    rng = np.random.default_rng(1)
    lstm.set_parameters({name: rng.normal(scale=0.7, size=p.shape) for name, p in lstm.parameters().items()})
    return lstm


def data(n=3, steps=6, width=4, seed=2):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, steps, 2)), rng.normal(size=(n, steps, width))


def by_reference(lstm, x, dy, lengths=None):
    """{(layer, direction): (dh, dc)} of a stack of layers."""
    hidden, tapes, below = lstm.hidden_size, {}, x
    for layer in range(lstm.num_layers):
        outputs = []
        for direction in range(lstm.directions):
            weights = lstm._weights(layer, direction).arrays.values()
            y, _, tapes[layer, direction] = reference.lstm_forward(
                below, *weights, lengths=lengths, reverse=direction == 1
            )
            outputs.append(y)
        below = np.concatenate(outputs, axis=-1)
    found = {}
    for layer in reversed(range(lstm.num_layers)):
        dx = 0
        for direction in range(lstm.directions):
            columns = dy[..., direction * hidden : (direction + 1) * hidden]
            grads = reference.lstm_backward(tapes[layer, direction], columns)
            found[layer, direction] = grads.dh, grads.dc
            dx = dx + grads.x
        dy = dx
    return found


@pytest.mark.parametrize("num_layers", [1, 2])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("lengths", [None, [4, 0, 6]])
def test_gradient_flow_equals_the_reference(num_layers, bidirectional, lengths):
    lstm = network(num_layers=num_layers, bidirectional=bidirectional)
    x, dy = data(width=4 * lstm.directions)
    flow = gradient_flow(lstm, x, dy, lengths=lengths)
    wanted = by_reference(lstm, x, dy, lengths)
    assert sorted(flow.dh) == sorted(flow.dc) == sorted(wanted)
    for pair, (dh, dc) in wanted.items():
        assert np.abs(dh).max() > 0.1 and np.abs(dc).max() > 0.01
        np.testing.assert_allclose(flow.dh[pair], dh, **FLOW)
        np.testing.assert_allclose(flow.dc[pair], dc, **FLOW)


def test_gradient_flow_comes_in_the_form_of_the_input():
    lstm, lengths = network(bidirectional=True), [4, 0, 6]
    x, dy = data(width=8)
    padded = gradient_flow(lstm, x, dy, lengths=lengths)
    many = gradient_flow(lstm, *([a[:n] for a, n in zip(whole, lengths, strict=True)] for whole in (x, dy)))
    single = gradient_flow(lstm, x[0, :4], dy[0, :4])
    for n, length in enumerate(lengths):
        np.testing.assert_allclose(many.dc[0, 1][n], padded.dc[0, 1][n, :length], **FLOW)
        assert (padded.dc[0, 1][n, length:] == 0).all()
    np.testing.assert_allclose(single.dc[0, 1], padded.dc[0, 1][0, :4], **FLOW)


def test_gradient_flow_leaves_the_network_alone_and_ignores_dropout():
    lstm = network(num_layers=2)
    dropping = LSTM.from_state(lstm.config() | {"dropout": 0.9}, lstm.parameters())
    x, dy = data()
    x_before, dy_before = x.copy(), dy.copy()
    before = {name: p.copy() for name, p in dropping.parameters().items()}
    one, two = gradient_flow(lstm, x, dy), gradient_flow(dropping, x, dy)
    np.testing.assert_array_equal(one.dc[0, 0], two.dc[0, 0])
    np.testing.assert_array_equal(x, x_before)
    np.testing.assert_array_equal(dy, dy_before)
    for name, p in dropping.parameters().items():
        np.testing.assert_array_equal(p, before[name])


def test_an_open_forget_gate_keeps_the_gradient_and_a_shut_one_loses_it():
    """What the LSTM was made for (Hochreiter and Schmidhuber 1997)."""
    kept = {}
    for bias in (8.0, -8.0):
        lstm = LSTM(2, 4, dtype="float64", random_state=0)
        lstm.set_parameters({"bias_l0": np.repeat([0.0, bias, 0.0, 0.0], 4)})
        dy = np.zeros((60, 4))
        dy[-1] = 1
        dc = np.abs(gradient_flow(lstm, np.zeros((60, 2)), dy).dc[0, 0]).sum(axis=1)
        kept[bias] = dc[0] / dc[-1]
    assert kept[8.0] > 0.5 and kept[-8.0] < 1e-20


@pytest.mark.parametrize(
    ("lstm", "dy", "error", "message"),
    [
        (lambda: lstmx.Sequential([network()]), np.zeros((3, 6, 4)), TypeError, r"lstm: got Sequential.*model\.layers"),
        (network, None, ValueError, "dy: got None"),
        (network, np.zeros((3, 6, 5)), ValueError, r"dy: got shape \(3, 6, 5\)"),
        (network, [np.zeros((6, 4))] * 3, ValueError, "dy"),
    ],
)
def test_wrong_gradient_flow_is_explained(lstm, dy, error, message):
    if isinstance(dy, list):
        dy = [*dy, np.zeros((6, 4))]
    with pytest.raises(error, match=message):
        gradient_flow(lstm(), data()[0], dy)


# Plots.


def panels(figure):
    """The images drawn, in order, without the colour bars."""
    return [ax.images[0].get_array() for ax in figure.axes if ax.images and ax.get_ylabel()]


@pytest.mark.parametrize("with_x", [False, True])
def test_a_trace_is_drawn_panel_by_panel(with_x):
    lstm, x = network(), data()[0][0]
    trace = lstm.trace(x)
    figure = plot_trace(trace, x=x if with_x else None)
    drawn = panels(figure)
    assert len(drawn) == 6
    order = np.argsort(trace.f[0, 0].mean(axis=0))
    for image, name in zip(drawn, "ifgoch", strict=True):
        np.testing.assert_array_equal(image, getattr(trace, name)[0, 0].T[order])
    labels = " ".join(ax.get_ylabel() for ax in figure.axes)
    assert all(word in labels for word in ("input gate", "forget gate", "candidate", "output gate", "memory cell"))
    assert ("input x" in labels) == with_x
    if with_x:
        np.testing.assert_array_equal(figure.axes[0].lines[1].get_ydata(), x[:, 1])
    figure.canvas.draw()


@pytest.mark.parametrize("form", ["array", "list"])
def test_one_sequence_of_a_batch_is_drawn(form):
    lstm, (x, _) = network(num_layers=2, bidirectional=True), data()
    trace = lstm.trace(x if form == "array" else [x[0], x[1, :3], x[2]])
    figure = plot_trace(trace, 1, 1, sequence=1)
    wanted = trace.c[1, 1][1]
    assert wanted.shape == ((6 if form == "array" else 3), 4)
    np.testing.assert_array_equal(panels(figure)[4], wanted.T[np.argsort(trace.f[1, 1][1].mean(axis=0))])


def test_a_given_figure_is_used():
    import matplotlib.pyplot as plt

    figure = plt.figure()
    assert plot_trace(network().trace(data()[0][0]), figure=figure) is figure and len(panels(figure)) == 6


def test_a_trace_of_a_model_is_drawn():
    model = lstmx.Sequential([network(), lstmx.Last()])
    plot_trace(model.trace(data()[0])[0], sequence=2)


@pytest.mark.parametrize("form", ["array", "list"])
def test_a_batch_needs_a_sequence(form):
    x = data()[0] if form == "array" else [data()[0][0], data()[0][1, :3]]
    with pytest.raises(ValueError, match="sequence: the trace holds a batch; say which"):
        plot_trace(network().trace(x))


def test_a_single_trace_is_sequence_0():
    trace = network().trace(data()[0][0])
    assert len(panels(plot_trace(trace, sequence=0))) == 6
    with pytest.raises(IndexError, match=r"^sequence: got 1, there is only 0"):
        plot_trace(trace, sequence=1)


@pytest.mark.parametrize(("layer", "direction"), [(1, 0), (0, 1), (-1, 0)])
def test_a_layer_that_does_not_exist_is_an_error(layer, direction):
    with pytest.raises(IndexError, match="no layer and direction"):
        plot_trace(network().trace(data()[0][0]), layer, direction)


def test_a_sequence_that_does_not_exist_is_an_error():
    with pytest.raises(IndexError):
        plot_trace(network().trace(data()[0]), sequence=3)


def test_a_sequence_of_no_steps_is_drawn_or_refused_without_a_warning():
    trace = network().trace(np.zeros((0, 2)))
    try:
        plot_trace(trace).canvas.draw()
    except ValueError as error:
        assert "step" in str(error) or "empty" in str(error)


def history(validation=True, best=None):
    found = History()
    for loss in (3.0, 2.0, 1.5):
        found.append({"loss": loss} | ({"val_loss": loss + 1} if validation else {}))
    found.best_epoch = best
    return found


@pytest.mark.parametrize("validation", [False, True])
@pytest.mark.parametrize("best", [None, 1])
def test_a_history_is_drawn(validation, best):
    ax = plot_history(history(validation, best))
    lines = {line.get_label(): line for line in ax.lines}
    assert set(lines) == {"training"} | ({"validation"} if validation else set()) | (
        {"best weights"} if best is not None else set()
    )
    np.testing.assert_array_equal(lines["training"].get_xdata(), [1, 2, 3])
    np.testing.assert_array_equal(lines["training"].get_ydata(), [3, 2, 1.5])
    if best is not None:
        assert lines["best weights"].get_xdata()[0] == 2
    assert ax.get_xlabel() == "epoch" and ax.get_legend() is not None


def test_a_history_is_drawn_into_given_axes():
    import matplotlib.pyplot as plt

    ax = plt.subplots()[1]
    assert plot_history(history(), ax) is ax


def test_gradients_of_a_history_are_drawn_on_a_log_axis():
    found = History()
    for loss in (3.0, 2.0):
        found.append({"loss": loss, "0.gradient_first_l0": 1e-4 * loss, "0.gradient_largest_l0": 1.0})
    ax = plot_history(found)
    (right,) = (other for other in ax.figure.axes if other is not ax)
    (line,) = right.lines
    np.testing.assert_array_equal(line.get_ydata(), found["0.gradient_first_l0"])
    assert right.get_yscale() == "log" and ax.get_yscale() == "linear" and "gradient" in right.get_ylabel()
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["training", "0.gradient_first_l0"]


def test_an_empty_history_is_drawn_without_a_warning():
    plot_history(History())


def test_the_traces_of_a_model_are_no_trace():
    with pytest.raises(TypeError, match=r"^trace: got dict, must be a Trace; for a model plot_trace"):
        plot_trace({})


# Ticks of epochs and steps, and what is drawn where.


def ticks(ax):
    """Of the horizontal axis, those in sight."""
    ax.figure.canvas.draw()
    low, high = sorted(ax.get_xlim())
    return [float(tick) for tick in ax.get_xticks() if low <= tick <= high]


@pytest.mark.parametrize("epochs", [1, 2, 3, 20, 137])
def test_epochs_are_whole(epochs):
    found = History()
    for _ in range(epochs):
        found.append({"loss": 1.0})
    ax = plot_history(found)
    assert ticks(ax) and all(tick == int(tick) for tick in ticks(ax))
    line = ax.lines[0]
    assert (line.get_marker() == "o") == (epochs == 1)  # a line of one point would not be seen


@pytest.mark.parametrize("steps", [1, 2, 3, 19, 200])
@pytest.mark.parametrize("features", [2, 12])
def test_steps_are_whole(steps, features):
    x = np.random.default_rng(0).normal(size=(steps, features))
    figure = plot_trace(LSTM(features, 4, random_state=0).trace(x), x=x)
    shared = [ax for ax in figure.axes if ax.get_xlabel()]
    assert len(shared) == 1 and "time step" in shared[0].get_xlabel()
    assert ticks(shared[0]) and all(tick == int(tick) for tick in ticks(shared[0]))


def test_few_features_are_lines_with_a_legend():
    x = data()[0][0]
    ax = plot_trace(network().trace(x), x=x, feature_names=["wind", "rain"], x_label="input, mm").axes[0]
    np.testing.assert_array_equal([line.get_ydata() for line in ax.lines], x.T)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["wind", "rain"]
    assert ax.get_ylabel() == "input, mm"


def test_many_features_are_rows_with_names():
    x = np.random.default_rng(0).normal(size=(7, 12))
    names = [f"LPC {k}" for k in range(1, 13)]
    figure = plot_trace(LSTM(12, 4, random_state=0).trace(x), x=x, feature_names=names)
    np.testing.assert_array_equal(panels(figure)[0], x.T)
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == names


def test_colours_are_explained():
    figure = plot_trace(network().trace(data()[0][0]))
    bars = [ax.get_ylabel() for ax in figure.axes if not ax.images]
    assert bars == ["share let in", "share kept", "value", "share shown", "value", "value"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"x": np.zeros((5, 2))}, r"^x: got shape \(5, 2\), must be \(6,\) or \(6, I\)"),
        ({"x": np.zeros((3, 6, 2))}, r"^x: got shape \(3, 6, 2\)"),
        ({"x": np.zeros((6, 2)), "feature_names": ["a"]}, r"^feature_names: got 1, must be 2, one for each feature"),
    ],
)
def test_input_that_does_not_fit_is_explained(options, message):
    with pytest.raises(ValueError, match=message):
        plot_trace(network().trace(data()[0][0]), **options)
