#!/bin/sh
# Builds the image larder:<version>: `image.sh [further flags of the builder]`. The builder is the first of buildah, podman
# and docker that is there, or BUILDER. PLATFORMS, such as linux/amd64,linux/arm64, is this machine's own unless it is set.
set -eu

cd "$(dirname "$0")/.."
name=larder:$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -n 1)
builder=${BUILDER:-}
for one in buildah podman docker; do
    if [ -z "$builder" ] && command -v "$one" >/dev/null 2>&1; then builder=$one; fi
done
if [ -z "$builder" ]; then
    echo "an image needs buildah, podman or docker, and none of them is on this machine; on Debian: apt-get install buildah" >&2
    exit 1
fi
case $(uname -m) in
x86_64) own=amd64 ;;
aarch64) own=arm64 ;;
*) own=$(uname -m) ;;
esac
platforms=${PLATFORMS:-linux/$own}
# Files in the image are as old as the last change of the source, so that the same source makes the same image.
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct 2>/dev/null || echo 0)
export SOURCE_DATE_EPOCH
several=
case $platforms in
*,*) several=yes ;;
esac
if [ "$builder" = docker ]; then
    # Docker's older store of images would say so after minutes, or in riddles.
    case "$several $*" in
    ' '* | *--output* | *--builder*) ;;
    *)
        store=$(docker info --format '{{json .DriverStatus}}')
        case $store in
        *io.containerd.snapshotter*) ;;
        *)
            echo "docker keeps an image of several platforms only in the containerd image store, which is off here; turn it on" \
                "(\"features\": {\"containerd-snapshotter\": true} in /etc/docker/daemon.json), or set PLATFORMS to one of them," \
                "or BUILDER to buildah or podman, or write a file with docker buildx:" \
                "IMAGE_FLAGS='--builder NAME --output type=oci,dest=larder.tar'" >&2
            exit 1
            ;;
        esac
        ;;
    esac
    # It finds the list of what is left out by itself.
    DOCKER_BUILDKIT=1 exec docker build --platform "$platforms" --build-arg SOURCE_DATE_EPOCH \
        --tag "$name" --file deploy/Dockerfile "$@" .
fi
tag=--tag
if [ -n "$several" ]; then
    tag=--manifest
    # In whole: a short one would be found in harbor.corp/tools/larder too, which is to stay.
    name=localhost/$name
    # They add to a list that has the name already, and refuse the name of an image.
    if "$builder" manifest exists "$name" >/dev/null 2>&1; then
        "$builder" manifest rm "$name"
    elif "$builder" inspect --type image "$name" >/dev/null 2>&1; then
        "$builder" rmi "$name"
    fi
fi
# Of older builders, none says by itself which platform it is on.
exec "$builder" build --platform "$platforms" --build-arg "BUILDPLATFORM=linux/$own" --timestamp "$SOURCE_DATE_EPOCH" \
    --ignorefile deploy/Dockerfile.dockerignore "$tag" "$name" --file deploy/Dockerfile "$@" .
