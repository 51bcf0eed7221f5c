//! Label selectors and how they match.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::Value;

use super::parse;
use crate::field::{FieldError, Path, join, quote};
use crate::{Error, name};

/// How a requirement relates a label to its values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operator {
    /// `=`.
    Equals,
    /// `==`, which means the same.
    DoubleEquals,
    /// `!=`.
    NotEquals,
    /// `in (…)`.
    In,
    /// `notin (…)`.
    NotIn,
    /// The key alone.
    Exists,
    /// `!` and the key.
    DoesNotExist,
    /// `>`.
    GreaterThan,
    /// `<`.
    LessThan,
}

/// One condition on one label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requirement {
    /// The label.
    pub key: String,
    /// What must hold.
    pub operator: Operator,
    /// With which values.
    pub values: Vec<String>,
}

impl Requirement {
    /// Checks key, number of values and values.
    pub fn new(key: String, operator: Operator, values: Vec<String>) -> Result<Self, Error> {
        let mut errors = Vec::new();
        check_key(&mut errors, &key, &Path::new("key"));
        let path = Path::new("values");
        if let Some(wrong) = wrong_number(operator, values.len()) {
            errors.push(FieldError::invalid(&path, values.clone(), wrong));
        }
        for (index, value) in values.iter().enumerate() {
            let here = path.index(index);
            let numeric = matches!(operator, Operator::GreaterThan | Operator::LessThan);
            if numeric && value.parse::<i64>().is_err() {
                let wrong = "for 'Gt', 'Lt' operators, the value must be an integer";
                errors.push(FieldError::invalid(&here, value.as_str(), wrong));
            }
            let wrongs = name::label_value(value);
            if !wrongs.is_empty() {
                errors.push(FieldError::invalid(&here.key(&key), value.as_str(), wrongs.join("; ")));
            }
        }
        if errors.is_empty() { Ok(Self { key, operator, values }) } else { Err(Error::Malformed(join(&errors))) }
    }

    /// Whether an object whose label has this value meets the requirement.
    pub fn matches(&self, label: Option<&str>) -> bool {
        let has = |value: &str| self.values.iter().any(|v| v == value);
        match self.operator {
            Operator::Equals | Operator::DoubleEquals | Operator::In => label.is_some_and(has),
            Operator::NotEquals | Operator::NotIn => !label.is_some_and(has),
            Operator::Exists => label.is_some(),
            Operator::DoesNotExist => label.is_none(),
            Operator::GreaterThan => self.compare(label, |a, b| a > b),
            Operator::LessThan => self.compare(label, |a, b| a < b),
        }
    }

    fn compare(&self, label: Option<&str>, holds: fn(i64, i64) -> bool) -> bool {
        let bound = self.values.first().and_then(|v| v.parse().ok());
        label.and_then(|l| l.parse().ok()).zip(bound).is_some_and(|(a, b)| holds(a, b))
    }
}

pub(super) fn check_key(errors: &mut Vec<FieldError>, key: &str, path: &Path) {
    let wrongs = name::label_key(key);
    if !wrongs.is_empty() {
        errors.push(FieldError::invalid(path, key, wrongs.join("; ")));
    }
}

fn wrong_number(operator: Operator, values: usize) -> Option<&'static str> {
    match operator {
        Operator::In | Operator::NotIn => {
            (values == 0).then_some("for 'in', 'notin' operators, values set can't be empty")
        }
        Operator::Equals | Operator::DoubleEquals | Operator::NotEquals => {
            (values != 1).then_some("exact-match compatibility requires one single value")
        }
        Operator::Exists | Operator::DoesNotExist => {
            (values != 0).then_some("values set must be empty for exists and does not exist")
        }
        Operator::GreaterThan | Operator::LessThan => {
            (values != 1).then_some("for 'Gt', 'Lt' operators, exactly one value is required")
        }
    }
}

