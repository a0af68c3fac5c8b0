//! What can go wrong with a store, one variant per thing a caller can act on.

use std::path::PathBuf;
use std::sync::Arc;

use crate::{KeyValue, Revision};

/// Why an operation failed. Cheap to clone: one failed commit answers many writers.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// A create found the key already there.
    #[error("key '{key}' exists already")]
    Exists {
        /// The key.
        key: String,
    },
    /// The key to update or delete is not there.
    #[error("key '{key}' not found")]
    NotFound {
        /// The key.
        key: String,
    },
    /// The key was written by somebody else since the expected revision.
    #[error("key '{key}' has another revision than expected")]
    Conflict {
        /// The key.
        key: String,
        /// What the key holds now.
        current: Option<KeyValue>,
    },
    /// The revision is older than what compaction kept.
    #[error("revision {requested} has been compacted, the oldest one kept is {compacted}")]
    Compacted {
        /// The revision asked for.
        requested: Revision,
        /// The revision compacted to.
        compacted: Revision,
    },
    /// The revision has not happened yet.
    #[error("revision {requested} is in the future, the current one is {current}")]
    Future {
        /// The revision asked for.
        requested: Revision,
        /// The current revision.
        current: Revision,
    },
    /// The file is not a healthy database. Nothing was written to it.
    #[error(
        "the datastore '{}' is damaged ({detail}); it was left untouched: restore it from a backup, \
         or move it away to start with an empty cluster",
        path.display()
    )]
    Corrupt {
        /// The database file.
        path: PathBuf,
        /// The first fault found.
        detail: String,
    },
    /// The file was written by a newer program.
    #[error(
        "the datastore '{}' has schema version {found}, this program knows up to {supported}; \
         it was left untouched: start the newer version that wrote it",
        path.display()
    )]
    NewerSchema {
        /// The database file.
        path: PathBuf,
        /// Its version.
        found: i64,
        /// The newest version this program reads.
        supported: i64,
    },
    /// Another process has the file open.
    #[error("the datastore '{}' is in use by another process", path.display())]
    InUse {
        /// The database file.
        path: PathBuf,
    },
    /// The disk is full. Reads go on; writes are refused until there is space again.
    #[error("no space left for the datastore '{}'; nothing was written, free some space", path.display())]
    Full {
        /// The database file.
        path: PathBuf,
    },
    /// Reading or writing failed for another reason.
    #[error("failed to {action} the datastore '{}'", path.display())]
    Io {
        /// What was attempted.
        action: &'static str,
        /// The database file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// The store was closed.
    #[error("the datastore is closed")]
    Closed,
}
