//! Request metrics in Prometheus' text format, under upstream's names.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Upper bounds of the latency buckets, in seconds (a subset of upstream's).
const BUCKETS: [f64; 8] = [0.005, 0.025, 0.1, 0.2, 0.6, 1.0, 5.0, 30.0];

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Labels {
    verb: &'static str,
    resource: String,
    code: u16,
}

#[derive(Debug, Default)]
struct Latency {
    buckets: [u64; BUCKETS.len()],
    count: u64,
    sum_seconds: f64,
}

/// Counters of one server.
#[derive(Debug, Default)]
pub(crate) struct Metrics(Mutex<BTreeMap<Labels, Latency>>);

impl Metrics {
    /// Count one request. `resource` is one that is served, or "", so the labels are bounded.
    pub(crate) fn record(&self, verb: &'static str, resource: &str, code: u16, took: Duration) {
        let labels = Labels { verb, resource: resource.to_owned(), code };
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let latency = all.entry(labels).or_default();
        let seconds = took.as_secs_f64();
        for (bound, count) in BUCKETS.iter().zip(&mut latency.buckets) {
            *count += u64::from(seconds <= *bound);
        }
        latency.count += 1;
        latency.sum_seconds += seconds;
    }

    /// Everything, as text.
    pub(crate) fn text(&self) -> String {
        let mut out = String::new();
        out.push_str("# HELP apiserver_request_total Counter of apiserver requests.\n# TYPE apiserver_request_total counter\n");
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (labels, latency) in all.iter() {
            // Writing to a String cannot fail.
            let _infallible = writeln!(
                out,
                "apiserver_request_total{{verb=\"{}\",resource=\"{}\",code=\"{}\"}} {}",
                labels.verb.to_uppercase(),
                labels.resource,
                labels.code,
                latency.count
            );
        }
        out.push_str("# HELP apiserver_request_duration_seconds Response latency distribution in seconds.\n# TYPE apiserver_request_duration_seconds histogram\n");
        for (labels, latency) in all.iter() {
            write_latency(&mut out, labels, latency);
        }
        out
    }
}

fn write_latency(out: &mut String, labels: &Labels, latency: &Latency) {
    let common = format!(
        "verb=\"{}\",resource=\"{}\",code=\"{}\"",
        labels.verb.to_uppercase(),
        labels.resource,
        labels.code
    );
    let name = "apiserver_request_duration_seconds";
    for (bound, count) in BUCKETS.iter().zip(latency.buckets) {
        let _infallible = writeln!(out, "{name}_bucket{{{common},le=\"{bound}\"}} {count}");
    }
    let _infallible = writeln!(out, "{name}_bucket{{{common},le=\"+Inf\"}} {}", latency.count);
    let _infallible = writeln!(out, "{name}_sum{{{common}}} {}", latency.sum_seconds);
    let _infallible = writeln!(out, "{name}_count{{{common}}} {}", latency.count);
}
