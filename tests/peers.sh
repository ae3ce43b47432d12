#!/bin/bash
# Larder beside its peers on bad days: `peers.sh BINARY [FAULT...]` prints a Markdown table.
#
# The same faults, one after another, meet larder, nginx with the same plugins baked into a folder, and Debian's registry
# as a pull-through cache. Every cell is measured: nothing is asserted about anybody, and larder's bad days show as well.
# A row that cannot be measured says why, and the script then ends with status 1. It takes about five minutes, needs root
# (for file systems that are full or read-only, in a mount namespace of its own) and leaves nothing behind.
set -euo pipefail

if [[ $# = 0 || ! -f $1 || ! -x $1 ]]; then
    echo "usage: $0 BINARY [FAULT...], such as target/release/larder down_held" >&2
    exit 1
fi
for tool in docker-registry nginx curl python3 unshare mount sha256sum; do
    PATH=$PATH:/usr/sbin command -v "$tool" >/dev/null || {
        echo "this needs $tool; on Debian: apt-get install docker-registry nginx-light curl python3 util-linux mount" >&2
        exit 1
    }
done
if [ "$(id -u)" = 0 ] && [ -z "${PEERS_MOUNTS-}" ]; then
    PEERS_MOUNTS=own exec unshare --mount --propagation private -- "$0" "$@"
fi

larder=$(realpath -- "$1")
shift
only=("$@")
PATH=$PATH:/usr/sbin
export LC_ALL=C
# Nothing of the caller's surroundings may change what is measured.
unset http_proxy https_proxy all_proxy HTTP_PROXY HTTPS_PROXY ALL_PROXY DOCKER_CONFIG
unset "${!LARDER_@}" "${!REGISTRY_@}"
python=$(python3 -c 'import sys; print(sys.executable)') # itself, where python3 is a script that looks for it

servers=(larder nginx mirror)
MODULE=1048576   # bytes of most modules
LARGE=20971520   # of one that larder sends from its disk: its memory tier takes up to a quarter of 64 MiB
PATIENCE=15      # longest wait for anything, in seconds; gateways give up after it
LIFETIME=1       # of a tag in larder, in seconds, so that its end is soon there
KILLS=30
CROWD=20         # clients at once
SLOW_HEADS=2000  # connections
SLOW_READERS=500 # connections

tmp=$(mktemp -d)
chmod 711 "$tmp"
export HOME=$tmp
declare -A pid address sha
now= # the pid of the cell that is being measured

# end PID...: what is ended here holds nothing that is kept.
end() {
    kill -KILL "$@" 2>/dev/null || true
    wait "$@" 2>/dev/null || true
}

leave() {
    # A cell ends its own processes.
    [ -z "$now" ] || { kill -TERM "$now" 2>/dev/null && wait "$now" 2>/dev/null; } || true
    end "${pid[@]}"
    rm -rf "$tmp"
}
trap leave EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

fail() { # text, file to show the end of
    echo "peers.sh: $1" >&2
    [ $# = 1 ] || tail -n 5 "$2" >&2
    echo "$1" >"$tmp/why"
    exit 1
}

curl() { command curl -q -sS --noproxy '*' "$@"; }

digest() { sha256sum "$1" | cut -d ' ' -f 1; }

until_true() { # command: waits for at most 10 s
    local tries
    for ((tries = 0; tries < 500; tries++)); do
        "$@" && return
        sleep 0.02
    done
    false
}

since() { # a time: the seconds from then to now
    awk -v from="$1" -v to="$EPOCHREALTIME" 'BEGIN { printf "%.2f", to - from }'
}

free_port() { # below those that the kernel gives to clients, so that it is still free after a time without its server
    local port=$((RANDOM % 10000 + 20000))
    while (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do
        port=$((port + 1))
    done
    echo "$port"
}

# --- what lies between: a way to the registry that breaks on demand, and crowds of bad clients

cat >"$tmp/way.py" <<'END'
"""A way to a registry: `way.py PORT REGISTRY`. PUT /fault with words such as `slow=1 cut=1` says what goes wrong with
the bodies of blobs, GET /asked what was asked for since then."""
import http.client, sys, threading, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PIECES = 20
fault, asked, lock = {}, {}, threading.Lock()


class Way(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_):
        pass

    def answer(self, status, headers, body=b""):
        self.send_response_only(status)
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def do_PUT(self):
        words = self.rfile.read(int(self.headers["Content-Length"])).decode().split()
        with lock:
            fault.clear()
            fault.update((name, float(value or "inf")) for name, _, value in (word.partition("=") for word in words))
            asked.clear()
        self.answer(204, [])

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        if self.path == "/asked":
            text = f"{asked.get('blob', 0)} {asked.get('any', 0)}".encode()
            return self.answer(200, [("Content-Length", str(len(text)))], text)
        blob = "/blobs/" in self.path and self.command == "GET"
        with lock:
            asked["any"] = asked.get("any", 0) + 1
            asked["blob"] = number = asked.get("blob", 0) + blob
            now = dict(fault)
        if "busy" in now:
            return self.answer(429, [("Retry-After", str(int(now["busy"]))), ("Content-Length", "0")])
        registry = http.client.HTTPConnection("127.0.0.1", int(sys.argv[2]))
        registry.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():  # some come several times, Accept above all
            registry.putheader(name, value)
        registry.endheaders()
        answer = registry.getresponse()
        headers = [(name, value) for name, value in answer.getheaders() if name.lower() != "connection"]
        body = answer.read()
        registry.close()
        if not blob or answer.status >= 300:
            return self.answer(answer.status, headers, body)
        # The middle of the blob, also for who asks for its rest: `bytes FIRST-LAST/ALL`.
        first, whole = 0, len(body)
        if place := answer.getheader("Content-Range"):
            first, whole = int(place.split()[1].split("-")[0]), int(place.split("/")[1])
        half = max(0, whole // 2 - first)
        if "wrong" in now and half < len(body):
            body = body[:half] + bytes([body[half] ^ 1]) + body[half + 1:]
        broken = number <= now.get("cut", 0) or "stall" in now
        self.answer(answer.status, headers)
        if broken:
            body = body[:half]
        size = max(1, whole // PIECES)
        for start in range(0, len(body), size):
            time.sleep(now.get("slow", 0) / PIECES)
            self.wfile.write(body[start:start + size])
        if "stall" in now:
            self.rfile.read(1)  # until the client goes
        self.close_connection = broken

    def handle(self):
        try:
            super().handle()
        except OSError:
            pass  # whoever asked has gone


class Server(ThreadingHTTPServer):
    request_queue_size = 128
    daemon_threads = True


Server(("127.0.0.1", int(sys.argv[1])), Way).serve_forever()
END

cat >"$tmp/crowd.py" <<'END'
"""Many bad clients: `crowd.py heads|readers PORT PATH COUNT SECONDS`. `heads` send their request's header a byte a
second, `readers` take 1 KiB of the answer a second. Prints `ready`, and at the end the counts and the seconds."""
import socket, sys, time

kind, port, path, count, seconds = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4]), int(sys.argv[5])
line = f"GET {path} HTTP/1.1\r\nHost: peers.test\r\n".encode()
crowd, turned_away = [], 0
for _ in range(count):
    client = socket.socket()
    client.settimeout(2)
    if kind == "readers":
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    try:
        client.bind(("127.0.0.2", 0))  # not the address of whoever is of good will
        client.connect(("127.0.0.1", port))
        client.sendall(line + (b"X-Slow: " if kind == "heads" else b"\r\n"))
        client.setblocking(False)
        crowd.append(client)
    except OSError:
        turned_away += 1
        if turned_away > 5:
            break
begun, last, left = time.monotonic(), 0, []
got = dict.fromkeys(crowd, 0)


def is_open(client):
    try:
        if kind == "heads":
            client.send(b"a")
        data = client.recv(1024)
        got[client] += len(data)
        return bool(data)
    except BlockingIOError:
        return True
    except OSError:
        return False


ready = False
while crowd and time.monotonic() - begun < seconds:
    still = [client for client in crowd if is_open(client)]
    at = time.monotonic() - begun
    if len(still) < len(crowd):
        last = at
        left += [at] * (len(crowd) - len(still))
    crowd = still
    if not ready and at > 1:
        ready = True
        print("ready", flush=True)
    time.sleep(max(0, 1 - (time.monotonic() - begun - at)))
at_once = sum(at < 3 for at in left)
begun_answers = sum(size > 0 for size in got.values())
print("end", turned_away + at_once, len(left) - at_once, round(last), len(crowd), begun_answers, flush=True)
END

# --- the registry that all comes from

start() { # name, command...: in the background, its output in NAME.log
    local name=$1
    shift
    "$@" >>"$tmp/$name.log" 2>&1 &
    pid[$name]=$!
}

registry_settings() { # where to store
    # As Debian ships it, without its password.
    cat <<END
version: 0.1
storage: {cache: {blobdescriptor: inmemory}, filesystem: {rootdirectory: $1}, delete: {enabled: true}}
http: {addr: 127.0.0.1:0, headers: {X-Content-Type-Options: [nosniff]}}
health: {storagedriver: {enabled: true, interval: 10s, threshold: 3}}
END
}

is_listening() { # name, text before the address: or has ended
    ! kill -0 "${pid[$1]}" 2>/dev/null || grep -qs "$2" "$tmp/$1.log"
}

start_registry() {
    registry_settings "$tmp/registry" >"$tmp/registry.yaml"
    start registry docker-registry serve "$tmp/registry.yaml"
    until_true is_listening registry 'listening on' || fail "the registry does not start" "$tmp/registry.log"
    address[registry]=$(sed -n 's/.*listening on \(127\.0\.0\.1:[0-9]*\).*/\1/p' "$tmp/registry.log")
    [ "${address[registry]}" ] || fail "the registry does not start" "$tmp/registry.log"
}

# One custom section of random bytes: its id 0, its size as LEB128 in five bytes, its name.
make_module() { # size
    local rest=$(($1 - 14)) bits size=
    for bits in 0 7 14 21; do
        printf -v size '%s\\x%02x' "$size" $((rest >> bits & 127 | 128))
    done
    printf '\0asm\1\0\0\0\0%b\0\3any' "$size"
    head -c $((rest - 4)) /dev/urandom
}

upload() { # plugin, file
    local place
    place=$(curl -f -X POST -o /dev/null -D - "http://${address[registry]}/v2/plugins/$1/blobs/uploads/" |
        tr -d '\r' | sed -n 's/^[Ll]ocation: //p') || fail "the registry takes no upload"
    curl -f -T "$2" "$place&digest=sha256:$(digest "$2")" >/dev/null || fail "the registry does not take $2"
}

push() { # plugin, size: a new module of that name as 1.0.0
    local file=$tmp/modules/$1.wasm type=application/vnd.oci.image.manifest.v1+json
    make_module "$2" >"$file"
    sha[$1]=$(digest "$file")
    upload "$1" "$file"
    upload "$1" "$tmp/empty.json"
    printf '{"schemaVersion": 2, "mediaType": "%s", "config": %s, "layers": [%s]}' "$type" \
        "{\"mediaType\": \"application/vnd.oci.empty.v1+json\", \"digest\": \"sha256:$(digest "$tmp/empty.json")\", \"size\": 2}" \
        "{\"mediaType\": \"application/vnd.module.wasm.content.layer.v1+wasm\", \"digest\": \"sha256:${sha[$1]}\", \"size\": $2}" \
        >"$tmp/manifest.json"
    curl -f -T "$tmp/manifest.json" -H "Content-Type: $type" \
        "http://${address[registry]}/v2/plugins/$1/manifests/1.0.0" >/dev/null || fail "the registry does not take $1"
}

withdraw() { # plugin: its tag is gone from the registry
    local url=http://${address[registry]}/v2/plugins/$1/manifests
    local accept='Accept: application/vnd.oci.image.manifest.v1+json'
    curl -f -X DELETE "$url/sha256:$(curl -f -H "$accept" "$url/1.0.0" | sha256sum | cut -d ' ' -f 1)" >/dev/null ||
        fail "the registry does not delete $1"
    [ "$(curl -H "$accept" -o /dev/null -w '%{http_code}' "$url/1.0.0")" = 404 ] || fail "the registry still has $1"
}

# --- the three servers; each cell has its own, with folders of its own

up() { # the way to the registry is there, without a fault
    start way "$python" "$tmp/way.py" "$way" "${address[registry]##*:}"
    until_true curl -f -o /dev/null "http://127.0.0.1:$way/asked" 2>/dev/null || fail "the way does not open" "$tmp/way.log"
}

down() { # it is gone: connections are refused
    end "${pid[way]}"
    unset 'pid[way]'
}

fault() { # words: from now on; what was asked before is forgotten
    curl -f -X PUT -d "$*" "http://127.0.0.1:$way/fault" || fail "the way takes no fault"
}

asked() { # leaves in blobs and requests what came along the way since the last fault
    read -r blobs requests < <(curl -f "http://127.0.0.1:$way/asked" && echo)
}

launch() { # server: false if it does not start; the reason is then in refusal
    : >"$tmp/$1.log"
    case $1 in
    larder)
        start larder "$larder" --config "$home/larder.yaml" --cache-dir "$store/cache" --plain-http "127.0.0.1:$way" \
            --listen 127.0.0.1:0 --admin-listen 127.0.0.1:0 --log-format json
        until_true is_listening larder '"message":"listening"' || fail "larder does not start" "$tmp/larder.log"
        address[larder]=$(sed -n '/"message":"listening"/s/.*"data":"\([^"]*\)".*/\1/p' "$tmp/larder.log")
        ;;
    nginx)
        start nginx nginx -c "$home/nginx.conf" -p "$home" -e nginx.log
        address[nginx]=127.0.0.1:$port
        until_true answers_or_ended nginx || fail "nginx does not start" "$tmp/nginx.log"
        kill -0 "${pid[nginx]}" 2>/dev/null || address[nginx]=
        ;;
    mirror)
        start mirror docker-registry serve "$home/mirror.yaml"
        until_true is_listening mirror 'listening on' || fail "the mirror does not start" "$tmp/mirror.log"
        address[mirror]=$(sed -n 's/.*listening on \(127\.0\.0\.1:[0-9]*\).*/\1/p' "$tmp/mirror.log")
        ;;
    esac
    if [ -z "${address[$1]}" ]; then
        refusal=$(grep -v '^$' "$tmp/$1.log" | tail -n 1 | tr -d '`|' | cut -c 1-160)
        # Go prints where a panic was after what it was.
        ! grep -q '^panic:' "$tmp/$1.log" || refusal=$(grep -m 1 '^panic:' "$tmp/$1.log" | tr -d '`|' | cut -c 1-160)
        refusal=${refusal//"$store"/…}
        unset "pid[$1]"
        false
    fi
}

answers_or_ended() { # server
    ! kill -0 "${pid[$1]}" 2>/dev/null || curl -o /dev/null "http://${address[$1]}/" 2>/dev/null
}

family() { # server: its process and those that it started
    local process=${pid[$1]}
    echo "$process"
    tr ' ' '\n' <"/proc/$process/task/$process/children" || true
}

slay() { # server: kill -9 for all of it, as when its container is killed
    local -a processes
    mapfile -t processes < <(family "$1")
    end "${processes[@]}"
    unset "pid[$1]"
}

bake() { # plugin: nginx's way to get one, when its image is made
    mkdir -p "$store/www/plugins/$1/1.0.0"
    cp "$tmp/modules/$1.wasm" "$store/www/plugins/$1/1.0.0/plugin.wasm"
}

begin() { # server, plugins that it shall have before the fault
    local server=$1 plugin
    shift
    way=$(free_port)
    port=$(free_port)
    mkdir -p "$store/www"
    cat >"$home/larder.yaml" <<END
catalog: {builtin: false, template: "oci://127.0.0.1:$way/plugins/{name}:{version}"}
lifetimes: {tag: ${LIFETIME}s}
overlay: {dirs: []}
server: {drain: 0s}
END
    # Debian's, but for its folders, its log and its type for modules.
    cat >"$home/nginx.conf" <<END
daemon off;
$([ "$(id -u)" != 0 ] || echo "user root;")
worker_processes auto;
pid nginx.pid;
events { worker_connections 768; }
http {
    sendfile on;
    tcp_nopush on;
    types_hash_max_size 2048;
    default_type application/wasm;
    access_log access.log;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    server {
        listen 127.0.0.1:$port;
        root $store/www;
    }
}
END
    {
        registry_settings "$store/mirror"
        echo "proxy: {remoteurl: 'http://127.0.0.1:$way'}"
    } >"$home/mirror.yaml"
    up
    for plugin; do
        [ "$server" != nginx ] || bake "$plugin"
    done
    launch "$server" || fail "$server does not start: $refusal"
    for plugin; do
        ask "$server" "$plugin"
        [ "$answer" = "200 right" ] || fail "$server answers $plugin with $answer before any fault" "$tmp/$server.log"
        until_true test -s "$(stored "$server" "$plugin")" || fail "$server does not keep $plugin"
    done
}

stored() { # server, plugin: the file
    local hex=${sha[$2]}
    case $1 in
    larder) echo "$store/cache/v1/modules/sha256/${hex:0:2}/$hex" ;;
    nginx) echo "$store/www/plugins/$2/1.0.0/plugin.wasm" ;;
    mirror) echo "$store/mirror/docker/registry/v2/blobs/sha256/${hex:0:2}/$hex/data" ;;
    esac
}

