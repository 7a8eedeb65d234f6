"""The documentation without building it: what is linked is there, every public name is in the reference once, and the
numbers of its pages are those of their files.
"""

import importlib
import importlib.util
import inspect
import re
from pathlib import Path

import pytest

import lstmx

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"

pytestmark = pytest.mark.skipif(not DOCS.exists(), reason="tests of an installed lstmx, without its documents")

PAGES = sorted(
    path for path in DOCS.rglob("*.md") if not {"_build", "gallery", "generated"} & set(path.relative_to(DOCS).parts)
)
BUILT = ("gallery/", "api/generated/")  # what the build writes

# Modules whose every public name is in the reference; of one without __all__ its own functions and classes are.
MODULES = (
    *("lstmx", "lstmx.estimators", "lstmx.predictors", "lstmx.inspect", "lstmx.plots", "lstmx.functional"),
    *("lstmx.reference", "lstmx.testing", "lstmx.init", "lstmx.datasets", "lstmx.lesson", "lstmx.streams"),
    "lstmx.distributed",
    *("lstmx.loading", "lstmx.interop.torch", "lstmx.interop.keras", "lstmx.interop.onnx", "lstmx.interop.onnx.export"),
    *("lstmx.interop.rtneural", "lstmx.interop.convert", "lstmx.interop.gates", "lstmx.interop.imported"),
)
INNER_LAYERS = {"Layer", "Run", "RowGradient"}  # of lstmx.layers, for those who write their own
MORE = {"lstmx.storage.ModelFileError", *(f"lstmx.layers.{name}" for name in INNER_LAYERS)}


def text_of(page):
    """A page without its blocks of code, in which brackets and parentheses are no links."""
    return re.sub(r"^```(?!\{).*?^```", "", page.read_text(encoding="utf-8"), flags=re.S | re.M)


def find(path):
    """What a dotted name stands for."""
    module, name = path, []
    while True:
        try:
            found = importlib.import_module(module)
            break
        except ModuleNotFoundError:
            module, _, last = module.rpartition(".")
            name.insert(0, last)
    for part in name:
        found = getattr(found, part)
    return found


def public(module):
    """The public names of a module."""
    if hasattr(module, "__all__"):
        return list(module.__all__)
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and (inspect.isclass(value) or inspect.isroutine(value))
        and value.__module__ == module.__name__
    ]


def listed():
    """(dotted name, page) of everything in the reference: modules, and the entries of autosummary."""
    for page in sorted((DOCS / "api").glob("*.md")):
        module = None
        for line in page.read_text(encoding="utf-8").splitlines():
            if found := re.match(r"\.\. automodule:: (\S+)", line):
                yield found[1], page.name
            elif found := re.match(r"\.\. currentmodule:: (\S+)", line):
                module = found[1]
            elif found := re.match(r"   ([A-Za-z_]\w*)$", line):
                yield f"{module}.{found[1]}", page.name


def headings(page):
    """The anchors of a page's headings, as MyST makes them."""
    for title in re.findall(r"^#+ (.+)$", text_of(page), re.M):
        plain = re.sub(r"[`*]", "", title).strip().lower()
        yield re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")


def links():
    """(page, what a link or picture leads to), of all local ones."""
    for page in PAGES:
        for target in re.findall(r"\]\(([^)\s]+)\)", text_of(page)):
            if "://" not in target and not target.startswith("mailto:"):
                yield page, target


def test_links_and_pictures_lead_somewhere():
    wrong, found = [], list(links())
    for page, target in found:
        path, _, anchor = target.partition("#")
        to = (page.parent / path).resolve() if path else page
        built = to.is_relative_to(DOCS) and to.relative_to(DOCS).as_posix().startswith(BUILT)
        if not built and (not to.exists() or (anchor and anchor not in headings(to))):
            wrong.append(f"{page.relative_to(DOCS)}: {target}")
    assert len(found) > 50 and wrong == []


def test_every_page_is_reached():
    """By a table of contents, whose entries exist, or come from other folders of the project."""
    reached, wrong = {DOCS / "index.md"}, []
    for page in PAGES:
        for block in re.findall(r"^```\{toctree\}\n(.*?)^```", page.read_text(encoding="utf-8"), re.S | re.M):
            for entry in re.findall(r"^(?:[^:\n<]*<)?([^:\s<>]+)>?$", block, re.M):
                if "*" in entry:
                    reached |= set(page.parent.glob(f"{entry}.md"))
                elif (page.parent / f"{entry}.md").exists():
                    reached.add(page.parent / f"{entry}.md")
                elif not entry.startswith("gallery/"):
                    wrong.append(entry)
    assert wrong == [] and set(PAGES) - reached == set()


