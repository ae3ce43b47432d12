#!/usr/bin/env python3
"""Writes what the chart has from elsewhere: the table of larder/README.md from what larder/values.yaml says of each value, and
its copies of the alerts and the dashboard, because whoever fetches a chart may leave links out. `--check` only compares."""

import re
import sys
from pathlib import Path

CHART = Path(__file__).parent / "larder"
MARK = "<!-- values: written by ../readme.py -->\n"


def rows(text):
    """Key, default and remark of each line with a key. The remark is the comment directly above it."""
    path, remark = [], []
    for line in text.splitlines():
        comment = re.fullmatch(r" *# ?(.*)", line)
        key = re.fullmatch(r"( *)(\w+):(?: (.*))?", line)
        if comment:
            remark.append(comment[1])
            continue
        if key:
            path[len(key[1]) // 2 :] = [key[2]]
            default = f"`{key[3]}`" if key[3] else ""
            if default or remark:
                yield ".".join(path), default, " ".join(remark)
        elif line.strip():
            sys.exit(f"values.yaml: neither a remark nor a key with its value in one line: {line}")
        remark = []


def table(text):
    lines = [f"| `{key}` | {default} | {remark} |" for key, default, remark in rows(text)]
    return "\n".join(["| value | default | |", "|---|---|---|", *lines]) + "\n"


readme = CHART / "README.md"
head = readme.read_text().split(MARK)[0]
DEPLOY = CHART / "../.."
written = {
    readme: head + MARK + "\n" + table((CHART / "values.yaml").read_text()),
    CHART / "files/alerts.yaml": (DEPLOY / "prometheus/alerts.yaml").read_text(),
    CHART / "files/dashboard.json": (DEPLOY / "grafana/larder.json").read_text(),
}
for file, text in written.items():
    if "--check" not in sys.argv:
        file.write_text(text)
    elif file.is_symlink() or file.read_text() != text:
        sys.exit(f"{file.relative_to(CHART)} is not what it is made of: run deploy/helm/readme.py")
