//! How long a boot takes, step by step, and what PID 1 costs afterwards.
//!
//! Run: `cargo run --release -p tests --example bench-boot -- IMAGE [ROUNDS]`. IMAGE is the directory that `image build` wrote; ROUNDS is 3 if not
//! given. The first boot makes STATE, the others find it; of these the median is told. Seconds since QEMU's start, by the host's clock.
//! Without hardware virtualisation everything takes 10 to 20 times as long as on the processor itself; the accelerator is named.
//!
//! | step | the console has said |
//! | --- | --- |
//! | init | PID 1's first line: kernel and firmware are through |
//! | root | the verified root is mounted |
//! | state | STATE is there |
//! | containerd | it is being started: PID 1's own work lies between `init` and here |
//! | k3sd | the API server answers |
//! | ready | the node is Ready |
//!
//! Last comes what PID 1 says of itself after two minutes of rest: memory and wake-ups (budget: 4 MiB, 2 a second).

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use qemu::{State, Vm};

/// Name of a step, and what the console says when it is done.
const STEPS: [(&str, &str); 6] = [
    ("init", "skerry: init started"),
    ("root", "skerry: root mounted"),
    ("state", "skerry: state ready"),
    ("containerd", "skerry: service containerd starting"),
    ("k3sd", "skerry: service k3sd ready"),
    ("ready", "skerry: ready"),
];
const COST: &str = "skerry: init uses ";
const ROUNDS: usize = 3;
const LIMIT: Duration = Duration::from_secs(600);

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let image = PathBuf::from(arguments.next().context("usage: bench-boot IMAGE [ROUNDS]")?);
    let rounds =
        arguments.next().map_or(Ok(ROUNDS), |rounds| rounds.parse()).context("ROUNDS is a number")?;
    ensure!(rounds > 0, "ROUNDS is at least 1");
    let scratch = tempfile::tempdir().context("failed to make a scratch directory")?;
    let state = scratch.path().join("state.img");

    let first = round(&image, &state, false).await?;
    let mut others = Vec::new();
    for round_number in 1..=rounds {
        others.push(round(&image, &state, round_number == rounds).await?);
    }
    println!("| step | first boot | later boots |\n| --- | --- | --- |");
    for (step, (name, _)) in STEPS.iter().enumerate() {
        let later = median(others.iter().map(|round| round[step]).collect());
        println!("| {name} | {:.1} s | {later:.1} s |", first[step]);
    }
    let own = |round: &[f64; STEPS.len()]| round[3] - round[0];
    let later = median(others.iter().map(own).collect());
    println!("| of that from init to containerd | {:.1} s | {later:.1} s |", own(&first));
    Ok(())
}

/// One boot, with the time of each step; `rest` waits for what PID 1 says of itself.
async fn round(image: &Path, state: &Path, rest: bool) -> anyhow::Result<[f64; STEPS.len()]> {
    let mut vm = Vm::builder(image).state(State::File(state.to_owned())).boot().await?;
    let mut times = [0.0; STEPS.len()];
    let console = vm.console().clone();
    // The steps need not come in this order, so each is waited for by itself.
    let waits = STEPS.iter().map(|(_, line)| {
        let console = console.clone();
        async move {
            console.wait(0, &[*line]).await;
            tokio::time::Instant::now()
        }
    });
    let started = tokio::time::Instant::now() - vm.uptime();
    let done = futures::future::join_all(waits);
    let ends = tokio::time::timeout(LIMIT, done).await.context("the machine does not become ready")?;
    for (time, end) in times.iter_mut().zip(ends) {
        *time = end.duration_since(started).as_secs_f64();
    }
    if rest {
        println!("accelerator: {:?}", vm.accelerator());
        println!("{}", vm.wait_line(COST, LIMIT).await?.trim());
    }
    vm.powerdown(LIMIT).await?;
    Ok(times)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
