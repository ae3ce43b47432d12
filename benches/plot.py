"""The table as a picture: how many times as good larder is, on a log axis, and the goals.

Twice as good is as far from the middle as half as good. Colours follow the reader's light or dark."""

import math
import statistics
from html import escape

ROW = 20
LEFT, WIDTH, RIGHT = 470, 470, 110
TOP = 66
STYLE = """
text { font: 12px system-ui, sans-serif; fill: #24292f }
.title { font-size: 15px; font-weight: 600 }
.small { fill: #57606a; font-size: 11px }
.grid { stroke: #d0d7de; stroke-width: 1 }
.one { stroke: #57606a; stroke-width: 1.5 }
.met { fill: #1a7f37; stroke: #1a7f37 }
.missed { fill: #bc4c00; stroke: #bc4c00 }
.none { fill: #57606a; stroke: #57606a }
.goal { stroke: #0550ae; stroke-width: 2.5 }
text.met, text.missed, text.none { stroke: none }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 } .small { fill: #9da7b1 } .grid { stroke: #30363d } .one { stroke: #9da7b1 }
  .met { fill: #3fb950; stroke: #3fb950 }
  .missed { fill: #f0883e; stroke: #f0883e }
  .none { fill: #9da7b1; stroke: #9da7b1 }
  .goal { stroke: #79c0ff }
}
"""


def points(line):
    """Least, middle and most times as good as the peer, and as good as the goal asks for; where there is no peer, as
    the goal itself. What has no number, such as none of none, is left out."""
    values = line.judged()
    goal = line.goal
    if not line.peer:
        if goal is None or not goal.most or min(values) <= 0:
            return None
        scores, wanted = [goal.most / value for value in values], 1.0
    elif line.is_less_better():
        scores, wanted = [1 / value for value in values], 1 / goal.most if goal else None
    else:
        scores, wanted = values, goal.least if goal else None
    return min(scores), statistics.median(scores), max(scores), wanted


def svg(lines, caption):
    shown = [(line, found) for line in lines if (found := points(line))]
    extremes = [value for _, found in shown for value in found if value] + [0.5, 2.0]
    low, high = math.floor(math.log2(min(extremes))), math.ceil(math.log2(max(extremes)))

    def x(value):
        return LEFT + WIDTH * (math.log2(value) - low) / (high - low)

    height = TOP + ROW * len(shown) + 44
    bottom = TOP + ROW * len(shown)
    total = LEFT + WIDTH + RIGHT
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {total} {height}" width="{total}" height="{height}">',
        f"<title>larder beside its peers</title><style>{STYLE}</style>",
        '<text class="title" x="12" y="22">larder beside its peers, times as good</text>',
        f'<text class="small" x="12" y="40">{escape(caption)}</text>',
        '<text class="small" x="12" y="56">dot: median; bar: all rounds; blue: the goal; right is better</text>',
    ]
    for power in range(low, high + 1):
        at = x(2.0**power)
        name = f"{2**power}" if power >= 0 else f"1/{2**-power}"
        kind = "one" if power == 0 else "grid"
        out.append(f'<line class="{kind}" x1="{at:.1f}" y1="{TOP}" x2="{at:.1f}" y2="{bottom}"/>')
        # Names of a wide axis would meet.
        if power % 2 == 0 or high - low <= 12:
            out.append(f'<text class="small" x="{at:.1f}" y="{bottom + 16}" text-anchor="middle">{name}</text>')
    for number, (line, (least, middle, most, wanted)) in enumerate(shown):
        y = TOP + ROW * number + ROW / 2
        kind = "none" if line.goal is None else "met" if line.is_met() else "missed"
        text = f"{line.row}  {line.work}"
        out.append(f'<text x="{LEFT - 10}" y="{y + 4}" text-anchor="end">{escape(text)}</text>')
        if wanted:
            out.append(f'<line class="goal" x1="{x(wanted):.1f}" y1="{y - 8}" x2="{x(wanted):.1f}" y2="{y + 8}"/>')
        out.append(f'<line class="{kind}" stroke-width="3" x1="{x(least):.1f}" y1="{y}" x2="{x(most):.1f}" y2="{y}"/>')
        out.append(f'<circle class="{kind}" cx="{x(middle):.1f}" cy="{y}" r="4"/>')
        word = "" if line.goal is None else " met" if line.is_met() else " missed"
        out.append(f'<text class="{kind}" x="{LEFT + WIDTH + 12}" y="{y + 4}">{middle:.2f}{word}</text>')
    out.append("</svg>")
    return "\n".join(out) + "\n"
