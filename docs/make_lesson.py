"""Run the experiments of lesson.md: draw its pictures and write its numbers.

    pip install '.[demo]'
    python docs/make_lesson.py

takes a few minutes on two cores. It writes images/*.png and lesson.json, and in lesson.md the text between the marks
``<!-- name -->`` and ``<!-- end name -->``. The same machine gives the same numbers again; another one may differ in
the last bits of the arithmetic, which training makes larger.
"""

import itertools
import json
import re
import time
from pathlib import Path

import numpy as np

import lstmx
from lstmx import lesson, lesson_pictures

HERE = Path(__file__).resolve().parent
STEPS = 100  # of the sequences along which gradients are measured
LAGS = [1, 5, 10, 20, 50, 99]  # that the table shows
ADDING, OTHERS = (10, 20, 50, 100, 200), (0, 1, 2, 4, 8, 16)
DPI = {"vanishing": 90, "adding": 90, "recall": 90, "conversation": 85, "cell-write": 85, "cell-keep": 85}


def measure():
    """Run everything. Returns the numbers, as JSON holds them, and the figures by name."""
    numbers, figures = {}, {}
    models = {kind: lesson.build(kind, 2, 1, STEPS) for kind in lesson.NETS}
    before = lesson.vanishing(models, STEPS)
    x, _ = lesson.adding_problem(64, STEPS, np.random.default_rng(0))
    numbers["start"] = _at_lags(before)
    numbers["factors"] = {
        kind: lesson.step_back(models[kind].layers[0], x, before[kind])._asdict() for kind in ("uniform", "plain")
    }
    adding = lesson.learn_adding(ADDING)
    print("adding problem:", adding.scores)
    after = lesson.vanishing({kind: adding.models[kind, STEPS] for kind in adding.scores}, STEPS)
    numbers["trained"], numbers["adding"] = _at_lags(after), _scores(adding)
    figures["vanishing"] = lesson_pictures.draw_vanishing(
        {"at the start": before, f"trained on the adding problem, T = {STEPS}": after}
    )
    figures["adding"] = lesson_pictures.draw_adding(adding)

    recall = lesson.learn_recall(OTHERS)
    print("recall:", recall.scores)
    numbers["recall"], figures["recall"] = _scores(recall), lesson_pictures.draw_recall(recall)

    model, accuracy = lesson.learn_conversation("chrono")
    _, plain = lesson.learn_conversation("plain")
    _, long = lesson.learn_conversation("plain", count=2000, epochs=40, hidden=64)
    numbers["conversation"] = {"chrono": accuracy.tolist(), "plain": plain.tolist(), "long": long.tolist()}
    numbers["kept"] = lesson.what_is_kept(model)._asdict()
    talk = lesson.example_conversation()
    figures["conversation"] = lesson_pictures.draw_conversation(model, talk)
    figures["cell-write"], figures["cell-keep"] = lesson_pictures.draw_cells(model, talk)
    return numbers, figures


def _at_lags(found):
    parts = {kind: norms.h if norms.c is None else norms.c for kind, norms in found.items()}
    return {kind: [float(norms[k]) for k in LAGS] for kind, norms in parts.items()}


def _scores(learned):
    return {"lags": list(learned.lags), "scores": {kind: s.tolist() for kind, s in learned.scores.items()},
            "rates": learned.rates}  # fmt: skip


def _table(head, rows):
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def _label(kind):
    return lesson.NETS[kind].label


def _factors(numbers):
    rows = [[_label(kind), *(f"{value:.3f}" for value in found.values())] for kind, found in numbers["factors"].items()]
    head = ["network", "W_hh^T stretches by", "tanh' leaves", "product", "measured"]
    small = numbers["factors"]["uniform"]["measured"]
    large = numbers["factors"]["plain"]["measured"]
    return _table(head, rows) + (
        f"\n\nOver 100 steps that is {small:.2f}^100 = {small**100:.0e} for the first, and {large:.2f}^100 = "
        f"{large**100:.0e} for the second."
    )


def _gradients(numbers):
    rows = [
        [_label(kind), "c" if kind in ("lstm", "chrono") else "h", when, *(f"{value:.1e}" for value in found)]
        for when, part in (("at the start", "start"), ("trained", "trained"))
        for kind, found in numbers[part].items()
    ]
    return _table(["network", "of", "", *(f"k = {k}" for k in LAGS)], rows)


def _adding(numbers):
    found = numbers["adding"]
    rows = [[_label(kind), *(f"{value:.4f}" for value in scores)] for kind, scores in found["scores"].items()]
    return _table(["mean squared error", *(f"T = {lag}" for lag in found["lags"])], rows)


def _recall(numbers):
    found = numbers["recall"]
    rows = [[_label(kind), *(f"{value:.1%}" for value in scores)] for kind, scores in found["scores"].items()]
    return _table(["named right, after so many others", *found["lags"]], rows)


def _conversation(numbers):
    names = {"chrono": _label("chrono"), "plain": _label("plain") + ", the same training",
             "long": _label("plain") + ", twice the units, twice the data, 40 epochs in place of 15"}  # fmt: skip
    edges = lesson.BINS[1:]
    head = ["named right, so many frames after the marked utterance", "within it"]
    head += [f"{a} to {b - 1}" for a, b in itertools.pairwise(edges)] + [f"{edges[-1]} and more"]
    return _table(
        head, [[names[key], *(f"{value:.1%}" for value in found)] for key, found in numbers["conversation"].items()]
    )


def _kept(numbers):
    kept = numbers["kept"]
    rows = [
        ["forget gate, mean", *(f"{value:.2f}" for value in kept["forget"])],
        ["input gate, mean", *(f"{value:.2f}" for value in kept["input"])],
        ["share of the memory left at its end (the median unit)", *(f"{value:.0%}" for value in kept["kept"])],
    ]
    return _table(["", "in a marked utterance", "in another one"], rows)


BLOCKS = {
    "factors": _factors,
    "gradients": _gradients,
    "adding": _adding,
    "recall": _recall,
    "conversation": _conversation,
    "kept": _kept,
}


def filled(page, numbers):
    """The page with these numbers between its marks."""
    for name, block in BLOCKS.items():
        text = f"<!-- {name} -->\n{block(numbers)}\n<!-- end {name} -->"
        page, count = re.subn(f"<!-- {name} -->.*?<!-- end {name} -->", lambda _, text=text: text, page, flags=re.S)
        if count != 1:
            raise ValueError(f"lesson.md has {count} places marked {name}, must have one")
    return page


def main():
    """Run, draw and write."""
    import matplotlib

    matplotlib.use("Agg")
    begin = time.perf_counter()
    numbers, figures = measure()
    (HERE / "images").mkdir(exist_ok=True)
    for name, figure in figures.items():
        figure.savefig(HERE / "images" / f"{name}.png", dpi=DPI[name], metadata={"Software": None})
    (HERE / "lesson.json").write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")
    page = HERE / "lesson.md"
    page.write_text(filled(page.read_text(encoding="utf-8"), numbers), encoding="utf-8")
    print(f"{time.perf_counter() - begin:.0f} s; lstmx {lstmx.__version__}")


if __name__ == "__main__":
    main()
