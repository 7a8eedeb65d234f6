"""Masking, Unmask and Reversed: against the masks that a call takes, against loops, and by differences."""

import numpy as np
import pytest
from tolerances import FINITE_DIFFERENCE

import lstmx
from lstmx import LSTM, Dense, Dropout, Embedding, FinalState, Last, Masking, MeanPool, Reversed, Sequential, Unmask

N, T, I, H = 5, 6, 3, 4
LENGTHS = [6, 2, 6, 0, 5]


def draw(value=0.0, dtype="float64"):
    """(x, mask): row 0 has holes, row 1 nothing, row 2 an end, row 4 a beginning."""
    x = np.random.default_rng(0).normal(size=(N, T, I)).astype(dtype)
    x[0, [0, 2, 5]] = x[1] = x[2, 4:] = x[4, :3] = value
    return x, (x != x.dtype.type(value)).any(axis=-1)


def forms(x, mask):
    """A batch in each form in which a model takes it: (X, arguments, what belongs to it of an (N, T, ...) array)."""
    yield x, {}, lambda a: a
    yield list(x), {}, list
    yield x[0], {}, lambda a: a[0]
    yield x, {"lengths": LENGTHS}, lambda a: a * (np.arange(T) < np.array(LENGTHS)[:, None])[..., None]
    yield np.asfortranarray(x.astype(">f8")), {}, lambda a: a


def net(*layers, seed=0):
    return Sequential(list(layers), random_state=seed)


def lstm(**options):
    return LSTM(I, H, dtype="float64", **options)


@pytest.mark.parametrize("value", [0.0, -1.0, 0.1])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("pool", [None, Last, MeanPool, FinalState])
def test_masking_is_the_mask_that_predict_takes(pool, dtype, value):
    x, mask = draw(value)
    layers = [LSTM(I, H, bidirectional=True, dtype=dtype), *([pool()] if pool else [])]
    plain = net(*layers)
    masked = net(Masking(value), *(layer.copy() for layer in layers))
    masked.set_parameters({f"1.{name[2:]}": p for name, p in plain.parameters().items()})
    assert (masked.predict(x) == plain.predict(x, mask=mask)).all()
    assert (masked.predict(x, mask=mask[::-1]) == plain.predict(x, mask=mask & mask[::-1])).all()
    assert (masked.trace(x)[1].c[0, 1] == plain.trace(x, mask=mask)[0].c[0, 1]).all()


@pytest.mark.parametrize("pool", [None, Last, MeanPool])
def test_padding_of_an_embedding_can_be_masked(pool):
    tokens = np.array([[0, 1, 2, 0, 3], [4, 0, 0, 0, 0], [0, 0, 0, 0, 0], [1, 2, 3, 4, 1]])
    layers = [Embedding(5, I, 0), LSTM(I, H), *([pool()] if pool else [])]
    plain, masked = net(*layers), net(Embedding(5, I, 0, mask_padding=True), *(layer.copy() for layer in layers[1:]))
    masked.set_parameters(plain.parameters())
    assert (masked.predict(tokens) == plain.predict(tokens, mask=tokens != 0)).all()
    assert all((a == b).all() for a, b in zip(masked.predict(list(tokens)), masked.predict(tokens), strict=True))


def filled(y, mask, fill):
    """What Keras gives on masked steps of outputs y (N, T, F), by a loop."""
    out = np.zeros_like(y)
    for n in range(len(y)):
        last = np.zeros(y.shape[2])
        for t in range(y.shape[1]):
            if mask[n, t]:
                last = y[n, t]
            if mask[n, t] or fill == "repeat":
                out[n, t] = last
    return out


