"""Draws the README's picture, docs/speed.svg, from the newest goals in bench/README.md; prints its figures.

python bench/picture.py
"""

from __future__ import annotations

import math
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "bench" / "README.md"
PICTURE = ROOT / "docs" / "speed.svg"

WIDTH, BAR, TEXT, END = 520, 16, 152, 456  # bars lie between TEXT and END
LARGE = "16,777,216"
STYLE = """
svg { font: 13px system-ui, sans-serif }
.ground { fill: #ffffff; stroke: #d0d7de } .text { fill: #1f2328 } .small { fill: #59636e; font-size: 11px }
.title { fill: #1f2328; font-weight: 600 } .bar { fill: #00796b } .line { stroke: #59636e }
@media (prefers-color-scheme: dark) {
.ground { fill: #161b22; stroke: #3d444d } .text { fill: #f0f6fc } .small { fill: #9198a1 }
.title { fill: #f0f6fc } .bar { fill: #4db6ac } .line { stroke: #9198a1 }
}
"""

Bars = list[tuple[str, float]]


def goals(results: str) -> dict[tuple[str, str], float]:
    """Of each case and whom it stands beside: the times faster. Newer tables stand above older ones."""
    cell = r" ([^|]+?) \|"
    rows = re.findall(rf"^\|{3 * cell}{3 * cell} ([\d.]+)x \([\d.]+ to", results, re.M)
    found: dict[tuple[str, str], float] = {}
    for case, _, _, _, peer, _, times in rows:
        found.setdefault((case, peer), float(times))
    return found


def faster_than_fused(results: str) -> Bars:
    """A step of Adam: how many times as fast as torch's fused one."""
    adam = {
        re.sub(r"^1 arrays", "1 array", case.removeprefix("Adam ").replace(" x ", " arrays of ")): times
        for (case, peer), times in goals(results).items()
        if case.startswith("Adam ") and peer == "torch fused"
    }
    return sorted(adam.items(), key=lambda bar: -bar[1])


def shares_of_the_roof(results: str) -> Bars:
    """From memory: the speed of each rule over that of the roof."""
    shares = {
        case.removesuffix(f" {LARGE}"): share
        for (case, peer), share in goals(results).items()
        if case.endswith(f" {LARGE}") and peer == "roof"
    }
    return sorted(shares.items(), key=lambda bar: -bar[1])


def taken(results: str) -> str:
    """The machine, torch's version and the date, as the line above the newest table names them."""
    line = re.search(r"^(\d{4}-\d\d-\d\d): (.+?), (\d+ processors, \w+), .*(torch \d+\.\d+)", results, re.M)
    assert line is not None
    date, processor, machine, torch = line.groups()
    return f"{processor.replace('(R)', '')}, {machine}; {torch}; {date}; bench/bench_goals.py"


def panel(top: int, title: str, bars: Bars, share: dict[str, float], mark: str) -> list[str]:
    """A title and a bar a line; ``share`` is how long each bar is, of 1."""
    lines = [f'<text class="title" x="16" y="{top}">{title}</text>']
    for i, (name, value) in enumerate(bars):
        y = top + 14 + i * (BAR + 8)
        end = TEXT + (END - TEXT) * share[name]
        beside = max(END, end) if share[name] > 0.9 else end  # beyond the line that 1 is
        lines += [
            f'<text class="text" x="{TEXT - 8}" y="{y + 13}" text-anchor="end">{name}</text>',
            f'<rect class="bar" x="{TEXT}" y="{y}" width="{end - TEXT:.1f}" height="{BAR}" rx="2"/>',
            f'<text class="text" x="{beside + 6:.1f}" y="{y + 13}">{mark.format(value)}</text>',
        ]
    return lines


def picture(results: str) -> str:
    faster, shares = faster_than_fused(results), shares_of_the_roof(results)
    longest = math.log(max(times for _, times in faster))
    logs = {name: math.log(times) / longest for name, times in faster}
    first = 30
    second = first + 14 + len(faster) * (BAR + 8) + 30
    below = second + 14 + len(shares) * (BAR + 8)
    lines = [
        *panel(
            first,
            "A step of Adam in use: times as fast as torch's fused Adam (log scale)",
            faster,
            logs,
            "{:#.3g}x",
        ),
        *panel(
            second, f"{LARGE} weights, in use: share of the memory's speed", shares, dict(shares), "{:.2f}"
        ),
        f'<line class="line" x1="{END}" y1="{second + 8}" x2="{END}" y2="{below}" stroke-dasharray="3 3"/>',
        f'<text class="small" x="16" y="{below + 22}">{taken(results)}</text>',
    ]
    height = below + 36
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
            f'viewBox="0 0 {WIDTH} {height}" role="img">',
            "<title>Steps of samestep beside torch and beside the memory's speed</title>",
            f"<style>{STYLE}</style>",
            f'<rect class="ground" x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1}" rx="8"/>',
            *lines,
            "</svg>\n",
        ]
    )


def main() -> None:
    results = RESULTS.read_text(encoding="utf-8")
    PICTURE.write_text(picture(results), encoding="utf-8")
    print(taken(results))
    for title, bars in (
        ("Adam, times as fast as torch fused", faster_than_fused(results)),
        (f"{LARGE} weights, share of the roof", shares_of_the_roof(results)),
    ):
        print(title)
        for name, value in bars:
            print(f"  {name:12} {value}")
    print(f"wrote {PICTURE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
