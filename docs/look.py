"""Open every page of the built documentation in a headless Chromium, as wide as a desk's screen and as a phone's.

    python docs/look.py [docs/_build/html] [--pictures FOLDER]

It is an error if a page asks for anything that is not in the folder, reports an error, shows a picture that does not
load, or is wider than the screen, so that it must be pushed sideways. With --pictures there is a PNG of each page at
each width, to be looked at.
"""

import argparse
import sys
from pathlib import Path

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


def faults(browser, root):
    """What is wrong with the page that the browser shows, in words."""
    found = [f"asks for {url}" for url in browser.requests if not url.startswith((root.as_uri(), "data:", "blob:"))]
    found += [f"reports {error}" for error in browser.errors]
    found += [f"does not show {url}" for url in browser.run(BROKEN)]
    if browser.run(WIDE) > 0 or browser.run(OUT):
        found.append(f"is too wide: {', '.join(browser.run(OUT)) or 'as a whole'}")
    return found


def look(root, pictures=None):
    """(how many there are, what is wrong) of all pages below a folder."""
    pages, wrong = sorted(p for p in root.rglob("*.html") if "_static" not in p.parts), []
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
    return len(pages), wrong


def main():
    """Look, and say what was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", nargs="?", type=Path, default=HERE / "_build" / "html")
    parser.add_argument("--pictures", type=Path)
    options = parser.parse_args()
    if PROGRAM is None:
        raise SystemExit("there is no Chromium: install one, or set LSTMX_TEST_BROWSER")
    if options.pictures:
        options.pictures.mkdir(parents=True, exist_ok=True)
    count, wrong = look(options.root.resolve(), options.pictures)
    print("\n".join(wrong) or f"{count} pages at {len(WIDTHS)} widths: nothing is asked for, broken or too wide")
    raise SystemExit(bool(wrong) or not count)


if __name__ == "__main__":
    main()
