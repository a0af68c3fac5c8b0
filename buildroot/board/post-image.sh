#!/bin/sh
# Hands the target tree to the image builder. Buildroot calls it as: post-image.sh IMAGES_DIR TARGET
set -eu
images="$1" target="$2"
board="$(dirname "$0")"
case "$target" in
*x86_64) kernel="$images/bzImage" ;;
*) kernel="$images/Image" ;;
esac
case "$target" in
raspberrypi*)
	# The kernel's device trees belong beside the firmware, which chooses among them.
	boot="$images/rpi-firmware"
	cp "$images"/*.dtb "$boot/"
	;;
*) boot="$images/efi-part" ;;
esac
"$board/check-kernel.sh" "$BR2_CONFIG" "$BUILD_DIR"
# What the tree is made from, for the bill of materials; build.sh asks for it.
packages="$(dirname "$BR2_CONFIG")/packages.json"
exec "$HOST_DIR/bin/image" build --target "$target" --tree "$TARGET_DIR" --kernel "$kernel" --boot-files "$boot" \
	--init "$TARGET_DIR/usr/sbin/init" --k3sd "$TARGET_DIR/usr/bin/k3sd" --binaries "$images/programs" \
	--mkfs "$HOST_DIR/bin/mkfs.erofs" --packages "$packages" --out "$images/skerry"
