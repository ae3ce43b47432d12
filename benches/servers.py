"""The servers that are measured, as processes of this run: nginx, larder, and Debian's registry as a mirror."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from bench import Wrong, free_port, until

TICKS = os.sysconf("SC_CLK_TCK")
HERE = Path(__file__).parent


class Server:
    """A process with an address. What it has cost is read from /proc, its children's too."""

    def __init__(self, name, command, log, environment=None):
        self.name, self.log = name, log
        self.address = None
        # Appended to, so that it can be emptied.
        with open(log, "ab") as out:
            self.begun = time.monotonic()
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env={**os.environ, **(environment or {})}
            )

    def url(self, path):
        return f"http://{self.address}{path}"

    def family(self):
        """Itself and its children."""
        pid = self.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children")
        try:
            return [pid, *map(int, children.read_text().split())]
        except OSError:
            raise Wrong(f"{self.name} has died: {self.told()}") from None

    def cpu(self):
        """Seconds of processor time until now."""
        ticks = 0
        for pid in self.family():
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / TICKS

    def memory(self, field="VmRSS"):
        """Resident bytes; `VmHWM` for the most there ever were."""
        return sum(
            int(line.split()[1]) << 10
            for pid in self.family()
            for line in Path(f"/proc/{pid}/status").read_text().splitlines()
            if line.startswith(field + ":")
        )

    def told(self):
        return self.log.read_text(errors="replace")[-2000:]

    def must_live(self):
        if self.process.poll() is not None:
            raise Wrong(f"{self.name} ended with {self.process.returncode}: {self.told()}")

    def forget_log(self):
        """It grows fast, and writing it back would be in others' way."""
        os.truncate(self.log, 0)

    def close(self):
        if self.process.poll() is None:
            # nginx ends its workers, if it is asked.
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


class Nginx(Server):
    """Files below `www`, as a plugin server is set up that is to be fast; and the registry, whose log is `asked`."""

    CONF = """\
daemon off;
{user}
worker_processes 2;
pid nginx.pid;
events {{ worker_connections 2048; }}
http {{
    sendfile on;
    tcp_nopush on;
    keepalive_requests 1000000000;
    keepalive_timeout 600;
    access_log nginx.log combined;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    server {{
        listen {address} backlog=4096;
        root www;
        default_type application/wasm;
        location ~ /metadata.txt$ {{ default_type text/plain; }}
        location = /v2/ {{ return 200 "{{}}"; }}
        location /v2/ {{
            access_log registry.log combined;
            default_type {manifest};
        }}
    }}
}}
"""

    def __init__(self, folder, manifest):
        address = f"127.0.0.1:{free_port()}"
        user = "user root;" if os.geteuid() == 0 else ""
        (folder / "nginx.conf").write_text(self.CONF.format(user=user, address=address, manifest=manifest))
        self.registry_log = folder / "registry.log"
        path = os.environ["PATH"] + ":/usr/sbin"
        command = ["nginx", "-c", str(folder / "nginx.conf"), "-p", str(folder), "-e", "nginx.err"]
        super().__init__("nginx", command, folder / "nginx.err", {"PATH": path})
        self.address, self.access_log = address, folder / "nginx.log"
        until("nginx serves", 10, lambda: self.process.poll() is not None or len(self.family()) == 3)
        self.must_live()

    def forget_log(self):
        os.truncate(self.access_log, 0)


class Larder(Server):
    """larder with a cache of its own, whose registry is at `registry`."""

    def __init__(self, bench, name, registry, cache=None, starter=(), wait=True, **settings):
        self.cache = cache or bench.dir / name
        conf = bench.dir / f"{name}.yaml"
        conf.write_text(
            "catalog:\n  builtin: false\n"
            f'  template: "oci://{registry}/plugins/{{name}}:{{version}}"\n'
            "lifetimes:\n  tag: 1d\n"
        )
        log = bench.dir / f"{name}.log"
        log.write_bytes(b"")
        command = [
            *starter,
            bench.larder,
            "--config",
            str(conf),
            "--listen",
            "127.0.0.1:0",
            "--admin-listen",
            "127.0.0.1:0",
        ]
        command += ["--cache-dir", str(self.cache), "--log-format", "json", "--plain-http", registry]
        environment = {"LARDER_SERVER_DRAIN": "0s", "LARDER_SERVER_FINISH": "1s"}
        environment |= {f"LARDER_{key.upper()}": str(value) for key, value in settings.items()}
        super().__init__(name, command, log, environment)
        if wait:
            self.address, self.admin = until(f"{name} listens", 60, self.listening)

    def listening(self):
        """Addresses of both ports, once its log says that they are open."""
        self.must_live()
        for line in self.log.read_text().splitlines():
            if '"listening"' in line:
                return _field(line, "data"), _field(line, "admin")
        return None


def _field(line, name):
    """Of a line of the log, wherever it stands in it."""

    def look(value):
        if isinstance(value, dict):
            return value.get(name) or next(filter(None, map(look, value.values())), None)
        return None

    return look(json.loads(line))


class Mirror(Server):
    """Debian's registry as a pull-through cache of `registry`."""

    def __init__(self, folder, registry):
        folder.mkdir()
        address = f"127.0.0.1:{free_port()}"
        conf = {
            "version": "0.1",
            "log": {"level": "error", "accesslog": {"disabled": False}},
            "storage": {"filesystem": {"rootdirectory": str(folder / "store")}},
            "http": {"addr": address},
            "proxy": {"remoteurl": f"http://{registry}"},
        }
        (folder / "conf.yaml").write_text(json.dumps(conf))
        super().__init__("docker-registry", ["docker-registry", "serve", str(folder / "conf.yaml")], folder / "log")
        self.address = address


class Aside(Server):
    """A program of this folder that prints the port which it listens on."""

    def __init__(self, bench, program, *arguments):
        log = bench.dir / f"{Path(program).stem}-{free_port()}.log"
        super().__init__(program, [sys.executable, str(HERE / program), *map(str, arguments)], log)
        port = until(f"{program} listens", 10, lambda: self.must_live() or log.read_text().strip())
        self.address = f"127.0.0.1:{int(port)}"

    def family(self):
        return [self.process.pid]
