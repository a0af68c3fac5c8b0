//! The contract of `Datastore`, one test per rule, run on every driver.

mod suite {
    pub(crate) mod history;
    pub(crate) mod reads;
    pub(crate) mod watches;
    pub(crate) mod writes;
}

use std::sync::Arc;

use datastore::{Datastore, sqlite::Sqlite};

/// An open store; the directory goes with it.
struct Fixture {
    store: Arc<dyn Datastore>,
    _directory: tempfile::TempDir,
}

async fn sqlite() -> Fixture {
    let directory = tempfile::tempdir().unwrap();
    let store = Sqlite::open(&directory.path().join("state.db")).await.unwrap();
    Fixture { store: Arc::new(store), _directory: directory }
}

macro_rules! contract {
    ($driver:ident: $($module:ident { $($test:ident)* })*) => {
        $(mod $module {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                let fixture = crate::$driver().await;
                crate::suite::$module::$test(&fixture.store).await;
            })*
        })*
    };
}

contract! { sqlite:
    writes {
        create_refuses_a_live_key_and_revives_a_deleted_one
        update_needs_the_current_revision
        delete_needs_a_live_key_at_the_expected_revision
        of_many_updates_at_one_revision_exactly_one_wins
        concurrent_writes_get_distinct_growing_revisions
        keys_with_a_time_to_live_expire_unless_written_again
        closed_store_refuses_everything
    }
    reads {
        list_takes_exactly_the_prefix_in_byte_order
        list_pages_at_one_revision_see_one_snapshot
        reads_at_a_revision_see_that_moment
        future_revision_is_refused
        count_counts_live_keys
    }
    history {
        compaction_keeps_live_values_and_refuses_older_reads
        compaction_does_not_turn_the_revision_back
        compaction_refuses_what_was_compacted_and_what_is_to_come
    }
    watches {
        watch_replays_then_follows_without_gap_or_repeat
        events_carry_value_previous_and_revisions
        watch_from_a_compacted_revision_is_refused
        lagging_watch_is_closed_and_others_go_on
        closing_the_store_ends_watches
    }
}
