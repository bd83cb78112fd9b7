"""Configuration of the documentation: `make docs` builds it into docs/_build."""

import contextlib
import io
import os
import warnings

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from sphinx.writers.html5 import HTML5Translator

import sb3_carracing
from sb3_carracing.cli.table import COMMANDS, usage

project = "sb3-carracing"
author = "The sb3-carracing authors"
version = release = sb3_carracing.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.intersphinx",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
]
exclude_patterns = ["_build"]
# Docstrings write names in single backquotes. They become links where the name is in the reference.
default_role = "py:obj"

html_theme = "furo"
html_title = f"sb3-carracing {release}"
html_static_path = ["_static"]
html_css_files = ["custom.css"]
html_math_renderer = "mathml"
html_show_copyright = False
html_show_sourcelink = False

myst_enable_extensions = ["dollarmath", "deflist", "html_image"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # the slow tests run the notebook

autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_member_order = "bysource"
autodoc_default_options = {"show-inheritance": True}
toc_object_entries_show_parents = "hide"
napoleon_numpy_docstring = False

# Links to other projects need their inventories from the network.
if os.environ.get("DOCS_ONLINE"):
    intersphinx_mapping = {
        "python": ("https://docs.python.org/3", None),
        "stable_baselines3": ("https://stable-baselines3.readthedocs.io/en/master", None),
        "gymnasium": ("https://gymnasium.farama.org", None),
        "torch": ("https://docs.pytorch.org/docs/stable", None),
        "optuna": ("https://optuna.readthedocs.io/en/stable", None),
    }


class CommandHelp(SphinxDirective):
    """Show what the command line's `--help` prints, and that of each command under a heading of its own."""

    def run(self) -> list[nodes.Node]:
        """Return the overview and a section per command."""
        shown: list[nodes.Node] = [nodes.literal_block(text=usage(), language="text")]
        for command in COMMANDS.values():
            printed = io.StringIO()
            quiet = warnings.catch_warnings(action="ignore")  # runpy warns of modules that are loaded already
            with quiet, contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
                command.load()(["--help"])
            section = nodes.section(ids=[nodes.make_id(f"command-{command.name}")])
            section += nodes.title(text=command.name)
            section += nodes.literal_block(text=printed.getvalue(), language="text")
            shown.append(section)
        return shown


def _inline_mathml(translator: HTML5Translator, node: nodes.math) -> None:
    translator.body.append(convert(node.astext()))
    raise nodes.SkipNode


def _block_mathml(translator: HTML5Translator, node: nodes.math_block) -> None:
    translator.body.append(f'<div class="math">{convert(node.astext(), display="block")}</div>')
    raise nodes.SkipNode


def setup(app: Sphinx) -> None:
    """Add the directive `command-help`, and formulas that browsers show without a script from the network."""
    os.environ["COLUMNS"] = "88"  # the width at which argparse wraps its help
    app.add_directive("command-help", CommandHelp)
    app.add_html_math_renderer("mathml", (_inline_mathml, None), (_block_mathml, None))
