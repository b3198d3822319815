"""Sphinx configuration of the site; docs/build.py calls it."""
from configparser import ConfigParser
from pathlib import Path

from docutils import nodes
from docutils.utils.math import latex2mathml

parser = ConfigParser(delimiters=["="])
parser.read(Path(__file__).parents[1] / "settings.ini", encoding="utf-8")
settings = parser["DEFAULT"]

project, author, copyright = settings["title"], settings["author"], settings["copyright"]
version = release = settings["version"]
extensions = ["myst_nb"]
highlight_language = "text"  # where a block does not say what it is
nb_execution_mode = "off"
nb_ipywidgets_js = {}
suppress_warnings = ["misc.highlighting_failure"]  # cells that begin with %% hold other languages than Python
myst_enable_extensions = ["dollarmath", "fieldlist"]
myst_heading_anchors = 3
maximum_signature_line_length = 90
add_module_names = False
python_use_unqualified_type_names = True
toc_object_entries = False  # a thousand names in the side bar of every page would double the time to build

html_theme = "furo"
html_title = project
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = html_show_sourcelink = html_show_sphinx = False
html_show_search_summary = False  # it would fetch the pages found, which a browser forbids where the site is a folder
html_math_renderer = "mathml"
pygments_style, pygments_dark_style = "friendly", "monokai"


def formula(block):
    "A visitor that writes a formula as MathML, which browsers draw without help from the network."

    def visit(translator, node):
        text = latex2mathml.tex2mathml(node.astext(), as_block=block)
        translator.body.append(f'<div class="math">{text}</div>' if block else text)
        raise nodes.SkipNode

    return visit


def setup(app):
    app.add_html_math_renderer("mathml", (formula(False), None), (formula(True), None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
