//! Cron jobs.

use machinery::cron::Schedule;
use machinery::meta;
use machinery::status::FieldError;
use serde_json::Value;

use super::walk::{Faults, Node, default, default_zero, object_at};
use super::workload::{default_template, fresh_status};
use super::{Context, Strategy, job};

/// The controller appends eleven characters to the name for each job.
const MAX_NAME: usize = 52;

/// Cron jobs: jobs at times of a schedule.
#[derive(Debug)]
pub(crate) struct CronJob;

impl Strategy for CronJob {
    fn default(&self, object: &mut Value) {
        default_template(object, &["spec", "jobTemplate", "spec", "template"]);
        let Some(spec) = object_at(object, &["spec"]) else { return };
        default_zero(spec, "concurrencyPolicy", "Allow");
        default(spec, "suspend", false);
        default(spec, "successfulJobsHistoryLimit", 3);
        default(spec, "failedJobsHistoryLimit", 1);
    }

    fn prepare_create(&self, _cx: &Context<'_>, object: &mut Value) {
        fresh_status(object, "api.batch.v1.CronJob");
    }

    fn validate_create(&self, _cx: &Context<'_>, object: &Value) -> Vec<FieldError> {
        let mut faults = Faults::default();
        if meta::name(object).len() > MAX_NAME {
            faults.invalid(
                &Node::root(object).at("metadata.name"),
                format!("must be no more than {MAX_NAME} characters"),
            );
        }
        validate(&Node::root(object).get("spec"), None, &mut faults);
        faults.0
    }

    fn validate_update(&self, cx: &Context<'_>, object: &Value, old: &Value) -> Vec<FieldError> {
        let mut faults = Faults::default();
        if cx.subresource != "status" {
            validate(&Node::root(object).get("spec"), Some(&Node::root(old).get("spec")), &mut faults);
        }
        faults.0
    }

    fn has_generation(&self) -> bool {
        true
    }
}

fn validate(spec: &Node<'_>, old: Option<&Node<'_>>, faults: &mut Faults) {
    let schedule = spec.get("schedule");
    if schedule.str().is_empty() {
        faults.required(&schedule, "");
    } else if let Err(error) = Schedule::parse(schedule.str()) {
        faults.invalid(&schedule, error.to_string());
    }
    let with_zone = schedule.str().contains("TZ=");
    if with_zone && old.is_none_or(|old| old.get("schedule").str() != schedule.str()) {
        faults.invalid(&schedule, "cannot use TZ or CRON_TZ in schedule, use timeZone field instead");
    }
    let zone = spec.get("timeZone");
    if zone.is_set() && zone.str().is_empty() {
        faults.invalid(&zone, "timeZone must be nil or non-empty string");
    } else if zone.str().eq_ignore_ascii_case("local") {
        faults.invalid(
            &zone,
            "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones",
        );
    }
    faults.one_of(&spec.get("concurrencyPolicy"), &["Allow", "Forbid", "Replace"]);
    for field in ["startingDeadlineSeconds", "successfulJobsHistoryLimit", "failedJobsHistoryLimit"] {
        faults.non_negative(&spec.get(field));
    }
    let template = spec.get("jobTemplate");
    faults.template_metadata(&template);
    let job = template.get("spec");
    if job.get("manualSelector").bool() {
        faults.push(FieldError::not_supported(job.get("manualSelector").path(), true, &["nil", "false"]));
    }
    job::validate_spec(&job, faults);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn schedules_must_be_readable() {
        let mut object = json!({"metadata": {"name": "tick"}, "spec": {"schedule": "*/5 * * * *", "jobTemplate": {"spec": {
            "template": {"spec": {"restartPolicy": "OnFailure", "containers": [{"name": "a", "image": "x"}]}}}}}});
        machinery::schema::apply_static_defaults(
            machinery::schema::builtin(),
            "api.batch.v1.CronJob",
            &mut object,
        );
        CronJob.default(&mut object);
        let check = |object: &Value| {
            let mut faults = Faults::default();
            validate(&Node::root(object).get("spec"), None, &mut faults);
            faults.0.into_iter().map(|fault| fault.field).collect::<Vec<_>>()
        };
        assert_eq!(check(&object), Vec::<String>::new());
        object["spec"]["schedule"] = "every day".into();
        assert_eq!(check(&object), ["spec.schedule"]);
    }
}
