#!/usr/bin/env bash
# Fetches the pinned Buildroot release and builds a target with this tree: build.sh TARGET DIRECTORY [MAKE ARGUMENT...]
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
target="${1:-}"
targets="$(cd "$here/configs" && printf '%s ' skerry_*_defconfig | sed 's/skerry_//g; s/_defconfig//g')"
if [[ -z "$target" || ! -f "$here/configs/skerry_${target}_defconfig" ]]; then
    echo "buildroot: ${target:+there is no target \"$target\"; }the targets are: $targets" >&2
    exit 2
fi
directory="${2:?the build directory is missing}"
shift 2
# shellcheck source=release.env
source "$here/release.env"
mkdir -p "$directory"
directory="$(cd "$directory" && pwd)"
archive="$directory/buildroot-$BUILDROOT_VERSION.tar.xz"
source_tree="$directory/buildroot-$BUILDROOT_VERSION"
if [[ ! -d "$source_tree" ]]; then
    if [[ ! -f "$archive" ]]; then
        curl --fail --location --proto '=https' --output "$archive.part" \
            "https://buildroot.org/downloads/buildroot-$BUILDROOT_VERSION.tar.xz"
        mv "$archive.part" "$archive"
    fi
    if ! echo "$BUILDROOT_SHA256  $archive" | sha256sum --check --quiet; then
        echo "buildroot: '$archive' is not the pinned release; remove it and try again" >&2
        exit 1
    fi
    # Under its final name only when it is complete.
    rm -rf "$source_tree.part"
    mkdir "$source_tree.part"
    tar -C "$source_tree.part" --strip-components=1 -xf "$archive"
    mv "$source_tree.part" "$source_tree"
fi
output="$directory/$target"
mkdir -p "$output"
echo "buildroot: building in $output"
make -C "$source_tree" O="$output" BR2_EXTERNAL="$here" BR2_DL_DIR="${BR2_DL_DIR:-$directory/dl}" "skerry_${target}_defconfig"
# For the image's bill of materials: one line, whatever make has to say before and after it.
make -s -C "$output" show-info | grep '^{' >"$output/packages.json"
make -C "$output" "$@"
