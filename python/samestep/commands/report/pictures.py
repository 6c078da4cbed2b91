"""What a picture of the report is. They are in rates.py, paths.py, landscapes.py and networks.py."""

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
        caption: a sentence below it: what to see.
        label: what it shows, for those who cannot see it.
        drawing: called with ``quick``; measures, and returns a figure.
    """

    name: str
    title: str
    caption: str
    label: str
    drawing: Callable[[bool], Any]


@dataclass(frozen=True)
class Drawn:
    """One that is."""

    name: str
    title: str
    caption: str
    svg: str


def picture(name: str, title: str, label: str) -> Callable[[Callable[[bool], Any]], Picture]:
    """Makes one of the decorated function, which measures and draws; its docstring is the caption."""

    def of(drawing: Callable[[bool], Any]) -> Picture:
        return Picture(name, title, inspect.getdoc(drawing) or "", label, drawing)

    return of


def drawn(picture: Picture, quick: bool) -> Drawn:
    """The picture, measured and drawn now."""
    element = svg.draw(picture.name, picture.label, lambda: picture.drawing(quick))
    return Drawn(picture.name, picture.title, picture.caption, element)