# --- asking, telling

request() { # url, most seconds, curl's options: what came is in status, word and took, its files in $answers
    local url=$1 most=$2 rc=0 from=$EPOCHREALTIME
    shift 2
    answers=$(mktemp -d -p "$home")
    status=$(curl -m "$most" -D "$answers/head" -o "$answers/body" -w '%{http_code}' "$@" "$url" 2>"$answers/error") || rc=$?
    took=$(since "$from")
    case $rc in
    0) word=$status ;;
    7) word=refused ;;
    18) word="$status cut off" ;;
    28) [ "$status" = 000 ] && word="nothing within $most s" || word="$status and not its end within $most s" ;;
    52 | 56) [ "$status" = 000 ] && word="closed without an answer" || word="$status cut off" ;;
    *) word="curl: $rc" ;;
    esac
}

header() { # name: of the last answer
    tr -d '\r' <"$answers/head" | sed -n "s/^$1: //Ip"
}

ask() { # server, plugin, [most seconds]: the answer in words, the module's SHA-256 in got
    local layer most=${3:-$PATIENCE} from=$EPOCHREALTIME
    got=
    case $1 in
    larder | nginx) request "http://${address[$1]}/plugins/$2/1.0.0/plugin.wasm" "$most" ;;
    mirror)
        request "http://${address[$1]}/v2/plugins/$2/manifests/1.0.0" "$most" \
            -H 'Accept: application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json'
        layer=$(grep -o 'sha256:[0-9a-f]\{64\}' "$answers/body" 2>/dev/null | tail -n 1) || true
        if [ "$word" != 200 ] || [ -z "$layer" ]; then
            answer="manifest $word"
            return
        fi
        request "http://${address[$1]}/v2/plugins/$2/blobs/$layer" "$most"
        took=$(since "$from")
        ;;
    esac
    answer=$word
    if [ "$word" = 200 ]; then
        got=$(digest "$answers/body")
        answer="200 right"
        [ "$got" = "${sha[$2]}" ] || answer="200 **wrong bytes**"
    fi
    rm -rf "$answers/body"
}

