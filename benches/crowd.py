"""Row 6: 20 pods start at once, each with 45 plugins of 6 MiB."""

from bench import Goal, in_turn
from clients import crowd
from load import must_come_from, must_give
from plugins import MANIFEST, MIB, Plugin, module
from servers import Larder, Nginx

PODS = 20
PLUGINS = 45
SIZE = 6 * MIB
ROUNDS = 5
BUDGET = 70
# All of them fit, and each is less than the quarter that a single one may take.
MEMORY = "512MiB"


def measure(bench):
    folder = bench.dir / "crowd"
    plugins = [Plugin(folder / "www", f"p{number}", module(SIZE)) for number in range(PLUGINS)]
    asked = [(plugin.path, plugin.module[:64], SIZE) for _ in range(PODS) for plugin in plugins]
    nginx = bench.keep(Nginx(folder, MANIFEST))
    warm = bench.keep(Larder(bench, "warm", nginx.address, cache_memory=MEMORY))
    filling = Larder(bench, "cold", nginx.address, cache_memory=MEMORY)
    for plugin in plugins:
        for server in (nginx, warm, filling):
            must_give(server, plugin.path, plugin.sha256)
        must_come_from(must_give(warm, plugin.path, plugin.sha256), "memory")
    filling.close()
    rates = {name: [] for name in ("nginx", "warm", "cold")}
    for number in bench.rounds(ROUNDS, BUDGET - 15):
        for name in in_turn(number, ["nginx", "warm", "cold"]):
            if name == "cold":
                # It has just started; its files are in the page cache.
                server = Larder(bench, "cold", nginx.address, cache_memory=MEMORY)
            else:
                server = nginx if name == "nginx" else warm
            try:
                rates[name].append(max(came.last for came in crowd(server, asked)))
                if name == "cold" and number == 0:
                    for plugin in plugins:
                        must_give(server, plugin.path, plugin.sha256)
            finally:
                if name == "cold":
                    server.close()
    for plugin in plugins:
        must_give(warm, plugin.path, plugin.sha256)
    for name, work in [("warm", "warm"), ("cold", "just restarted")]:
        bench.add(6, f"900 GETs of 6 MiB at once, {work}", "s", rates[name], rates["nginx"], goal=Goal(most=1.1))
