"""Rows 7 and 8: what is not there yet, beside a bare download; and a thousand clients who want it at once."""

import os
import time

from bench import Goal, Wrong, in_turn, until
from clients import crowd
from load import ask, curl, must_give
from plugins import MANIFEST, MIB, Plugin, filling, module
from servers import Aside, Larder, Mirror, Nginx

SIZE = 6 * MIB
# 20 Mbit/s, for all connections together.
THIN = 20e6 / 8
# Nobody is sent away, to ask again, because the machine is slow.
HOLD = "60s"
ROUNDS = 9
# Written at once, as larder does.
PIECE = 256 << 10
THIN_ROUNDS = 3
BUDGET = 50

HERD = 1000
HERD_ROUNDS = 3
HERD_BUDGET = 60
# A mirror that asks upstream for each client would take most of an hour.
MIRROR_PATIENCE = 10


def measure(bench):
    """Row 7. Each round has plugins that nobody has asked for. On loopback larder also stands beside what anybody must do
    who keeps what he gives: one download, a file that lasts, and the next download, from there."""
    folder = bench.dir / "miss"
    like = filling(SIZE)
    kinds = [("raw", False), ("tar.gz", True)]

    def plugins(name, rounds):
        www = folder / "www"
        return [
            [Plugin(www, f"{name}{number}-{kind}", module(SIZE, like), pack) for kind, pack in kinds]
            for number in range(rounds)
        ]

    near, far = plugins("near", ROUNDS), plugins("far", THIN_ROUNDS)
    registry = bench.keep(Nginx(folder, MANIFEST))
    line = bench.keep(Aside(bench, "link.py", registry.address, THIN))
    for name, upstream, plugins, seconds, most in [
        ("registry on loopback", registry, near, 15, 1.25),
        ("registry at 20 Mbit/s", line, far, 35, 1.02),
    ]:
        larder = bench.keep(Larder(bench, f"miss-{upstream.name}", upstream.address, fill_hold=HOLD))
        times = [([], [], []) for _ in kinds]
        for number in bench.rounds(len(plugins), seconds):
            for plugin, (ours, theirs, kept) in zip(plugins[number], times):
                for who in in_turn(number, ["curl", "larder"]):
                    if who == "curl":
                        theirs.append(curl(bench, upstream.url(plugin.blob)))
                    else:
                        ours.append(curl(bench, larder.url(plugin.path), plugin.sha256))
                if upstream is registry:
                    again = curl(bench, upstream.url(plugin.path), plugin.sha256)
                    kept.append(theirs[-1] + _kept(folder / "kept", plugin.module) + again)
        for (kind, _), (ours, theirs, kept), plugin in zip(kinds, times, plugins[0]):
            remark = f"layer of {plugin.layer_bytes / MIB:.1f} MiB"
            work = f"cold miss, 6 MiB, {kind}, {name}"
            bench.add(7, work, "s", ours, theirs, "curl of the blob", Goal(most=most), remark)
            if kept:
                bench.add(7, f"{work}, kept", "s", ours, kept, "two downloads and a file that lasts")


def _kept(folder, content):
    """Seconds until so many bytes are in a new file that lasts."""
    folder.mkdir(exist_ok=True)
    file = folder / str(len(list(folder.iterdir())))
    begun = time.monotonic()
    opened = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    for start in range(0, len(content), PIECE):
        os.write(opened, content[start : start + PIECE])
    os.fsync(opened)
    os.close(opened)
    opened = os.open(folder, os.O_RDONLY)
    os.fsync(opened)
    os.close(opened)
    return time.monotonic() - begun


def measure_herd(bench):
    """Row 8."""
    folder = bench.dir / "herd"
    plugins = [Plugin(folder / "www", f"herd{number}", module(SIZE)) for number in range(HERD_ROUNDS + 1)]
    registry = bench.keep(Nginx(folder, MANIFEST))
    line = bench.keep(Aside(bench, "link.py", registry.address, THIN))
    larder = bench.keep(Larder(bench, "herd-larder", line.address, fill_hold=HOLD))
    raw = bench.keep(Aside(bench, "raw.py"))
    once, first, last, copies, asked = [], [], [], [], []
    for number in bench.rounds(HERD_ROUNDS, HERD_BUDGET - 20, least=2):
        plugin = plugins[number]
        once.append(curl(bench, line.url(plugin.blob), plugin.sha256))
        before = _asked(registry, plugin)
        came = crowd(larder, _herd_of(plugin, plugin.path))
        first.append(max(one.first for one in came))
        last.append(max(one.last for one in came))
        asked.append(until("the registry's log", 10, lambda: _asked(registry, plugin) - before))
        must_give(larder, plugin.path, plugin.sha256)
        copies.append(max(one.last for one in crowd(raw, [(f"/{SIZE}", b"\0" * 64, SIZE)] * HERD)))
    beside = _mirror(bench, registry, line, plugins[-1])
    work = "1000 clients at once, cold, 20 Mbit/s"
    bench.add(8, f"{work}: blob GETs upstream", "", asked, goal=Goal(most=1), remark=beside)
    bench.add(8, f"{work}: last client's first byte", "s", first, once, "one download", Goal(most=1.1))
    floor = [ours + theirs for ours, theirs in zip(once, copies)]
    remark = f"1000 copies by a raw writer: {min(copies):.2f} s"
    bench.add(8, f"{work}: last client's last byte", "s", last, once, "one download", Goal(most=1.1), remark)
    bench.add(
        8,
        f"{work}: last client's last byte, in all",
        "s",
        last,
        floor,
        "one download, then 1000 copies by a raw writer",
    )


def _mirror(bench, registry, line, plugin):
    """What Debian's registry does in larder's place, in words."""
    mirror = bench.keep(Mirror(bench.dir / "mirror", line.address))
    until("the mirror answers", 10, lambda: _answers(mirror))
    came = crowd(mirror, _herd_of(plugin, plugin.blob), MIRROR_PATIENCE, partly=True)
    # The registry logs a request when it ends; so all that are under way are ended.
    mirror.close()
    line.close()
    asked = -1
    while asked != (asked := _asked(registry, plugin)):
        time.sleep(1)
    return (
        f"docker-registry as a mirror: {asked} begun within {MIRROR_PATIENCE} s, when {len(came)} clients had it whole"
    )


def _answers(server):
    server.must_live()
    try:
        return ask(server.address, "/v2/").status == 200
    except Wrong:
        return False


def _herd_of(plugin, path):
    return [(path, plugin.module[:64], SIZE)] * HERD


def _asked(registry, plugin):
    """How often the registry was asked for the plugin's blob, as its log says."""
    return registry.registry_log.read_text().count(f'"GET {plugin.blob} ')
