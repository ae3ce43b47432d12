#!/bin/bash
# The whole way of larder on one machine, without the internet: `demo.sh BINARY`.
# It starts a real registry, pushes plugins of several shapes, serves them, and takes the registry away. All that it says
# is checked; the first thing that is not so ends it with status 1. It leaves nothing behind.
set -euo pipefail

if [[ $# != 1 || ! -f $1 || ! -x $1 ]]; then
    echo "usage: $0 BINARY, such as target/release/larder" >&2
    exit 1
fi
binary=$(realpath -- "$1")
for tool in docker-registry openssl curl python3 tar; do
    command -v "$tool" >/dev/null || {
        echo "this needs $tool; on Debian: apt-get install docker-registry openssl curl python3 tar" >&2
        exit 1
    }
done

# Nothing of the caller's surroundings may change what is shown: all stays on this machine, with the settings below.
unset http_proxy https_proxy all_proxy HTTP_PROXY HTTPS_PROXY ALL_PROXY
unset "${!LARDER_@}" "${!REGISTRY_@}"

declare -A running=() # pids of what was started and not yet stopped
declare -A pushed=()  # the SHA-256 of each plugin's module
tmp=$(mktemp -d)

cleanup() {
    # Nothing that they hold is kept, so they need no time to leave.
    for name in "${!running[@]}"; do
        kill -KILL "${running[$name]}" 2>/dev/null || true
        wait "${running[$name]}" 2>/dev/null || true
    done
    rm -rf "$tmp"
}
trap cleanup EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

cd "$tmp"
# So that commands can be shown as they are typed where larder is installed.
mkdir bin
ln -s "$binary" bin/larder
PATH=$tmp/bin:$PATH

# --- Telling, running, checking ---

say() {
    printf '\n%s\n' "$1" | fold -s -w 110
}

ok() {
    echo "  ok: $1"
}

fail() {
    echo >&2
    echo "demo failed: $1" >&2
    [ ! -s larder.log ] || {
        echo "the end of larder's log:" >&2
        tail -n 5 larder.log >&2
    }
    exit 1
}

# show WORD...: a command as one would type it.
show() {
    local word line='$'
    for word; do
        [[ $word =~ ^[A-Za-z0-9@%+=:,./_-]+$ ]] || word="'$word'"
        line+=" $word"
    done
    echo "$line"
}

run() {
    show "$@"
    "$@"
}

# What is shown as curl: without the caller's ~/.curlrc, and never for ever.
curl() {
    command curl -q --noproxy '*' --max-time 20 "$@"
}

sha256() {
    sha256sum "$1" | cut -d ' ' -f 1
}

# start NAME COMMAND...: in the background, with NAME.log.
start() {
    local name=$1
    shift
    echo "$(show "$@") >$name.log 2>&1 &"
    : >"$name.log"
    "$@" >"$name.log" 2>&1 &
    running[$name]=$!
}

# stop NAME: ends it and waits; its exit status is in $stopped.
stop() {
    local pid=${running[$1]}
    run kill -TERM "$pid"
    stopped=0
    wait "$pid" 2>/dev/null || stopped=$?
    unset "running[$1]"
}

# wait_for_line NAME REGEX: what the log first matches is then in $line.
wait_for_line() {
    local tries
    for ((tries = 0; tries < 100; tries++)); do
        if line=$(grep -m 1 -o -E -- "$2" "$1.log"); then
            return
        fi
        kill -0 "${running[$1]}" 2>/dev/null || break
        sleep 0.1
    done
    cat "$1.log" >&2
    fail "$1 did not start; its log is above"
}

# --- The registry's side ---

certificates() {
    run openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 -subj '/CN=demo CA' \
        -keyout ca.key -out ca.pem 2>openssl.log || fail "no CA: $(cat openssl.log)"
    run openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=localhost \
        -keyout server.key -out server.csr 2>openssl.log || fail "no request: $(cat openssl.log)"
    echo 'subjectAltName=DNS:localhost,IP:127.0.0.1' >server.ext
    run openssl x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 1 \
        -extfile server.ext -out server.pem 2>openssl.log || fail "no certificate: $(cat openssl.log)"
    run openssl verify -CAfile ca.pem server.pem || fail "the certificate is not of this CA"
}

start_registry() {
    cat >registry.yaml <<'END'
version: 0.1
storage: {filesystem: {rootdirectory: storage}}
http: {addr: 127.0.0.1:0, tls: {certificate: server.pem, key: server.key}}
END
    start registry docker-registry serve registry.yaml
    wait_for_line registry 'listening on 127\.0\.0\.1:[0-9]+, tls'
    line=${line%, tls}
    registry=localhost:${line##*:}
}

# module FILE BYTES: a wasm module of one custom section, whose payload is random.
module() {
    python3 - "$1" "$2" <<'END'
import os, sys

def leb128(number):
    out = bytearray()
    while number > 0x7f:
        out.append(number & 0x7f | 0x80)
        number >>= 7
    return bytes(out) + bytes([number])

name = b"demo"
section = leb128(len(name)) + name + os.urandom(int(sys.argv[2]))
with open(sys.argv[1], "wb") as file:
    file.write(b"\0asm\x01\0\0\0" + b"\0" + leb128(len(section)) + section)
END
}

# upload NAME FILE: a blob, by the two requests of the distribution specification.
upload() {
    local place
    place=$(curl -sS -f --cacert ca.pem -X POST -o /dev/null -D - "https://$registry/v2/plugins/$1/blobs/uploads/" |
        tr -d '\r' | sed -n 's/^[Ll]ocation: //p') || fail "the registry takes no upload"
    curl -sS -f --cacert ca.pem -T "$2" "$place&digest=sha256:$(sha256 "$2")" >/dev/null ||
        fail "the registry does not take $2"
}

# push NAME TAG, then media type and file of the config and of each layer.
push() {
    local name=$1 tag=$2 size layers descriptors=()
    shift 2
    while [ $# -gt 0 ]; do
        upload "$name" "$2"
        size=$(wc -c <"$2")
        printf '  %-60s %8d bytes\n' "$1" "$size"
        descriptors+=("{\"mediaType\": \"$1\", \"digest\": \"sha256:$(sha256 "$2")\", \"size\": $size}")
        shift 2
    done
    layers=$(IFS=, && echo "${descriptors[*]:1}")
    cat >manifest.json <<END
{
  "schemaVersion": 2,
  "mediaType": "application/vnd.oci.image.manifest.v1+json",
  "config": ${descriptors[0]},
  "layers": [$layers]
}
END
    run curl -sS -f --cacert ca.pem -T manifest.json -H 'Content-Type: application/vnd.oci.image.manifest.v1+json' \
        "https://$registry/v2/plugins/$name/manifests/$tag" || fail "the registry does not take the manifest of $name"
    pushed[$name]=$(sha256 "$name.wasm")
    ok "$registry/plugins/$name:$tag holds a module with SHA-256 ${pushed[$name]}"
}

# --- Larder's side ---

# start_larder [VARIABLE=VALUE...]: leaves its two addresses in $data and $admin.
start_larder() {
    # Without a load balancer that has to notice, there is nothing to wait for when it is told to leave.
    start larder env LARDER_SERVER_DRAIN=0s "$@" larder --config larder.yaml --catalog catalog.properties \
        --ca ca.pem --cache-dir cache --listen 127.0.0.1:0 --admin-listen 127.0.0.1:0 --log-format json
    wait_for_line larder '^.*"message":"listening".*$'
    data=$(sed -n 's/.*"data":"\([^"]*\)".*/\1/p' <<<"$line")
    admin=$(sed -n 's/.*"admin":"\([^"]*\)".*/\1/p' <<<"$line")
    [[ $data && $admin ]] || fail "larder does not tell its addresses: $line"
    ok "larder serves plugins on $data and metrics on $admin"
}

stop_larder() {
    stop larder
    [ "$stopped" = 0 ] || fail "larder left with status $stopped"
    ok "larder left with status 0"
}

# get PATH [OPTION...]: the answer is then in the files `headers` and `body`.
get() {
    local path=$1
    shift
    run curl -sS -D headers -o body "$@" "http://$data$path" || fail "no answer from larder"
    tr -d '\r' <headers | grep -i -E '^(HTTP/|content-type|content-length|cache-status|larder-)' | sed 's/^/  /'
}

# status CODE
status() {
    local got
    got=$(awk 'NR == 1 {print $2}' headers)
    [ "$got" = "$1" ] || fail "the status is $got and not $1: $(head -c 2000 body)"
}

# field NAME TEXT: the header is there and holds the text.
field() {
    local got
    got=$(tr -d '\r' <headers | sed -n "s/^$1: //Ip")
    [[ $got == *"$2"* ]] || fail "the header $1 is '$got', without '$2'"
}

# holds TEXT: the body does.
holds() {
    grep -q -F -- "$1" body || fail "the answer does not hold '$1': $(head -c 2000 body)"
}

# is_module NAME TAG: status, headers and bytes are those of what was pushed.
is_module() {
    local got
    status 200
    field content-type application/wasm
    field content-length "$(wc -c <"$1.wasm")"
    field larder-reference "$registry/plugins/$1:$2"
    got=$(sha256 body)
    [ "$got" = "${pushed[$1]}" ] || fail "the SHA-256 is $got and not ${pushed[$1]}"
    ok "these are the bytes that were pushed: SHA-256 $got"
}

# comes_and_stays NAME TAG: from the registry first, then from what is kept.
comes_and_stays() {
    get "/plugins/$1/$2/plugin.wasm"
    is_module "$1" "$2"
    field cache-status fwd=uri-miss
    field larder-match exact
    get "/plugins/$1/$2/plugin.wasm"
    is_module "$1" "$2"
    field cache-status '; hit'
    ok "the first answer was fetched (fwd=uri-miss), the second was kept (hit)"
}

# lookups TIER: how many module lookups ended there.
lookups() {
    awk -v series="larder_module_lookups_total{tier=\"$1\"}" '$1 == series {print $2}' metrics
}

# metrics: into the file of that name.
metrics() {
    run curl -sS -f -o metrics "http://$admin/metrics" || fail "no metrics"
    grep '^larder_module_lookups_total' metrics | sed 's/^/  /' || fail "the metrics count no lookups"
}

# --- The way ---

say "1. A private CA, and a certificate of it for localhost, as a company's registry has one. No system store knows it."
certificates

say "2. A real registry (Debian's docker-registry) on this machine, with TLS by that certificate."
start_registry
ok "the registry is https://$registry"

say "3. Three plugins are pushed by curl, in three shapes that are found in real registries. The modules are made on \
the spot: wasm with a section of random bytes. Blobs go by POST and PUT; the last request, shown, is the manifest."
module ai-proxy.wasm 3000000
module key-auth.wasm 1000000
module waf.wasm 2000000
echo '{}' >empty.json
printf '# ai-proxy\n' >README.md
printf 'apiVersion: 1.0.0\ninfo:\n  name: ai-proxy\n  version: 2.0.1\n' >spec.yaml
mkdir packed
cp ai-proxy.wasm packed/plugin.wasm
tar -C packed -czf ai-proxy.tar.gz plugin.wasm
cp waf.wasm packed/plugin.wasm
tar -C packed -cf waf.tar plugin.wasm

say "As Higress publishes them: documents first, and last a tar.gz with plugin.wasm."
push ai-proxy 2.0.1 application/vnd.unknown.config.v1+json empty.json \
    application/vnd.module.wasm.doc.v1+markdown README.md \
    application/vnd.module.wasm.spec.v1+yaml spec.yaml \
    application/vnd.oci.image.layer.v1.tar+gzip ai-proxy.tar.gz

say "The module itself as a layer, without an archive."
push key-auth 2.0.0 application/vnd.oci.empty.v1+json empty.json \
    application/vnd.module.wasm.config.v1+json empty.json \
    application/vnd.module.wasm.content.layer.v1+wasm key-auth.wasm

say "By hand: a tar that is not compressed."
push waf 2.0.1 application/vnd.oci.image.config.v1+json empty.json \
    application/vnd.oci.image.layer.v1.tar waf.tar

say "4. Larder needs to know which names there are and where they lie: one line each. Here it shall know these three and \
no others, so its built-in list is switched off."
for plugin in ai-proxy:2.0.1 key-auth:2.0.0 waf:2.0.1; do
    echo "${plugin%:*}=oci://$registry/plugins/$plugin"
done >catalog.properties
cat >larder.yaml <<'END'
catalog:
  builtin: false
  template: null
# Plugins of this machine, if it has some, are not part of this.
overlay:
  dirs: []
END
run cat catalog.properties larder.yaml
start_larder

say "5. A gateway asks for a plugin over plain HTTP. Larder does not have it yet: it fetches the artifact, verifies it, \
unpacks the module and answers. The second request needs no registry."
comes_and_stays ai-proxy 2.0.1

say "6. Higress Console asks for 1.0.0 of nearly everything, which was never pushed. The registry says that there is no \
such tag, so larder serves the version that the catalog names, and says so."
get /plugins/ai-proxy/1.0.0/plugin.wasm
is_module ai-proxy 2.0.1
field larder-match fallback
ok "asked for 1.0.0, served 2.0.1, marked as larder-match: fallback"

say "7. Beside each module there is a text about it, as the nginx plugin server has it."
get /plugins/ai-proxy/2.0.1/metadata.txt
run cat body
status 200
holds "Plugin Name: ai-proxy"
holds "MD5: $(md5sum ai-proxy.wasm | cut -d ' ' -f 1)"
holds "sha256: ${pushed[ai-proxy]}"
ok "name, MD5 and SHA-256 are right"

say "The names can be listed, by people and by programs."
get /plugins/
run cat body
status 200
field content-type text/html
for name in "${!pushed[@]}"; do
    holds "<a href=\"$name/\">"
done
get /plugins/ -H 'Accept: application/json'
run cat body
status 200
field content-type application/json
python3 -c 'import json, sys; assert [item["name"] for item in json.load(open("body"))] == sys.argv[1:]' \
    ai-proxy key-auth waf || fail "the list is not that of the catalog"
ok "both list the three of the catalog"

say "A name that does not exist is a 404 at once. The answer says what is wrong and which names look like it."
get /plugins/ai-porxy/2.0.1/plugin.wasm
run cat body
status 404
field content-type application/problem+json
python3 -c 'import json; assert "ai-proxy" in json.load(open("body"))["nearest"]' ||
    fail "the problem document does not name ai-proxy"
ok "it names ai-proxy"

say "8. The two other shapes come in the same way: whatever the artifact is, the gateway gets the module."
comes_and_stays key-auth 2.0.0
comes_and_stays waf 2.0.1

say "9. How often did larder have the plugin at hand? Its metrics count where each lookup ended; upstream is a miss."
metrics
misses=$(lookups upstream)
hits=$(($(lookups memory) + $(lookups disk) + $(lookups overlay)))
# Misses: the three plugins, and the version that does not exist. Hits: the three second requests.
[ "$hits $misses" = "3 4" ] || fail "$hits hits and $misses misses were counted, and not 3 and 4"
ok "$hits hits of $((hits + misses)) lookups: a ratio of $((100 * hits / (hits + misses))) %"

say "10. The registry goes away. What was served once is served on."
stop registry
if run curl -sS --cacert ca.pem "https://$registry/v2/" 2>&1; then
    fail "the registry still answers"
fi
for plugin in ai-proxy/2.0.1 key-auth/2.0.0 waf/2.0.1; do
    get "/plugins/$plugin/plugin.wasm"
    is_module "${plugin%/*}" "${plugin#*/}"
    field cache-status '; hit'
done

say "11. Larder itself is restarted, with the registry still away. The new process has nothing but its disk: there is the \
plugin, and there is what was learned of 1.0.0."
stop_larder
start_larder
get /plugins/ai-proxy/2.0.1/plugin.wasm
is_module ai-proxy 2.0.1
field cache-status '; hit'
get /plugins/ai-proxy/1.0.0/plugin.wasm
is_module ai-proxy 2.0.1
field larder-match fallback
metrics
[ "$(lookups upstream)" = 0 ] || fail "larder asked the registry"
ok "no lookup went to a registry: the plugin was on disk, and was read into memory to be sent"

say "12. What a tag means is believed for five minutes; then the registry is asked again, behind the request. With a \
lifetime of nothing one sees what becomes of it when there is none: the plugin comes all the same, marked as stale."
stop_larder
start_larder LARDER_LIFETIMES_TAG=0s
get /plugins/ai-proxy/2.0.1/plugin.wasm
is_module ai-proxy 2.0.1
field cache-status detail=stale-
# The question is under way, or has failed by now; then answers give the failure as the reason.
for ((tries = 0; tries < 100; tries++)); do
    curl -sS -o /dev/null -D headers "http://$data/plugins/ai-proxy/2.0.1/plugin.wasm" || fail "no answer from larder"
    ! grep -q detail=stale-connect headers || break
    sleep 0.1
done
get /plugins/ai-proxy/2.0.1/plugin.wasm
is_module ai-proxy 2.0.1
field cache-status detail=stale-connect
ok "the header tells why it is stale: the registry could not be reached"
stop_larder

say "All of it is so. What was made for it is removed again."