tell() { told+=("$*"); }

tally() { # lines: how many of each, in one line
    sort | uniq -c | sort -rn | sed 's/^ *\([0-9]*\) /\1 × /' | paste -sd, | sed 's/,/, /g'
}

ask_times() { # times, seconds between, server, plugin: the tally, and what larder says of why its last answer is old
    local turn lines=() reason
    for ((turn = 0; turn < $1; turn++)); do
        [ "$turn" = 0 ] || sleep "$2"
        ask "$3" "$4"
        lines+=("$answer")
    done
    reason=$(header cache-status | grep -o 'stale-[a-z_]*' || true)
    echo "$(printf '%s\n' "${lines[@]}" | tally)${reason:+ ($reason)}"
}

ask_together() { # server, plugin: the tally of a crowd that asks at once
    local turn crowd=() folder
    folder=$(mktemp -d -p "$home")
    for ((turn = 0; turn < CROWD; turn++)); do
        (ask "$1" "$2" && echo "$answer" >"$folder/$turn") &
        crowd+=($!)
    done
    wait "${crowd[@]}"
    cat "$folder"/* | tally
}

until_right() { # server, plugin: in seconds from now, in words
    local from=$EPOCHREALTIME
    while awk -v waited="$(since "$from")" 'BEGIN { exit waited > 12 }'; do
        ask "$1" "$2"
        if [ "$got" = "${sha[$2]}" ]; then
            echo "right after $(since "$from") s"
            return
        fi
        sleep 0.5
    done
    echo "not right within 12 s ($answer)"
}

asked_words() { # of blobs, which are what costs
    asked
    echo "blob requests upstream: $blobs"
}

memory() { # server: resident MiB of all its processes
    local process sum=0 kib
    for process in $(family "$1"); do
        kib=$(awk '/^VmRSS/ { print $2 }' "/proc/$process/status" 2>/dev/null) || continue
        sum=$((sum + ${kib:-0}))
    done
    echo $((sum / 1024))
}

# --- the faults: each begins with a server of its own and tells what came

outlive() { # server: what it has fetched is past its lifetime, where it has one
    [ "$1" = nginx ] || sleep "$LIFETIME.3"
}

fault_down_held() {
    begin "$1" known
    down
    outlive "$1"
    tell "$(ask_times 10 0.1 "$1" known)"
}

fault_down_new() {
    begin "$1" known
    down
    ask "$1" new
    tell "$answer after $took s"
}

fault_start_down() {
    begin "$1" known
    down
    slay "$1"
    if launch "$1"; then
        outlive "$1"
        tell "starts; $(ask_times 10 0.1 "$1" known)"
    else
        tell "**does not start**: \`$refusal\`"
    fi
}

fault_withdrawn() {
    push "gone-$1" $MODULE
    begin "$1" "gone-$1"
    withdraw "gone-$1"
    outlive "$1"
    tell "$(ask_times 5 0.3 "$1" "gone-$1")"
}

fault_pushed_again() {
    local plugin=moved-$1 before_tag before
    push "$plugin" $MODULE
    begin "$1" "$plugin"
    before=${sha[$plugin]}
    ask "$1" "$plugin"
    before_tag=$(header etag)
    push "$plugin" $MODULE
    outlive "$1"
    local turn words=()
    for turn in 1 2 3; do
        ask "$1" "$plugin"
        case $got in
        "$before") words+=(old) ;;
        "${sha[$plugin]}") words+=(new) ;;
        *) words+=("$answer") ;;
        esac
        sleep 0.5
    done
    tell "asked three times: ${words[*]}"
    if [ "$1" = nginx ]; then
        bake "$plugin"
        ask "$1" "$plugin"
        tell "baked anew: $answer"
    fi
    if [ "$(header etag)" = "$before_tag" ]; then
        tell "the same ETag"
    else
        tell "another ETag"
    fi
}

flip() { # file: one byte, in the middle
    "$python" -c 'import os, sys
file = os.open(sys.argv[1], os.O_RDWR)
half = os.fstat(file).st_size // 2
os.pwrite(file, bytes([os.pread(file, 1, half)[0] ^ 1]), half)' "$1"
}

halve() { truncate -s $((LARGE / 2)) "$1"; }

damage() { # server, what damages a file
    local server=$1
    shift
    begin "$server" large-a large-b large-c
    "$@" "$(stored "$server" large-a)"
    tell "warm: $(ask_times 2 0 "$server" large-a)"
    slay "$server"
    "$@" "$(stored "$server" large-b)"
    launch "$server" || fail "$server does not start: $refusal"
    tell "restarted: $(ask_times 2 0 "$server" large-b)"
    down
    "$@" "$(stored "$server" large-c)"
    ask "$server" large-c
    tell "with the upstream down: $answer"
}

fault_flipped() { damage "$1" flip; }
fault_truncated() { damage "$1" halve; }
fault_deleted() { damage "$1" rm -f; }

own_file_system() {
    [ "${PEERS_MOUNTS-}" ] || fail "only root may mount what this row needs"
    mkdir -p "$store"
    mount -t tmpfs -o size=64m,mode=755 none "$store"
}

# What is new and what is held, in a folder that takes nothing more.
new_and_held() { # server
    ask "$1" new
    tell "new: $answer"
    held "$1" "held"
    down
    outlive "$1"
    held "$1" "held, with the upstream down"
    up
}

held() { # server, words
    local plugin words=()
    for plugin in large-a large-b known; do
        ask "$1" "$plugin"
        words+=("$answer")
    done
    tell "$2: $(printf '%s\n' "${words[@]}" | tally)"
}

restart() { # server
    slay "$1"
    if launch "$1"; then
        held "$1" "restarted"
    else
        tell "**does not start again**: \`$refusal\`"
    fi
}

fill_up() {
    dd if=/dev/zero bs=4k 2>/dev/null >>"$store/filler" || true
    ! head -c 4096 /dev/zero 2>/dev/null >"$store/more" || fail "there is room left"
}

fault_full() {
    own_file_system
    begin "$1" large-a large-b known
    fill_up
    new_and_held "$1"
    fill_up
    restart "$1"
}

fault_read_only() {
    own_file_system
    begin "$1" large-a large-b known
    # By a mount over it, because a file that is open for writing, as a lock is, would forbid it for the file system itself.
    { mount --bind "$store" "$store" && mount -o remount,ro,bind "$store"; } || fail "it cannot be made read-only"
    ! touch "$store/written" 2>/dev/null || fail "it is not read-only"
    new_and_held "$1"
    restart "$1"
}

fault_killed() {
    local turn plugin client right=0 wrong=0 other=0 whole=0 kept=0
    begin "$1"
    for ((turn = 1; turn <= KILLS; turn++)); do
        plugin=kill-$turn
        [ "$1" != nginx ] || bake "$plugin"
        fault slow=0.2
        : >"$home/client"
        (ask "$1" "$plugin" && echo "$answer" >"$home/client") &
        client=$!
        sleep "$(printf '0.%03d' $((RANDOM % 300 + 20)))"
        slay "$1"
        wait "$client"
        case $(<"$home/client") in
        "200 right") whole=$((whole + 1)) ;;
        *wrong*) wrong=$((wrong + 1)) ;;
        esac
        fault
        launch "$1" || fail "$1 does not start after a kill: $refusal"
        ask "$1" "$plugin"
        case $answer in
        "200 right") right=$((right + 1)) ;;
        *wrong*) wrong=$((wrong + 1)) ;;
        *) other=$((other + 1)) ;;
        esac
    done
    down
    for ((turn = 1; turn <= KILLS; turn++)); do
        ask "$1" "kill-$turn"
        case $answer in
        "200 right"*) kept=$((kept + 1)) ;;
        *wrong*) wrong=$((wrong + 1)) ;;
        esac
    done
    tell "$KILLS kills, $((KILLS - whole)) of them before the answer had come; asked after the start: $right right, $other refused"
    tell "wrong bytes: $wrong times"
    tell "all asked again with the upstream down: $kept right"
}

# Of nginx, whose plugins are baked, upstream's faults ask no more than whether it serves one.
asks_nobody() { # server
    [ "$1" = nginx ] || return
    begin nginx known
    tell "has no upstream: $(ask_times 3 0.1 nginx known)"
}

fault_wrong_bytes() {
    ! asks_nobody "$1" || return 0
    begin "$1"
    fault wrong
    ask "$1" new
    tell "$answer, $(asked_words)"
    ask "$1" new
    tell "again: $answer"
    fault
    tell "fault over: $(until_right "$1" new)"
}

fault_cut() {
    ! asks_nobody "$1" || return 0
    begin "$1"
    fault cut=1
    ask "$1" new
    tell "once: $answer, $(asked_words)"
    fault cut
    ask "$1" other
    tell "each time: $answer after $took s, $(asked_words)"
    fault
    tell "fault over: $(until_right "$1" other)"
}

fault_together() {
    if [ "$1" = nginx ]; then
        begin nginx new
        tell "has no upstream: $(ask_together nginx new)"
        return
    fi
    begin "$1"
    fault slow=1
    tell "$(ask_together "$1" new), $(asked_words)"
    fault slow=1 cut=1
    tell "the first transfer breaks off half way: $(ask_together "$1" other), $(asked_words)"
    fault slow=1 cut
    tell "each does: $(ask_together "$1" third), $(asked_words)"
}

crowd() { # kind, server, path, count: waits until it is there
    "$python" "$tmp/crowd.py" "$1" "${address[$2]##*:}" "$3" "$4" "$5" >"$home/crowd" 2>"$home/crowd.log" &
    pid[crowd]=$!
    until_true grep -qs . "$home/crowd" || fail "the crowd does not come" "$home/crowd.log"
}

normal_clients() { # server, plugin: while the crowd is there; the tally and the longest time
    local longest=0
    : >"$home/normal"
    while kill -0 "${pid[crowd]}" 2>/dev/null; do
        ask "$1" "$2" 5
        echo "$answer" >>"$home/normal"
        longest=$(printf '%s\n' "$longest" "$took" | sort -n | tail -n 1)
        peak=$(printf '%s\n' "${peak-0}" "$(memory "$1")" | sort -n | tail -n 1)
        sleep 0.5
    done
    wait "${pid[crowd]}" || fail "the crowd failed" "$home/crowd.log"
    unset 'pid[crowd]'
    read -r _ at_once later last still answers_begun < <(grep '^end' "$home/crowd")
    tell "a normal client meanwhile: $(tally <"$home/normal"), in at most $longest s"
}

fault_slow_heads() {
    begin "$1" known
    crowd heads "$1" /plugins/known/1.0.0/plugin.wasm $SLOW_HEADS $PATIENCE
    normal_clients "$1" known
    [ "$at_once" = 0 ] || tell "$at_once of the slow ones were turned away at once"
    [ "$later" = 0 ] || tell "$later of the slow ones were closed, the last after $last s"
    [ "$still" = 0 ] || tell "$still of the slow ones were still open after $PATIENCE s"
}

fault_slow_readers() {
    local path=/plugins/eight/1.0.0/plugin.wasm before
    begin "$1" eight known
    [ "$1" != mirror ] || path=/v2/plugins/eight/blobs/sha256:${sha[eight]}
    before=$(memory "$1")
    peak=$before
    crowd readers "$1" "$path" $SLOW_READERS 10
    normal_clients "$1" known
    sleep 1
    tell "resident before $before MiB, with $answers_begun readers $peak MiB, afterwards $(memory "$1") MiB"
    tell "$still of them still being served after 10 s"
}

fault_busy() {
    ! asks_nobody "$1" || return 0
    begin "$1" known
    fault busy=5
    ask "$1" new
    tell "new: $answer, Retry-After: $(header retry-after | grep . || echo none)"
    tell "asked four times more: $(ask_times 4 0.4 "$1" new)"
    asked
    tell "requests upstream: $requests"
    tell "held: $(ask_times 3 0.2 "$1" known)"
    fault
    tell "fault over: $(until_right "$1" new)"
}

fault_stalled() {
    ! asks_nobody "$1" || return 0
    begin "$1"
    fault stall
    ask "$1" new
    tell "$answer after $took s"
    fault
    tell "fault over: $(until_right "$1" new)"
}

rows=(
    "down_held|upstream down, asked for before"
    "down_new|upstream down, never asked for (nginx: not baked)"
    "start_down|killed and started again while the upstream is down, warm folder"
    "withdrawn|tag deleted upstream after it was served"
    "pushed_again|tag pushed again with other bytes"
    "flipped|one byte flipped in the stored file"
    "truncated|stored file cut to its half"
    "deleted|stored file deleted"
    "full|disk full"
    "read_only|file system read-only"
    "killed|kill -9 in the middle of a fetch, then a start"
    "wrong_bytes|upstream sends one wrong byte, right length"
    "cut|upstream cuts the body half way"
    "together|$CROWD clients at once for something cold"
    "slow_heads|$SLOW_HEADS connections that send a byte of their header a second"
    "slow_readers|$SLOW_READERS readers of 8 MB that take 1 KiB a second"
    "busy|upstream answers 429, Retry-After: 5"
    "stalled|upstream stalls in the middle of the body"
)

# cell FAULT SERVER: in a process of its own, so that nothing of one fault is left for the next.
cell() {
    local told=()
    set -o errtrace
    trap '[ -s "$tmp/why" ] || echo "line $LINENO of the script failed" >"$tmp/why"' ERR
    pid=()
    now=
    home=$tmp/cell store=$tmp/cell/store
    trap leave_cell EXIT
    trap 'exit 143' TERM
    mkdir -p "$home" "$store"
    "fault_$1" "$2"
    if [ "${pid[$2]-}" ] && ! kill -0 "${pid[$2]}" 2>/dev/null; then
        tell "**the process ended**"
    fi
    printf '%s; ' "${told[@]}" | sed 's/; $//' >"$tmp/text"
}

leave_cell() {
    # nginx has workers, which would outlive it.
    [ -z "${pid[nginx]-}" ] || slay nginx
    end "${pid[@]}"
    while umount -l "$store" 2>/dev/null; do :; done
    rm -rf "$home"
}

# --- the table

ulimit -n "$(ulimit -H -n)"
[ "$(ulimit -n)" = unlimited ] || [ "$(ulimit -n)" -ge 4096 ] || fail "4096 open files are needed: ulimit -n"
for name in "${only[@]}"; do
    printf '%s\n' "${rows[@]}" | grep -q "^$name|" || fail "there is no fault $name; there are: ${rows[*]%%|*}"
done
mkdir "$tmp/modules"
printf '{}' >"$tmp/empty.json"
start_registry
echo "pushing modules" >&2
for plugin in known new other third; do
    push $plugin $MODULE
done
for plugin in large-a large-b large-c; do
    push $plugin $LARGE
done
push eight 8000000
for ((turn = 1; turn <= KILLS; turn++)); do
    push "kill-$turn" $MODULE
done

cat <<END
Measured by \`tests/peers.sh\` with $("$larder" version | head -n 1), $(nginx -v 2>&1 | sed 's/.*: //'), \
$(docker-registry --version | sed 's/.*distribution /docker-registry /'), Linux $(uname -r), $(nproc) cores, all on loopback.
nginx is as Debian ships it: $(nproc) workers (auto) of 768 connections, sendfile, its default timeouts; its module is a static file.
docker-registry is as Debian ships it, without its password, and asked for the manifest by tag and then for the layer by digest.
larder has its defaults (4096 connections), but for a lifetime of a tag of $LIFETIME s, so that its end is seen. Modules are of 1 MiB, in the rows
about files and disks also of 20 MiB, which larder sends from its disk. Nothing is waited for longer than $PATIENCE s, as gateways do.

"Right" is a SHA-256 that was compared. "Wrong bytes" came as a whole answer: whoever knows the digest can refuse them, as OCI clients
do, and a gateway that only has a URL cannot. "Cut off" is what a client can tell by the length. A process lived where nothing else is said.

| fault | larder | nginx with baked files | docker-registry pull-through |
|---|---|---|---|
END

missing=0
for row in "${rows[@]}"; do
    [[ ${#only[@]} = 0 || " ${only[*]} " == *" ${row%%|*} "* ]] || continue
    line="| ${row#*|} |"
    for server in "${servers[@]}"; do
        echo "$SECONDS s, ${row#*|}: $server" >&2
        rm -f "$tmp/text" "$tmp/why"
        cell "${row%%|*}" "$server" &
        now=$!
        if wait "$now"; then
            line+=" $(<"$tmp/text") |"
        else
            missing=$((missing + 1))
            line+=" not measured: $(cat "$tmp/why" 2>/dev/null || echo 'the script failed') |"
        fi
        now=
    done
    echo "$line"
done
[ $missing = 0 ] || fail "$missing cells were not measured"
