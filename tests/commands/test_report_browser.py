"""The report as Chromium shows it: on a desk, on a phone, in the dark, on paper."""

from itertools import pairwise

import numpy as np
import pytest

from browser import CHROMIUM, Browser
from samestep.commands import report

IN_BROWSER = pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium, which is not installed")


@pytest.fixture(scope="module")
def browser():
    with Browser() as browser:
        yield browser


# Where a picture lies in the window, what it is made of, and which of its letters lie outside of it.
PICTURES = """[...document.querySelectorAll("figure svg")].map(svg => {
  const box = svg.getBoundingClientRect();
  const out = [...svg.querySelectorAll("text")].filter(text => {
    const t = text.getBoundingClientRect();
    return t.left < box.left - 2 || t.right > box.right + 2
      || t.top < box.top - 2 || t.bottom > box.bottom + 2;
  }).map(text => text.textContent);
  const lines = [...svg.querySelectorAll("path, use")].filter(e => {
    const b = e.getBoundingClientRect();
    return b.width + b.height > 20;
  });
  return {id: svg.closest("figure").id, left: box.left, right: box.right, height: box.height, out,
          lines: lines.length, texts: svg.querySelectorAll("text").length};
})"""

WIDER_THAN = """[...document.querySelectorAll("body *")]
  .filter(e => !e.closest("svg") && e.getBoundingClientRect().right > WIDTH + 1)
  .map(e => e.tagName + "." + e.className)"""

# The relative luminances of the letters in pictures and of the paper behind them.
LUMINANCES = """(() => {
  const luminance = color => {
    const [r, g, b] = color.match(/[\\d.]+/g).slice(0, 3).map(c => (c / 255) ** 2.2);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const paper = luminance(getComputedStyle(document.body).backgroundColor);
  return {paper, ink: [...document.querySelectorAll("figure svg text, p, td")].map(
    e => luminance(e.closest("svg") ? getComputedStyle(e).fill : getComputedStyle(e).color))};
})()"""


