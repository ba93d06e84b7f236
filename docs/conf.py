"""Sphinx configuration: `make docs` builds the site into build/docs."""

from importlib import metadata

project = "tinygrad_ee559"
author = "the tinygrad_ee559 authors"
copyright = f"2026 {author}"
release = metadata.version(project)

# No intersphinx: it downloads inventories, and the site must build (and be tested) offline.
extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "myst_parser"]
# The tables of the reports, which their pages include.
exclude_patterns = ["reports/*/*.md"]
autodoc_member_order = "bysource"

html_theme = "furo"
html_title = f"{project} {release}"
