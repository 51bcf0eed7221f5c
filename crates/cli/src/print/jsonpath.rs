//! JSONPath in kubectl's dialect: text with expressions in braces, `{range}` … `{end}`, filters, unions, slices and recursion.

mod parse;

use serde_json::Value;

/// A template.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Template {
    nodes: Vec<Node>,
}

#[derive(Debug, Clone, PartialEq)]
enum Node {
    /// Printed as it is.
    Text(String),
    /// The values at a path.
    Path(Path),
    /// The body once for each value at a path.
    Range(Path, Vec<Node>),
}

#[derive(Debug, Clone, PartialEq)]
struct Path {
    /// From the whole object, even inside a range.
    is_absolute: bool,
    steps: Vec<Step>,
}

#[derive(Debug, Clone, PartialEq)]
enum Step {
    Child(String),
    All,
    Recursive,
    Slice { from: Option<i64>, to: Option<i64>, step: Option<i64> },
    Index(i64),
    Union(Vec<Step>),
    Filter { left: Operand, operator: Option<Operator>, right: Operand },
}

#[derive(Debug, Clone, PartialEq)]
enum Operand {
    Path(Path),
    Literal(Value),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operator {
    Equal,
    Unequal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Template {
    /// Reads a template.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        parse::template(text).map(|nodes| Self { nodes })
    }

    /// Reads a path as `--sort-by` and custom columns take it: with or without braces and the first dot.
    pub(crate) fn relaxed(text: &str) -> Result<Self, String> {
        let inner = text.trim().trim_start_matches('{').trim_end_matches('}');
        let dot = if inner.is_empty() || inner.starts_with(['.', '[', '$', '@']) { "" } else { "." };
        Self::parse(&format!("{{{dot}{inner}}}"))
    }

    /// What the template makes of an object.
    pub(crate) fn render(&self, object: &Value) -> Result<String, String> {
        let mut text = String::new();
        render(&self.nodes, object, object, &mut text)?;
        Ok(text)
    }

    /// The values that the paths of the template lead to.
    pub(crate) fn values<'a>(&self, object: &'a Value) -> Result<Vec<&'a Value>, String> {
        let mut found = Vec::new();
        for node in &self.nodes {
            if let Node::Path(path) = node {
                found.extend(path.values(object, object)?);
            }
        }
        Ok(found)
    }
}

fn render(nodes: &[Node], root: &Value, current: &Value, text: &mut String) -> Result<(), String> {
    for node in nodes {
        match node {
            Node::Text(literal) => text.push_str(literal),
            Node::Path(path) => {
                let values = path.values(root, current)?;
                text.push_str(&values.into_iter().map(show).collect::<Vec<_>>().join(" "));
            }
            Node::Range(path, body) => {
                for value in path.values(root, current)? {
                    render(body, root, value, text)?;
                }
            }
        }
    }
    Ok(())
}

/// A value as text: strings bare, the rest as JSON.
pub(crate) fn show(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

impl Path {
    fn values<'a>(&self, root: &'a Value, current: &'a Value) -> Result<Vec<&'a Value>, String> {
        let mut values = vec![if self.is_absolute { root } else { current }];
        for step in &self.steps {
            let mut next = Vec::new();
            for value in values {
                step.follow(root, value, &mut next)?;
            }
            values = next;
        }
        Ok(values)
    }
}

impl Step {
    fn follow<'a>(&self, root: &'a Value, value: &'a Value, found: &mut Vec<&'a Value>) -> Result<(), String> {
        match self {
            Self::Child(name) => found.extend(value.get(name)),
            Self::All => found.extend(children(value)),
            Self::Recursive => descend(value, found),
            Self::Index(index) => found.extend(element(value, *index)?),
            Self::Slice { from, to, step } => slice(value, (*from, *to, *step), found)?,
            Self::Union(steps) => {
                for step in steps {
                    step.follow(root, value, found)?;
                }
            }
            Self::Filter { left, operator, right } => {
                for child in children(value) {
                    if is_kept(root, child, left, *operator, right)? {
                        found.push(child);
                    }
                }
            }
        }
        Ok(())
    }
}

fn children(value: &Value) -> Vec<&Value> {
    match value {
        Value::Array(items) => items.iter().collect(),
        Value::Object(fields) => fields.values().collect(),
        _ => Vec::new(),
    }
}

fn descend<'a>(value: &'a Value, found: &mut Vec<&'a Value>) {
    if value.is_array() || value.is_object() {
        found.push(value);
        for child in children(value) {
            descend(child, found);
        }
    }
}

fn element(value: &Value, index: i64) -> Result<Option<&Value>, String> {
    let Some(items) = value.as_array() else { return Ok(None) };
    let length = i64::try_from(items.len()).unwrap_or(i64::MAX);
    let at = if index < 0 { index + length } else { index };
    match usize::try_from(at).ok().and_then(|at| items.get(at)) {
        Some(item) => Ok(Some(item)),
        None => Err(format!("array index out of bounds: index {at}, length {length}")),
    }
}

fn slice<'a>(
    value: &'a Value,
    (from, to, step): (Option<i64>, Option<i64>, Option<i64>),
    found: &mut Vec<&'a Value>,
) -> Result<(), String> {
    let Some(items) = value.as_array() else { return Ok(()) };
    let length = i64::try_from(items.len()).unwrap_or(i64::MAX);
    let absolute = |index: i64| if index < 0 { index + length } else { index };
    let (from, to) = (absolute(from.unwrap_or(0)), absolute(to.unwrap_or(length)).min(length));
    let step = step.unwrap_or(1);
    if step < 1 {
        return Err(format!("step must be > 0, got {step}"));
    }
    let (mut at, step) = (from.max(0), step);
    while at < to {
        found.extend(usize::try_from(at).ok().and_then(|at| items.get(at)));
        at += step;
    }
    Ok(())
}

