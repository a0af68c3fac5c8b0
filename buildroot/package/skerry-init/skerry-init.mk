################################################################################
#
# skerry-init
#
################################################################################

SKERRY_INIT_VERSION = $(SKERRY_RELEASE)
SKERRY_INIT_SITE = $(SKERRY_SOURCE)
SKERRY_INIT_SITE_METHOD = local
SKERRY_INIT_OVERRIDE_SRCDIR_RSYNC_EXCLUSIONS = $(SKERRY_EXCLUSIONS)
SKERRY_INIT_LICENSE = Apache-2.0
SKERRY_INIT_LICENSE_FILES = LICENSE

SKERRY_INIT_CARGO_ENV = $(SKERRY_CARGO_ENV)
SKERRY_INIT_CARGO_BUILD_OPTS = --package init
SKERRY_INIT_PRE_BUILD_HOOKS += SKERRY_FETCH_CRATES

define SKERRY_INIT_INSTALL_TARGET_CMDS
	$(INSTALL) -D -m 0755 $(@D)/target/$(RUSTC_TARGET_NAME)/release/init \
		$(TARGET_DIR)/usr/sbin/init
endef

$(eval $(cargo-package))
