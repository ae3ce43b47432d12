"""Rows 9 to 11: memory under a burst within a limit, at rest, and with ten thousand idle connections."""

import os
import resource
import threading
import time
from pathlib import Path

from bench import Goal, Wrong, in_turn
from clients import Idle
from load import ask, must_give, wrk
from plugins import KIB, MANIFEST, MIB, Plugin, filling, module, sha256_of
from servers import Larder, Nginx

MOUNTED = Path("/sys/fs/cgroup")

BURST = 52
SIZE = 6 * MIB
LIMIT = 256 * MIB
TIER = FILL = 64 * MIB
# Here waiting is what is measured.
SETTLE = 60
BURST_BUDGET = 100

IDLE_STARTS = 3
IDLE_BUDGET = 10

HELD = 10_000
HELD_ROUNDS = 9
HELD_BUDGET = 40


class Cgroup:
    """A limit of memory that the kernel enforces, swap included."""

    def __init__(self, limit):
        old = (MOUNTED / "memory").is_dir()
        self.dir = (MOUNTED / "memory" if old else MOUNTED) / f"larder-bench-{os.getpid()}"
        self.dir.mkdir()
        try:
            if old:
                (self.dir / "memory.limit_in_bytes").write_text(str(limit))
                _try(self.dir / "memory.memsw.limit_in_bytes", limit)
            else:
                (self.dir / "memory.max").write_text(str(limit))
                _try(self.dir / "memory.swap.max", 0)
        except OSError:
            self.dir.rmdir()
            raise
        self.starter = ["sh", "-c", 'echo $$ >"$1/cgroup.procs"; shift; exec "$@"', "sh", str(self.dir)]

    def kills(self):
        for name in ("memory.oom_control", "memory.events"):
            if (file := self.dir / name).exists():
                lines = file.read_text().splitlines()
                return next(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))
        raise Wrong("the kernel does not count kills")

    def close(self):
        for _ in range(100):
            try:
                return self.dir.rmdir()
            except OSError:
                time.sleep(0.05)  # its processes may take a moment to be gone


def _try(file, value):
    """Swap is not counted everywhere."""
    try:
        file.write_text(str(value))
    except OSError:
        pass


def measure_burst(bench):
    """Row 9. With larder's defaults: a memory tier of 64 MiB, and 64 MiB for fetches."""
    folder = bench.dir / "burst"
    like = filling(SIZE)
    try:
        cgroup = bench.keep(Cgroup(LIMIT))
    except OSError as error:
        bench.leave_out(9, f"a control group cannot be made, which needs root ({error.strerror})")
        return
    plugins = [Plugin(folder / "www", f"b{number}", module(SIZE, like), pack=True) for number in range(BURST)]
    nginx = bench.keep(Nginx(folder, MANIFEST))
    larder = bench.keep(Larder(bench, "burst-larder", nginx.address, starter=cgroup.starter))
    idle = larder.memory()
    begun = time.monotonic()
    refused = _all_at_once(larder, plugins)
    took = time.monotonic() - begun
    peak = larder.memory("VmHWM")
    # What the memory tier holds is no leftover.
    kept = _metric(larder, 'larder_cache_bytes{tier="memory"}')
    least, settled_after = larder.memory() - kept, time.monotonic()
    end = settled_after + SETTLE
    while least > 1.1 * idle and time.monotonic() < end:
        time.sleep(0.5)
        if (now := larder.memory() - kept) < least:
            least, settled_after = now, time.monotonic()
    for plugin in plugins:
        must_give(larder, plugin.path, plugin.sha256)
    work = f"{BURST} plugins (tar.gz) cold at once, 256 MiB cgroup"
    remark = f"all served after {took:.1f} s, {refused} answers of 503 on the way"
    bench.add(9, f"{work}: killed", "", [cgroup.kills()], goal=Goal(most=0), remark=remark)
    most = 40 + (TIER + FILL) / MIB
    bench.add(9, f"{work}: peak resident", "MiB", [peak / MIB], goal=Goal(most=most))
    after = settled_after - end + SETTLE
    remark = f"the least, {after:.0f} s after the burst, without {kept / MIB:.0f} MiB that the memory tier holds"
    bench.add(
        9, f"{work}: resident within 60 s", "MiB", [least / MIB], [idle / MIB], "idle before", Goal(most=1.1), remark
    )


