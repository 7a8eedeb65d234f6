"""The lesson: experiments that show why a plain recurrent network forgets, and what an LSTM does about it.

Each function is an experiment, seeded, and returns arrays. ``lstmx demo gates`` runs short ones and draws them;
docs/make_lesson.py runs those of docs/lesson.md, which tells the story.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

import lstmx

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from lstmx._types import Array


HIDDEN = 32
LEARNED = 0.01  # mean squared error of the adding problem below which it is learned; 1/6 takes no learning
SPEAKERS = 9


class Net(NamedTuple):
    """A network to compare.

    Attributes
    ----------
    label : str
        What pictures and tables call it.
    layer : callable ``(inputs, hidden, steps) -> layer``
        `steps` is how far back there is something to remember.
    """

    label: str
    layer: Callable[..., Any]


NETS = {
    "uniform": Net("plain, uniform start", lambda inputs, hidden, steps: lstmx.RNN(inputs, hidden, init="uniform")),
    "plain": Net("plain, orthogonal start", lambda inputs, hidden, steps: lstmx.RNN(inputs, hidden)),
    "lstm": Net("LSTM, forget bias 1", lambda inputs, hidden, steps: lstmx.LSTM(inputs, hidden)),
    "chrono": Net(
        "LSTM, chrono start",
        lambda inputs, hidden, steps: lstmx.LSTM(inputs, hidden, chrono=None if steps < 3 else steps),
    ),
}
LEARNERS = ("plain", "lstm", "chrono")


def build(
    kind: str,
    inputs: int,
    outputs: int,
    steps: int,
    *,
    last: bool = True,
    activation: str | None = None,
    hidden: int = HIDDEN,
    seed: int = 0,
) -> lstmx.Sequential:
    """A model of one of the `NETS`, with a Dense layer behind: at the last step, or else at every step."""
    pool = [lstmx.Last()] if last else []
    layers = [NETS[kind].layer(inputs, hidden, steps), *pool, lstmx.Dense(hidden, outputs, activation)]  # type: ignore[arg-type]
    return lstmx.Sequential(layers, random_state=seed)


# How far a gradient gets.


class GradientNorms(NamedTuple):
    """The norm of the gradient of the last output by lag k: with respect to h_{T-k}, and to c_{T-k} or None; (T,)."""

    h: Array
    c: Array | None


def gradient_norms(layer: lstmx.RNN | lstmx.LSTM, x: Array, seed: int = 0) -> GradientNorms:
    """How large the gradient of the last output of a recurrent layer still is k steps before.

    Parameters
    ----------
    layer : RNN or LSTM
        Of one layer and direction.
    x : array (N, T, I)
    seed : int
        Of the direction in which the last output is differentiated: a unit vector for each sequence.

    Returns
    -------
    GradientNorms
        Means over the sequences, from one backward pass.
    """
    dy = np.zeros((*x.shape[:2], layer.hidden_size))
    dy[:, -1] = np.random.default_rng(seed).normal(size=dy[:, -1].shape)
    dy[:, -1] /= np.linalg.norm(dy[:, -1], axis=1, keepdims=True)
    flow = lstmx.inspect.gradient_flow(layer, x, dy)
    return GradientNorms(flow.norms("h")[0, 0][::-1], flow.norms("c")[0, 0][::-1] if flow.dc else None)


class StepBack(NamedTuple):
    """What one step back through a plain network multiplies a gradient by.

    Attributes
    ----------
    weight : float
        How much W_hh^T stretches a vector, on average over directions (root mean square): ``||W_hh||_F / sqrt(H)``.
    slope : float
        How much tanh' = 1 - h_t**2 leaves of it, likewise.
    product : float
        Of the two: what is expected.
    measured : float
        By the gradients: the geometric mean over the steps looked at.
    """

    weight: float
    slope: float
    product: float
    measured: float


def step_back(rnn: lstmx.RNN, x: Array, norms: GradientNorms, steps: int = 20) -> StepBack:
    """`StepBack` of an RNN on x (N, T, I) with these `GradientNorms`, over so many steps."""
    weight = rnn.parameters()["weight_hh_l0"].astype(np.float64)
    stretch = float(np.linalg.norm(weight) / np.sqrt(len(weight)))
    h = rnn(x)[0].astype(np.float64)
    slope = float(np.sqrt(np.mean((1 - h**2) ** 2)))
    return StepBack(stretch, slope, stretch * slope, float((norms.h[steps] / norms.h[0]) ** (1 / steps)))


def vanishing(
    models: Mapping[str, lstmx.Sequential], steps: int = 100, count: int = 64, seed: int = 0
) -> dict[str, GradientNorms]:
    """`GradientNorms` of models of the adding problem, as ``{name: model}``; all on the same sequences."""
    x, _ = adding_problem(count, steps, np.random.default_rng(seed))
    return {name: gradient_norms(model.layers[0], x) for name, model in models.items()}  # type: ignore[arg-type]


# A made-up task that needs a memory: the adding problem (Hochreiter and Schmidhuber 1997).


def adding_problem(count: int, steps: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """Sequences of random numbers, two of them marked; the sum of these two is wanted at the end.

    Returns
    -------
    x : ndarray (count, steps, 2)
        A number from 0 to 1, and 1 where it counts: once in the first half, once in the second.
    y : ndarray (count,)
        Whoever always says 1 has a mean squared error of 1/6.
    """
    x = np.zeros((count, steps, 2), np.float32)
    x[..., 0] = rng.random((count, steps))
    every, half = np.arange(count), steps // 2
    first, second = rng.integers(half, size=count), rng.integers(half, steps, count)
    x[every, first, 1] = x[every, second, 1] = 1
    return x, x[every, first, 0] + x[every, second, 0]


class Learned(NamedTuple):
    """What came of training several networks for several lags.

    Attributes
    ----------
    lags : tuple
        What was varied.
    scores : dict of kind to ndarray (lags,)
        On sequences that were not trained on.
    rates : dict of kind to list
        The learning rate that gave the score.
    models : dict of (kind, lag) to Sequential
    """

    lags: tuple[int, ...]
    scores: dict[str, Array]
    rates: dict[str, list[float]]
    models: dict[tuple[str, int], lstmx.Sequential]


def _learn(lags: Sequence[int], kinds: Sequence[str], train: Callable[..., Any], better: Callable[..., Any]) -> Learned:
    """Train each kind for each lag by ``train(kind, lag) -> (score, rate, model), ...``, and keep the best."""
    found = Learned(tuple(lags), {kind: np.empty(len(lags)) for kind in kinds}, {kind: [] for kind in kinds}, {})
    for k, lag in enumerate(lags):
        for kind in kinds:
            score, rate, found.models[kind, lag] = better(train(kind, lag), key=lambda one: one[0])
            found.scores[kind][k] = score
            found.rates[kind].append(rate)
    return found


def learn_adding(
    lags: Sequence[int],
    kinds: Sequence[str] = LEARNERS,
    *,
    updates: int = 2500,
    batch: int = 32,
    rates: Sequence[float] = (0.01, 0.003),
    hidden: int = HIDDEN,
    seed: int = 0,
    goal: float | None = None,
) -> Learned:
    """Train networks on the adding problem with sequences of T steps, for every T of `lags`.

    Every update sees sequences that were never seen before. Each network gets each of the learning rates, and the one
    with the smaller error on the test sequences counts. With a `goal` training ends before the last of the `updates`
    if that error, looked at every 400, is below it.

    Returns
    -------
    Learned
        Scores are mean squared errors on 1,000 sequences; 1/6 is nothing learned.
    """

    def train(kind: str, steps: int) -> Any:
        rng = np.random.default_rng([seed, steps])
        part = updates if goal is None else min(400, updates)
        (x, y), (test, wanted) = adding_problem(part * batch, steps, rng), adding_problem(1000, steps, rng)
        for rate in rates:
            model, optimizer = build(kind, 2, 1, steps, hidden=hidden, seed=seed), lstmx.Adam(rate)
            for done in range(0, updates, part):
                if done:
                    x, y = adding_problem(min(part, updates - done) * batch, steps, rng)
                model.fit(x, y, optimizer=optimizer, epochs=1, batch_size=batch, clip_norm=1.0, verbose=0)
                score = float(np.mean((model.predict(test)[:, 0] - wanted) ** 2))
                if goal is not None and score < goal:
                    break
            yield score, rate, model

    return _learn(lags, kinds, train, min)


# Real recordings: nine men say two vowels; who spoke is to be remembered while others speak.


def utterances() -> tuple[tuple[list[Array], Array], tuple[list[Array], Array]]:
    """The Japanese vowels, standardised: ((270 utterances to train with, speakers), (370 to test with, speakers))."""
    (train, speakers), (test, test_speakers) = lstmx.datasets.load_japanese_vowels()
    frames = np.concatenate(train)
    mean, scale = frames.mean(axis=0), frames.std(axis=0)
    train, test = ([((a - mean) / scale).astype(np.float32) for a in part] for part in (train, test))
    return (train, speakers), (test, test_speakers)


class Conversation(NamedTuple):
    """Utterances one after the other, some of them marked.

    Attributes
    ----------
    x : ndarray (T, 13)
        The 12 coefficients of each frame, and whether its utterance is marked.
    target : ndarray of int (T,)
        Whose the last marked utterance is, at each frame.
    since : ndarray of int (T,)
        Frames since the end of that utterance; 0 or less within it.
    speakers, marked, starts : ndarray (utterances,)
        Who spoke, whether it was marked, and its first frame.
    """

    x: Array
    target: Array
    since: Array
    speakers: Array
    marked: Array
    starts: Array


def conversation(
    recordings: tuple[list[Array], Array], length: int, share: float, rng: np.random.Generator
) -> Conversation:
    """A `Conversation` of so many random utterances: the first is marked, and each later one with this probability.

    Parameters
    ----------
    recordings : (list of utterances, speakers)
    """
    sounds, speakers = recordings
    chosen = rng.integers(len(sounds), size=length)
    marked = rng.random(length) < share
    marked[0] = True
    frames = np.array([len(sounds[k]) for k in chosen])
    ends = np.cumsum(frames)
    last = np.maximum.accumulate(np.where(marked, np.arange(length), 0))  # the utterance to remember
    flags = np.repeat(marked, frames)[:, None]
    x = np.concatenate([np.concatenate([sounds[k] for k in chosen]), flags], axis=1, dtype=np.float32)
    since = np.arange(len(x)) + 1 - np.repeat(ends[last], frames)
    return Conversation(x, np.repeat(speakers[chosen][last], frames), since, speakers[chosen], marked, ends - frames)


def learn_recall(
    others: Sequence[int],
    kinds: Sequence[str] = LEARNERS,
    *,
    count: int = 1000,
    epochs: int = 20,
    rates: Sequence[float] = (0.01, 0.003),
    hidden: int = HIDDEN,
    seed: int = 0,
) -> Learned:
    """Who spoke first? Asked at the end only, after as many other utterances as each of `others` says.

    Networks are trained on conversations of the 270 utterances, and tested on 1,000 of the 370 others. Each gets each
    of the learning rates; the better one counts.

    Returns
    -------
    Learned
        Scores are accuracies; 1/9 is chance.
    """
    train_set, test_set = utterances()

    def draw(recordings: Any, number: int, n: int, rng: np.random.Generator) -> Any:
        talks = [conversation(recordings, n + 1, 0, rng) for _ in range(number)]
        return [talk.x for talk in talks], np.array([talk.target[-1] for talk in talks])

    def train(kind: str, n: int) -> Any:
        rng = np.random.default_rng([seed, n])
        (x, y), (test, wanted) = draw(train_set, count, n, rng), draw(test_set, 1000, n, rng)
        for rate in rates:
            model = build(kind, 13, SPEAKERS, 16 * (n + 1), activation="softmax", hidden=hidden, seed=seed)
            _fit_classes(model, x, y, rate, epochs)
            yield float(np.mean(model.predict(test).argmax(axis=1) == wanted)), rate, model

    return _learn(others, kinds, train, max)


def _fit_classes(model: lstmx.Sequential, x: Any, y: Any, rate: float, epochs: int, batch: int = 32) -> None:
    schedule = lstmx.CosineDecay(rate, epochs * -(-len(x) // batch))
    model.fit(x, y, loss="categorical_crossentropy", optimizer=lstmx.Adam(schedule), epochs=epochs, batch_size=batch,
              clip_norm=1.0, verbose=0)  # fmt: skip


BINS = (-99, 1, 11, 21, 41, 61, 81)  # of frames since the marked utterance


def learn_conversation(
    kind: str = "chrono",
    *,
    count: int = 1000,
    epochs: int = 15,
    length: int = 8,
    share: float = 0.3,
    rate: float = 0.01,
    hidden: int = HIDDEN,
    seed: int = 0,
) -> tuple[lstmx.Sequential, Array]:
    """Whose was the last marked utterance? Asked at every frame of conversations.

    Returns
    -------
    model : Sequential
    accuracy : ndarray (bins,)
        On 500 conversations of utterances that were not trained on, for frames since the marked one as in `BINS`, the
        last of which is open.
    """
    (train_set, test_set), rng = utterances(), np.random.default_rng(seed)
    talks = [conversation(train_set, length, share, rng) for _ in range(count)]
    model = build(kind, 13, SPEAKERS, 16 * length, last=False, activation="softmax", hidden=hidden, seed=seed)
    _fit_classes(model, [talk.x for talk in talks], [talk.target for talk in talks], rate, epochs)
    tests = [conversation(test_set, length, share, rng) for _ in range(500)]
    found = np.concatenate([p.argmax(axis=1) for p in model.predict([talk.x for talk in tests])])
    right = found == np.concatenate([talk.target for talk in tests])
    where = np.digitize(np.concatenate([talk.since for talk in tests]), BINS) - 1
    return model, np.array([right[where == k].mean() for k in range(len(BINS))])


def example_conversation(length: int = 6, seed: int = 0) -> Conversation:
    """The first test `Conversation` of random ones that has two marked utterances, others between them and after."""
    (_, test_set), rng = utterances(), np.random.default_rng([seed, 1])
    while True:
        talk = conversation(test_set, length, 0.3, rng)
        again = np.flatnonzero(talk.marked)[1:]
        if len(again) == 1 and 2 <= again[0] <= length - 3:
            return talk


class Kept(NamedTuple):
    """What gates do on average, over all units: in marked utterances, and in others.

    Attributes
    ----------
    forget, input : tuple of two floats
        Means of the gates.
    kept : tuple of two floats
        The share of a memory that is left after an utterance, the product of the forget gates: the median of units.
    """

    forget: tuple[float, ...]
    input: tuple[float, ...]
    kept: tuple[float, ...]


def what_is_kept(model: lstmx.Sequential, count: int = 200, length: int = 8, share: float = 0.3, seed: int = 0) -> Kept:
    """`Kept` of a model that has learned conversations, over so many of them from the test utterances."""
    (_, test_set), rng = utterances(), np.random.default_rng([seed, 2])
    parts: dict[bool, list[Any]] = {True: [], False: []}
    for _ in range(count):
        talk = conversation(test_set, length, share, rng)
        trace = model.trace(talk.x[None])[0]
        f, i = (getattr(trace, name)[0, 0][0].astype(np.float64) for name in "fi")
        for k, (start, end) in enumerate(zip(talk.starts, [*talk.starts[1:], len(f)], strict=True)):
            if k:  # before the first one there is nothing to keep
                now = slice(start, end)
                share_left = np.median(np.exp(np.log(f[now]).sum(axis=0)))
                parts[bool(talk.marked[k])].append((f[now].mean(), i[now].mean(), share_left))
    means = [np.mean(parts[marked], axis=0) for marked in (True, False)]
    return Kept(*(tuple(float(mean[k]) for mean in means) for k in range(3)))
