//! A child process whose output is kept, and which ends with the test.

use std::io::{BufRead as _, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::wait_for;

/// How long an ordered end may take before the process is killed.
const STOP: Duration = Duration::from_secs(60);

/// How long the last output may take to arrive after the end; a grandchild may hold the stream open for ever.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// A running program. Dropping it ends it, in order if it can; its output is printed when the test fails.
#[derive(Debug)]
pub struct Process {
    child: Child,
    output: Arc<Mutex<String>>,
    collectors: Vec<JoinHandle<()>>,
}

impl Process {
    /// Starts a program and collects what it writes to either stream.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn start(mut command: Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child =
            command.spawn().unwrap_or_else(|error| panic!("failed to start {command:?}: {error}"));
        let output = Arc::default();
        let collectors = [collect(child.stdout.take(), &output), collect(child.stderr.take(), &output)]
            .into_iter()
            .flatten()
            .collect();
        Self { child, output, collectors }
    }

    /// All it has written so far.
    ///
    /// # Panics
    /// If a collector panicked.
    pub fn output(&self) -> String {
        self.output.lock().expect("collectors do not panic").clone()
    }

    /// Its process id.
    pub fn id(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    /// Sends a signal.
    ///
    /// # Panics
    /// If the process is gone.
    pub fn signal(&self, signal: Signal) {
        kill(self.id(), signal).expect("the process runs");
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// If it still runs at the limit.
    pub fn wait(&mut self, limit: Duration) -> ExitStatus {
        let child = &mut self.child;
        let status = wait_for("end of the process", limit, || child.try_wait().expect("it is our child"));
        let started = Instant::now();
        while started.elapsed() < LAST_WORDS && !self.collectors.iter().all(JoinHandle::is_finished) {
            std::thread::sleep(Duration::from_millis(10));
        }
        status
    }

    /// Ends it in order.
    ///
    /// # Panics
    /// If it does not end.
    pub fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.wait(STOP)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(Some(_))) {
            let _gone = kill(self.id(), Signal::SIGTERM);
            let ended = (0..300).any(|_| {
                std::thread::sleep(Duration::from_millis(100));
                matches!(self.child.try_wait(), Ok(Some(_)))
            });
            if !ended {
                let _gone = self.child.kill();
                let _reaped = self.child.wait();
            }
        }
        if std::thread::panicking() {
            let output = self.output.lock().map(|text| text.clone()).unwrap_or_default();
            eprintln!("--- output of process {} ---\n{output}--- end ---", self.child.id());
        }
    }
}

fn collect(
    stream: Option<impl Read + Send + 'static>,
    output: &Arc<Mutex<String>>,
) -> Option<JoinHandle<()>> {
    let (stream, output) = (stream?, output.clone());
    // Ends with the stream, that is with the process and those it left it to.
    Some(std::thread::spawn(move || {
        let mut reader = BufReader::new(stream);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
            if let Ok(mut output) = output.lock() {
                output.push_str(&String::from_utf8_lossy(&line));
            }
            line.clear();
        }
    }))
}
