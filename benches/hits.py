"""Rows 1 to 4: warm hits, by requests for small answers and by bytes for large ones, beside nginx and a raw writer."""

import os
import statistics

from bench import Goal, Wrong, in_turn
from load import ask, must_come_from, must_give, wrk
from plugins import KIB, MANIFEST, MIB, Plugin, module, sha256_of
from servers import Aside, Larder, Nginx

ROUNDS = 7
# Of each server in each round.
SECONDS = 1
# In all. Three kinds of small answers and three sizes of large ones.
BUDGET = 150


def measure(bench):
    folder = bench.dir / "hits"
    small, *large = [
        Plugin(folder / "www", name, module(size))
        for name, size in [("1kib", KIB), ("1mib", MIB), ("8mib", 8 * MIB), ("30mib", 30 * MIB)]
    ]
    nginx = bench.keep(Nginx(folder, MANIFEST))
    memory = bench.keep(Larder(bench, "memory", nginx.address, cache_memory="256MiB"))
    disk = bench.keep(Larder(bench, "disk", nginx.address, cache_memory="0"))
    raw = bench.keep(Aside(bench, "raw.py"))
    for plugin in [small, *large]:
        _same(plugin, nginx, memory, disk)
    _small(bench, nginx, memory, folder / "www", small)
    for plugin in large:
        _large(bench, nginx, memory, disk, raw, plugin)
        _same(plugin, nginx, memory, disk)


def _same(plugin, nginx, memory, disk):
    must_give(nginx, plugin.path, plugin.sha256)
    for server in (memory, disk):
        must_give(server, plugin.path, plugin.sha256)
        must_come_from(must_give(server, plugin.path, plugin.sha256), server.name)


def _small(bench, nginx, memory, www, plugin):
    """Row 1. larder writes metadata.txt itself, so nginx gets the file that it writes."""
    metadata = plugin.path.replace("plugin.wasm", "metadata.txt")
    text = ask(memory.address, metadata).body
    (www / metadata[1:]).write_bytes(text)
    bodies = {plugin.path: plugin.sha256, metadata: sha256_of(text)}
    for path, sha256 in bodies.items():
        for server in (nginx, memory):
            must_give(server, path, sha256)
    for work, path, status in [
        ("GET 1 KiB", plugin.path, 200),
        ("GET metadata.txt", metadata, 200),
        ("304 for 1 KiB", plugin.path, 304),
    ]:
        headers = {server: [] for server in (nginx, memory)}
        if status == 304:
            for server in headers:
                etag = ask(server.address, path).headers["etag"]
                answer = ask(server.address, path, {"If-None-Match": etag})
                if answer.status != 304 or answer.body:
                    raise Wrong(f"{server.name} answers {answer.status} to its own ETag")
                headers[server] = [f"If-None-Match: {etag}"]
        rates, costs = _turns(
            bench, [nginx, memory], lambda server: (server, path, 32, SECONDS, headers[server], "", 2), "requests"
        )
        bench.add(1, work, "requests/s", rates[memory], rates[nginx], goal=Goal(least=1.2))
        bench.add(1, f"{work}, CPU", "µs/request", costs[memory], costs[nginx])
    for path, sha256 in bodies.items():
        for server in (nginx, memory):
            must_give(server, path, sha256)


def _large(bench, nginx, memory, disk, raw, plugin):
    """Rows 2 to 4."""
    size = len(plugin.module)
    mib = size // MIB
    servers = [nginx, memory, disk, raw]
    path = {server: plugin.path for server in servers} | {raw: f"/{size}"}
    rates, costs = _turns(bench, servers, lambda server: (server, path[server], 8, SECONDS), "bytes")
    row, rate, cost, from_disk = (2, 1.4, 1.5, None) if mib == 1 else (3, 2.0, 1.0, Goal(least=1.0))

    def add(row, work, server, goal):
        limit = [ours / most for ours, most in zip(rates[server], rates[raw])]
        theirs = [ours / most for ours, most in zip(rates[nginx], rates[raw])]
        remark = f"{_percent(limit)} of a raw writer's; nginx {_percent(theirs)}"
        ours, beside = ([rate / 1e6 for rate in rates[which]] for which in (server, nginx))
        bench.add(row, work, "MB/s", ours, beside, goal=goal, remark=remark)

    def add_cost(row, work, server, goal):
        ours, theirs, least = ([cost * 1e6 for cost in costs[which]] for which in (server, nginx, raw))
        remark = f"a raw writer: {statistics.median(least):.0f}"
        bench.add(row, work, "µs/MB", ours, theirs, goal=goal, remark=remark)

    add(row, f"GET {mib} MiB from memory", memory, Goal(least=rate))
    add_cost(row, f"GET {mib} MiB from memory, CPU", memory, Goal(most=cost))
    add(4, f"GET {mib} MiB from disk", disk, from_disk)
    add_cost(4, f"GET {mib} MiB from disk, CPU", disk, None)


def _percent(shares):
    return f"{100 * statistics.median(shares):.0f} %"


def _turns(bench, servers, arguments, counted):
    """In each round each server has its turn, so that whatever else the machine does meets all. Gives what was
    counted a second, and processor microseconds for each, by server."""
    rates, costs = {server: [] for server in servers}, {server: [] for server in servers}
    for number in bench.rounds(ROUNDS, BUDGET / 5):
        for server in in_turn(number, servers):
            before = server.cpu()
            load = wrk(bench, *arguments(server))
            amount = max(getattr(load, counted), 1)
            rates[server].append(amount / load.seconds)
            # The clock of /proc has 100 ticks a second; a turn without one is counted as one.
            costs[server].append(max(server.cpu() - before, 1 / os.sysconf("SC_CLK_TCK")) / amount * 1e6)
            server.forget_log()
    return rates, costs
