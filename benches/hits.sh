#!/bin/bash
# The hit path beside nginx: `benches/hits.sh target/release/larder`. See README.md.
#
# Both serve the same files under the same URLs, and in each round each of them has its turn, so that whatever else the
# machine does meets both. It fails when an answer is wrong, never for being slow.
set -euo pipefail

larder=$(realpath "${1:?which larder?}")
rounds=9  # an odd number: the middle one counts
seconds=1 # for each server in each round
export NO_PROXY=127.0.0.1 no_proxy=127.0.0.1

tmp=$(mktemp -d)
started=()
finish() {
    kill "${started[@]}" 2>/dev/null || true
    wait
    rm -rf "$tmp"
}
trap finish EXIT
trap 'exit 130' INT TERM

fail() { # text, file to show the end of
    echo "hits.sh: $1" >&2
    [ $# = 1 ] || tail -n 10 "$2" >&2
    exit 1
}

until_true() { # command: waits for at most 10 s
    for _ in {1..100}; do
        "$@" && return
        sleep 0.1
    done
    false
}

# --- modules, and an artifact of each: files, for which nginx is plugin server and registry

# name, size in bytes, connections, least ratio from memory and from disk; - is none
cases="\
1kib 1024 32 1.2 -
1mib 1048576 8 1.4 -
8mib 8388608 8 2.0 1.0
30mib 31457280 8 2.0 1.0"

digest() { sha256sum | cut -d ' ' -f 1; }

# One custom section of random bytes: its id 0, its size as LEB128 in five bytes, its name.
make_module() { # size
    local rest=$(($1 - 14)) bits size=
    for bits in 0 7 14 21; do
        printf -v size '%s\\x%02x' "$size" $((rest >> bits & 127 | 128))
    done
    printf '\0asm\1\0\0\0\0%b\0\3any' "$size"
    head -c $((rest - 4)) /dev/urandom
}

make_artifact() { # name, size
    local module=$tmp/www/plugins/$1/1.0.0/plugin.wasm artifact=$tmp/www/v2/plugins/$1 sha256
    mkdir -p "${module%/*}" "$artifact/manifests" "$artifact/blobs"
    make_module "$2" >"$module"
    [ "$(stat -c %s "$module")" = "$2" ] || fail "the module made is not of $2 bytes"
    sha256=$(digest <"$module")
    ln "$module" "$artifact/blobs/sha256:$sha256"
    cat >"$artifact/manifests/1.0.0" <<END
{
  "schemaVersion": 2,
  "mediaType": "application/vnd.oci.image.manifest.v1+json",
  "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": "sha256:$(printf '{}' | digest)", "size": 2},
  "layers": [{"mediaType": "application/vnd.module.wasm.content.layer.v1+wasm", "digest": "sha256:$sha256", "size": $2}]
}
END
}

while read -r label size _; do
    make_artifact "$label" "$size"
done <<<"$cases"

# --- servers

declare -A pid address

