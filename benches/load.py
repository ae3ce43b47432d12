"""Clients that exist: one that looks at every byte, wrk and h2load for load, curl for a download."""

import http.client
import json
import re
import subprocess
from collections import namedtuple

from bench import Wrong
from plugins import sha256_of

Answer = namedtuple("Answer", "status headers body")
Load = namedtuple("Load", "requests bytes seconds p99")

# Nothing takes longer; a server that stalls is wrong, not slow.
PATIENCE = 60


def ask(address, path, headers=None, patience=PATIENCE):
    """One answer, whole."""
    connection = http.client.HTTPConnection(address, timeout=patience)
    try:
        connection.request("GET", path, headers=headers or {})
        answer = connection.getresponse()
        return Answer(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())
    except (OSError, http.client.HTTPException) as error:
        raise Wrong(f"{address}{path}: {error!r}") from error
    finally:
        connection.close()


def must_give(server, path, sha256, headers=None):
    """The right bytes; gives the headers."""
    answer = ask(server.address, path, headers)
    if answer.status != 200:
        raise Wrong(f"{server.name} answers {answer.status} to {path}: {answer.body[:500]!r}")
    if sha256_of(answer.body) != sha256:
        raise Wrong(f"{server.name} answers {path} with other bytes")
    return answer.headers


def must_come_from(headers, tier):
    """larder's word of where it had a module."""
    told = headers.get("cache-status", "")
    if f"detail={tier}" not in told:
        raise Wrong(f"larder does not answer from {tier}: {told}")


REPORT = """
function done(summary, latency)
    local e = summary.errors
    local errors = e.connect + e.read + e.write + e.status + e.timeout
    print(string.format('{"requests": %d, "bytes": %d, "micros": %d, "p99": %d, "errors": %d}',
        summary.requests, summary.bytes, summary.duration, latency:percentile(99), errors))
end
"""


def wrk(bench, server, path, connections, seconds, headers=(), script="", threads=1):
    """Asks as fast as answers come."""
    (bench.dir / "wrk.lua").write_text(script + REPORT)
    command = ["wrk", f"-t{threads}", f"-c{connections}", f"-d{seconds}", "--timeout", "30s", "-s", str(bench.dir / "wrk.lua")]
    for header in headers:
        command += ["-H", header]
    report = json.loads(run([*command, server.url(path)], seconds + PATIENCE).splitlines()[-1])
    server.must_live()
    # On a slow machine a large answer may not be whole yet.
    if report["errors"] or not report["bytes"]:
        raise Wrong(f"{path} from {server.name}: {report}")
    return Load(report["requests"], report["bytes"], report["micros"] / 1e6, max(report["p99"], 1) / 1e6)


def h2load(bench, server, path, connections, seconds, rate=None):
    """Asks as fast as answers come, or at a constant rate. Gives the answers a second, and at a rate also each one's
    seconds, counted from when it left."""
    log = bench.dir / "h2load.log"
    log.unlink(missing_ok=True)
    command = ["h2load", "--h1", "-t1", f"-c{connections}", f"-D{seconds}"]
    if rate:
        command += ["--warm-up-time=1", f"--rps={rate / connections}", f"--log-file={log}"]
    told = run([*command, server.url(path)], seconds + PATIENCE)
    server.must_live()
    failed = re.search(r"(\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout", told)
    speed = re.search(r"finished in [^,]+, ([0-9.]+) req/s", told)
    if not failed or not speed or any(int(n) for n in failed.groups()[1:]) or not int(failed.group(1)):
        raise Wrong(f"{path} from {server.name}: {told}")
    if not rate:
        return float(speed.group(1)), []
    taken = []
    with open(log) as lines:
        for line in lines:
            _, status, micros = line.split()
            if status != "200":
                raise Wrong(f"{path} from {server.name}: {status}")
            taken.append(int(micros) / 1e6)
    return float(speed.group(1)), taken


def curl(bench, url, sha256=None, patience=PATIENCE):
    """Seconds of a whole download; looked at where a digest is given."""
    into = bench.dir / "download"
    command = ["curl", "-q", "-sS", "-f", "--noproxy", "*", "-m", str(patience), "-o", str(into), "-w", "%{time_total}"]
    seconds = float(run([*command, url], patience + 5))
    if sha256 and sha256_of(into.read_bytes()) != sha256:
        raise Wrong(f"{url}: other bytes")
    return seconds


def run(command, patience):
    """What it prints."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=patience, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        raise Wrong(f"{command[0]} does not end within {patience} s: {command}") from None
    if done.returncode:
        raise Wrong(f"{command[0]} ended with {done.returncode}: {command}: {done.stderr[-500:]}")
    return done.stdout
