//! The strategy of every kind that needs nothing beyond its schema.

use super::Strategy;

/// A kind without code of its own.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Plain;

impl Strategy for Plain {}
