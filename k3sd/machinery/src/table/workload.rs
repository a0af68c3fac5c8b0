//! Pods and what makes them.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::field::{
    age, flag, is_true, join, labels, list, name, number, or, scalar, selector, text as get, text_or,
    title_flag,
};
use super::{AGE, Column, NAME, Printer, duration, integer, text, wide};

const CONTAINERS: Column = wide("Containers");
const IMAGES: Column = wide("Images");
const SELECTOR: Column = wide("Selector");

const REPLICA_COLUMNS: &[Column] =
    &[NAME, integer("Desired"), integer("Current"), integer("Ready"), AGE, CONTAINERS, IMAGES, SELECTOR];

pub(super) static PRINTERS: &[Printer] = &[
    Printer {
        conditions: pod_conditions,
        ..Printer::new(
            "",
            "Pod",
            &[
                NAME,
                text("Ready"),
                text("Status"),
                text("Restarts"),
                AGE,
                wide("IP"),
                wide("Node"),
                wide("Nominated Node"),
                wide("Readiness Gates"),
            ],
            pod,
        )
    },
    Printer::new(
        "",
        "PodTemplate",
        &[NAME, text("Containers"), text("Images"), text("Pod Labels")],
        |o, _| {
            let containers = list(o, "/template/spec/containers");
            vec![
                name(o),
                join(containers, "/name").into(),
                join(containers, "/image").into(),
                labels(o, "/template/metadata/labels").into(),
            ]
        },
    ),
    Printer::new("", "ReplicationController", REPLICA_COLUMNS, |o, now| {
        replicas(o, now, labels(o, "/spec/selector"))
    }),
    Printer::new("apps", "ReplicaSet", REPLICA_COLUMNS, |o, now| {
        replicas(o, now, or(selector(o, "/spec/selector"), "<none>"))
    }),
    Printer::new(
        "apps",
        "Deployment",
        &[NAME, text("Ready"), text("Up-to-date"), text("Available"), AGE, CONTAINERS, IMAGES, SELECTOR],
        |o, now| {
            let containers = list(o, "/spec/template/spec/containers");
            vec![
                name(o),
                ready_of_desired(o).into(),
                number(o, "/status/updatedReplicas").into(),
                number(o, "/status/availableReplicas").into(),
                age(o, now),
                join(containers, "/name").into(),
                join(containers, "/image").into(),
                selector(o, "/spec/selector").into(),
            ]
        },
    ),
    Printer::new("apps", "StatefulSet", &[NAME, text("Ready"), AGE, CONTAINERS, IMAGES], |o, now| {
        let containers = list(o, "/spec/template/spec/containers");
        vec![
            name(o),
            ready_of_desired(o).into(),
            age(o, now),
            join(containers, "/name").into(),
            join(containers, "/image").into(),
        ]
    }),
    Printer::new(
        "apps",
        "DaemonSet",
        &[
            NAME,
            integer("Desired"),
            integer("Current"),
            integer("Ready"),
            integer("Up-to-date"),
            integer("Available"),
            text("Node Selector"),
            AGE,
            CONTAINERS,
            IMAGES,
            SELECTOR,
        ],
        daemon_set,
    ),
    Printer::new(
        "apps",
        "ControllerRevision",
        &[NAME, text("Controller"), text("Revision"), AGE],
        |o, now| vec![name(o), controller(o).into(), number(o, "/revision").into(), age(o, now)],
    ),
    Printer::new(
        "batch",
        "Job",
        &[NAME, text("Status"), text("Completions"), text("Duration"), AGE, CONTAINERS, IMAGES, SELECTOR],
        job,
    ),
    Printer::new(
        "batch",
        "CronJob",
        &[
            NAME,
            text("Schedule"),
            text("Timezone"),
            text("Suspend"),
            integer("Active"),
            text("Last Schedule"),
            AGE,
            CONTAINERS,
            IMAGES,
            SELECTOR,
        ],
        cron_job,
    ),
    Printer::new("autoscaling", "Scale", &[NAME, integer("Desired"), integer("Available"), AGE], |o, now| {
        vec![name(o), number(o, "/spec/replicas").into(), number(o, "/status/replicas").into(), age(o, now)]
    }),
];

fn replicas(o: &Value, now: Timestamp, selector: String) -> Vec<Value> {
    let containers = list(o, "/spec/template/spec/containers");
    vec![
        name(o),
        number(o, "/spec/replicas").into(),
        number(o, "/status/replicas").into(),
        number(o, "/status/readyReplicas").into(),
        age(o, now),
        join(containers, "/name").into(),
        join(containers, "/image").into(),
        selector.into(),
    ]
}

