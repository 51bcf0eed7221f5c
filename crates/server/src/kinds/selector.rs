//! Rules for LabelSelector objects, wherever a kind has one.

use std::collections::BTreeSet;

use api::field::{FieldError, Path};
use serde_json::{Value, json};

use super::check::{self, report};
use super::meta;
use crate::tree::{entries, items, object, present, set, text};

/// What is wrong with a selector; nothing if there is none.
pub(crate) fn validate(errors: &mut Vec<FieldError>, selector: &Value, path: &Path) {
    meta::labels(errors, selector, "matchLabels", &path.child("matchLabels"));
    for (number, test) in items(selector, "matchExpressions").iter().enumerate() {
        expression(errors, test, &path.child("matchExpressions").index(number));
    }
}

/// Reports keys that a selector tests already, though the pod's own labels are to decide: their tests are in it by now, see [`narrow`].
pub(crate) fn tested_twice(errors: &mut Vec<FieldError>, selector: &Value, keys: &[Value], path: &Path) {
    let mut tested: BTreeSet<&str> = entries(selector, "matchLabels").map(|(key, _)| key.as_str()).collect();
    for key in items(selector, "matchExpressions").iter().map(|test| text(test, "key")) {
        let number = keys.iter().position(|wanted| wanted == key);
        if let Some(number) = number.filter(|_| tested.contains(key)) {
            let detail = "exists in both matchLabelKeys and labelSelector";
            errors.push(FieldError::invalid(&path.index(number), key, detail));
        }
        tested.insert(key);
    }
}

/// Has the selector of a pod's term or constraint test the labels of the pod itself that it names, as far as the pod has them.
pub(crate) fn narrow(rule: &mut Value, labels: &Value) {
    if present(rule, "labelSelector").is_none() {
        return;
    }
    for (list, operator) in [("matchLabelKeys", "In"), ("mismatchLabelKeys", "NotIn")] {
        let keys = items(rule, list).iter().filter_map(Value::as_str);
        let tests =
            keys.filter_map(|key| Some(json!({"key": key, "operator": operator, "values": [labels.get(key)?]})));
        let tests: Vec<Value> = tests.collect();
        let selector = object(rule, "labelSelector");
        if !tests.is_empty() {
            set(selector, "matchExpressions", [items(selector, "matchExpressions"), &tests].concat());
        }
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

    #[test]
    fn a_pods_own_labels_narrow_its_rules() {
        let narrowed = |mut rule: Value| {
            narrow(&mut rule, &json!({"a": "1", "b": "2"}));
            rule["labelSelector"].clone()
        };
        let rule = |selector: Value| json!({"labelSelector": selector, "matchLabelKeys": ["a", "c"], "mismatchLabelKeys": ["b"]});
        let (with, without) = (
            json!({"key": "a", "operator": "In", "values": ["1"]}),
            json!({"key": "b", "operator": "NotIn", "values": ["2"]}),
        );
        assert_eq!(narrowed(rule(json!({}))), json!({"matchExpressions": [with, without]}));
        assert_eq!(narrowed(rule(Value::Null)), Value::Null, "which selects nothing");
        let twice = |selector: Value| {
            let mut errors = Vec::new();
            tested_twice(&mut errors, &narrowed(rule(selector)), &[json!("c"), json!("a")], &Path::new("r"));
            errors.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(twice(json!({"matchLabels": {"b": "2", "c": "3"}})), [""; 0]);
        let wrong = r#"r[1]: Invalid value: "a": exists in both matchLabelKeys and labelSelector"#;
        assert_eq!(twice(json!({"matchLabels": {"a": "1"}})), [wrong]);
        assert_eq!(twice(json!({"matchExpressions": [{"key": "a", "operator": "Exists"}]})), [wrong]);
    }

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
