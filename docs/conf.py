"""How the documentation is built: ``make docs``, without network access."""

import os
import sys
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"  # texts of the gallery quote numbers

import widescape

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_ext"))

project = "widescape"
author = "The widescape developers"
project_copyright = f"2026, {author}"
version = release = widescape.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_gallery.gen_gallery",
    "api",
    "bibliography",
    "mathml",
]
exclude_patterns = ["_build", "_ext", "gallery", "auto_gallery/**/*.ipynb", "auto_gallery/**/*.py", "Thumbs.db"]
nitpicky = True
nitpick_ignore_regex = [
    # Standard library and other packages: their reference is on the network, and builds do without it.
    (r"py:.*", r"(typing|collections|pathlib|os|abc|enum|builtins|np|numpy|jax|jnp|optax|matplotlib)(\..*)?"),
    (r"py:.*", r"(None|bool|bytes|dict|float|int|list|object|set|str|tuple|type|self|callable|array)"),
    (r"py:.*", r"(Any|Callable|ClassVar|Iterable|Iterator|Literal|Mapping|ModuleType|Path|PathLike|Self|Sequence)"),
    (r"py:.*", r"(Exception|[A-Z][A-Za-z]*Error|UserWarning|Enum|ABC|NamedTuple)"),
    # Private bases and types that signatures of widescape name.
    (r"py:class", r"widescape\..*\._\w+"),
    (
        r"py:class",
        r"(.*\.)?(Affine|Anchor|Apply|Augmented|AxisWindows|Branch|Convolve|Entry|Figure|InputBlock|Layout|Level|ManyTargets|OutputLoss|Permuting|Pool|Readout|Rules|TailFit|Transfers)",
    ),
    (r"py:class", r"sklearn\.base\.\w+Mixin"),
    (
        r"py:class",
        r"widescape\.features\.sample_complexity\.Problem",
    ),
]

# The reference: one page for each room, from bottom to top. A room without `__all__` is listed with the modules of it
# that are of use outside the library.
api_rooms = (
    "core",
    "duals",
    "data",
    "curvature",
    "arch",
    "kernels",
    "predict",
    "train",
    "landscape",
    "paths",
    "features",
    "studies",
    "estimators",
    "survey",
    "report",
)
api_modules = {
    "core": ("result", "evidence", "status", "chart", "table", "errors", "random"),
    "report": ("figures", "page"),
}

default_role = "name"  # docstrings put code into single backticks
autodoc_inherit_docstrings = False  # a method that only implements its base's contract is documented there
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autosummary_generate = False
maximum_signature_line_length = 80
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
python_use_unqualified_type_names = True
toc_object_entries = False

bibliography_file = str(HERE.parent / "references.bib")

myst_enable_extensions = ["dollarmath", "colon_fence", "deflist"]
myst_heading_anchors = 3
html_math_renderer = "mathml"

sphinx_gallery_conf = {
    "examples_dirs": "gallery",
    "gallery_dirs": "auto_gallery",
    "filename_pattern": r"/plot_",
    "within_subsection_order": "FileNameSortKey",
    "abort_on_example_error": True,
    "image_scrapers": ("figures",),
    "reset_modules": (),
    "doc_module": ("widescape",),
    "backreferences_dir": None,
    "download_all_examples": False,
    "show_memory": False,
    "show_signature": False,
    "capture_repr": (),
    "notebook_extensions": set(),
    "min_reported_time": 1e9,
    "write_computation_times": False,
    "remove_config_comments": True,
}

html_theme = "furo"
html_title = "widescape"
html_static_path = ["_static"]
html_css_files = ["widescape.css"]
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#0072b2", "color-brand-content": "#0066a0"},
    "dark_css_variables": {"color-brand-primary": "#56b4e9", "color-brand-content": "#6cbdec"},
}
pygments_style = "friendly"
pygments_dark_style = "native"
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
