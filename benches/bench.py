"""What all rows share: a folder, servers that are ended, the time a row may take, and the lines it gave."""

import contextlib
import os
import random
import shutil
import signal
import socket
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path


class Wrong(Exception):
    """An answer, a server or a tool is not as it must be. Being slow is no such thing."""


@dataclass
class Goal:
    """What is asked of a line: the least or the most of larder's figure divided by the peer's or, without a peer, of
    itself."""

    least: float | None = None
    most: float | None = None

    def is_met(self, value):
        return value >= self.least if self.least is not None else value <= self.most

    def __str__(self):
        return f"≥ {self.least:g}" if self.least is not None else f"≤ {self.most:g}"


@dataclass
class Line:
    """One figure of the table: what each server had in each round."""

    row: int
    work: str
    unit: str
    larder: list
    peer: list = field(default_factory=list)
    peer_name: str = "nginx"
    goal: Goal | None = None
    remark: str = ""

    def judged(self):
        """The ratio of each round, or the figure itself where nobody stands beside it: what the goal is about."""
        if not self.peer:
            return self.larder
        return [ours / theirs for ours, theirs in zip(self.larder, self.peer)]

    def middle(self):
        return statistics.median(self.judged())

    def is_less_better(self):
        return not self.unit.endswith("/s")

    def is_met(self):
        return self.goal is None or self.goal.is_met(self.middle())


class Bench:
    """One run of the table."""

    def __init__(self, larder):
        self.larder = str(Path(larder).resolve())
        self.lines = []
        self.left_out = []
        self._stack = contextlib.ExitStack()
        self.dir = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="larder-bench-")))
        self.dir.chmod(0o755)

    def __enter__(self):
        return self

    def __exit__(self, *ended):
        self._stack.close()

    def keep(self, closing):
        """Ends `closing` when the run ends, whatever happens."""
        return self._stack.enter_context(contextlib.closing(closing))

    def folder_for_many(self, size):
        """A folder for so many small files, `size` bytes in all, that a disk takes minutes to be rid of them: in
        memory, where there is room."""
        memory = Path("/dev/shm")
        if not memory.is_dir() or shutil.disk_usage(memory).free < 2 * size:
            return self.dir
        return Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="larder-bench-", dir=memory)))

    def say(self, text):
        print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)

    def add(self, *args, **named):
        line = Line(*args, **named)
        self.lines.append(line)
        self.say(f"  {line.work}: {line.middle():.3g} {'(ratio) ' if line.peer else line.unit}")
        return line

    def leave_out(self, row, why):
        self.left_out.append(f"Row {row} is left out: {why}.")
        self.say(f"  {self.left_out[-1]}")

    def rounds(self, most, seconds, least=3):
        """Numbers of rounds: `most` of them, fewer on a slow machine, where `seconds` pass before, but `least`."""
        end = time.monotonic() + seconds
        for number in range(most):
            if number >= least and time.monotonic() > end:
                return
            yield number


def until(what, seconds, ask):
    """Asks until the answer is true, and gives it."""
    end = time.monotonic() + seconds
    while True:
        if answer := ask():
            return answer
        if time.monotonic() > end:
            raise Wrong(f"{what}: not within {seconds} s")
        time.sleep(0.01)


def free_port():
    """Of loopback, below those that the kernel gives to clients, so that it stays free for a moment."""
    while True:
        port = random.randrange(20000, 30000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue


def in_turn(number, servers):
    """The servers in the order of a round: each begins as often as it ends."""
    return servers if number % 2 == 0 else servers[::-1]


def percentile(values, part):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * part))]


def ends_properly():
    """A signal ends the run as an error does: with everything that it started."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(143))


def clean_surroundings():
    """Nothing of the caller's environment may change what is measured."""
    for name in list(os.environ):
        if name.upper().endswith("_PROXY") or name.startswith(("LARDER_", "REGISTRY_")) or name == "DOCKER_CONFIG":
            del os.environ[name]
    os.environ["LC_ALL"] = "C"