/// The text from which the requirement can be read again; values in order.
impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut values: Vec<&str> = self.values.iter().map(String::as_str).collect();
        values.sort_unstable();
        let (key, values) = (&self.key, values.join(","));
        match self.operator {
            Operator::Equals => write!(f, "{key}={values}"),
            Operator::DoubleEquals => write!(f, "{key}=={values}"),
            Operator::NotEquals => write!(f, "{key}!={values}"),
            Operator::In => write!(f, "{key} in ({values})"),
            Operator::NotIn => write!(f, "{key} notin ({values})"),
            Operator::Exists => f.write_str(key),
            Operator::DoesNotExist => write!(f, "!{key}"),
            Operator::GreaterThan => write!(f, "{key}>{values}"),
            Operator::LessThan => write!(f, "{key}<{values}"),
        }
    }
}

/// Requirements that must all be met. The empty one selects everything.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LabelSelector {
    requirements: Vec<Requirement>,
    nothing: bool,
}

impl LabelSelector {
    /// Selects all objects.
    pub fn everything() -> Self {
        Self::default()
    }

    /// Selects no object.
    pub fn nothing() -> Self {
        Self { requirements: Vec::new(), nothing: true }
    }

    /// Reads the text form: `env in (a,b),!x,tier!=y`.
    pub fn parse(text: &str) -> Result<Self, Error> {
        parse::requirements(text).map(Self::of)
    }

    fn of(mut requirements: Vec<Requirement>) -> Self {
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Self { requirements, nothing: false }
    }

    /// From a LabelSelector object with `matchLabels` and `matchExpressions`. Absent: nothing; empty: everything.
    pub fn from_object(object: &Value) -> Result<Self, Error> {
        if object.is_null() {
            return Ok(Self::nothing());
        }
        let mut requirements = Vec::new();
        for (key, value) in object["matchLabels"].as_object().into_iter().flatten() {
            let value = value.as_str().unwrap_or_default().to_owned();
            requirements.push(Requirement::new(key.clone(), Operator::Equals, vec![value])?);
        }
        for expression in object["matchExpressions"].as_array().into_iter().flatten() {
            requirements.push(expressed(expression)?);
        }
        Ok(Self::of(requirements))
    }

    /// From a map of labels that must be there, as in `spec.nodeSelector`; values are taken as they are.
    pub fn from_map<'a>(labels: impl Iterator<Item = (&'a str, &'a str)>) -> Self {
        let equals = |(key, value): (&str, &str)| Requirement {
            key: key.to_owned(),
            operator: Operator::Equals,
            values: vec![value.to_owned()],
        };
        Self::of(labels.map(equals).collect())
    }

    /// Whether it does not restrict anything.
    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty() && !self.nothing
    }

    /// The requirements by key.
    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }

    /// Whether these labels are selected.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.matches_with(&|key| labels.get(key).map(String::as_str))
    }

    /// Whether an object whose labels `lookup` knows is selected.
    pub fn matches_with<'a>(&self, lookup: &dyn Fn(&str) -> Option<&'a str>) -> bool {
        !self.nothing && self.requirements.iter().all(|r| r.matches(lookup(&r.key)))
    }
}

fn expressed(expression: &Value) -> Result<Requirement, Error> {
    let operator = match expression["operator"].as_str().unwrap_or_default() {
        "In" => Operator::In,
        "NotIn" => Operator::NotIn,
        "Exists" => Operator::Exists,
        "DoesNotExist" => Operator::DoesNotExist,
        other => return Err(Error::Malformed(format!("{} is not a valid label selector operator", quote(other)))),
    };
    let values = expression["values"].as_array().into_iter().flatten();
    let values = values.filter_map(|v| v.as_str().map(str::to_owned)).collect();
    Requirement::new(expression["key"].as_str().unwrap_or_default().to_owned(), operator, values)
}