@pytest.mark.parametrize("fill", ["repeat", "zero"])
def test_unmask_gives_masked_steps_an_output(fill):
    x, mask = draw()
    model = net(Masking(), lstm(), Unmask(fill), Dense(H, 2, "tanh", dtype="float64"))
    bare, head = net(model.layers[1].copy()), net(model.layers[3].copy())
    wanted = head.predict(filled(bare.predict(x, mask=mask), mask, fill))
    for X, arguments, of in forms(x, mask):
        found, there = model.predict(X, **arguments), of(wanted)
        pairs = zip(found, there, strict=True) if isinstance(found, list) else [(found, there)]
        assert all((a == b).all() for a, b in pairs)


@pytest.mark.parametrize("fill", ["repeat", "zero"])
def test_gradients_through_unmask(fill):
    x, _ = draw()
    model = net(Masking(), lstm(), Unmask(fill), Dense(H, 2, "tanh", dtype="float64"))
    y, tape = model.forward(x)
    dy = np.random.default_rng(1).normal(size=y.shape)
    grads = model.backward(tape, dy)
    for name, p in model.parameters().items():
        trial = p.copy()

        def loss(name=name, trial=trial):
            model.set_parameters({name: trial})
            return float((model.forward(x)[0] * dy).sum())

        found = lstmx.testing.finite_difference(loss, trial)
        np.testing.assert_allclose(grads.params[name], found, **FINITE_DIFFERENCE, err_msg=name)
        model.set_parameters({name: p})


def test_unmask_does_nothing_without_a_mask():
    x, _ = draw()
    model = net(lstm(), Unmask())
    assert (model.predict(x, lengths=LENGTHS) == model.layers[0](x, lengths=LENGTHS)[0]).all()
    assert (model.step(x[:, 0])[0] == model.layers[0].step(x[:, 0])[0]).all()


@pytest.mark.parametrize("target", ["step", "sequence"])
@pytest.mark.parametrize("form", ["array", "list"])
def test_fit_sees_the_steps_that_there_are(form, target):
    """The same bits as a fit on sequences without their masked steps, which say nothing: neither x nor y."""
    x, mask = draw()
    y = np.random.default_rng(1).normal(size=(N, T, 2) if target == "step" else (N, 2))
    pool = [] if target == "step" else [MeanPool()]
    head = [Dense(H, 2, dtype="float64")]
    masked = net(Masking(), lstm(), *([] if pool else [Unmask()]), *pool, *head)
    plain = net(lstm(), *(layer.copy() for layer in pool + head))
    plain.set_parameters(dict(zip(plain.parameters(), masked.parameters().values(), strict=True)))
    how = {"epochs": 3, "batch_size": 2, "shuffle": False, "verbose": 0}
    short, short_y = [a[m] for a, m in zip(x, mask, strict=True)], y
    if target == "step":
        short_y = [a[m] for a, m in zip(y, mask, strict=True)]
    masked.fit(x if form == "array" else list(x), list(y) if (form, target) == ("list", "step") else y, **how)
    plain.fit(short, short_y, **how)
    for found, wanted in zip(masked.parameters().values(), plain.parameters().values(), strict=True):
        assert (found == wanted).all()


@pytest.mark.parametrize("lengths", [None, LENGTHS])
def test_reversed_turns_each_sequence_round(lengths):
    x, _ = draw()
    model = net(lstm(), Reversed(), LSTM(H, 2, dtype="float64"))
    found = model.predict(x, lengths=lengths)
    for n, end in enumerate([T] * N if lengths is None else lengths):
        turned = model.layers[0](x[n, :end])[0][::-1]
        assert (found[n, :end] == model.layers[2](turned)[0]).all()
    lstmx.testing.gradcheck(model, x, lengths=lengths, **FINITE_DIFFERENCE)


def test_reversed_turns_masks_round_as_well():
    x, mask = draw()
    model = net(Masking(), lstm(), Reversed(), LSTM(H, 2, dtype="float64"))
    turned = model.layers[1](x, mask=mask)[0][:, ::-1]
    wanted = model.layers[3](turned, mask=mask[:, ::-1])[0]
    for X, arguments, of in forms(x, mask):
        if not arguments:  # with lengths each sequence turns at its own end
            found = model.predict(X)
            assert all((a == b).all() for a, b in zip(found, of(wanted), strict=True))


