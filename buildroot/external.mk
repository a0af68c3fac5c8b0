# What Skerry's packages have in common: they are built from the checkout that this tree is part of.
SKERRY_SOURCE = $(BR2_EXTERNAL_SKERRY_PATH)/..
SKERRY_RELEASE = $(shell sed -n 's/^version = "\(.*\)"/\1/p' $(SKERRY_SOURCE)/Cargo.toml)
# Build results do not belong to the source.
SKERRY_EXCLUSIONS = --exclude /target --exclude /build
# The C library is linked in: init runs where there is no other file, and the daemons need none either.
# Sources are named without the build machine's directories, as in the Justfile.
SKERRY_CARGO_ENV = RUSTFLAGS="-C target-feature=+crt-static \
	--remap-path-prefix=$(@D)=skerry --remap-path-prefix=$(BR_CARGO_HOME)/registry/src=crates"

# Buildroot vendors crates of what it downloads; a local source has not been downloaded. Cargo.lock pins each of them.
define SKERRY_FETCH_CRATES
	cd $(@D) && $(HOST_MAKE_ENV) $(PKG_COMMON_CARGO_ENV) cargo fetch --locked
endef

include $(sort $(wildcard $(BR2_EXTERNAL_SKERRY_PATH)/package/*/*.mk))

# Buildroot's mkfs.erofs for the build machine knows no zstd, which the root file system is compressed with.
HOST_EROFS_UTILS_CONF_OPTS += --with-libzstd
$(HOST_EROFS_UTILS_TARGET_CONFIGURE): | host-zstd