def _all_at_once(larder, plugins):
    """As gateways do it: all at once, and again where the answer is a 503. Gives how often it was."""
    problems, refused = [], []

    def client(plugin):
        try:
            end = time.monotonic() + 60
            while (answer := ask(larder.address, plugin.path)).status in (503, 504):
                refused.append(plugin)
                if time.monotonic() > end:
                    raise Wrong(f"{plugin.name} is refused for a minute")
                time.sleep(0.5)
            if answer.status != 200 or sha256_of(answer.body) != plugin.sha256:
                raise Wrong(f"{plugin.name}: {answer.status}, other bytes")
        except Wrong as problem:
            problems.append(problem)

    clients = [threading.Thread(target=client, args=(plugin,), daemon=True) for plugin in plugins]
    for thread in clients:
        thread.start()
    for thread in clients:
        thread.join()
    larder.must_live()
    if problems:
        raise problems[0]
    return len(refused)


def _metric(larder, name):
    for line in ask(larder.admin, "/metrics").body.decode().splitlines():
        if line.startswith(name + " "):
            return float(line.split()[1])
    raise Wrong(f"there is no metric {name}")


def measure_idle(bench):
    """Row 10."""
    folder = bench.dir / "idle"
    plugin = Plugin(folder / "www", "1kib", module(KIB))
    ours, theirs = [], []
    for number in bench.rounds(IDLE_STARTS, IDLE_BUDGET):
        nginx = Nginx(folder, MANIFEST)
        try:
            larder = Larder(bench, f"idle-{number}", nginx.address)
            try:
                for server in (nginx, larder):
                    must_give(server, plugin.path, plugin.sha256)
                ours.append(larder.memory() / MIB)
                theirs.append(nginx.memory() / MIB)
            finally:
                larder.close()
        finally:
            nginx.close()
    nginx = sorted(theirs)[len(theirs) // 2]
    bench.add(10, "idle: resident", "MiB", ours, goal=Goal(most=30), remark=f"nginx with 2 workers: {nginx:.0f} MiB")


def measure_held(bench):
    """Row 11: two larders, one of which has the connections."""
    if resource.getrlimit(resource.RLIMIT_NOFILE)[0] < HELD + 500:
        bench.leave_out(11, f"{HELD + 500} open files are needed: ulimit -Hn")
        return
    folder = bench.dir / "held"
    plugin = Plugin(folder / "www", "1kib", module(KIB))
    nginx = bench.keep(Nginx(folder, MANIFEST))
    many = {
        "server_connections": HELD + 500,
        "server_connections_per_address": HELD + 500,
        "server_idle_timeout": "10m",
    }
    alone, crowded = (bench.keep(Larder(bench, name, nginx.address, **many)) for name in ("alone", "crowded"))
    for server in (alone, crowded):
        must_give(server, plugin.path, plugin.sha256)
        wrk(bench, server, plugin.path, 1, 1)
    before = crowded.memory()
    idle = bench.keep(Idle(crowded, plugin.path, KIB, HELD))
    more = (crowded.memory() - before) / MIB
    times = {server: [] for server in (alone, crowded)}
    for number in bench.rounds(HELD_ROUNDS, HELD_BUDGET - 15):
        for server in in_turn(number, [alone, crowded]):
            times[server].append(wrk(bench, server, plugin.path, 1, 1).p99 * 1e3)
            server.forget_log()
    if lost := idle.end():
        raise Wrong(f"{lost} of {HELD} idle connections were closed")
    bench.add(11, f"{HELD} idle connections: resident, more", "MiB", [more], goal=Goal(most=128))
    bench.add(
        11,
        f"{HELD} idle connections: p99 of one client",
        "ms",
        times[crowded],
        times[alone],
        "without them",
        Goal(most=1.1),
    )
