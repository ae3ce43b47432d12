#!/usr/bin/env python3
"""larder beside its peers: `table.py LARDER [ROWS]`, such as `table.py target/release/larder hits,miss`.

Prints the table and writes it to target/bench.md, and as a picture to target/bench.svg. It fails when bytes differ,
an answer is no success or a server dies, never for being slow. README.md says how to read it."""

import datetime
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import crowd
import hits
import memory
import miss
import plot
import rate
import start
from bench import Bench, Wrong, clean_surroundings, ends_properly

# Names, the rows of the table that each gives, what measures them, and the seconds that it takes on a quiet machine.
GROUPS = {
    "hits": ("1-4", hits.measure, hits.BUDGET),
    "rate": ("5", rate.measure, rate.BUDGET),
    "crowd": ("6", crowd.measure, crowd.BUDGET),
    "miss": ("7", miss.measure, miss.BUDGET),
    "herd": ("8", miss.measure_herd, miss.HERD_BUDGET),
    "burst": ("9", memory.measure_burst, memory.BURST_BUDGET),
    "idle": ("10", memory.measure_idle, memory.IDLE_BUDGET),
    "held": ("11", memory.measure_held, memory.HELD_BUDGET),
    "start": ("12", start.measure, start.BUDGET),
    "growth": ("13", start.measure_growth, start.GROWTH_BUDGET),
}


def number(value):
    """Three digits: the rest is noise."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}".replace(",", " ")
    return f"{value:.{1 if abs(value) >= 10 else 2}f}"


def cells(line):
    peer = f"{line.peer_name}: {number(statistics.median(line.peer))}" if line.peer else "–"
    judged = [pick(line.judged()) for pick in (min, statistics.median, max)]
    three = [f"{value:.2f}" if line.peer else number(value) for value in judged]
    goal = [str(line.goal), "met" if line.is_met() else "**missed**"] if line.goal else ["", ""]
    larder = number(statistics.median(line.larder))
    return [str(line.row), line.work, line.unit, peer, larder, *three, *goal, line.remark]


def markdown(lines, remarks, caption):
    head = ["row", "work", "unit", "peer", "larder", "min", "median", "max", "goal", "", "remark"]
    rows = [head, *map(cells, lines)]
    widths = [max(map(len, column)) for column in zip(*rows)]
    text = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths)) + " |" for row in rows]
    text.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join([caption, "", *text]) + "\n" + "".join(f"\n{remark}\n" for remark in remarks)


def version(*command):
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    return (done.stdout + done.stderr).splitlines()[0].removeprefix("nginx version: ")


def main():
    if len(sys.argv) < 2 or not os.access(sys.argv[1], os.X_OK):
        sys.exit(f"usage: {sys.argv[0]} LARDER [ROWS]; rows: {','.join(GROUPS)}")
    wanted = sys.argv[2].replace(",", " ").split() if len(sys.argv) > 2 else []
    if unknown := set(wanted) - set(GROUPS):
        sys.exit(f"there are no rows {', '.join(sorted(unknown))}; there are: {', '.join(GROUPS)}")
    clean_surroundings()
    os.environ["PATH"] += ":/usr/sbin"
    ends_properly()
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    target = Path(__file__).parent.parent / "target"
    target.mkdir(exist_ok=True)
    begun = time.monotonic()
    servers = f"{version(sys.argv[1], 'version')}, {version('nginx', '-v')}"
    what = f"{servers}, Linux {os.uname().release}, {os.cpu_count()} cores"
    lines, remarks, failures = [], [], []
    for name, (rows, measure, budget) in GROUPS.items():
        if wanted and name not in wanted:
            continue
        since = time.monotonic()
        with Bench(sys.argv[1]) as bench:
            bench.say(f"{name} (row {rows}, about {budget} s)")
            try:
                measure(bench)
            except (Wrong, OSError) as problem:
                failures.append(f"Row {rows} failed: {problem}")
                bench.say(failures[-1])
        bench.say(f"  took {time.monotonic() - since:.0f} s")
        lines += bench.lines
        remarks += bench.left_out
    lines.sort(key=lambda line: line.row)
    caption = f"{datetime.date.today()}, {what}, in {(time.monotonic() - begun) / 60:.1f} minutes"
    text = markdown(lines, remarks + failures, caption)
    (target / "bench.md").write_text(text)
    (target / "bench.svg").write_text(plot.svg(lines, caption))
    print(text, end="")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