fn ready_of_desired(o: &Value) -> String {
    format!("{}/{}", number(o, "/status/readyReplicas"), number(o, "/spec/replicas"))
}

fn daemon_set(o: &Value, now: Timestamp) -> Vec<Value> {
    let containers = list(o, "/spec/template/spec/containers");
    vec![
        name(o),
        number(o, "/status/desiredNumberScheduled").into(),
        number(o, "/status/currentNumberScheduled").into(),
        number(o, "/status/numberReady").into(),
        number(o, "/status/updatedNumberScheduled").into(),
        number(o, "/status/numberAvailable").into(),
        labels(o, "/spec/template/spec/nodeSelector").into(),
        age(o, now),
        join(containers, "/name").into(),
        join(containers, "/image").into(),
        or(selector(o, "/spec/selector"), "<none>").into(),
    ]
}

fn controller(o: &Value) -> String {
    let owners = list(o, "/metadata/ownerReferences");
    let Some(owner) = owners.iter().find(|owner| flag(owner, "/controller")) else {
        return "<none>".to_owned();
    };
    let kind = get(owner, "/kind").to_lowercase();
    match get(owner, "/apiVersion").split_once('/') {
        Some((group, _)) => format!("{kind}.{group}/{}", get(owner, "/name")),
        None => format!("{kind}/{}", get(owner, "/name")),
    }
}

fn job(o: &Value, now: Timestamp) -> Vec<Value> {
    let succeeded = number(o, "/status/succeeded");
    let completions = match o.pointer("/spec/completions").and_then(Value::as_i64) {
        Some(completions) => format!("{succeeded}/{completions}"),
        None => match number(o, "/spec/parallelism") {
            parallelism if parallelism > 1 => format!("{succeeded}/1 of {parallelism}"),
            _ => format!("{succeeded}/1"),
        },
    };
    let started = get(o, "/status/startTime").parse::<Timestamp>().ok();
    let completed = get(o, "/status/completionTime").parse::<Timestamp>().unwrap_or(now);
    let duration = started.map(|s| duration::human_duration(completed.as_second() - s.as_second()));
    let containers = list(o, "/spec/template/spec/containers");
    vec![
        name(o),
        job_status(o).into(),
        completions.into(),
        duration.unwrap_or_default().into(),
        age(o, now),
        join(containers, "/name").into(),
        join(containers, "/image").into(),
        or(selector(o, "/spec/selector"), "<none>").into(),
    ]
}

fn job_status(o: &Value) -> &'static str {
    if is_true(o, "Complete") {
        "Complete"
    } else if is_true(o, "Failed") {
        "Failed"
    } else if !get(o, "/metadata/deletionTimestamp").is_empty() {
        "Terminating"
    } else if is_true(o, "Suspended") {
        "Suspended"
    } else if is_true(o, "FailureTarget") {
        "FailureTarget"
    } else if is_true(o, "SuccessCriteriaMet") {
        "SuccessCriteriaMet"
    } else {
        "Running"
    }
}

fn cron_job(o: &Value, now: Timestamp) -> Vec<Value> {
    let last = match get(o, "/status/lastScheduleTime") {
        "" => "<none>".to_owned(),
        time => duration::since(time, now),
    };
    let containers = list(o, "/spec/jobTemplate/spec/template/spec/containers");
    vec![
        name(o),
        get(o, "/spec/schedule").into(),
        text_or(o, "/spec/timeZone", "<none>").into(),
        title_flag(o, "/spec/suspend").into(),
        list(o, "/status/active").len().into(),
        last.into(),
        age(o, now),
        join(containers, "/name").into(),
        join(containers, "/image").into(),
        or(selector(o, "/spec/jobTemplate/spec/selector"), "<none>").into(),
    ]
}

// === pods ===

fn pod_conditions(o: &Value) -> Option<Value> {
    let (reason, message) = match get(o, "/status/phase") {
        "Succeeded" => ("Succeeded", "The pod has completed successfully."),
        "Failed" => ("Failed", "The pod failed."),
        _ => return None,
    };
    Some(json!([{ "type": "Completed", "status": "True", "reason": reason, "message": message }]))
}

