#!/bin/sh
# Compares the kernel's final configuration with the fragments: Kconfig drops an option without a word when something that
# it depends on is off. Called as: check-kernel.sh BUILDROOT_CONFIG BUILD_DIR
set -eu
fragments="$(dirname "$0")/../kernel"
setting() {
	sed -n "s/^BR2_LINUX_KERNEL_$2=\"\(.*\)\"$/\1/p" "$1"
}
kernel="$2/linux-$(setting "$1" VERSION)/.config"
dropped=0
for fragment in $(setting "$1" CONFIG_FRAGMENT_FILES); do
	fragment="$fragments/${fragment##*/}"
	while read -r line; do
		case "$line" in
		CONFIG_*=*) option="${line%%=*}" wanted="${line#*=}" ;;
		"# CONFIG_"*" is not set") option="${line#\# }" option="${option%% *}" wanted=n ;;
		*) continue ;;
		esac
		found="$(sed -n "s/^$option=//p" "$kernel")"
		# What another option selects may be built in instead of a module.
		case "$wanted:${found:-n}" in
		"$wanted:$wanted" | m:y) continue ;;
		esac
		echo "check-kernel: $option is ${found:-n}, ${fragment##*/} asks for $wanted" >&2
		dropped=1
	done <"$fragment"
done
exit "$dropped"
