//! PodDisruptionBudget: how many of some pods may be missing because somebody empties a node.

use api::field::{FieldError, Path};
use serde_json::{Value, json};

use super::{Behaviour, selector};
use crate::table::{Column, age_cell};
use crate::tree::{integer, put, text};

const POLICIES: [&str; 2] = ["AlwaysAllow", "IfHealthyBudget"];
const PERCENT: &str = "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', \
                       regex used for validation is '[0-9]+%')";

pub(super) const BEHAVIOUR: Behaviour = Behaviour {
    prepare_create: |budget, _| {
        let none = ["disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"];
        put(budget, "status", Some(none.into_iter().map(|name| (name.to_owned(), json!(0))).collect()));
    },
    prepare_update: |new, old| put(new, "status", old.get("status").cloned()),
    prepare_status: |new, old| put(new, "spec", old.get("spec").cloned()),
    validate: |budget| {
        let mut errors = validate(budget);
        selector::validate(&mut errors, &budget["spec"]["selector"], &Path::new("spec").child("selector"));
        errors
    },
    validate_update: |new, old| {
        let mut errors = validate(new);
        // What was stored before selectors were checked may still be changed elsewhere.
        if new["spec"]["selector"] != old["spec"]["selector"] {
            selector::validate(&mut errors, &new["spec"]["selector"], &Path::new("spec").child("selector"));
        }
        errors
    },
    validate_status: |new, _| status(new),
    columns: &[
        Column::NAME,
        Column::text("Min Available", "So many pods must be there."),
        Column::text("Max Unavailable", "So many pods may be missing."),
        Column::count("Allowed Disruptions", "So many pods may go now."),
        Column::AGE,
    ],
    cells: |budget, now| {
        let said = |name: &str| match &budget["spec"][name] {
            Value::Null => json!("N/A"),
            Value::String(text) => json!(text),
            number => json!(number.to_string()),
        };
        vec![
            json!(text(&budget["metadata"], "name")),
            said("minAvailable"),
            said("maxUnavailable"),
            json!(integer(&budget["status"], "disruptionsAllowed").unwrap_or(0)),
            age_cell(budget, now),
        ]
    },
    has_generation: true,
    ..Behaviour::PLAIN
};

fn validate(budget: &Value) -> Vec<FieldError> {
    let (spec, path) = (&budget["spec"], Path::new("spec"));
    let mut errors = Vec::new();
    if !spec["minAvailable"].is_null() && !spec["maxUnavailable"].is_null() {
        errors.push(FieldError::invalid(&path, spec.clone(), "minAvailable and maxUnavailable cannot be both set"));
    }
    for name in ["minAvailable", "maxUnavailable"] {
        errors.extend(amount(&spec[name], &path.child(name)));
    }
    let policy = text(spec, "unhealthyPodEvictionPolicy");
    if !policy.is_empty() && !POLICIES.contains(&policy) {
        errors.push(FieldError::not_supported(&path.child("unhealthyPodEvictionPolicy"), policy, &POLICIES));
    }
    errors
}

/// A number or a share.
fn amount(value: &Value, path: &Path) -> Option<FieldError> {
    if let Some(number) = value.as_i64().filter(|number| *number < 0) {
        return Some(FieldError::invalid(path, number, "must be greater than or equal to 0"));
    }
    let text = value.as_str()?;
    let digits = text.strip_suffix('%').filter(|digits| !digits.is_empty());
    let Some(digits) = digits.filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit())) else {
        return Some(FieldError::invalid(path, text, PERCENT));
    };
    let is_more = digits.parse::<u64>().is_ok_and(|percent| percent > 100);
    is_more.then(|| FieldError::invalid(path, text, "must not be greater than 100%"))
}

fn status(budget: &Value) -> Vec<FieldError> {
    let path = Path::new("status");
    let counts = ["disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"];
    let wrong = counts.into_iter().filter_map(|name| {
        let number = integer(&budget["status"], name).filter(|number| *number < 0)?;
        Some(FieldError::invalid(&path.child(name), number, "must be greater than or equal to 0"))
    });
    wrong.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_checked() {
        let wrong = |spec: Value| validate(&json!({"spec": spec})).len();
        assert_eq!(wrong(json!({"minAvailable": 1})), 0);
        assert_eq!(wrong(json!({"maxUnavailable": "50%"})), 0);
        assert_eq!(wrong(json!({"minAvailable": 1, "maxUnavailable": 1})), 1);
        for bad in [json!(-1), json!("half"), json!("%"), json!("101%")] {
            assert_eq!(wrong(json!({"minAvailable": bad})), 1, "{bad}");
        }
        assert_eq!(wrong(json!({"unhealthyPodEvictionPolicy": "Never"})), 1);
    }

    #[test]
    fn selectors_are_checked_when_they_change() {
        let budget = |operator: &str, least: i64| {
            let test = json!({"key": "k", "operator": operator});
            json!({"spec": {"minAvailable": least, "selector": {"matchExpressions": [test]}}})
        };
        assert_eq!((BEHAVIOUR.validate)(&budget("Exists", 1)), []);
        let wrong = (BEHAVIOUR.validate)(&budget("Like", 1));
        assert_eq!(
            api::field::join(&wrong),
            "spec.selector.matchExpressions[0].operator: Invalid value: \"Like\": not a valid selector operator"
        );
        assert_eq!((BEHAVIOUR.validate_update)(&budget("Like", 1), &budget("Exists", 1)), wrong);
        assert_eq!((BEHAVIOUR.validate_update)(&budget("Like", 2), &budget("Like", 1)), []);
    }
}
