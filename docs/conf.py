"""The book: the course and these pages as one site. ``make book`` builds it; nothing is fetched and no cell is run.

Sources are read from the repository's root, so that a page links to the notebooks and to files as it does there.
"""

from importlib.metadata import version as installed

from docutils import nodes
from sphinx.application import Sphinx

project = "fuselab"
author = "fuselab's authors"
release = installed("fuselab")

extensions = ["myst_nb"]
root_doc = "docs/index"
include_patterns = ["docs/*.md", "docs/images/*", "notes/triton-gpu-optimization/*.ipynb", "notes/**/README.md"]
suppress_warnings = ["myst.xref_missing", "myst.header", "misc.highlighting_failure"]
source_suffix = {".md": "myst-nb", ".ipynb": "myst-nb"}

nb_execution_mode = "off"  # the notebooks carry their outputs; `make course` is what runs them
myst_heading_anchors = 3
myst_links_external_new_tab = True

html_theme = "pydata_sphinx_theme"
html_title = "fuselab"
html_copy_source = True
html_show_sourcelink = True
html_sourcelink_suffix = ""
html_theme_options = {
    "navigation_with_keys": False,
    "navbar_center": [],
    "secondary_sidebar_items": ["page-toc", "sourcelink"],
    "show_toc_level": 2,
    "footer_start": ["copyright"],
    "footer_end": [],
}

html_sidebars = {"**": ["globaltoc.html"]}

CPU = "any machine with torch and a C++ compiler"
READING = "nothing"
NEEDS = {
    "architecture": (READING, "contributors"),
    "capture": (CPU, "a GPU for Triton's stages of what runs there"),
    "compile-cost": (CPU, "an idle machine: it times processes"),
    "course": (CPU, "Jupyter: the extra `notebooks`"),
    "deployment": (CPU, "the machine that serves, or one like it, to pack on"),
    "environment-variables": ("torch and triton installed", ""),
    "glossary": (READING, ""),
    "graph-breaks": ("torch", "a C++ compiler for `--prove`"),
    "inspect": ("torch and triton", "no GPU; a C++ compiler once"),
    "kernel-cards": (CPU, "a GPU for limiters that are measured"),
    "measuring": (CPU, "a GPU for everything that is said of one"),
}
"""What one needs to do what a page shows, by the page; one without an entry needs what a run needs."""


def needs(page: str) -> tuple[str, str]:
    """What a page needs, and what more it can use."""
    return NEEDS.get(page, (CPU, "a GPU, where the page speaks of one"))


def add_needs(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Below a page's title: what it needs, and its source to download. The notebooks have a table of their own."""
    folder, _, page = docname.rpartition("/")
    section = next(iter(doctree.findall(nodes.section)), None)
    if folder != "docs" or page == "index" or section is None:
        return
    required, more = needs(page)
    link = nodes.reference("", f"download {page}.md", refuri=f"../_sources/{docname}.md", internal=False)
    section.insert(1, table([("to do this you need", required), ("more", more)], link))


def table(rows: list[tuple[str, str]], link: nodes.reference) -> nodes.table:
    """A table of two columns; empty rows are left out, the last one links to the source."""
    body = nodes.tbody()
    for row in rows:
        if row[1]:
            cells = [nodes.entry("", nodes.paragraph("", text.replace("`", ""))) for text in row]
            body += nodes.row("", *cells)
    source = nodes.entry("", nodes.paragraph("", "", link))
    body += nodes.row("", nodes.entry("", nodes.paragraph("", "source")), source)
    columns = [nodes.colspec(colwidth=width) for width in (25, 75)]
    return nodes.table("", nodes.tgroup("", *columns, body, cols=2), classes=["needs"])


def setup(app: Sphinx) -> None:
    """Sphinx calls this."""
    app.connect("doctree-resolved", add_needs)