@pytest.mark.parametrize("merge", ["sum", "mul", "average"])
@pytest.mark.parametrize("lengths", [None, LENGTHS])
def test_final_states_are_merged(merge, lengths):
    x, _ = draw()
    model = net(lstm(bidirectional=True), FinalState(merge), Dropout(0.1))
    h = model.layers[0](x, lengths=lengths)[1][0]
    if lengths is not None:
        h = np.where(np.array(lengths)[:, None] > 0, h, 0)
    by = {"sum": np.add, "mul": np.multiply, "average": lambda a, b: (a + b) / 2}[merge]
    assert model.output_size == H
    assert (model.predict(x, lengths=lengths) == by(*h)).all()
    free = net(lstm(bidirectional=True), FinalState(merge))
    lstmx.testing.gradcheck(free, x, lengths=lengths, **FINITE_DIFFERENCE)
    with pytest.raises(ValueError, match="has one direction; leave it out"):
        net(lstm(), FinalState(merge))


def test_they_are_saved_and_copied(tmp_path):
    x, _ = draw()
    model = net(Masking(0), lstm(reverse=True), Reversed(), Unmask("zero"))
    model.save(tmp_path / "m.safetensors")
    for again in (lstmx.load(tmp_path / "m.safetensors"), model.copy()):
        assert repr(again) == repr(model) and (again.predict(x) == model.predict(x)).all()
    final = net(lstm(bidirectional=True), FinalState("sum")).copy()
    assert final.layers[1].merge == "sum" and "sum" in repr(final)
    assert Embedding(5, 2, 0, mask_padding=True).copy().mask_padding


def test_a_stream_has_no_masked_steps():
    x, _ = draw()
    with pytest.raises(ValueError, match=r"x_t: a masked step, all of whose features are 0.0; give a stream only"):
        net(Masking(), lstm()).step(x[:, 0])
    with pytest.raises(ValueError, match="x_t: a masked step, the integer 0; give a stream only steps that"):
        net(Embedding(5, I, 0, mask_padding=True), LSTM(I, H)).step(np.array([1, 0]))
    model = net(Masking(), lstm())
    assert (model.step(x[2:4, 0])[0] == model.layers[1].step(x[2:4, 0])[0]).all()
    with pytest.raises(ValueError, match="step, stream"):
        net(lstm(), Reversed()).step(x[:, 0])


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: net(lstm(), Masking()), r"layers\[1\]: a Masking looks at the model's input, so it must be the first"),
        (lambda: net(lstm(), Last(), Unmask()), r"layers\[2\]: Unmask needs sequences"),
        (lambda: net(lstm(), Last(), Reversed()), r"layers\[2\]: Reversed needs sequences"),
        (lambda: Unmask("last"), "fill: got 'last', must be one of 'repeat', 'zero'"),
        (lambda: FinalState("ave"), "merge: got 'ave', must be one of"),
        (lambda: Embedding(5, 2, mask_padding=True), "mask_padding: needs padding_idx"),
        (lambda: Masking(float("nan")), "value"),
    ],
)
def test_what_cannot_be_is_an_error(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_episodes_are_not_turned_round_or_filled():
    x, mask = draw()
    reset = np.zeros((N, T), bool)
    reset[:, 3] = True
    for model in (net(lstm(), Reversed()), net(lstm(), Unmask())):
        with pytest.raises(ValueError, match=r"reset: .* takes sequences as a whole"):
            model.predict(x, mask=mask, reset=reset)


def test_a_fit_cannot_match_targets_to_steps_that_have_moved():
    x, _ = draw()
    with pytest.raises(ValueError, match="layers: a Reversed after a Masking moves steps"):
        net(Masking(), lstm(), Reversed()).fit(x, np.zeros((N, T, H)), verbose=0)
