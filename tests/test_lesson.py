"""The experiments of the lesson, small; and its page, which quotes what docs/make_lesson.py measured."""

import importlib.util
import json
import re
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from tolerances import FINITE_DIFFERENCE, PEER

import lstmx
from lstmx import demo, lesson, lesson_pictures
from lstmx.testing import finite_difference

matplotlib.use("Agg")
DOCS = Path(lstmx.__file__).parent.parent / "docs"


@pytest.fixture(autouse=True)
def closed():
    yield
    from matplotlib import pyplot

    pyplot.close("all")


def test_the_adding_problem_is_what_it_says():
    x, y = lesson.adding_problem(500, 11, np.random.default_rng(0))
    marked = x[..., 1] == 1
    assert (marked[:, :5].sum(axis=1) == 1).all() and (marked[:, 5:].sum(axis=1) == 1).all()
    np.testing.assert_allclose(y, (x[..., 0] * marked).sum(axis=1), **PEER["float32"])
    assert abs(np.mean((y - 1) ** 2) - 1 / 6) < 0.03


@pytest.mark.parametrize("kind", lesson.NETS)
def test_gradient_norms_are_those_of_finite_differences(kind):
    """The state is disturbed k steps before the end; the last output is seen along one direction."""
    model = lesson.build(kind, 2, 1, 8, hidden=3).astype("float64")
    layer, (x, _) = model.layers[0], lesson.adding_problem(1, 8, np.random.default_rng(0))
    found = lesson.gradient_norms(layer, x, seed=4)
    direction = np.random.default_rng(4).normal(size=(1, 3))
    direction /= np.linalg.norm(direction)
    for k in (1, 3, 7):
        _, state = layer(x[:, : 8 - k])
        h = state[0] if isinstance(state, tuple) else state

        def last(state=state, k=k):
            return float((layer(x[:, 8 - k :], state)[0][:, -1] * direction).sum())

        np.testing.assert_allclose(found.h[k], np.linalg.norm(finite_difference(last, h)), **FINITE_DIFFERENCE)
    assert (found.c is None) == isinstance(layer, lstmx.RNN)


def test_what_one_step_back_multiplies_a_gradient_by_is_foreseen():
    x, _ = lesson.adding_problem(64, 60, np.random.default_rng(0))
    for kind, stretch in (("uniform", 3**-0.5), ("plain", 1)):
        rnn = lesson.build(kind, 2, 1, 60).layers[0]
        found = lesson.step_back(rnn, x, lesson.gradient_norms(rnn, x))
        assert abs(found.weight - stretch) < 0.03 and 0.8 < found.slope < 1
        assert abs(found.measured / found.product - 1) < 0.05


def test_the_one_vanishes_and_the_other_persists():
    found = lesson.vanishing({kind: lesson.build(kind, 2, 1, 100) for kind in lesson.NETS})
    assert found["uniform"].h[50] < 1e-10 and found["plain"].h[99] < 1e-3
    assert found["chrono"].c[99] > 0.05


def test_learning_keeps_the_better_rate():
    found = lesson.learn_adding((6, 8), ("plain", "chrono"), updates=60, rates=(0.01, 1e-6))
    assert found.lags == (6, 8) and found.rates == {"plain": [0.01] * 2, "chrono": [0.01] * 2}
    x, y = lesson.adding_problem(1000, 8, np.random.default_rng(0))
    error = np.mean((found.models["chrono", 8].predict(x)[:, 0] - y) ** 2)
    assert abs(error / found.scores["chrono"][1] - 1) < 0.2 and error < 0.2
    again = lesson.learn_adding((6, 8), ("plain", "chrono"), updates=60, rates=(0.01, 1e-6))
    np.testing.assert_array_equal(again.scores["plain"], found.scores["plain"])


def test_training_ends_when_the_goal_is_reached():
    ended = lesson.learn_adding((6,), ("chrono",), updates=1200, rates=(0.01,), goal=1.0)
    short = lesson.learn_adding((6,), ("chrono",), updates=400, rates=(0.01,))
    longer = lesson.learn_adding((6,), ("chrono",), updates=500, rates=(0.01,), goal=0.0)
    assert ended.scores["chrono"][0] == short.scores["chrono"][0] != longer.scores["chrono"][0]


def test_a_picture_says_which_networks_have_learned():
    norms = lesson.vanishing({kind: lesson.build(kind, 2, 1, 12) for kind in lesson.LEARNERS}, 12)
    errors = {"end": dict(zip(lesson.LEARNERS, (0.174, 0.0006, 0.17), strict=True))}
    start, end = lesson_pictures.draw_vanishing({"start": norms, "end": norms}, errors).axes
    assert start.get_legend() is None
    found = [text.get_text() for text in end.get_legend().get_texts()]
    assert found == ["0.17, not learned", "0.0006, learned", "0.17, not learned"]


@pytest.mark.long
@pytest.mark.parametrize("seed", range(3))
def test_the_demo_shows_lstms_that_have_learned(seed):
    found = lesson.learn_adding((100,), ("lstm",), updates=3200, rates=(0.01,), seed=seed, goal=lesson.LEARNED)
    assert found.scores["lstm"][0] < lesson.LEARNED
    norms = lesson.vanishing({"lstm": found.models["lstm", 100]})["lstm"]
    assert norms.c[99] > 1e-3


