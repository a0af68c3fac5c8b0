################################################################################
#
# skerry-image
#
################################################################################

SKERRY_IMAGE_VERSION = $(SKERRY_RELEASE)
SKERRY_IMAGE_SITE = $(SKERRY_SOURCE)
SKERRY_IMAGE_SITE_METHOD = local
SKERRY_IMAGE_OVERRIDE_SRCDIR_RSYNC_EXCLUSIONS = $(SKERRY_EXCLUSIONS)
SKERRY_IMAGE_LICENSE = Apache-2.0
SKERRY_IMAGE_LICENSE_FILES = LICENSE
SKERRY_IMAGE_DEPENDENCIES = host-skerry-image
SKERRY_IMAGE_INSTALL_TARGET = NO
HOST_SKERRY_IMAGE_DEPENDENCIES = host-erofs-utils
# A host package does not take these over from the target's.
HOST_SKERRY_IMAGE_OVERRIDE_SRCDIR_RSYNC_EXCLUSIONS = $(SKERRY_EXCLUSIONS)

HOST_SKERRY_IMAGE_CARGO_BUILD_OPTS = --package image
HOST_SKERRY_IMAGE_PRE_BUILD_HOOKS += SKERRY_FETCH_CRATES

define HOST_SKERRY_IMAGE_INSTALL_CMDS
	$(INSTALL) -D -m 0755 $(@D)/target/release/image $(HOST_DIR)/bin/image
endef

$(eval $(generic-package))
$(eval $(host-cargo-package))
