"""Rows 12 and 13: how soon larder serves from a large cache, and what a hit costs as the cache grows."""

import hashlib
import http.client
import json
import random
import time

from bench import Goal, Wrong, in_turn
from load import must_come_from, must_give, wrk
from plugins import KIB, MANIFEST, Plugin, module, sha256_of
from servers import Larder, Nginx

# Modules of these caches are small: their number is what counts.
SIZE = 256
STARTED = 10_000
STARTS = 7
BUDGET = 25

NUMBERS = [100, 10_000, 100_000]
ROUNDS = 7
# Of what is held, as many are asked for in turn as a gateway may have plugins.
ASKED = 100
GROWTH_BUDGET = 75

IN_TURN = """
function request()
    n = n % #paths + 1
    return wrk.format(nil, paths[n])
end
"""


class Grown:
    """A cache directory with `number` entries, written as larder writes its own: a record that larder wrote is the
    pattern, so that this follows its format."""

    def __init__(self, bench, folder, number):
        www = bench.dir / f"grown-{number}"
        pattern = Plugin(www / "www", "pattern", module(SIZE))
        self.nginx = bench.keep(Nginx(www, MANIFEST))
        self.cache = folder / f"cache-{number}"
        first = Larder(bench, f"first-{number}", self.nginx.address, cache=self.cache)
        try:
            must_give(first, pattern.path, pattern.sha256)
        finally:
            first.close()
        root = self.cache / "v1"
        (written,) = (root / "records").iterdir()
        header, _, body = written.read_bytes().partition(b"\n")
        magic, version, _ = header.decode().split(" ")
        record = json.loads(body)
        module_of = record["state"]["present"]["module"]
        reference = record["reference"]
        if written.name != f"{sha256_of(reference.encode())}.json":
            raise Wrong(f"records have other names than the SHA-256 of their reference: {written.name}")
        for byte in range(256):
            (root / "modules" / "sha256" / f"{byte:02x}").mkdir(exist_ok=True)
        self.digests = {}
        for n in range(number - 1):
            content = module(SIZE)
            hexes = sha256_of(content)
            (root / "modules" / "sha256" / hexes[:2] / hexes).write_bytes(content)
            record["reference"] = reference.replace("/pattern:", f"/e{n}:")
            module_of["digest"], module_of["md5"] = f"sha256:{hexes}", hashlib.md5(content).hexdigest()
            text = json.dumps(record, indent=2).encode()
            name = sha256_of(record["reference"].encode())
            (root / "records" / f"{name}.json").write_bytes(
                f"{magic} {version} sha256:{sha256_of(text)}\n".encode() + text
            )
            self.digests[f"/plugins/e{n}/1.0.0/plugin.wasm"] = hexes

    def must_give(self, server, paths, tier=None):
        for path in paths:
            headers = must_give(server, path, self.digests[path])
            if tier:
                must_come_from(headers, tier)

    def some(self, number):
        return random.Random(number).sample(sorted(self.digests), min(number, len(self.digests)))


def measure(bench):
    """Row 12: from exec until /readyz says yes and the first entry came."""
    grown = Grown(bench, bench.dir, STARTED)
    ready = []
    for _ in bench.rounds(STARTS, BUDGET - 10):
        larder = Larder(bench, "start", grown.nginx.address, cache=grown.cache, wait=False)
        try:
            ready.append((_until_ready(larder) - larder.begun) * 1e3)
            grown.must_give(larder, grown.some(3))
        finally:
            larder.close()
    bench.add(12, f"start with {STARTED} entries, from exec to ready", "ms", ready, goal=Goal(most=200))


def _until_ready(larder):
    """The moment at which both ports are open and larder wants requests. Its ports are read from its log, which is
    looked at every millisecond."""
    end = time.monotonic() + 60
    while not (ports := larder.listening()):
        if time.monotonic() > end:
            raise Wrong("larder does not start within 60 s")
        time.sleep(0.001)
    larder.address, larder.admin = ports
    while True:
        connection = http.client.HTTPConnection(larder.admin, timeout=10)
        try:
            connection.request("GET", "/readyz")
            if connection.getresponse().status == 200:
                return time.monotonic()
        except OSError:
            pass
        finally:
            connection.close()
        larder.must_live()
        if time.monotonic() > end:
            raise Wrong("larder is not ready within 60 s")
        time.sleep(0.001)


def measure_growth(bench):
    """Row 13."""
    caches = {}
    # Two files of a page each, and their inodes.
    folder = bench.folder_for_many(sum(NUMBERS) * 10 * KIB)
    for number in NUMBERS:
        grown = Grown(bench, folder, number)
        larder = bench.keep(Larder(bench, f"grown-{number}", grown.nginx.address, cache=grown.cache))
        paths = grown.some(ASKED)
        grown.must_give(larder, paths)
        grown.must_give(larder, paths, "memory")
        caches[number] = grown, larder, paths
    rates, costs = {number: [] for number in NUMBERS}, {number: [] for number in NUMBERS}
    for turn in bench.rounds(ROUNDS, GROWTH_BUDGET - 45):
        for number in in_turn(turn, NUMBERS):
            _, larder, paths = caches[number]
            listed = ", ".join(f'"{path}"' for path in paths)
            script = f"local paths, n = {{{listed}}}, 0\n" + IN_TURN
            before = larder.cpu()
            load = wrk(bench, larder, paths[0], 32, 1, script=script)
            rates[number].append(max(load.requests, 1) / load.seconds)
            costs[number].append(max(larder.cpu() - before, 0.01) / max(load.requests, 1) * 1e6)
            larder.forget_log()
    few, *more = NUMBERS
    for number in more:
        grown, larder, paths = caches[number]
        grown.must_give(larder, paths, "memory")
        work, beside = f"hit at {number} entries", f"at {few}"
        bench.add(13, work, "requests/s", rates[number], rates[few], beside, Goal(least=0.9))
        bench.add(13, f"{work}, CPU", "µs/request", costs[number], costs[few], beside, Goal(most=1.1))
