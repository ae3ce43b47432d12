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
if [ "$builder" = docker ]; then
    # It finds the list of what is left out by itself.
    DOCKER_BUILDKIT=1 exec docker build --platform "$platforms" --build-arg SOURCE_DATE_EPOCH \
        --tag "$name" --file deploy/Dockerfile "$@" .
fi
case $platforms in
*,*) tag=--manifest ;;
*) tag=--tag ;;
esac
# Of older builders, none says by itself which platform it is on.
exec "$builder" build --platform "$platforms" --build-arg "BUILDPLATFORM=linux/$own" --timestamp "$SOURCE_DATE_EPOCH" \
    --ignorefile deploy/Dockerfile.dockerignore "$tag" "$name" --file deploy/Dockerfile "$@" .