fn pod(o: &Value, now: Timestamp) -> Vec<Value> {
    let sidecars = list(o, "/spec/initContainers").iter().filter(|c| is_sidecar(c)).count();
    let total = list(o, "/spec/containers").len() + sidecars;
    let mut summary = Summary::new(o);
    let initializing = summary.read_init_containers(o);
    if !initializing || is_true(o, "Initialized") {
        summary.read_containers(o);
    }
    if !get(o, "/metadata/deletionTimestamp").is_empty() {
        if get(o, "/status/reason") == "NodeLost" {
            summary.reason = "Unknown".to_owned();
        } else if !matches!(get(o, "/status/phase"), "Succeeded" | "Failed") {
            summary.reason = "Terminating".to_owned();
        }
    }
    let ip = text_or(o, "/status/podIPs/0/ip", get(o, "/status/podIP"));
    vec![
        name(o),
        format!("{}/{total}", summary.ready).into(),
        summary.reason.as_str().into(),
        summary.restarts_text(now).into(),
        age(o, now),
        or(ip.to_owned(), "<none>").into(),
        text_or(o, "/spec/nodeName", "<none>").into(),
        text_or(o, "/status/nominatedNodeName", "<none>").into(),
        readiness_gates(o).into(),
    ]
}

fn readiness_gates(o: &Value) -> String {
    let gates = list(o, "/spec/readinessGates");
    let met = gates.iter().filter(|gate| is_true(o, get(gate, "/conditionType"))).count();
    if gates.is_empty() { "<none>".to_owned() } else { format!("{met}/{}", gates.len()) }
}

fn is_sidecar(container: &Value) -> bool {
    get(container, "/restartPolicy") == "Always"
}

/// What the containers of a pod add up to.
struct Summary {
    reason: String,
    ready: usize,
    restarts: Restarts,
    /// Of init containers that go on running, which count also once initialization is over.
    sidecar_restarts: Restarts,
}

#[derive(Default, Clone, Copy)]
struct Restarts {
    count: i64,
    last: Option<Timestamp>,
}

impl Restarts {
    fn add(&mut self, status: &Value) {
        self.count += number(status, "/restartCount");
        let finished = get(status, "/lastState/terminated/finishedAt").parse::<Timestamp>().ok();
        self.last = self.last.max(finished);
    }
}

impl Summary {
    fn new(o: &Value) -> Self {
        let gated = list(o, "/status/conditions")
            .iter()
            .any(|c| get(c, "/type") == "PodScheduled" && get(c, "/reason") == "SchedulingGated");
        let reason = text_or(o, "/status/reason", get(o, "/status/phase"));
        Self {
            reason: if gated { "SchedulingGated" } else { reason }.to_owned(),
            ready: 0,
            restarts: Restarts::default(),
            sidecar_restarts: Restarts::default(),
        }
    }

    /// Reads up to the first init container that is not done. True: there is one.
    fn read_init_containers(&mut self, o: &Value) -> bool {
        let specs = list(o, "/spec/initContainers");
        for (index, status) in list(o, "/status/initContainerStatuses").iter().enumerate() {
            let sidecar =
                specs.iter().any(|spec| get(spec, "/name") == get(status, "/name") && is_sidecar(spec));
            self.restarts.add(status);
            if sidecar {
                self.sidecar_restarts.add(status);
            }
            let terminated = status.pointer("/state/terminated");
            let waiting = get(status, "/state/waiting/reason");
            if terminated.is_some_and(|t| number(t, "/exitCode") == 0) {
                continue;
            }
            if sidecar && flag(status, "/started") {
                self.ready += usize::from(flag(status, "/ready"));
                continue;
            }
            self.reason = match terminated {
                Some(terminated) => format!("Init:{}", ending(terminated)),
                None if !waiting.is_empty() && waiting != "PodInitializing" => format!("Init:{waiting}"),
                None => format!("Init:{index}/{}", specs.len()),
            };
            return true;
        }
        false
    }

    fn read_containers(&mut self, o: &Value) {
        self.restarts = self.sidecar_restarts;
        let mut running = false;
        for status in list(o, "/status/containerStatuses").iter().rev() {
            self.restarts.add(status);
            let waiting = get(status, "/state/waiting/reason");
            if !waiting.is_empty() {
                self.reason = waiting.to_owned();
            } else if let Some(terminated) = status.pointer("/state/terminated") {
                self.reason = ending(terminated);
            } else if flag(status, "/ready") && status.pointer("/state/running").is_some() {
                running = true;
                self.ready += 1;
            }
        }
        if self.reason == "Completed" && running {
            self.reason = if is_true(o, "Ready") { "Running" } else { "NotReady" }.to_owned();
        }
    }

    fn restarts_text(&self, now: Timestamp) -> String {
        match self.restarts {
            Restarts { count, last: Some(last) } if count != 0 => {
                format!("{count} ({} ago)", duration::human_duration(now.as_second() - last.as_second()))
            }
            Restarts { count, .. } => count.to_string(),
        }
    }
}

/// How a container ended: the reason given, else the signal, else the exit code.
fn ending(terminated: &Value) -> String {
    match (get(terminated, "/reason"), number(terminated, "/signal")) {
        ("", 0) => format!("ExitCode:{}", scalar(terminated, "/exitCode", "0")),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    }
}