free_port() {
    local port=$((RANDOM % 10000 + 20000))
    while (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do
        port=$((port + 1))
    done
    echo "$port"
}

start_nginx() {
    address[nginx]=127.0.0.1:$(free_port)
    # All paths are relative to the folder that -p names.
    cat >"$tmp/nginx.conf" <<END
daemon off;
$([ "$(id -u)" != 0 ] || echo "user root;")
worker_processes 2;
pid nginx.pid;
events {}
http {
    sendfile on;
    tcp_nopush on;
    keepalive_requests 1000000000;
    access_log nginx.log combined;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    server {
        listen ${address[nginx]};
        root www;
        default_type application/wasm;
        location /v2/ {
            default_type application/vnd.oci.image.manifest.v1+json;
        }
    }
}
END
    nginx -c "$tmp/nginx.conf" -p "$tmp" -e nginx.err 2>>"$tmp/nginx.err" &
    pid[nginx]=$!
    started+=($!)
    until_true curl -sf -o "$tmp/answer" "http://${address[nginx]}/plugins/1kib/1.0.0/plugin.wasm" ||
        fail "nginx does not answer" "$tmp/nginx.err"
}

is_listening() { grep -qs '"message":"listening"' "$1"; }

start_larder() { # memory or disk, size of the memory tier
    cat >"$tmp/larder.yaml" <<END
catalog:
  builtin: false
  template: "oci://${address[nginx]}/plugins/{name}:{version}"
lifetimes:
  tag: 1d
END
    LARDER_CACHE_MEMORY=$2 LARDER_SERVER_DRAIN=0s "$larder" --config "$tmp/larder.yaml" \
        --listen 127.0.0.1:0 --admin-listen 127.0.0.1:0 --cache-dir "$tmp/$1" --log-format json \
        --plain-http "${address[nginx]}" 2>>"$tmp/$1.log" &
    pid[$1]=$!
    started+=($!)
    until_true is_listening "$tmp/$1.log" || fail "larder does not start" "$tmp/$1.log"
    address[$1]=$(sed -n '/"message":"listening"/s/.*"data":"\([^"]*\)".*/\1/p' "$tmp/$1.log")
}

start_nginx
start_larder memory 256MiB
start_larder disk 0

# --- the same bytes from each, and larder's from where we think

url() { echo "http://${address[$1]}/plugins/$2/1.0.0/plugin.wasm"; } # server, label

check() { # label
    local server expected
    expected=$(digest <"$tmp/www/plugins/$1/1.0.0/plugin.wasm")
    for server in nginx memory disk; do
        for _ in fetched kept; do
            curl -sf -m 30 -D "$tmp/head" -o "$tmp/answer" "$(url $server "$1")" ||
                fail "$server does not answer with $1" "$tmp/$server.log"
            [ "$(digest <"$tmp/answer")" = "$expected" ] || fail "$server answers with other bytes for $1"
        done
        [ $server = nginx ] || grep -qi "^cache-status: .*detail=$server" "$tmp/head" ||
            fail "larder does not answer from $server" "$tmp/head"
    done
}

while read -r label _; do
    check "$label"
done <<<"$cases"

# --- load

cat >"$tmp/report.lua" <<'END'
function done(summary)
    local e = summary.errors
    print("report", summary.requests, summary.bytes, summary.duration, e.connect + e.read + e.write + e.status + e.timeout)
end
END

cpu() { # pid: clock ticks of it and its children
    { cat /proc/[0-9]*/stat 2>/dev/null || true; } |
        awk -v pid="$1" '{ own = $1; sub(/.*\) /, ""); if (own == pid || $2 == pid) sum += $12 + $13 } END { print sum }'
}

turn() { # server, label, connections: adds to the results
    local before report errors
    before=$(cpu "${pid[$1]}")
    report=$(wrk -t1 -c"$3" -d"$seconds" --timeout 30s -s "$tmp/report.lua" "$(url "$1" "$2")") ||
        fail "wrk failed for $2 from $1" "$tmp/$1.log"
    read -r _ requests bytes micros errors < <(grep '^report' <<<"$report")
    [ "$requests" -gt 0 ] && [ "$errors" = 0 ] ||
        fail "$requests answers with $2 from $1, and $errors errors" "$tmp/$1.log"
    echo "$1 $2 $requests $bytes $micros $(($(cpu "${pid[$1]}") - before))" >>"$tmp/results"
    : >"$tmp/$1.log" # it grows fast, and writing it back would be in others' way
}

while read -r label _ connections _; do
    for ((round = 1; round <= rounds; round++)); do
        for server in nginx memory disk; do
            turn $server "$label" "$connections"
        done
    done
    check "$label"
done <<<"$cases"

# --- the middle of the rounds

awk '
function add(series, value) { values[series, ++count[series]] = value }
function median(series,    n, i, j, v, x) {
    n = count[series]
    for (i = 1; i <= n; i++) {
        x = values[series, i]
        for (j = i; j > 1 && v[j - 1] > x; j--) v[j] = v[j - 1]
        v[j] = x
    }
    return v[(n + 1) / 2]
}
function row(server, bound,    ratio, cpu) {
    ratio = median(server $1 "ratio")
    cpu = cost[server, $1] / work[server, $1] / (cost["nginx", $1] / work["nginx", $1])
    printf "%-6s %-6s %8.0f %8.0f %-5s %6.2f %6s %-5s %5.2f\n", $1, server, median("nginx" $1), median(server $1), \
        $1 == "1kib" ? "req/s" : "MB/s", ratio, bound, bound != "-" && ratio < bound ? "below" : "", cpu
}
NR == FNR { # the results, in each round nginx first
    # Small answers are counted; large ones are weighed, because some are cut off when the time is over.
    amount = $2 == "1kib" ? $3 : $4 / 1e6
    rate = amount / $5 * 1e6
    add($1 $2, rate)
    if ($1 == "nginx") beside = rate
    else add($1 $2 "ratio", rate / beside)
    work[$1, $2] += amount
    cost[$1, $2] += $6
    next
}
FNR == 1 { printf "%-6s %-6s %8s %8s %-5s %6s %6s %-5s %5s\n", "size", "from", "nginx", "larder", "", "ratio", "bound", "", "CPU" }
{
    row("memory", $4)
    row("disk", $5)
}' "$tmp/results" - <<<"$cases"
