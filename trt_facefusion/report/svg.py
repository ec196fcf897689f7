"""SVG as a tree: what is a name stays a name, because a serialiser writes every attribute and text."""

from __future__ import annotations

from xml.etree import ElementTree

from markupsafe import Markup

from trt_facefusion.text import printable

Element = ElementTree.Element
NAMESPACE = "http://www.w3.org/2000/svg"


def element(tag: str, *children: Element | str, **attributes: object) -> Element:
    """An element with text or elements inside of it.

    In the names of attributes ``class_`` stands for ``class`` and ``text_anchor`` for ``text-anchor``. Characters that
    XML cannot hold, such as escape sequences in names, are written out.
    """
    made = ElementTree.Element(tag, {name.rstrip("_").replace("_", "-"): _text(v) for name, v in attributes.items()})
    for child in children:
        if isinstance(child, str):
            made.text = (made.text or "") + _text(child)
        else:
            made.append(child)
    return made


def make_svg(width: float, height: float, label: str, *children: Element, **attributes: object) -> Element:
    """The ``svg`` element around ``children``; ``label`` is what a screen reader says."""
    return element("svg", *children, viewBox=f"0 0 {width:g} {height:g}", role="img", aria_label=label, **attributes)


def dumps(tree: Element) -> Markup:
    """The tree as text that a page takes over as it is."""
    return Markup(ElementTree.tostring(tree, encoding="unicode"))


def _text(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else printable(str(value))
