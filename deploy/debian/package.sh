#!/bin/sh
# The Debian package of a larder that is built: `package.sh PROGRAM FOLDER [cargo-deb's flags]`, with the program and the
# folder that the package goes to. Prints the package's path. tests/needs.sh installs what it takes.
set -eu

cd "$(dirname "$0")/../.."
program=$1
folder=$2
shift 2

rm -rf target/deb
mkdir -p target/deb/man target/deb/completions
strip -o target/deb/larder "$program"
# larder itself knows its manual pages and completions.
target/deb/larder man --dir target/deb/man
target/deb/larder completions bash >target/deb/completions/larder
target/deb/larder completions zsh >target/deb/completions/_larder
target/deb/larder completions fish >target/deb/completions/larder.fish

# Debian wants one in its own form; what has changed stands in the other.
version=$(target/deb/larder version | cut -d ' ' -f 2)
maintainer=$(sed -n 's/^maintainer = "\(.*\)"$/\1/p' Cargo.toml)
cat >target/deb/changelog <<END
larder ($version-1) unstable; urgency=medium

  * What is new stands in changelog.gz.

 -- $maintainer  $(date --rfc-email --reference CHANGELOG.md)
END

target/odd/bin/cargo-deb --no-build --no-strip --compress-system --locked --offline --output "$folder" "$@"
