"""The report: what is in the file, and in a browser, driven by keys and mouse, what it shows beside the trace."""

import base64
import hashlib
import itertools
import json
import re
from html.parser import HTMLParser

import browser
import numpy as np
import pytest
from tolerances import COLOURS, DRAWN, SHOWN, sixteen_bits

import lstmx
from lstmx import LSTM, Cell
from lstmx.inspect import report
from lstmx.plots.report import LEVELS, packed

HOSTILE = [
    "</script><script>document.title='broken'</script>",
    "{{data}}",
    "<img src=x onerror=alert(1)>",
    'a & "b" \'\u2028 ü',
]


def data(N=3, T=20, features=4, seed=0):
    return np.random.default_rng(seed).normal(size=(N, T, features))


def network(units=6, features=4, **options):
    return LSTM(features, units, random_state=0, **options)


class Page(HTMLParser):
    """Tags with their attributes, and what is inside scripts."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.scripts, self._inside = [], [], False
        self.feed(path.read_text(encoding="utf-8"))
        self.content = json.loads(self.scripts[0])

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self._inside = tag == "script"
        if self._inside:
            self.scripts.append("")

    def handle_endtag(self, tag):
        self._inside = False

    def handle_data(self, text):
        if self._inside:
            self.scripts[-1] += text


def unpacked(array):
    codes = np.frombuffer(base64.b64decode(array["data"]), "<u2").astype(float)
    values = array["low"] + codes * (array["high"] - array["low"]) / LEVELS
    for code, value in ((LEVELS + 1, -np.inf), (LEVELS + 2, np.inf), (LEVELS + 3, np.nan)):
        values[codes == code] = value
    return values


# The file.


def test_arrays_are_kept_to_a_65532nd_of_their_range():
    values = np.concatenate([np.random.default_rng(0).normal(size=1000), [np.nan, np.inf, -np.inf]])
    np.testing.assert_allclose(unpacked(packed(values)), values, **sixteen_bits(values))
    for constant in (np.full(3, 0.25), np.full(3, np.nan), np.zeros(0)):
        np.testing.assert_array_equal(unpacked(packed(constant)), constant)


def test_the_file_has_what_was_traced(tmp_path):
    x = data()
    trace = network(num_layers=2, bidirectional=True).trace(x)
    path = report(trace, tmp_path / "a.html", x=x, feature_names=list("abcd"))
    assert path == tmp_path / "a.html"
    content = Page(path).content
    assert content["features"] == list("abcd") and len(content["sequences"]) == 3
    for n, sequence in enumerate(content["sequences"]):
        assert sequence["steps"] == 20
        for part, key in zip(sequence["parts"], [(0, 0), (0, 1), (1, 0), (1, 1)], strict=True):
            assert part["backward"] == bool(key[1]) and part["leftOut"] == []
            for name, array in part["values"].items():
                wanted = getattr(trace, name)[key][n]
                np.testing.assert_allclose(unpacked(array).reshape(20, 6), wanted, **sixteen_bits(wanted))


def test_nothing_comes_from_elsewhere_and_one_script_may_run(tmp_path):
    page = Page(report(network().trace(data()), tmp_path / "a.html"))
    assert not any({"src", "href", "action", "data"} & set(attributes) for _, attributes in page.tags)
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert len(page.scripts) == 2
    (policy,) = (a["content"] for tag, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    digest = base64.b64encode(hashlib.sha256(page.scripts[1].encode()).digest()).decode()
    assert policy.startswith("default-src 'none';") and f"script-src 'sha256-{digest}'" in policy
    text = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert not re.search(r"https?:|url\(|@import|eval\(|innerHTML", text)


def test_hostile_names_stay_text(tmp_path):
    x = data()
    page = Page(report(network().trace(x), tmp_path / "a.html", x=x, feature_names=HOSTILE, title=HOSTILE[0]))
    assert page.content["features"] == HOSTILE and len(page.scripts) == 2
    assert not any(tag == "img" for tag, _ in page.tags)


def test_200_steps_of_64_units_are_small(tmp_path):
    x = data(1, 200)
    path = report(network(64).trace(x), tmp_path / "a.html", x=x)
    assert path.stat().st_size < 350_000
    x = data(40, 200)
    path = report(network(64, num_layers=2).trace(x), tmp_path / "b.html", x=x)
    content = Page(path).content
    assert path.stat().st_size < 2_000_000 and 2 <= len(content["sequences"]) < 40
    assert content["about"].startswith(f"{len(content['sequences'])} of 40 sequences")


def test_many_short_sequences_are_no_larger(tmp_path):
    x = data(2000, 3)
    path = report(network(1).trace(x), tmp_path / "a.html", x=x)
    assert 1_700_000 < path.stat().st_size < 2_000_000


def test_at_least_one_sequence_is_there_however_large(tmp_path):
    content = Page(report(network(256).trace(data(2, 700)), tmp_path / "a.html")).content
    assert len(content["sequences"]) == 1


def test_chosen_sequences(tmp_path):
    x = data()
    content = Page(report(network().trace(x), tmp_path / "a.html", x=x, sequences=[2, 0])).content
    assert [s["label"] for s in content["sequences"]] == ["2", "0"]
    np.testing.assert_allclose(unpacked(content["sequences"][0]["x"][1]), x[2, :, 1], **sixteen_bits(x[2, :, 1]))


@pytest.mark.parametrize("form", ["list", "lengths", "single"])
def test_padding_is_left_out(tmp_path, form):
    x, lengths = data(), np.array([20, 7, 12])
    lstm = network()
    if form == "list":
        x = [row[:n] for row, n in zip(x, lengths, strict=True)]
        trace = lstm.trace(x)
    elif form == "lengths":
        trace = lstm.trace(x, lengths=lengths)
    else:
        x, lengths = x[0], [20]
        trace = lstm.trace(x)
    content = Page(report(trace, tmp_path / "a.html", x=x)).content
    assert [s["steps"] for s in content["sequences"]] == list(lengths)
    assert [len(unpacked(s["x"][0])) for s in content["sequences"]] == list(lengths)


def test_the_traces_of_a_model_and_the_method(tmp_path):
    model = lstmx.Sequential([network(), lstmx.Dense(6, 3), LSTM(3, 2), lstmx.Last()], random_state=0)
    content = Page(report(model.trace(data()), tmp_path / "a.html")).content
    assert content["parts"] == ["LSTM at 0, layer 0", "LSTM at 2, layer 0"]
    assert [part["first"] for part in content["sequences"][0]["parts"]] == [True, False]
    network().trace(data()).report(tmp_path / "b.html", title="mine")
    assert "<title>mine</title>" in (tmp_path / "b.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "options", [{"proj_size": 2}, {"cell": Cell(cifg=True, zoneout=0.1)}, {"cell": Cell(layer_norm="haste")}]
)
def test_other_cells_say_what_the_diagram_leaves_out(tmp_path, options):
    content = Page(report(network(**options).trace(data()), tmp_path / "a.html")).content
    wanted = list(options["cell"].config()) if "cell" in options else ["projection"]
    assert content["sequences"][0]["parts"][0]["leftOut"] == wanted


def test_of_a_large_trace_the_size_is_what_the_docs_say(tmp_path):
    size = report(network(256).trace(data(1, 100)), tmp_path / "a.html").stat().st_size
    assert abs(size / (100 * 256) - 19) < 3


def test_what_cannot_be_reported_is_refused(tmp_path):
    trace, path = network().trace(data()), tmp_path / "a.html"
    for error, message, arguments, options in [
        (TypeError, "^trace: got int, must be a Trace", (3,), {}),
        (ValueError, "^trace: holds no trace", ({},), {}),
        (ValueError, r"^sequences: got \[3\], must be some of 0 to 2", (trace,), {"sequences": [3]}),
        (TypeError, r"^sequences: got 3, must be a list of some of 0 to 2", (trace,), {"sequences": 3}),
        (ValueError, r"^x: got 2 sequences, must be 3", (trace,), {"x": data(2)}),
        (ValueError, r"^trace: holds no sequence", (network().trace(data(0)),), {}),
        (ValueError, r"^sequences: got \[\]", (trace,), {"sequences": []}),
        (ValueError, "^sequences: the trace is of one", (network().trace(data()[0]),), {"sequences": [0]}),
        (ValueError, r"^x: got shape \(9, 4\)", (trace,), {"x": data(3, 9)}),
        (ValueError, "^feature_names: got 1, must be 4", (trace,), {"x": data(), "feature_names": ["a"]}),
        (ValueError, "^trace: an sLSTM", (network(cell=Cell(slstm=True)).trace(data()),), {}),
        (ValueError, "^trace: this sequence has no steps", (network().trace(np.zeros((2, 0, 4))),), {}),
    ]:
        with pytest.raises(error, match=message):
            report(*arguments, path, **options)
    assert not path.exists()


# In a browser.


@pytest.fixture
def shown(tmp_path):
    """A function that reports a trace and opens the page."""
    if browser.PROGRAM is None:
        pytest.skip(f"there is no Chromium here: none of {', '.join(browser.NAMES)}")
    pages = []

    def show(trace, *, size=(1400, 1000), dark=False, **options):
        path = report(trace, tmp_path / "report.html", **options)
        page = browser.Page(path, *size, dark=dark, mobile=size[0] < 500)
        pages.append(page)
        return page

    yield show
    for page in pages:
        errors, requests = page.errors, page.requests
        page.close()
        assert errors == [] and len(requests) == 1 and requests[0].startswith("file:")


def check_shown(text, number, decimals=3):
    np.testing.assert_allclose(float(text.replace("−", "-")), number, **SHOWN[decimals])


def check_values(page, trace, step, unit=None, key=(0, 0), sequence=None):
    """The table and the diagram beside the trace."""

    def along(name):
        array = getattr(trace, name)[key]
        return array if sequence is None else array[sequence]

    names = ("i", "f", "g", "o", "c", "tanh_c", "h", "c_before", "h_before")
    wanted = {name: np.asarray(along(name)[step], float) for name in names}
    wanted |= {"kept": wanted["f"] * wanted["c_before"], "added": wanted["i"] * wanted["g"]}
    for name, values in wanted.items():
        number = values.mean() if unit is None else values[unit]
        check_shown(page.text(f"cell-{name}"), number)
        check_shown(page.text(f"value-{name}"), number, 2)
        for cell, limit in (("low", values.min()), ("high", values.max())):
            text = page.text(f"{cell}-{name}")
            if unit is None:
                check_shown(text, limit)
            else:
                assert text == ""
    box, filled = (
        page.run(f"(r => [r.y, r.height])(document.querySelector('{found}').getBBox())")
        for found in (".outline.gate-f", "#level-f")
    )
    share = wanted["f"].mean() if unit is None else wanted["f"][unit]
    np.testing.assert_allclose(filled[1] / box[1], share, **DRAWN)
    np.testing.assert_allclose(sum(filled), sum(box), **DRAWN)
    assert f"step {step} " in page.text("where")
    left = float(page.run("document.querySelector('.cursor').style.left").removesuffix("%"))
    np.testing.assert_allclose(left / 100, (step + 0.5) / len(along("c")), **DRAWN)


@pytest.mark.long
def test_keys_slider_and_mouse_move_through_the_trace(shown):
    x = data(T=40)
    trace = network(dtype="float64").trace(x[0])
    page = shown(trace, x=x[0], feature_names=["wind", "rain", "sun", "fog"])
    check_values(page, trace, 0)
    moves = [("ArrowRight", False, 1), ("ArrowRight", True, 11), ("ArrowLeft", False, 10), ("End", False, 39),
             ("ArrowRight", False, 39), ("ArrowLeft", True, 29), ("Home", False, 0),
             ("ArrowLeft", False, 0)]  # fmt: skip
    for key, shift, step in moves:
        page.key(key, shift)
        check_values(page, trace, step)
    page.run("const s = document.getElementById('step'); s.value = 17; s.dispatchEvent(new Event('input'))")
    check_values(page, trace, 17)
    for k in range(4):
        check_shown(page.text(f"cell-x{k}"), x[0, 17, k])
    spoken = page.run("document.getElementById('step').getAttribute('aria-valuetext')")
    assert "step 17" in spoken and f"forget gate f {trace.f[0, 0][17].mean():.2f}" in spoken
    order = np.argsort(trace.f[0, 0].mean(axis=0), kind="stable")
    for key, unit in [("ArrowDown", order[0]), ("ArrowDown", order[1]), ("ArrowUp", order[0]), ("Escape", None)]:
        page.key(key)
        check_values(page, trace, 17, unit)
    page.run("document.querySelector('.map:has(.row)').id = 'forget'")
    page.click("#forget", across=30.5 / 40, down=3.5 / 6)
    check_values(page, trace, 30, order[3])
    assert page.run("!document.querySelector('.row').hidden")


@pytest.mark.long
def test_pixels_of_a_heat_map_are_the_values(shown):
    trace = network(dtype="float64").trace(data(T=40)[0])
    page = shown(trace)
    page.run("document.getElementById('rows').value = 'number';"
             "document.getElementById('rows').dispatchEvent(new Event('change'))")  # fmt: skip
    places = [(0, 0), (25, 4), (39, 5)]
    found = page.run(
        "(() => { const c = document.querySelector('.map:has(.row) canvas');"
        "const { data } = c.getContext('2d').getImageData(0, 0, c.width, c.height);"
        f"return {json.dumps(places)}.map(([step, unit]) => {{"
        "const at = Math.floor((unit + 0.5) / 6 * c.height) * c.width + Math.floor((step + 0.5) / 40 * c.width);"
        "return [...data.slice(4 * at, 4 * at + 3)]; }); })()"
    )
    for colour, (step, unit) in zip(found, places, strict=True):
        level = round(255 * float(trace.f[0, 0][step, unit]))
        wanted = page.run(f"[...new Uint8Array(RAMPS.share.buffer).slice({4 * level}, {4 * level + 3})]")
        np.testing.assert_allclose(colour, wanted, **COLOURS)


@pytest.mark.long
def test_parts_sequences_and_directions_are_chosen(shown):
    x = [row[:n] for row, n in zip(data(T=15), (15, 1, 9), strict=True)]
    model = lstmx.Sequential([network(num_layers=2, bidirectional=True), lstmx.Last()], random_state=0)
    trace = model.trace(x)[0]
    page = shown(trace, x=x)

    def choose(name, option):
        page.run(
            f"(s => {{ s.value = {option}; s.dispatchEvent(new Event('change')) }})(document.getElementById('{name}'))"
        )

    page.key("End")
    check_values(page, trace, 14, None, (0, 0), 0)
    choose("part", 3)
    check_values(page, trace, 14, None, (1, 1), 0)
    assert "reads from the end" in page.text("note") and page.text("value-x") == ""
    page.key("Home")
    check_values(page, trace, 0, None, (1, 1), 0)
    choose("sequence", 2)
    page.key("End")
    check_values(page, trace, 8, None, (1, 1), 2)
    choose("sequence", 1)
    check_values(page, trace, 0, None, (1, 1), 1)
    choose("part", 0)
    assert page.text("value-x").count(".") == 4


@pytest.mark.long
def test_it_plays_and_pauses(shown):
    trace = network().trace(data(T=8)[0])
    page = shown(trace)
    page.key(" ")
    assert page.run("document.getElementById('play').getAttribute('aria-pressed')") == "true"
    page.wait("state.step > 1")
    page.click("#play")
    step = page.run("state.step")
    assert page.run("state.timer") == 0 and page.text("play") == "▶ Play"
    check_values(page, trace, step)
    page.key("End")
    page.key(" ")  # from the end it begins again
    page.wait("state.step === 7 && !state.timer")


@pytest.mark.long
def test_hostile_names_are_shown_and_not_run(shown):
    x = data()
    page = shown(network().trace(x), x=x, feature_names=HOSTILE, title=HOSTILE[0])
    assert page.text("title") == page.run("document.title") == HOSTILE[0]
    assert page.run("document.images.length") == 0
    names = page.run("[...document.querySelectorAll('tbody th')].slice(-4).map(e => e.textContent)")
    assert names == [f"input {name}" for name in HOSTILE]


@pytest.mark.long
def test_values_that_are_not_finite_are_shown(shown):
    x = data(1, 12)[0]
    x[5, 0] = np.nan
    page = shown(network().trace(x), x=x)
    page.run("choose({step: 5})")
    assert page.text("cell-f") == page.text("cell-c") == page.text("cell-x0") == "NaN"
    page.run("choose({step: 4})")
    check_shown(page.text("cell-c"), network().trace(x).c[0, 0][4].mean())


@pytest.mark.long
def test_masked_steps_are_grey(shown):
    page = shown(network().trace(data(T=40)[0], mask=np.arange(40) != 20))
    colour = page.run(
        "(() => { const c = document.querySelector('.map:has(.row) canvas');"
        "return [...c.getContext('2d').getImageData(Math.floor(20.5 / 40 * c.width), 3, 1, 1).data]; })()"
    )
    assert colour == [128, 128, 128, 255]


@pytest.mark.long
@pytest.mark.parametrize("size", [(500, 900), (1280, 1000)])
def test_words_of_the_diagram_do_not_collide(shown, size):
    page = shown(network(16, dtype="float64").trace(data(T=5)[0]), size=size)
    boxes = page.run(
        "[...document.querySelectorAll('#diagram text, #diagram .reach')].filter(e => e.tagName === 'rect' || "
        "e.textContent).map(e => [e.id || e.textContent, e.getBBox()])"
        ".map(([name, b]) => [name, b.x, b.y, b.width, b.height])"
    )
    # A line of text is less high than its box.
    for (one, ax, ay, aw, ah), (other, bx, by, bw, bh) in itertools.combinations(boxes, 2):
        across, down = min(ax + aw, bx + bw) - max(ax, bx), min(ay + ah, by + bh) - max(ay, by)
        assert across <= 0.1 or down <= 0.35 * min(ah, bh), (one, other)
    assert (page.run("getComputedStyle(document.querySelector('.hint')).display") == "block") == (size[0] < 760)


@pytest.mark.long
def test_cells_that_show_no_tanh_and_project_are_shown(shown):
    trace = LSTM(4, 6, proj_size=2, cell=Cell(zoneout=(0, 0.3)), random_state=0).trace(data()[0])
    page = shown(trace)
    assert page.text("cell-tanh_c") == "—" and page.text("value-tanh_c") == ""
    heads = page.run("[...document.querySelectorAll('tbody th')].map(e => e.textContent.trim())")
    assert {"memory c", "output h"} <= set(heads)
    assert page.text("note").strip() == "The diagram leaves out what the cell has besides: zoneout, projection."
    page.key("ArrowDown")
    check_shown(page.text("cell-h"), trace.h[0, 0][0].mean())


@pytest.mark.long
def test_what_a_step_met_after_a_reset_or_a_masked_step_is_shown(shown):
    x, step = data(T=12)[0], np.arange(12)
    trace = network(bidirectional=True).trace(x, mask=step != 4, reset=step == 8)
    page = shown(trace, x=x)
    for key, steps in [((0, 0), (3, 5, 7, 8, 9)), ((0, 1), (9, 8, 7, 5, 3))]:
        for at in steps:
            page.run(f"choose({{part: {key[1]}, step: {at}}})")
            check_values(page, trace, at, None, key)
    page.run("choose({part: 0, step: 4})")
    assert page.text("cell-f") == page.text("cell-c_before") == "NaN"


@pytest.mark.long
@pytest.mark.parametrize("size", [(360, 740), (800, 1000), (1400, 900)])
@pytest.mark.parametrize("dark", [False, True])
def test_nothing_is_cut_off_at_the_side(shown, size, dark):
    x = data(T=200, features=40)
    names = [f"a rather long name of a feature, number {k}" for k in range(40)]
    page = shown(network(64, 40).trace(x), x=x, feature_names=names, size=size, dark=dark)
    assert page.run("document.documentElement.scrollWidth <= innerWidth")
    colours = page.run("[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]")
    back, front = (np.mean([int(k) for k in re.findall(r"\d+", colour)[:3]]) for colour in colours)
    assert (back < 60 and front > 200) if dark else (back > 240 and front < 60)
