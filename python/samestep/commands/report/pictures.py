"""What a picture of the report is. Those that it has are listed in __init__.py."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from . import svg


@dataclass(frozen=True)
class Picture:
    """One to be drawn.

    Attributes:
        name: of the element.
        title: above it.
        caption: below it: what to see, in the full report and with ``--quick``.
        label: what it shows, for those who cannot see it.
        drawing: called with ``quick``; measures, and returns a figure.
        full: the end of the caption in the full report.
        quick: the end of the caption with ``--quick``.
    """

    name: str
    title: str
    caption: str
    label: str
    drawing: Callable[[bool], Any]
    full: str = ""
    quick: str = ""


@dataclass(frozen=True)
class Drawn:
    """A picture that is drawn."""

    name: str
    title: str
    caption: str
    svg: str


def picture(
    name: str, title: str, label: str, full: str = "", quick: str = ""
) -> Callable[[Callable[[bool], Any]], Picture]:
    """Makes a picture of the decorated function, which measures and draws; its docstring is the caption."""

    def of(drawing: Callable[[bool], Any]) -> Picture:
        return Picture(name, title, inspect.getdoc(drawing) or "", label, drawing, full, quick)

    return of


def drawn(picture: Picture, quick: bool) -> Drawn:
    """Measures and draws a picture."""
    element = svg.draw(picture.name, picture.label, lambda: picture.drawing(quick))
    caption = f"{picture.caption} {picture.quick if quick else picture.full}".strip()
    return Drawn(picture.name, picture.title, caption, element)
