################################################################################
#
# skerry-k3sd
#
################################################################################

SKERRY_K3SD_VERSION = $(SKERRY_RELEASE)
SKERRY_K3SD_SITE = $(SKERRY_SOURCE)
SKERRY_K3SD_SITE_METHOD = local
SKERRY_K3SD_OVERRIDE_SRCDIR_RSYNC_EXCLUSIONS = $(SKERRY_EXCLUSIONS)
SKERRY_K3SD_LICENSE = Apache-2.0
SKERRY_K3SD_LICENSE_FILES = LICENSE
# protoc reads the container runtime interface.
SKERRY_K3SD_DEPENDENCIES = host-protobuf

SKERRY_K3SD_CARGO_ENV = $(SKERRY_CARGO_ENV)
SKERRY_K3SD_CARGO_BUILD_OPTS = --package k3sd --package pause --package demo
SKERRY_K3SD_PRE_BUILD_HOOKS += SKERRY_FETCH_CRATES

# The image builder makes container images of pause and demo and takes them from where the images go. crates.txt is for its
# bill of materials; it names the crates of init, too.
define SKERRY_K3SD_INSTALL_TARGET_CMDS
	$(INSTALL) -D -m 0755 $(@D)/target/$(RUSTC_TARGET_NAME)/release/k3sd \
		$(TARGET_DIR)/usr/bin/k3sd
	$(INSTALL) -D -m 0755 $(@D)/target/$(RUSTC_TARGET_NAME)/release/pause \
		$(BINARIES_DIR)/programs/pause
	$(INSTALL) -D -m 0755 $(@D)/target/$(RUSTC_TARGET_NAME)/release/demo \
		$(BINARIES_DIR)/programs/demo
	cd $(@D) && $(HOST_MAKE_ENV) $(PKG_COMMON_CARGO_ENV) cargo tree --locked --offline \
		--target $(RUSTC_TARGET_NAME) --edges normal,no-proc-macro --prefix none --format '{p}|{l}' \
		--package k3sd --package init --package pause --package demo \
		> $(BINARIES_DIR)/programs/crates.txt
endef

$(eval $(cargo-package))
