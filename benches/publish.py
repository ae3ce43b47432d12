#!/usr/bin/env python3
"""Puts the last run's table and picture into README.md, where they are read: `publish.py`, after `make bench`."""

import shutil
from pathlib import Path

here = Path(__file__).parent
target = here.parent / "target"
begin, end = "<!-- The table, by publish.py -->\n", "<!-- The table's end -->\n"
text = (here / "README.md").read_text()
before, rest = text.split(begin)
_, after = rest.split(end)
(here / "README.md").write_text(f"{before}{begin}\n{(target / 'bench.md').read_text()}\n{end}{after}")
shutil.copyfile(target / "bench.svg", here / "table.svg")
