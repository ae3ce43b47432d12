#!/bin/bash
# Instructions of an answer: `benches/instructions.sh target/profiling/larder [--markdown]`. See README.md.
#
# Times depend on what else a machine does, instructions hardly: callgrind counts those of the whole program, its threads
# for the log and for fetches too, but none of the kernel's. One connection asks one thread that answers; everything is done
# twice, by two processes, and the two must agree. It fails when they do not, or when an answer is not what was meant to be
# counted.
set -euo pipefail

larder=$(realpath "${1:?which larder?}")
markdown=${2:-}
requests=500   # a count, of which each process makes two a row
allowed=5      # the most that two counts of a row may differ, in percent; mostly it is below 1
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
trap 'echo "instructions.sh: line $LINENO failed" >&2' ERR

fail() { # text, file to show the end of
    echo "instructions.sh: $1" >&2
    [ $# = 1 ] || tail -n 10 "$2" >&2
    exit 1
}

until_true() { # command: waits for at most 60 s
    for _ in {1..600}; do
        "$@" && return
        sleep 0.1
    done
    false
}

# --- modules, and an artifact of each: files, for which nginx is the registry

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
    local artifact=$tmp/www/v2/plugins/$1 sha256
    mkdir -p "$artifact/manifests" "$artifact/blobs"
    make_module "$2" >"$tmp/module"
    sha256=$(digest <"$tmp/module")
    mv "$tmp/module" "$artifact/blobs/sha256:$sha256"
    cat >"$artifact/manifests/1.0.0" <<END
{
  "schemaVersion": 2,
  "mediaType": "application/vnd.oci.image.manifest.v1+json",
  "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": "sha256:$(printf '{}' | digest)", "size": 2},
  "layers": [{"mediaType": "application/vnd.module.wasm.content.layer.v1+wasm", "digest": "sha256:$sha256", "size": $2}]
}
END
}

make_artifact 1kib 1024
make_artifact 1mib 1048576
printf '{"errors": [{"code": "MANIFEST_UNKNOWN"}]}' >"$tmp/www/unknown"

# --- servers

