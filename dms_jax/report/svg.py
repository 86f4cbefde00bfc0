"""Figures as SVG that belongs to a page: it follows the theme, and its ids do not clash."""

import io
import re
import warnings
from xml.etree import ElementTree

from matplotlib.figure import Figure

from dms_jax.report.drawing import COLORS, MARGIN, styled

_NAMESPACE = re.compile(r"^\{[^}]*\}")
_REFERENCE = re.compile(r"#([^)]+)")
_VARIABLES = {light: f"var(--{name})" for name, (light, _) in COLORS.items()}


@styled
def inline_svg(figure: Figure, name: str, label: str) -> str:
    """Returns a figure as an SVG element to stand inside HTML.

    Colors of the palette become CSS variables (`var(--blue)`), text stays text in the page's font, and
    nothing outside the element is referred to. Equal figures give equal text.

    Args:
      figure: drawn by `dms_jax.report.pictures`.
      name: prefix of the ids, one a figure of the page.
      label: what the picture shows, for those who cannot see it.
    """
    buffer = io.StringIO()
    with warnings.catch_warnings():
        # text stays text: the reader's font has the letters that matplotlib's lacks
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    root = ElementTree.fromstring(buffer.getvalue())
    _strip(root)
    root.attrib = _opening(figure, label)
    _own_ids(root, name)
    return ElementTree.tostring(root, encoding="unicode")


def _opening(figure: Figure, label: str) -> dict[str, str]:
    inches = [side - 2 * MARGIN for side in figure.get_size_inches()]
    width, height = (str(round(96 * side)) for side in inches)
    view = " ".join(f"{72 * length:g}" for length in (MARGIN, MARGIN, *inches))
    return {"role": "img", "aria-label": label, "width": width, "height": height, "viewBox": view}


def _strip(element: ElementTree.Element) -> None:
    """Leaves out namespaces, metadata, and what the page decides: the font, the style sheet."""
    element.tag = _NAMESPACE.sub("", element.tag)
    element.attrib = {_NAMESPACE.sub("", key): value for key, value in element.attrib.items()}
    if "style" in element.attrib:
        declarations = (part.partition(":") for part in element.attrib["style"].split(";"))
        pairs = ((key.strip(), value.strip()) for key, _, value in declarations)
        kept = [f"{key}: {_VARIABLES.get(value, value)}" for key, value in pairs if key and key != "font-family"]
        element.attrib["style"] = "; ".join(kept)
    for child in list(element):
        _strip(child)
        if child.tag in ("metadata", "style") or (child.tag == "defs" and len(child) == 0):
            element.remove(child)
    if element.tag != "text":
        element.text = None  # indentation
    element.tail = None


def _own_ids(root: ElementTree.Element, name: str) -> None:
    """Drops the ids nothing refers to and renames the others, which are numbered from 1."""
    numbers: dict[str, str] = {}

    def rename(match: re.Match[str]) -> str:
        return "#" + numbers.setdefault(match[1], f"{name}-{len(numbers) + 1}")

    for element in root.iter():
        for key in ("clip-path", "href"):
            value = element.attrib.get(key, "")
            if value.startswith(("#", "url(#")):
                element.attrib[key] = _REFERENCE.sub(rename, value)
    for element in root.iter():
        identity = element.attrib.pop("id", None)
        if identity in numbers:
            element.attrib["id"] = numbers[identity]