@IN_BROWSER
@pytest.mark.thread_unsafe(reason="one browser has one page")
class TestInBrowser:
    @pytest.mark.parametrize("width", [390, 1280])
    def test_every_picture_is_drawn_and_nothing_sticks_out(self, made, browser, width):
        browser.open(made[1], width)
        found = browser.run(PICTURES)
        assert [picture["id"] for picture in found] == [picture.name for picture in report.PICTURES]
        for picture in found:
            assert picture["left"] >= 0, picture
            assert picture["right"] <= width, picture
            assert picture["height"] > 150, picture
            assert picture["lines"] >= 3, picture
            assert picture["texts"] >= 6, picture
            assert picture["out"] == [], picture
        assert browser.run("document.documentElement.scrollWidth") <= width
        assert browser.run(WIDER_THAN.replace("WIDTH", str(width))) == []

    @pytest.mark.parametrize("dark", [False, True])
    def test_letters_stand_out_from_the_paper(self, made, browser, dark):
        browser.open(made[1], 1280, dark=dark)
        seen = browser.run(LUMINANCES)
        assert (seen["paper"] < 0.05) == dark
        contrasts = [
            (max(seen["paper"], ink) + 0.05) / (min(seen["paper"], ink) + 0.05) for ink in seen["ink"]
        ]
        assert min(contrasts) > 4.5
        assert np.median(contrasts) > 9

    def test_the_sliders_change_both_pictures(self, made, browser):
        browser.open(made[1], 390)
        states = [browser.run("[valley.innerHTML, gap.innerHTML]")]
        for slider, value in (("step-size", 0.05), ("momentum", 0.9)):
            browser.run(
                f"(s => {{ s.value = {value}; s.dispatchEvent(new Event('input')); }})"
                f"(document.getElementById('{slider}'))"
            )
            states.append(browser.run("[valley.innerHTML, gap.innerHTML]"))
        for before, after in pairwise(states):
            assert before[0] != after[0]
            assert before[1] != after[1]
        assert browser.run("document.getElementById('momentum-told').value") == "0.90"

    @pytest.mark.parametrize(
        ("lr", "momentum", "ball", "nesterov"),
        [
            (0.19, 0.0, True, True),
            (0.21, 0.0, False, False),
            (0.25, 0.5, True, False),
            (0.305, 0.5, False, False),
        ],
    )
    def test_the_edges_under_the_sliders(self, made, browser, lr, momentum, ball, nesterov):
        """beta is 10: 0.2 without momentum, 0.3 and 0.15 with a = 1/2; and the curves go as it says."""
        browser.open(made[1], 1280)
        browser.run(
            f"document.getElementById('step-size').value = {lr};"
            f"(s => {{ s.value = {momentum}; s.dispatchEvent(new Event('input')); }})"
            "(document.getElementById('momentum'))"
        )
        for name, converges in (("momentum", ball), ("nag", nesterov)):
            told = browser.run(f"document.getElementById('{name}-told-rate').textContent")
            assert ("converges" in told) == converges, told
            assert ("diverges" in told) != converges, told

    def test_it_asks_for_nothing_and_complains_of_nothing(self, made, browser):
        browser.open(made[1], 390, dark=True)
        assert browser.complaints == []
        assert set(browser.requests) <= {made[1].resolve().as_uri(), "data:,"}

    def test_complaints_would_be_seen(self, browser, tmp_path):
        path = tmp_path / "bad.html"
        path.write_text(
            '<script>console.error("a"); nothing()</script><img src="none.png">', encoding="utf-8"
        )
        with Browser() as other:
            other.open(path, 390)
            assert len(other.complaints) >= 3
            assert len(other.requests) >= 2

    def test_every_letter_in_a_picture_is_12_pixels_high_on_a_phone(self, made, browser):
        browser.open(made[1], 390)
        sizes = browser.run(LETTERS)
        assert len(sizes) > 200
        assert [told for told in sizes if told[0] < 12] == []

    def test_what_is_touched_is_44_pixels_high_on_a_phone(self, made, browser):
        browser.open(made[1], 390)
        touched = browser.run(TOUCHED)
        assert len(touched) == 2 + 1 + 3 + 2 * len(report.ITEMS)  # sliders, summary, sections, items and back
        assert [told for told in touched if told[0] < 44] == []

    @pytest.mark.parametrize("width", [320, 390, 768, 1280, 2560])
    def test_no_width_scrolls_sideways(self, made, browser, width):
        browser.open(made[1], width)
        assert browser.run("document.documentElement.scrollWidth") <= width
        assert browser.run(WIDER_THAN.replace("WIDTH", str(width))) == []

    @pytest.mark.parametrize(
        ("lr", "momentum", "names"), [(0.2, 0, ["momentum", "nag"]), (0.3, 0.5, ["momentum"])]
    )
    def test_at_the_edge_itself_nothing_converges_or_diverges(self, made, browser, lr, momentum, names):
        browser.open(made[1], 1280)
        browser.run(
            f"document.getElementById('step-size').value = {lr};"
            f"(s => {{ s.value = {momentum}; s.dispatchEvent(new Event('input')); }})"
            "(document.getElementById('momentum'))"
        )
        for name in names:
            told = browser.run(f"document.getElementById('{name}-told-rate').textContent")
            assert "at its edge: neither converges nor diverges" in told

    def test_paper_has_no_sliders_and_no_links_up(self, made, browser):
        browser.open(made[1], 794)
        browser.call("Emulation.setEmulatedMedia", media="print")
        assert browser.run('document.getElementById("try").offsetHeight') == 0
        assert browser.run('[...document.querySelectorAll(".up")].some(e => e.offsetHeight)') is False
        broken = browser.run(
            '[...document.querySelectorAll("figure, .item")].filter('
            'e => getComputedStyle(e).breakInside !== "avoid").map(e => e.id)'
        )
        assert broken == []
        assert browser.run('document.querySelectorAll("figure").length') == len(report.PICTURES)


# The height of every text in a picture, as shown, and what it says.
LETTERS = """[...document.querySelectorAll("svg text")].map(text => {
  const scale = text.ownerSVGElement.getScreenCTM().a;
  return [parseFloat(getComputedStyle(text).fontSize) * scale, text.textContent];
})"""

# The height of every slider, summary and link, and what it is.
TOUCHED = """[...document.querySelectorAll("input, summary, a")].map(
  e => [e.getBoundingClientRect().height, e.id || e.textContent])"""
