//! Rules for LabelSelector objects, wherever a kind has one.

use api::field::{FieldError, Path};
use serde_json::Value;

use super::check::{self, report};
use super::meta;
use crate::tree::{items, text};

/// What is wrong with a selector; nothing if there is none.
pub(crate) fn validate(errors: &mut Vec<FieldError>, selector: &Value, path: &Path) {
    meta::labels(errors, selector, "matchLabels", &path.child("matchLabels"));
    for (number, test) in items(selector, "matchExpressions").iter().enumerate() {
        expression(errors, test, &path.child("matchExpressions").index(number));
    }
}

fn expression(errors: &mut Vec<FieldError>, test: &Value, path: &Path) {
    let list = items(test, "values");
    match text(test, "operator") {
        "In" | "NotIn" if list.is_empty() => {
            let detail = "must be specified when `operator` is 'In' or 'NotIn'";
            errors.push(FieldError::required(&path.child("values"), detail));
        }
        "Exists" | "DoesNotExist" if !list.is_empty() => {
            let detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
            errors.push(FieldError::forbidden(&path.child("values"), detail));
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
        other => errors.push(FieldError::invalid(&path.child("operator"), other, "not a valid selector operator")),
    }
    let key = text(test, "key");
    report(errors, &path.child("key"), key, check::label_key(key));
    for (number, value) in list.iter().filter_map(Value::as_str).enumerate() {
        report(errors, &path.child("values").index(number), value, check::label_value(value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn selectors_are_checked() {
        let wrong = |selector: Value| {
            let mut errors = Vec::new();
            validate(&mut errors, &selector, &Path::new("s"));
            errors.len()
        };
        let test = |operator: &str, values: Value| {
            wrong(json!({"matchExpressions": [{"key": "k", "operator": operator, "values": values}]}))
        };
        assert_eq!(wrong(json!({})) + wrong(Value::Null) + wrong(json!({"matchLabels": {"app": "web"}})), 0);
        assert_eq!(test("In", json!(["a", ""])) + test("Exists", Value::Null), 0);
        assert_eq!(wrong(json!({"matchLabels": {"a b": "web"}})), 1);
        assert_eq!(wrong(json!({"matchLabels": {"app": "w b"}})), 1);
        assert!(wrong(json!({"matchExpressions": [{"key": "", "operator": "Exists"}]})) > 0);
        for (operator, values) in [
            ("Like", json!([])),
            ("In", json!([])),
            ("NotIn", Value::Null),
            ("Exists", json!(["a"])),
            ("In", json!(["a b"])),
        ] {
            assert_eq!(test(operator, values), 1, "{operator}");
        }
    }
}
