"""How Sphinx builds this documentation:

    pip install -e '.[demo,dask]' --group docs
    sphinx-build -W --keep-going docs docs/_build/html

``-D plot_gallery=0`` leaves out the gallery's pictures and takes seconds. ``python docs/look.py`` looks at the result.
Everything is made from this checkout: no inventory of another project is asked for, and no page that is built loads
anything from elsewhere.
"""

import importlib.util
import os
import re
from pathlib import Path

from sphinx.util.nodes import make_refnode

import lstmx

HERE = Path(__file__).resolve().parent

project, author, version = "lstmx", "the authors of lstmx", lstmx.__version__
release, copyright = version, f"{author}; MIT license"
extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
]
templates_path = ["_templates"]
exclude_patterns = ["_build"]

nitpicky = True
nitpick_ignore_regex = [
    ("py:.*", r"(collections|dataclasses|matplotlib|numpy|onnx|pandas|scipy|sklearn|torch|typing|xarray)\..*"),
    ("py:obj", r"[a-z_][a-z_0-9]*"),  # arguments and attributes, in docstrings
    # What docstrings of inner methods name, and the reference does not have:
    ("py:obj", r"Parameter|PerLayer|Program|RowWeights|Sequences|Target|Watcher|panel\.Panel|transforms\.Transform"),
    ("py:obj", r"BINS|INITIAL|NETS|ORDERS|draw\(n\)|segments\.block|store\.fill"),
]
default_role = "py:obj"
add_module_names = False
toc_object_entries_show_parents = "hide"

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

autodoc_class_signature = "mixed"
autodoc_member_order = "groupwise"
autodoc_typehints = "none"  # numpydoc's sections say it, with shapes
autosummary_generate = True
autosummary_ignore_module_all = False
numpydoc_show_class_members = False
numpydoc_xref_param_type = False

html_theme = "pydata_sphinx_theme"
html_title = f"lstmx {version}"
html_static_path = ["_static"]
html_css_files = ["house.css"]
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {
    "show_prev_next": True,
    "navigation_with_keys": False,
    "navbar_align": "left",
    "header_links_before_dropdown": 7,
    "secondary_sidebar_items": {"**": ["page-toc"], "migration": []},  # which has code side by side
    "footer_start": ["copyright"],
    "footer_end": [],
    "pygments_light_style": "friendly",
}
ALONE = ("index", "start", "lesson", "performance", "reliability", "migration", "changelog", "contributing")
html_sidebars = {page: [] for page in ALONE}

# Examples that read what is not in this checkout are shown and not run: one downloads a model, one reads aeon's data,
# one needs Dask.
_aeon, _dask = (importlib.util.find_spec(name) is not None for name in ("aeon", "distributed"))
_run = ["classification", "forecasting", "gates", "search", "streams"] + ["anomalies"] * _aeon + ["meters"] * _dask
sphinx_gallery_conf = {
    "examples_dirs": ["../examples"],
    "gallery_dirs": ["gallery"],
    "filename_pattern": rf"/({'|'.join(_run)})\.py$",
    "remove_config_comments": True,
    "download_all_examples": False,
    "notebook_extensions": set(),
    "write_computation_times": False,
    "show_memory": False,
    "show_signature": False,
    "matplotlib_animations": False,
}


OF_SKLEARN = {"fit_transform", "get_feature_names_out", "get_metadata_routing", "set_output"}


def skip(app, what, name, obj, skipped, options):
    """Leave out what scikit-learn puts into every estimator, with links into its own documentation."""
    theirs = str(getattr(obj, "__module__", "")).startswith("sklearn.")
    return True if theirs and (name in OF_SKLEARN or name.endswith("_request")) else None


def without_folders(app, docname, source):
    """Links to the examples lead to their gallery; to other folders of the project become text: they have no page."""
    here = (HERE / docname).parent

    def plain(link):
        if (here / link[2]).resolve() == HERE.parent / "examples":
            return f"[{link[1]}]({os.path.relpath(HERE / 'gallery' / 'index.rst', here)})"
        return link[1] if (here / link[2]).is_dir() else link[0]

    source[0] = re.sub(r"\[([^\]]*)\]\(([^)\s:#]+)\)", plain, source[0])


def without_files(app, path, docname, content):
    """Links of an included file into the project become plain text: they count from another folder."""
    content[0] = re.sub(r"\[([^\]]*)\]\([^\s:#)]+\)", r"\1", content[0])


def find(app, env, node, contnode):
    """Where `Sequential.fit` leads, which the docstrings of other modules name without its module."""
    target, found = node["reftarget"], env.domains.python_domain.objects
    if node.get("refdomain") != "py" or not target[:1].isupper():
        return None
    name = min((name for name in found if name.endswith(f".{target}")), key=len, default=None)
    if name is None:
        return None
    return make_refnode(app.builder, node["refdoc"], found[name].docname, found[name].node_id, contnode, name)


def setup(app):
    app.connect("autodoc-skip-member", skip)
    app.connect("missing-reference", find)
    app.connect("include-read", without_files)
    app.connect("source-read", without_folders)
