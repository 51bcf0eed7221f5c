//! Which nodes a pod must be on, and which it would rather be on, by their labels and names. Pure.

use std::collections::BTreeMap;

use serde_json::Value;

/// What a pod says of its nodes.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Affinity {
    /// One of these must hold, if there are any.
    required: Option<Vec<Term>>,
    /// What each is worth that holds.
    preferred: Vec<(u64, Term)>,
}

/// Everything in it must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Term {
    labels: Vec<Test>,
    fields: Vec<Test>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Test {
    pub(crate) key: String,
    operator: String,
    values: Vec<String>,
}

impl Affinity {
    /// By a pod's spec.
    pub fn read(spec: &Value) -> Self {
        let node = &spec["affinity"]["nodeAffinity"];
        let required = node["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"].as_array();
        let preferred = node["preferredDuringSchedulingIgnoredDuringExecution"].as_array();
        Self {
            required: required.map(|terms| terms.iter().map(Term::read).collect()),
            preferred: preferred
                .into_iter()
                .flatten()
                .map(|item| (item["weight"].as_u64().unwrap_or(0), Term::read(&item["preference"])))
                .collect(),
        }
    }

    /// Whether the pod may be on a node.
    pub fn allows(&self, name: &str, labels: &BTreeMap<String, String>) -> bool {
        self.required.as_ref().is_none_or(|terms| terms.iter().any(|term| term.holds(name, labels)))
    }

    /// How much it would like to be there.
    pub fn weight(&self, name: &str, labels: &BTreeMap<String, String>) -> u64 {
        self.preferred.iter().filter(|(_, term)| term.holds(name, labels)).map(|(weight, _)| weight).sum()
    }
}

impl Term {
    fn read(term: &Value) -> Self {
        let tests = |field: &str| term[field].as_array().into_iter().flatten().map(Test::read).collect();
        Self { labels: tests("matchExpressions"), fields: tests("matchFields") }
    }

    /// One that says nothing holds nowhere.
    fn holds(&self, name: &str, labels: &BTreeMap<String, String>) -> bool {
        let is_empty = self.labels.is_empty() && self.fields.is_empty();
        !is_empty
            && self.labels.iter().all(|test| test.holds(labels.get(&test.key).map(String::as_str)))
            && self.fields.iter().all(|test| test.holds((test.key == "metadata.name").then_some(name)))
    }
}

impl Test {
    /// A test for one value.
    pub(crate) fn is(key: String, operator: &str, value: String) -> Self {
        Self { key, operator: operator.to_owned(), values: vec![value] }
    }

    pub(crate) fn read(test: &Value) -> Self {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let values = test["values"].as_array().into_iter().flatten().map(text).collect();
        Self { key: text(&test["key"]), operator: text(&test["operator"]), values }
    }

    pub(crate) fn holds(&self, found: Option<&str>) -> bool {
        let is_listed = found.is_some_and(|found| self.values.iter().any(|value| value == found));
        match self.operator.as_str() {
            "In" => is_listed,
            "NotIn" => !is_listed,
            "Exists" => found.is_some(),
            "DoesNotExist" => found.is_none(),
            "Gt" => self.compares(found, |one, other| one > other),
            "Lt" => self.compares(found, |one, other| one < other),
            _ => false,
        }
    }

    fn compares(&self, found: Option<&str>, holds: fn(i64, i64) -> bool) -> bool {
        let number = |text: &str| text.parse().ok();
        found
            .and_then(number)
            .zip(self.values.first().and_then(|value| number(value)))
            .is_some_and(|(a, b)| holds(a, b))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn labels() -> BTreeMap<String, String> {
        [("disk", "ssd"), ("cores", "8")].map(|(key, value)| (key.to_owned(), value.to_owned())).into()
    }

    fn required(terms: Value) -> bool {
        let node = json!({"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}});
        Affinity::read(&json!({"affinity": {"nodeAffinity": node}})).allows("n1", &labels())
    }

    #[test]
    fn one_term_of_several_must_hold_whole() {
        let expression = |key: &str, operator: &str, values: &[&str]| json!({"matchExpressions": [{"key": key, "operator": operator, "values": values}]});
        for (term, holds) in [
            (expression("disk", "In", &["hdd", "ssd"]), true),
            (expression("disk", "NotIn", &["ssd"]), false),
            (expression("gpu", "NotIn", &["a"]), true),
            (expression("gpu", "Exists", &[]), false),
            (expression("gpu", "DoesNotExist", &[]), true),
            (expression("cores", "Gt", &["4"]), true),
            (expression("cores", "Lt", &["8"]), false),
            (json!({}), false),
            (json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]}), true),
            (json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n2"]}]}), false),
        ] {
            assert_eq!(required(json!([term])), holds, "{term}");
            assert!(required(json!([term, expression("disk", "Exists", &[])])));
        }
        assert!(Affinity::read(&json!({})).allows("n1", &labels()));
    }

    #[test]
    fn preferences_add_up() {
        let like = |weight: u64, key: &str| json!({"weight": weight, "preference": {"matchExpressions": [{"key": key, "operator": "Exists"}]}});
        let node = json!({"preferredDuringSchedulingIgnoredDuringExecution": [like(10, "disk"), like(5, "cores"), like(80, "gpu")]});
        assert_eq!(Affinity::read(&json!({"affinity": {"nodeAffinity": node}})).weight("n1", &labels()), 15);
    }
}
