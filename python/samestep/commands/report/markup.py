"""The markup of formulas, captions and remarks, and what it becomes in HTML.

`w_{t+1}` and `g^2` are sub- and superscripts of one letter or one group in braces; a formula stands between
single backquotes, a command between double ones.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable

_QUOTED = re.compile(r"``(?P<code>[^`]+)``|`(?P<formula>[^`]+)`")
_WORD = re.compile(r"[A-Za-z]+")
_THOUSANDS = re.compile(r"(?<=\d) (?=\d{3}\b)")

Slanted = Callable[[str, int, int], bool]  # whether the word text[start:end] is a variable


def formula(text: str) -> str:
    """A formula as HTML: words of one or two letters are variables, longer ones and tr, the trace, are not.

    Example:
        >>> from samestep.commands.report.markup import formula
        >>> formula("g_{t+1} < (1 − μ)^tL")
        '<i>g</i><sub><i>t</i>+1</sub> &lt; (1 − μ)<sup><i>t</i></sup><i>L</i>'
    """
    return _as_html(text, lambda text, start, end: end - start < 3 and text[start:end] != "tr")


def prose(text: str) -> str:
    """Sentences as HTML: single letters are variables, except where a and I may be words.

    20 000 stays on one line.

    Example:
        >>> from samestep.commands.report.markup import prose
        >>> prose("a step of 1/L, with `a` = ½")
        'a step of 1/<i>L</i>, with <i>a</i> = ½'
    """
    text = _THOUSANDS.sub("\N{NO-BREAK SPACE}", text)
    parts, at = [], 0
    for quoted in _QUOTED.finditer(text):
        parts.append(_as_html(text[at : quoted.start()], _variable_in_prose))
        code = quoted["code"]
        parts.append(formula(quoted["formula"]) if code is None else f"<code>{_escaped(code)}</code>")
        at = quoted.end()
    return "".join(parts) + _as_html(text[at:], _variable_in_prose)


def _variable_in_prose(text: str, start: int, end: int) -> bool:
    word, before, after = text[start:end], text[:start][-1:], text[end : end + 1]
    if word == "lr":
        return True
    if len(word) > 1 or word in "AI" or (before and before in ".'’-") or (after and after in "'’-"):
        return False
    if word == "a":
        return text[end:].startswith(" = ") or before in ("+", "(") or (before.isdigit() and after == ")")
    return True


def _as_html(text: str, slanted: Slanted) -> str:
    parts, at = [], 0
    while at < len(text):
        if text[at] in "_^" and text[at + 1 : at + 2].strip():
            tag = "sub" if text[at] == "_" else "sup"
            end = _end_of_group(text, at + 1)
            group = text[at + 1 : end]
            parts.append(f"<{tag}>{_as_html(group.removeprefix('{').removesuffix('}'), slanted)}</{tag}>")
            at = end
        elif word := _WORD.match(text, at):
            shown = f"<i>{word[0]}</i>" if slanted(text, at, word.end()) else word[0]
            parts.append(shown)
            at = word.end()
        else:
            parts.append(_escaped(text[at]))
            at += 1
    return "".join(parts)


def _end_of_group(text: str, at: int) -> int:
    """The end of the one letter at ``at``, or of the braces that open there."""
    depth = 0
    for end in range(at, len(text)):
        depth += {"{": 1, "}": -1}.get(text[end], 0)
        if depth == 0:
            return end + 1
    return len(text)


def _escaped(text: str) -> str:
    return html.escape(text, quote=False)
