//! How fast the server answers, and in how much memory: `k3sd server --disable-agent` as it ships, over TLS, as clients see it.
//!
//! Run: `cargo run --release -p tests --example bench-server -- K3SD DIRECTORY [CASE...]`. K3SD is a release build, the directory
//! decides which disk is measured; everything written there is removed again. With CASEs, only those, in the order of the table.
//!
//! | case | what it does | budget |
//! | --- | --- | --- |
//! | start | from the start of the process in an empty directory to `/readyz` | 300 ms |
//! | idle | memory and processor time, ten seconds later | 40 MiB |
//! | get | one ConfigMap, again and again; the rate per core is by the processor time that the server took | 20,000 a second per core |
//! | create | ConfigMaps of 1.5 KB by 1, 16 and 64 clients, each waiting for its answer | what the disk's fsyncs, measured right before, allow |
//! | quota | the same in a namespace that has a quota: each create writes two objects | |
//! | apply | Deployments by server-side apply, 16 clients, each changing its own | |
//! | watch | 1,000 connections, each a watch of one resource; from the write's acknowledgement to the last of them | 10 ms |
//! | list | 5,000 pods of 4 KB | 25 ms |
//! | memory | 10,000 pods of 4 KB | idle + stored bytes + 30 % |
//! | restart | with 100,000 ConfigMaps in the datastore, to `/readyz` | 1 s |
//! | leak | memory after every 100,000 of 1,000,000 writes (only when named: it takes minutes) | no growth |

mod cases;
mod server;

use std::path::PathBuf;

use anyhow::{Context as _, ensure};

/// What is measured, with the case it belongs to.
const CASES: [&str; 11] =
    ["start", "idle", "get", "create", "quota", "apply", "watch", "list", "memory", "restart", "leak"];

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let usage = "usage: bench-server K3SD DIRECTORY [CASE...]";
    let program = PathBuf::from(arguments.next().context(usage)?);
    let directory = PathBuf::from(arguments.next().context(usage)?);
    let only: Vec<String> = arguments.collect();
    for case in &only {
        ensure!(CASES.contains(&case.as_str()), "no case {case}: {}", CASES.join(", "));
    }
    // The TLS library lets the process choose its cryptography once.
    let _first_choice = rustls::crypto::ring::default_provider().install_default();
    let wanted =
        |case: &str| if only.is_empty() { case != "leak" } else { only.iter().any(|own| own == case) };
    cases::run(&program, &directory, &wanted).await
}
