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

# The image builder makes container images of pause and demo and takes them from where the images go.
define SKERRY_K3SD_INSTALL_TARGET_CMDS
	$(INSTALL) -D -m 0755 $(@D)/target/$(RUSTC_TARGET_NAME)/release/k3sd \
		$(TARGET_DIR)/usr/bin/k3sd
	$(foreach program,pause demo,\
		$(INSTALL) -D -m 0755 $(@D)/target/$(RUSTC_TARGET_NAME)/release/$(program) \
			$(BINARIES_DIR)/programs/$(program)$(sep))
endef

$(eval $(cargo-package))