free_port() {
    local port=$((RANDOM % 10000 + 20000))
    while (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do
        port=$((port + 1))
    done
    echo "$port"
}

registry=127.0.0.1:$(free_port)
# All paths are relative to the folder that -p names.
cat >"$tmp/nginx.conf" <<END
daemon off;
$([ "$(id -u)" != 0 ] || echo "user root;")
worker_processes 1;
pid nginx.pid;
events {}
http {
    access_log off;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    server {
        listen $registry;
        root www;
        default_type application/vnd.oci.image.manifest.v1+json;
        error_page 404 /unknown;
    }
}
END
nginx -c "$tmp/nginx.conf" -p "$tmp" -e nginx.err 2>>"$tmp/nginx.err" &
started+=($!)
until_true curl -sf -o "$tmp/answer" "http://$registry/unknown" || fail "nginx does not answer" "$tmp/nginx.err"

# Nothing is asked or read again behind the requests that are counted.
cat >"$tmp/larder.yaml" <<END
catalog:
  builtin: false
  template: "oci://$registry/plugins/{name}:{version}"
lifetimes:
  tag: 1d
  absent: 1d
cache:
  scrub: 0s
END

is_listening() { grep -qs '"message":"listening"' "$tmp/log"; }

start_larder() { # size of the memory tier
    rm -rf "$tmp/log" "$tmp"/out*
    LARDER_CACHE_MEMORY=$1 LARDER_SERVER_THREADS=1 LARDER_SERVER_DRAIN=0s valgrind --tool=callgrind \
        --fair-sched=yes --dump-line=no --callgrind-out-file="$tmp/out" "$larder" --config "$tmp/larder.yaml" --listen 127.0.0.1:0 \
        --admin-listen 127.0.0.1:0 --cache-dir "$tmp/cache" --log-format json --plain-http "$registry" 2>>"$tmp/log" &
    pid=$!
    started+=($pid)
    until_true is_listening || fail "larder does not start" "$tmp/log"
    address=$(sed -n '/"message":"listening"/s/.*"data":"\([^"]*\)".*/\1/p' "$tmp/log")
}

stop_larder() {
    kill "$pid"
    wait "$pid" || fail "larder did not end well" "$tmp/log"
}

control() { timeout 60 callgrind_control "$@" "$pid" >>"$tmp/control" 2>&1 || fail "callgrind does not listen" "$tmp/control"; }

# --- rows

# name, path, status, a field to send, what its Cache-Status has
rows="\
1 KiB from memory|/plugins/1kib/1.0.0/plugin.wasm|200||detail=memory
304 of it|/plugins/1kib/1.0.0/plugin.wasm|304|if-none-match: *|detail=memory
its metadata.txt|/plugins/1kib/1.0.0/metadata.txt|200||; hit;
1 MiB from memory|/plugins/1mib/1.0.0/plugin.wasm|200||detail=memory
404, remembered|/plugins/1kib/2.0.0/plugin.wasm|404||
listing of /plugins/|/plugins/|200||
1 KiB from disk|/plugins/1kib/1.0.0/plugin.wasm|200||detail=disk"

count() { # row: adds to the results
    local name path status field wanted url told
    IFS='|' read -r name path status field wanted <<<"$1"
    url=http://$address$path
    # Once to fetch, once to see that it is kept, and often enough that whatever is made once is made.
    for _ in fetched kept; do
        told=$(curl -s -m 60 -H "$field" -D "$tmp/head" -o "$tmp/answer" -w '%{http_code}' "$url") || fail "no answer: $name" "$tmp/log"
    done
    [ "$told" = "$status" ] || fail "$told: $name" "$tmp/head"
    [ -z "$wanted" ] || grep -i '^cache-status: ' "$tmp/head" | grep -qe "$wanted" || fail "not $wanted: $name" "$tmp/head"
    ask 50
    control --zero
    for _ in one two; do
        ask $requests
        control --dump
        number=$((number + 1))
        echo "$name|$run|$(awk '/^(summary|totals):/ { print $2; exit }' "$tmp/out.$number")" >>"$tmp/results"
    done
}

ask() { # how often
    local header=()
    [ -z "$field" ] || header=(-H "$field")
    h2load --h1 -n "$1" -c 1 -m 1 "${header[@]}" "$url" >"$tmp/load" || fail "h2load failed: $name" "$tmp/load"
    grep -qE "^status codes: .*\b$1 ${status:0:1}xx" "$tmp/load" || fail "not all are $status: $name" "$tmp/load"
}

# What costs most by itself, of the first row. callgrind_annotate would count what was called before the count began twice.
costly() {
    grep -q 'fn=.*larder::' "$tmp/out.1" || {
        echo "unknown, for the program has no names of functions: cargo build --profile profiling"
        return
    }
    awk -v requests=$requests '
        /^c?fn=/ { # a number, and the first time the name that it stands for
            id = $1
            sub(/^c?fn=/, "", id)
            if (NF > 1) name[id] = substr($0, index($0, " ") + 1)
            if (/^fn=/) function_id = id
            next
        }
        /^calls=/ { # the next line is what the called function costs
            getline
            next
        }
        /^[-+*0-9]/ { own[function_id] += $2 }
        END { for (id in own) printf "%8.0f  %s\n", own[id] / requests, substr(name[id], 1, 110) }
    ' "$tmp/out.1" | sort -rn | sed -n 1,10p
}

for run in 1 2; do
    rm -rf "$tmp/cache"
    start_larder 64MiB
    number=0
    while read -r row; do
        [[ $row = *"from disk"* ]] || count "$row" </dev/null
    done <<<"$rows"
    [ $run = 2 ] || costly >"$tmp/costly"
    stop_larder
    start_larder 0
    number=0
    count "${rows##*$'\n'}"
    stop_larder
done

# --- the least count of each process, for what is not always there only adds; and how far the two are apart

awk -F '|' -v requests=$requests -v allowed=$allowed -v markdown="$markdown" '
!(($1, $2) in least) { least[$1, $2] = $3; if ($2 == 1) order[++rows] = $1 }
$3 < least[$1, $2] { least[$1, $2] = $3 }
END {
    if (markdown) print "| answer | instructions | spread |\n|---|---|---|"
    else printf "%-22s %12s %8s\n", "answer", "instructions", "spread"
    for (n = 1; n <= rows; n++) {
        name = order[n]
        low = least[name, 1]
        high = least[name, 2]
        if (low > high) { low = high; high = least[name, 1] }
        spread = (high / low - 1) * 100
        printf markdown ? "| %s | %.0f | %.2f %% |\n" : "%-22s %12.0f %6.2f %%\n", name, low / requests, spread
        if (spread > allowed) far = far " " name ";"
    }
    if (far) { print "instructions.sh: two counts are further apart than " allowed " %:" far >"/dev/stderr"; exit 1 }
}' "$tmp/results"
echo
echo "The ten functions that cost the first of them most, in instructions of an answer:"
echo
[ -z "$markdown" ] || echo '```'
cat "$tmp/costly"
[ -z "$markdown" ] || echo '```'