@pytest.mark.long
def test_the_plain_network_stops_where_the_lstm_learns():
    found = lesson.learn_adding((10, 100), ("plain", "chrono"), updates=800, rates=(0.01,))
    assert found.scores["plain"][0] < 0.02 and found.scores["plain"][1] > 0.1
    assert (found.scores["chrono"] < 0.005).all()
    found = lesson.learn_recall((0, 2), ("plain", "chrono"), rates=(0.01,))
    assert found.scores["plain"][0] > 0.9 and found.scores["plain"][1] < 0.25
    assert (found.scores["chrono"] > 0.9).all()


def test_a_conversation_says_whom_to_remember():
    (train, speakers), _ = lesson.utterances()
    talk = lesson.conversation((train, speakers), 7, 0.4, np.random.default_rng(3))
    assert 1 < talk.marked.sum() < 7 and talk.marked[0]
    ends = [*talk.starts[1:], len(talk.x)]
    assert len(talk.target) == len(talk.since) == len(talk.x)
    whose, end = None, None
    for start, stop, speaker, marked in zip(talk.starts, ends, talk.speakers, talk.marked, strict=True):
        whose, end = (speaker, stop) if marked else (whose, end)
        assert (talk.target[start:stop] == whose).all() and (talk.x[start:stop, 12] == marked).all()
        np.testing.assert_array_equal(talk.since[start:stop], np.arange(start, stop) + 1 - end)
        assert any(len(a) == stop - start and (a == talk.x[start:stop, :12]).all() for a in train)


@pytest.fixture(scope="module")
def learned():
    return lesson.learn_conversation()


def test_conversations_are_learned_and_the_gates_tell(learned):
    model, accuracy = learned
    assert accuracy.shape == (len(lesson.BINS),) and accuracy[-1] > 0.9
    kept = lesson.what_is_kept(model, count=40)
    assert kept.input[0] > 2 * kept.input[1] and kept.forget[0] < kept.forget[1] and kept.kept[0] < kept.kept[1]


def test_the_pictures_have_labels_and_legends(learned):
    model, talk = learned[0], lesson.example_conversation()
    again = np.flatnonzero(talk.marked)[1]
    assert talk.starts[again] <= lesson_pictures.moments(talk)[0] < talk.starts[again + 1]
    untrained = lesson.vanishing({kind: lesson.build(kind, 2, 1, 12) for kind in lesson.NETS}, 12)
    scores = {kind: np.array([0.1, 0.2]) for kind in lesson.LEARNERS}
    few = lesson.Learned((10, 20), scores, {}, {})
    figures = [lesson_pictures.draw_vanishing({"start": untrained, "end": untrained}), lesson_pictures.draw_adding(few),
               lesson_pictures.draw_recall(few)]  # fmt: skip
    for figure in figures:
        assert all(ax.get_xlabel() and ax.get_title() for ax in figure.axes) and figure.axes[0].get_ylabel()
        texts = [text.get_text() for text in figure.legends[0].get_texts()]
        assert [kind for kind in lesson.LEARNERS if not any(lesson.NETS[kind].label in text for text in texts)] == []
    top, forget, *_ = lesson_pictures.draw_conversation(model, talk).axes
    assert sum("remember" in text.get_text() for text in top.texts) == 2
    shown = np.sort(forget.images[0].get_array(), axis=None)
    np.testing.assert_array_equal(shown, np.sort(model.trace(talk.x[None])[0].f[0, 0][0], axis=None))
    cells = lesson_pictures.draw_cells(model, talk)
    for frame, figure in zip(lesson_pictures.moments(talk), cells, strict=True):
        assert f"frame {frame}" in figure.axes[0].get_title()


@pytest.mark.long
def test_the_demo_runs_the_lesson(tmp_path, capsys):
    assert demo.run("gates", tmp_path, 0) == 0
    pictures = {"vanishing.png", "adding.png", "conversation.png", "cell-write.png", "cell-keep.png"}
    assert pictures <= {path.name for path in tmp_path.iterdir()}
    assert "predictions have the same bits" in capsys.readouterr().out


def make_lesson():
    spec = importlib.util.spec_from_file_location("make_lesson", DOCS / "make_lesson.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


needs_docs = pytest.mark.skipif(not DOCS.exists(), reason="an installed lstmx")


@needs_docs
def test_the_page_shows_the_numbers_that_were_measured():
    made, page = make_lesson(), (DOCS / "lesson.md").read_text(encoding="utf-8")
    numbers = json.loads((DOCS / "lesson.json").read_text(encoding="utf-8"))
    assert made.filled(page, numbers) == page
    assert set(made.BLOCKS) == set(re.findall(r"<!-- (\w+) -->", page))


@needs_docs
def test_the_pictures_of_the_page_exist_and_are_small():
    page = (DOCS / "lesson.md").read_text(encoding="utf-8")
    shown = set(re.findall(r"!\[[^\]]{20,}\]\((images/[\w-]+\.png)\)", page))
    assert shown == {f"images/{path.name}" for path in (DOCS / "images").iterdir()}
    assert all(0 < (DOCS / name).stat().st_size < 120_000 for name in shown)
    links = re.findall(r"\]\(([^)#]+)\)", page)
    assert [link for link in links if "://" not in link and not (DOCS / link).exists()] == []


@needs_docs
def test_the_code_of_the_page_runs():
    namespace = {}
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / "lesson.md").read_text(encoding="utf-8"), re.S)
    assert blocks
    for block in blocks:
        exec(compile(block, "lesson.md", "exec"), namespace)