def test_every_public_name_is_in_the_reference_once():
    pytest.importorskip("sklearn")
    places, seen = {}, []
    for path, page in listed():
        value = find(path)
        seen.append(path)
        places.setdefault(id(value), []).append(f"{page}: {path}")
    assert [where for where in places.values() if len(where) > 1] == []
    assert len(seen) == len(set(seen)) > 120
    wanted = {f"{name}.{each}" for name in MODULES for each in public(importlib.import_module(name))} | MORE
    assert sorted(path for path in wanted - {"lstmx.__version__"} if id(find(path)) not in places) == []
    known = {id(find(path)) for path in wanted}
    extra = [path for path in seen if id(find(path)) not in known and not inspect.ismodule(find(path))]
    assert extra == [], "in the reference, and not public"
    assert "`lstmx.__version__`" in (DOCS / "api/settings.md").read_text()


def test_the_modules_of_interop_are_all_looked_at():
    """Every module below lstmx.interop that has public names by __all__ is among `MODULES`."""
    folder = Path(lstmx.__file__).parent / "interop"
    found = set()
    for path in folder.rglob("*.py"):
        if re.search(r"^__all__ =", path.read_text(encoding="utf-8"), re.M):
            parts = path.relative_to(folder.parent.parent).with_suffix("").parts
            found.add(".".join(parts).removesuffix(".__init__"))
    assert found == {name for name in MODULES if name.startswith("lstmx.interop")}


def make_figures():
    spec = importlib.util.spec_from_file_location("make_figures", DOCS / "make_figures.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_pages_show_the_numbers_of_their_files():
    made = make_figures()
    numbers = made.read_numbers()
    marked = set()
    for page in (DOCS / "explanation").glob("*.md"):
        text = page.read_text(encoding="utf-8")
        for name in re.findall(r"<!-- (?!end )([\w ]+) -->", text):
            marked.add(name)
            assert made.BLOCKS[name][0] == page.name
            assert made.filled(text, name, numbers) == text
    assert marked == set(made.BLOCKS)


def test_the_accuracy_that_is_shown_is_within_what_is_promised():
    ulp = make_figures().read_numbers()["ulp"]
    promised = {"float32": 3, "float64": 4}
    for measured in ulp.values():
        for errors in measured["ulp"].values():
            assert {dtype for dtype, error in errors.items() if 0 < error < promised[dtype]} == set(promised)


def test_the_pictures_that_are_drawn_are_shown():
    shown = {target for page in (DOCS / "explanation").glob("*.md") for target in re.findall(r"figures/([\w-]+)\.svg",
             page.read_text(encoding="utf-8"))}  # fmt: skip
    assert shown == set(make_figures().FIGURES) == {path.stem for path in (DOCS / "figures").glob("*.svg")}
    assert max(path.stat().st_size for path in (DOCS / "figures").iterdir()) < 200_000


def test_examples_are_pages():
    """Each has a title and words before its first code, and ends in a picture."""
    examples = sorted((ROOT / "examples").glob("*.py"))
    for path in examples:
        text = path.read_text(encoding="utf-8")
        title = re.match(r'"""\n(.+)\n(=+)\n\n\w', text)
        assert title and len(title[1]) == len(title[2]), path.name
        assert ".png" in text and "the picture is" in text, path.name
    assert len(examples) >= 7


def test_the_reference_names_the_variables_that_the_code_reads():
    """Of the environment: those of the library and of its build."""
    sources = [*Path(lstmx.__file__).parent.rglob("*.py"), ROOT / "setup.py"]
    read = {name for path in sources for name in re.findall(r'environ(?:\.get\(|\[)"(LSTMX_\w+)"', path.read_text())}
    assert read <= set(re.findall(r"LSTMX_\w+", (DOCS / "api/settings.md").read_text()))


def external():
    """(address, page) of every link that leads out: ``python tests/test_docs.py`` prints them, none is fetched."""
    for page in (*PAGES, *ROOT.glob("*.md")):
        for address in re.findall(r"https?://[^\s)>\"'`]+", page.read_text(encoding="utf-8")):
            yield address.rstrip(".,;"), page.relative_to(ROOT).as_posix()


if __name__ == "__main__":
    for address, page in sorted(set(external())):
        print(f"{address}  ({page})")