fn is_kept(
    root: &Value,
    child: &Value,
    left: &Operand,
    operator: Option<Operator>,
    right: &Operand,
) -> Result<bool, String> {
    let left = operand(root, child, left)?;
    let Some(operator) = operator else { return Ok(!left.is_empty()) };
    let right = operand(root, child, right)?;
    match (left.as_slice(), right.as_slice()) {
        ([left], [right]) => Ok(holds(left, operator, right)),
        ([], _) | (_, []) => Ok(false),
        _ => Err("can only compare one element at a time".to_owned()),
    }
}

fn operand<'a>(root: &'a Value, child: &'a Value, operand: &'a Operand) -> Result<Vec<&'a Value>, String> {
    match operand {
        Operand::Path(path) => path.values(root, child),
        Operand::Literal(value) => Ok(vec![value]),
    }
}

fn holds(left: &Value, operator: Operator, right: &Value) -> bool {
    use std::cmp::Ordering::{Equal, Greater, Less};
    let order = compare(left, right);
    match operator {
        Operator::Equal => order == Some(Equal),
        Operator::Unequal => order != Some(Equal),
        Operator::Less => order == Some(Less),
        Operator::LessOrEqual => matches!(order, Some(Less | Equal)),
        Operator::Greater => order == Some(Greater),
        Operator::GreaterOrEqual => matches!(order, Some(Greater | Equal)),
    }
}

/// The order of two values of the same type.
pub(crate) fn compare(left: &Value, right: &Value) -> Option<std::cmp::Ordering> {
    match (left, right) {
        (Value::String(left), Value::String(right)) => Some(left.cmp(right)),
        (Value::Number(left), Value::Number(right)) => left.as_f64()?.partial_cmp(&right.as_f64()?),
        (Value::Bool(left), Value::Bool(right)) => Some(left.cmp(right)),
        (left, right) => (left == right).then_some(std::cmp::Ordering::Equal),
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use serde_json::json;

    use super::Template;

    fn check(template: &str, want: &Expect) {
        let object = json!({
            "kind": "List",
            "items": [
                {"metadata": {"name": "a", "labels": {"app.io/x": "1"}}, "n": 1, "ok": true},
                {"metadata": {"name": "b"}, "n": 5, "tags": ["x", "y"]},
                {"metadata": {"name": "c"}, "n": 9},
            ],
        });
        let shown = Template::parse(template).and_then(|template| template.render(&object));
        want.assert_eq(&shown.unwrap_or_else(|error| format!("error: {error}")));
    }

    #[test]
    fn paths() {
        check("{.kind}", &expect!["List"]);
        check("{$.kind} {@.kind}", &expect!["List List"]);
        check("{['kind']}", &expect!["List"]);
        check("{.items[0].metadata.name}", &expect!["a"]);
        check("{.items[-1].metadata.name}", &expect!["c"]);
        check("{.items[*].metadata.name}", &expect!["a b c"]);
        check("{.items[0:2].n}", &expect!["1 5"]);
        check("{.items[1:].n} {.items[:-1].n} {.items[::2].n}", &expect!["5 9 1 5 1 9"]);
        check("{.items[0,2].n}", &expect!["1 9"]);
        check("{.items[*]['n','ok']}", &expect!["1 true 5 9"]);
        check("{..name}", &expect!["a b c"]);
        check(r"{.items[0].metadata.labels.app\.io/x}", &expect!["1"]);
        check("{.items[0].metadata.labels['app.io/x']}", &expect!["1"]);
        check("{.items[0].metadata}", &expect![[r#"{"labels":{"app.io/x":"1"},"name":"a"}"#]]);
        check("{.nothing.here}", &expect![""]);
        check("{.items[7]}", &expect!["error: array index out of bounds: index 7, length 3"]);
    }

    #[test]
    fn filters() {
        check(r#"{.items[?(@.metadata.name=="b")].n}"#, &expect!["5"]);
        check("{.items[?(@.metadata.name=='b')].n}", &expect!["5"]);
        check("{.items[?(@.n>=5)].n} {.items[?(@.n<5)].n} {.items[?(@.n!=5)].n}", &expect!["5 9 1 1 9"]);
        check("{.items[?(@.tags)].n} {.items[?(@.ok==true)].n}", &expect!["5 1"]);
        check(r#"{.items[?(@.tags[0]=="x")].metadata.name}"#, &expect!["b"]);
    }

    #[test]
    fn ranges_and_text() {
        check(r#"{range .items[*]}{.metadata.name}={.n}{"\n"}{end}"#, &expect!["a=1\nb=5\nc=9\n"]);
        check("{range .items[1]}{range .tags[*]}{@},{end}{end}done", &expect!["x,y,done"]);
        check("kind: {.kind} {'\\t'}|", &expect!["kind: List \t|"]);
    }

    #[test]
    fn mistakes() {
        check("{.a", &expect!["error: unclosed action"]);
        check("{range .a}", &expect!["error: not in range, nothing to end"]);
        check("{.items[}", &expect!["error: unterminated array"]);
    }
}
