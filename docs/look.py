"""Look at the built documentation: its links, and every page in a headless Chromium, as wide as a desk and as a phone.

    python docs/look.py [docs/_build/html] [--pictures FOLDER] [--links]

It is an error if a link leads to no file, or to no such place in it; if a page asks for anything that is not in the
folder, reports an error, shows a picture that does not load, or is wider than the screen, so that it must be pushed
sideways. With --pictures there is a PNG of each page at each width, to be looked at; with --links only links are
followed. Nothing is fetched: ``python tests/test_docs.py`` prints the links that lead out.
"""

import argparse
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests"))
from browser import PROGRAM, Page  # noqa: E402

WIDTHS = {"desk": (1280, 2000), "phone": (390, 1600)}
BROKEN = "[...document.images].filter(i => i.currentSrc && i.complete && !i.naturalWidth).map(i => i.currentSrc)"
WIDE = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
# The innermost elements that stick out on the right, and are not within something that scrolls or is hidden there.
OUT = """
(() => {
    const scrolls = e => {
        for (; e; e = e.parentElement) if (getComputedStyle(e).overflowX !== "visible") return true;
        return false;
    };
    const out = [...document.querySelectorAll(".bd-main *")].filter(
        e => e.getBoundingClientRect().right > innerWidth + 1 && !scrolls(e.parentElement) && e.offsetParent);
    return out.filter(e => !out.some(o => o !== e && e.contains(o))).map(e => e.tagName + "." + e.className);
})()
"""


class Links(HTMLParser):
    """Where a page's links lead, and the places in it that links can lead to."""

    def __init__(self, page):
        super().__init__()
        self.targets, self.places = set(), {""}
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        """Of every element."""
        for name, value in attributes:
            if name in ("href", "src") and value and not urlsplit(value).scheme and not value.startswith("//"):
                self.targets.add(value)
            elif name == "id" or (name == "name" and tag == "a"):
                self.places.add(value)


def broken_links(pages, root):
    """The local links that lead nowhere, in words."""
    found, wrong = {page: Links(page) for page in pages}, []
    for page, links in found.items():
        for target in sorted(links.targets):
            parts = urlsplit(target)
            to = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            to = to / "index.html" if to.is_dir() else to
            there = to.exists() and (to not in found or unquote(parts.fragment) in found[to].places)
            if not there:
                wrong.append(f"{page.relative_to(root)} leads to {target}, which is not there")
    return wrong


def faults(browser, root):
    """What is wrong with the page that the browser shows, in words."""
    found = [f"asks for {url}" for url in browser.requests if not url.startswith((root.as_uri(), "data:", "blob:"))]
    found += [f"reports {error}" for error in browser.errors]
    found += [f"does not show {url}" for url in browser.run(BROKEN)]
    if browser.run(WIDE) > 0 or browser.run(OUT):
        found.append(f"is too wide: {', '.join(browser.run(OUT)) or 'as a whole'}")
    return found


def look(pages, root, pictures=None):
    """What is wrong with pages, at each width."""
    wrong = []
    for name, (width, height) in WIDTHS.items():
        browser = Page(pages[0], width, height, mobile=name == "phone")
        try:
            for page in pages:
                browser.requests.clear()
                browser.errors.clear()
                browser.call("Page.navigate", url=page.as_uri())
                browser.wait(f"location.href === {page.as_uri()!r} && document.readyState === 'complete'")
                place = page.relative_to(root)
                wrong += [f"{place} ({name}) {fault}" for fault in faults(browser, root)]
                if pictures:
                    browser.picture(pictures / f"{'-'.join(place.with_suffix('').parts)}.{name}.png")
        finally:
            browser.close()
    return wrong


def main():
    """Look, and say what was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", nargs="?", type=Path, default=HERE / "_build" / "html")
    parser.add_argument("--pictures", type=Path)
    parser.add_argument("--links", action="store_true")
    options = parser.parse_args()
    root = options.root.resolve()
    pages = sorted(page for page in root.rglob("*.html") if "_static" not in page.parts)
    wrong = broken_links(pages, root)
    if PROGRAM is None and not options.links:
        raise SystemExit("there is no Chromium: install one, or set LSTMX_TEST_BROWSER")
    if options.pictures:
        options.pictures.mkdir(parents=True, exist_ok=True)
    if not options.links:
        wrong += look(pages, root, options.pictures)
    print("\n".join(wrong) or f"{len(pages)} pages: nothing is wrong")
    raise SystemExit(bool(wrong) or not pages)


if __name__ == "__main__":
    main()
