//! machinery.
