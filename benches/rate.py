"""Row 5: how long the slowest of a hundred takes, at 70 % of the highest rate of nginx, with 200 connections."""

from bench import Goal, Wrong, in_turn, percentile
from clients import Probe
from load import h2load, must_give
from plugins import KIB, MANIFEST, Plugin, module
from servers import Larder, Nginx

CONNECTIONS = 200
PART = 0.7
ROUNDS = 7
# Of each server in each round, of which the first is not counted.
SECONDS = 3
# Requests a second of the clients whose time is counted from when they should have asked, on connections of their own.
PROBED = 500
BUDGET = 60


def measure(bench):
    folder = bench.dir / "rate"
    plugin = Plugin(folder / "www", "1kib", module(KIB))
    nginx = bench.keep(Nginx(folder, MANIFEST))
    larder = bench.keep(Larder(bench, "rate-larder", nginx.address))
    servers = [nginx, larder]
    for server in servers:
        must_give(server, plugin.path, plugin.sha256)
    highest = max(h2load(bench, nginx, plugin.path, CONNECTIONS, 2)[0] for _ in range(3))
    rate = PART * highest
    bench.say(f"  nginx: {highest:.0f} requests/s at most")
    probed, logged, reached = ({server: [] for server in servers} for _ in range(3))
    for number in bench.rounds(ROUNDS, BUDGET - 10):
        for server in in_turn(number, servers):
            probe = Probe(server, plugin.path, KIB, PROBED, SECONDS - 1, delay=1)
            # h2load warms up for a second beside what it is told.
            speed, taken = h2load(bench, server, plugin.path, CONNECTIONS, SECONDS - 1, rate)
            if not taken:
                raise Wrong("h2load logged nothing")
            probed[server].append(percentile(probe.end(), 0.99) * 1e3)
            logged[server].append(percentile(taken, 0.99) * 1e3)
            reached[server].append(speed / rate)
            server.forget_log()
    for server in servers:
        must_give(server, plugin.path, plugin.sha256)
    work = f"p99 at {rate:.0f} requests/s, 200 connections"
    least = {server: f"{100 * min(reached[server]):.0f} %" for server in servers}
    remark = f"of the rate, came at least: nginx {least[nginx]}, larder {least[larder]}"
    bench.add(
        5, f"{work}, from when it was due", "ms", probed[larder], probed[nginx], goal=Goal(most=1.0), remark=remark
    )
    bench.add(5, f"{work}, from when it left", "ms", logged[larder], logged[nginx], goal=Goal(most=1.0))
