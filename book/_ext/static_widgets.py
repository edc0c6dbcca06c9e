"""Widgets on a site without a kernel.

The lab (``samlib.lab``) brings its own JavaScript: a page that holds one loads two small scripts.
Any other ipywidget shows what it showed when the notebook ran, as a picture, with the values of its
controls. Neither needs require.js and the widget manager, which would cost each page 4.5 MB.
"""

from __future__ import annotations

import base64
import json
import re
from html import escape
from pathlib import Path
from typing import Any

from docutils import nodes
from local_assets import palette
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.transforms.post_transforms import SphinxPostTransform

from samlib.lab import script

VIEW = "application/vnd.jupyter.widget-view+json"
NOTE = "The controls move in JupyterLab (<code>make lab</code>)."


# --- the lab ---


def classic(module: str) -> str:
    """Turn the ES module of an anywidget into a classic script, since file:// refuses modules.

    The module must import nothing and have one ``export default``: ``globalThis.samlab`` here.

    Raises
    ------
    ValueError
        If the module imports something or does not have exactly one default export.
    """
    body, exports = re.subn(r"^export\s+default\b", "globalThis.samlab =", module, flags=re.M)
    if exports != 1 or re.search(r"^\s*(import|export)\b", body, flags=re.M):
        raise ValueError("the lab must import nothing and have exactly one `export default`")
    return f"(() => {{\n{body}\n}})();\n"


def generate_lab(app: Sphinx, config: Config) -> None:
    """Write the lab's scripts and styles to ``_build/.lab`` for Sphinx to take into ``_static``."""
    target = Path(app.outdir).parent / ".lab" / "samlab"
    target.mkdir(parents=True, exist_ok=True)
    for old in target.iterdir():
        old.unlink()
    (target / "samlab.js").write_text(classic(script.module()), encoding="utf-8")
    for name in ["host.js", "samlab.css"]:
        (target / name).write_bytes((script.STATIC / name).read_bytes())
    config.html_static_path = [*config.html_static_path, str(target.parent)]


def load_lab(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """Load the lab on pages that hold one, and keep the widget manager's state off every page."""
    scripts = getattr(app.env, "nb_metadata", {}).get(page, {}).get("js_files", {})
    scripts.pop("ipywidgets_state", None)  # myst-nb would put it on the page at priority 500
    if 'class="samlab"' in context.get("body", ""):
        app.add_css_file("samlab/samlab.css")
        for name in ["samlab.js", "host.js"]:
            app.add_js_file(f"samlab/{name}", loading_method="defer")


# --- every other widget ---


def children(model: dict[str, Any]) -> list[str]:
    """The ids of a widget's children."""
    return [c.removeprefix("IPY_MODEL_") for c in model["state"].get("children", [])]


def value_of(state: dict[str, Any]) -> str | None:
    """What a control shows: its label, or its number as its own format prints it."""
    if "_options_labels" in state and state.get("index") is not None:
        return str(state["_options_labels"][state["index"]])
    value = state.get("value")
    if value is None or isinstance(value, (dict, list)):
        return None
    spec = str(state.get("readout_format", ""))
    return format(value, spec) if re.fullmatch(r"\.\d+[fe]", spec) else str(value)


def still(state: dict[str, Any], root: str, alt: str) -> str:
    """The widget ``root`` as HTML: its outputs, and a caption with the values of its controls."""
    pieces: list[str] = []
    values: list[str] = []
    todo = [root]
    while todo:
        model = state.get(todo.pop(0))
        if model is None:
            continue
        todo += children(model)
        inner = model["state"]
        if (value := value_of(inner)) is not None and inner.get("description"):
            values.append(f"{inner['description'].rstrip(': ')} = {value}")
        for output in inner.get("outputs", []):
            pieces.append(output_html(output, alt or "Figure for " + ", ".join(values)))
    caption = (", ".join(values) + ". " if values else "") + NOTE
    return (
        '<figure class="still-widget">'
        + "".join(pieces)
        + f"<figcaption>{escape(caption, quote=False).replace(escape(NOTE, quote=False), NOTE)}"
        + "</figcaption></figure>"
    )


def output_html(output: dict[str, Any], alt: str) -> str:
    """One output of a cell or of an Output widget as HTML."""
    data = output.get("data", {})
    if "image/png" in data:
        source = base64.b64encode(palette(base64.b64decode(data["image/png"]))).decode()
        return f'<img alt="{escape(alt)}" src="data:image/png;base64,{source}"/>'
    if "text/html" in data:
        return str(data["text/html"])
    text = output.get("text") or data.get("text/plain") or ""
    return f"<pre>{escape(''.join(text))}</pre>" if text else ""


class StillWidgets(SphinxPostTransform):
    """Replace the view of a plain ipywidget by a still, before myst-nb chooses among its forms."""

    default_priority = 3  # myst-nb's SelectMimeType has 4

    def run(self, **kwargs: Any) -> None:
        """Go through the outputs of this page."""
        scripts = getattr(self.env, "nb_metadata", {}).get(self.env.docname, {}).get("js_files", {})
        body = scripts.get("ipywidgets_state", (None, {"body": "{}"}))[1]["body"]
        state = json.loads(body).get("state", {})
        for bundle in list(self.document.findall(nodes.container)):
            forms = {
                c["mime_type"]: c
                for c in bundle.children
                if isinstance(c, nodes.container) and "mime_type" in c
            }
            if (
                bundle.get("nb_element") != "mime_bundle"
                or VIEW not in forms
                or "text/html" in forms
            ):
                continue
            root = re.search(r'"model_id":\s*"(\w+)"', forms[VIEW].astext())
            cell = bundle.parent
            while cell is not None and "cell_metadata" not in cell:
                cell = cell.parent
            shown = (cell or {}).get("cell_metadata", {}).get("mystnb", {})
            alt = shown.get("image", {}).get("alt", "")
            html = still(state, root[1] if root else "", alt)
            bundle.replace_self(nodes.raw("", html, format="html"))


def setup(app: Sphinx) -> dict[str, bool]:
    """Sphinx calls this when it loads the extension."""
    app.connect("config-inited", generate_lab)
    app.connect("html-page-context", load_lab, priority=400)
    app.add_post_transform(StillWidgets)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
