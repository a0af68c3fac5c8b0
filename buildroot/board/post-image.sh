#!/bin/sh
# Hands the target tree to the image builder. Buildroot calls it as: post-image.sh IMAGES_DIR TARGET
set -eu
images="$1" target="$2"
case "$target" in
*x86_64) kernel="$images/bzImage" ;;
*) kernel="$images/Image" ;;
esac
exec "$HOST_DIR/bin/image" build --target "$target" --tree "$TARGET_DIR" --kernel "$kernel" \
	--binaries "$images/programs" --out "$images/skerry"
