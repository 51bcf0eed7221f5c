//! Rules for `topologySpreadConstraints`: how evenly a pod's like are to be spread over the nodes.

use api::field::{FieldError, Path};
use serde_json::Value;

use crate::kinds::check::{self, report};
use crate::kinds::selector;
use crate::tree::{integer, items, present, text};

const ACTIONS: [&str; 2] = ["DoNotSchedule", "ScheduleAnyway"];
const NOT_POSITIVE: &str = "must be greater than zero";

/// What is wrong with the constraints of a pod.
pub(super) fn validate(errors: &mut Vec<FieldError>, spec: &Value, path: &Path) {
    let all = items(spec, "topologySpreadConstraints");
    for (number, rule) in all.iter().enumerate() {
        let path = path.index(number);
        let skew = integer(rule, "maxSkew").unwrap_or(0);
        if skew <= 0 {
            errors.push(FieldError::invalid(&path.child("maxSkew"), skew, NOT_POSITIVE));
        }
        if text(rule, "topologyKey").is_empty() {
            errors.push(FieldError::required(&path.child("topologyKey"), "can not be empty"));
        }
        let action = text(rule, "whenUnsatisfiable");
        if !ACTIONS.contains(&action) {
            errors.push(FieldError::not_supported(&path.child("whenUnsatisfiable"), action, &ACTIONS));
        }
        if all[number + 1..].iter().any(|other| kind(other) == kind(rule)) {
            let (key, action) = kind(rule);
            let path = path.child("{topologyKey, whenUnsatisfiable}");
            errors.push(FieldError::duplicate(&path, format!("{{{key}, {action}}}")));
        }
        least_domains(errors, rule, &path.child("minDomains"));
        for name in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
            policy(errors, rule, name, &path);
        }
        label_keys(errors, rule, &path);
        selector::validate(errors, &rule["labelSelector"], &path.child("labelSelector"));
    }
}

/// What a constraint is told apart by.
fn kind(rule: &Value) -> (&str, &str) {
    (text(rule, "topologyKey"), text(rule, "whenUnsatisfiable"))
}

fn least_domains(errors: &mut Vec<FieldError>, rule: &Value, path: &Path) {
    let Some(least) = integer(rule, "minDomains") else { return };
    if least <= 0 {
        errors.push(FieldError::invalid(path, least, NOT_POSITIVE));
    }
    let action = text(rule, "whenUnsatisfiable");
    if action != "DoNotSchedule" {
        let detail = format!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {action}");
        errors.push(FieldError::invalid(path, least, detail));
    }
}

fn policy(errors: &mut Vec<FieldError>, rule: &Value, name: &str, path: &Path) {
    let Some(policy) = rule.get(name).and_then(Value::as_str) else { return };
    let words = ["Honor", "Ignore"];
    if !words.contains(&policy) {
        errors.push(FieldError::not_supported(&path.child(name), policy, &words));
    }
}

fn label_keys(errors: &mut Vec<FieldError>, rule: &Value, path: &Path) {
    let keys = items(rule, "matchLabelKeys");
    if keys.is_empty() {
        return;
    }
    let list = path.child("matchLabelKeys");
    let Some(selector) = present(rule, "labelSelector") else {
        let detail = "must not be specified when labelSelector is not set";
        return errors.push(FieldError::forbidden(&list, detail));
    };
    for (number, key) in keys.iter().filter_map(Value::as_str).enumerate() {
        report(errors, &list.index(number), key, check::label_key(key));
    }
    selector::tested_twice(errors, selector, keys, path);
}