impl fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let texts: Vec<String> = self.requirements.iter().map(ToString::to_string).collect();
        f.write_str(&texts.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::LabelSelector;
    use expect_test::{Expect, expect};
    use serde_json::{Value, json};
    use std::collections::BTreeMap;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    fn check(text: &str, want: &Expect) {
        want.assert_eq(&LabelSelector::parse(text).map_or_else(|e| format!("error: {e}"), |s| s.to_string()));
    }

    fn check_object(object: &Value, want: &Expect) {
        want.assert_eq(&LabelSelector::from_object(object).map_or_else(|e| format!("error: {e}"), |s| s.to_string()));
    }

    #[test]
    fn reads() {
        check("", &expect![""]);
        check(" x = a , !y,z ", &expect!["x=a,!y,z"]);
        check("x in (foo,,baz),y,z notin ()", &expect!["x in (,baz,foo),y,z notin ()"]);
        check("b==1,a!=2", &expect!["a!=2,b==1"]);
        check("x=", &expect!["x="]);
        check("x=,y", &expect!["x=,y"]);
        check(
            "x>1,y<-2",
            &expect![[
                r#"error: unable to parse requirement: values[0][y]: Invalid value: "-2": a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"#
            ]],
        );
        check("in in (in,notin)", &expect!["in in (in,notin)"]);
        check("x in (,)", &expect!["x in ()"]);
    }

    #[test]
    fn refuses() {
        check("x,", &expect!["error: found '', expected: identifier after ','"]);
        check("!", &expect!["error: unable to parse requirement: found '', expected: identifier"]);
        check("x y", &expect!["error: unable to parse requirement: found 'y', expected: in, notin, =, ==, !=, gt, lt"]);
        check("x in a", &expect!["error: unable to parse requirement: found 'a' expected: '('"]);
        check("x in (a", &expect!["error: unable to parse requirement: found '', expected: ',' or ')'"]);
        check("x in (=)", &expect!["error: unable to parse requirement: found '=', expected: ',', ')' or identifier"]);
        check("x==(", &expect!["error: unable to parse requirement: found '(', expected: identifier"]);
        check(",x", &expect!["error: found ',', expected: !, identifier, or 'end of string'"]);
        check(
            "x>a",
            &expect![[
                r#"error: unable to parse requirement: values[0]: Invalid value: "a": for 'Gt', 'Lt' operators, the value must be an integer"#
            ]],
        );
        check("a=b=c", &expect!["error: found '=', expected: ',' or 'end of string'"]);
        check(
            "-x",
            &expect![[
                r#"error: unable to parse requirement: <nil>: Invalid value: "-x": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"#
            ]],
        );
    }

    #[test]
    fn matches() {
        let object = labels(&[("env", "prod"), ("n", "5")]);
        for (text, want) in [
            ("", true),
            ("env", true),
            ("!env", false),
            ("env=prod", true),
            ("env==dev", false),
            ("env!=dev", true),
            ("x!=dev", true),
            ("env in (a,prod)", true),
            ("env notin (a,prod)", false),
            ("x notin (a)", true),
            ("n>4", true),
            ("n<5", false),
            ("env>1", false),
            ("x>1", false),
            ("env=prod,n=6", false),
            ("!x", true),
        ] {
            assert_eq!(LabelSelector::parse(text).expect(text).matches(&object), want, "{text}");
        }
    }

    #[test]
    fn objects() {
        check_object(
            &json!({"matchLabels": {"b": "1"}, "matchExpressions": [{"key": "a", "operator": "In", "values": ["y", "x"]}]}),
            &expect!["a in (x,y),b=1"],
        );
        check_object(
            &json!({"matchExpressions": [{"key": "a", "operator": "Like"}]}),
            &expect![[r#"error: "Like" is not a valid label selector operator"#]],
        );
        check_object(
            &json!({"matchExpressions": [{"key": "a", "operator": "In"}]}),
            &expect!["error: values: Invalid value: []: for 'in', 'notin' operators, values set can't be empty"],
        );
        let none = LabelSelector::from_object(&Value::Null).expect("good");
        assert!(!none.matches(&labels(&[])) && !none.is_empty());
        let all = LabelSelector::from_object(&json!({})).expect("good");
        assert!(all.matches(&labels(&[])) && all.is_empty());
        assert_eq!(LabelSelector::from_map([("b", "1"), ("a", "2")].into_iter()).to_string(), "a=2,b=1");
    }

    proptest::proptest! {
        #[test]
        fn never_panics(text in "[a-z!=<>(), \tin.0-9-]{0,40}") {
            if let Ok(selector) = LabelSelector::parse(&text) {
                assert_eq!(LabelSelector::parse(&selector.to_string()).map(|s| s.to_string()), Ok(selector.to_string()));
            }
        }
    }
}
