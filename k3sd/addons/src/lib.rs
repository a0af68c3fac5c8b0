//! addons.
