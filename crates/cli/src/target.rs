//! `TYPE`, `TYPE NAME…`, `TYPE/NAME…`, `TYPE,TYPE`: what people call objects.

use api::kind::{self, Kind};

use serde_json::Value;

use crate::failure::Failure;
use crate::session::Session;

/// The options that narrow a list.
#[derive(clap::Args, Debug)]
pub(crate) struct Selectors {
    /// Only objects with such labels
    #[arg(short = 'l', long, value_name = "SELECTOR", default_value = "")]
    pub(crate) selector: String,
    /// Only objects with such fields
    #[arg(long, value_name = "SELECTOR", default_value = "")]
    field_selector: String,
}

impl Selectors {
    /// The query of a list.
    pub(crate) fn query(&self) -> Vec<(&str, &str)> {
        let all = [("fieldSelector", self.field_selector.as_str()), ("labelSelector", self.selector.as_str())];
        all.into_iter().filter(|(_, text)| !text.is_empty()).collect()
    }
}

/// The options of a command that works on named objects, or on many if that is said.
#[derive(clap::Args, Debug)]
pub(crate) struct Selection {
    #[command(flatten)]
    pub(crate) selectors: Selectors,
    /// All objects of the type
    #[arg(long)]
    pub(crate) all: bool,
    /// In all namespaces
    #[arg(short = 'A', long)]
    all_namespaces: bool,
}

impl Selection {
    /// The objects of a kind that was given without a name.
    pub(crate) async fn list(&self, session: &Session, kind: &'static Kind) -> Result<Vec<Value>, Failure> {
        let query = self.selectors.query();
        if !self.all && query.is_empty() {
            return Err(Failure::text("resource(s) were provided, but no name was specified"));
        }
        session.list(&session.collection(kind, self.all_namespaces), &query).await
    }
}

/// What a command is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    /// The kind.
    pub(crate) kind: &'static Kind,
    /// One object of it; `None` for all.
    pub(crate) name: Option<String>,
}

/// A kind of the core group that there is, by its plural.
pub(crate) fn core(plural: &str) -> &'static Kind {
    kind::by_resource("", "v1", plural).expect("it is one of the core kinds")
}

/// The kind that people mean by a word: plural, singular, short name or kind, perhaps with its group (and version) behind a dot.
pub(crate) fn kind(word: &str) -> Result<&'static Kind, Failure> {
    let lower = word.to_ascii_lowercase();
    let (first, rest) = lower.split_once('.').unwrap_or((&lower, ""));
    let is_called = |row: &&Kind| {
        !row.plural.is_empty()
            && (row.plural == first
                || row.singular == first
                || row.short_names.contains(&first)
                || row.kind.eq_ignore_ascii_case(first))
    };
    let is_of_group = |row: &&Kind| {
        let versioned = format!("{}.{}", row.version, row.group);
        rest.is_empty() || rest == row.group || rest == versioned || rest == versioned.trim_end_matches('.')
    };
    let mut found = kind::ALL.iter().filter(is_called).filter(is_of_group);
    let first = found.next();
    if let (Some(row), Some(other)) = (first, found.next())
        && row.short_names.contains(&lower.as_str())
    {
        crate::print::complain(&format!(
            "Warning: short name \"{lower}\" could also match lower priority resource {}.{}",
            other.plural, other.group
        ));
    }
    first.ok_or_else(|| Failure::text(format!("the server doesn't have a resource type \"{word}\"")))
}

/// The kinds of a comma separated list; `all` stands for those of that category.
pub(crate) fn kinds(words: &str) -> Result<Vec<&'static Kind>, Failure> {
    let mut found: Vec<&'static Kind> = Vec::new();
    for word in words.split(',').filter(|word| !word.is_empty()) {
        let category: Vec<_> = kind::ALL.iter().filter(|row| row.categories.contains(&word)).collect();
        let rows = if category.is_empty() { vec![kind(word)?] } else { category };
        for row in rows {
            if !found.contains(&row) {
                found.push(row);
            }
        }
    }
    Ok(found)
}

/// Whether the words ask for kinds in general, so that each name needs its kind beside it.
pub(crate) fn is_several(arguments: &[String]) -> bool {
    let is_category = |word: &str| kind::ALL.iter().any(|row| row.categories.contains(&word));
    arguments.first().is_some_and(|first| first.contains(',') || is_category(first))
}

/// Reads the arguments of a command that works on objects.
pub(crate) fn parse(arguments: &[String]) -> Result<Vec<Target>, Failure> {
    let Some(first) = arguments.first() else { return Ok(Vec::new()) };
    if arguments.iter().any(|argument| argument.contains('/')) {
        return arguments.iter().map(|argument| pair(argument, arguments.len() > 1)).collect();
    }
    let kinds = kinds(first)?;
    let names = &arguments[1..];
    if names.is_empty() {
        return Ok(kinds.into_iter().map(|kind| Target { kind, name: None }).collect());
    }
    let each = |kind: &'static Kind| names.iter().map(move |name| Target { kind, name: Some(name.clone()) });
    Ok(kinds.into_iter().flat_map(each).collect())
}

fn pair(argument: &str, is_among_others: bool) -> Result<Target, Failure> {
    let Some((word, name)) = argument.split_once('/') else {
        return Err(Failure::text(match is_among_others {
            true => "there is no need to specify a resource type as a separate argument when passing arguments in \
                     resource/name form (e.g. 'kubectl get resource/<resource_name>' instead of 'kubectl get resource \
                     resource/<resource_name>'"
                .to_owned(),
            false => format!("\"{argument}\" is not of the form TYPE/NAME"),
        }));
    };
    if word.is_empty() || name.is_empty() || name.contains('/') {
        return Err(Failure::text("arguments in resource/name form may not have more than one slash"));
    }
    Ok(Target { kind: kind(word)?, name: Some(name.to_owned()) })
}

/// The row of an object of a file.
pub(crate) fn of_object(object: &Value) -> Option<&'static Kind> {
    let (group, version) = kind::split_api_version(object["apiVersion"].as_str()?);
    kind::by_kind(group, version, object["kind"].as_str()?).filter(|row| !row.plural.is_empty())
}

/// `pod`, `lease.coordination.k8s.io`: how messages name what an object is.
pub(crate) fn word(kind: &Kind) -> String {
    let lower = kind.kind.to_ascii_lowercase();
    if kind.group.is_empty() { lower } else { format!("{lower}.{}", kind.group) }
}

/// The pod that is named by `NAME` or `pod/NAME`.
pub(crate) fn pod(argument: &str) -> Result<String, Failure> {
    let Some((word, name)) = argument.split_once('/') else { return Ok(argument.to_owned()) };
    match kind(word)? {
        row if row.kind == "Pod" => Ok(name.to_owned()),
        row => {
            Err(Failure::text(format!("cannot attach to *v1.{}: selector for {} not implemented", row.kind, row.kind)))
        }
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    fn check(arguments: &[&str], want: &Expect) {
        let arguments: Vec<String> = arguments.iter().map(ToString::to_string).collect();
        let shown = match super::parse(&arguments) {
            Ok(targets) => {
                let one = |target: &super::Target| {
                    format!("{} {}", super::word(target.kind), target.name.as_deref().unwrap_or("*"))
                };
                targets.iter().map(one).collect::<Vec<_>>().join(", ")
            }
            Err(failure) => failure.lines(),
        };
        want.assert_eq(&shown);
    }

    #[test]
    fn what_people_call_objects() {
        check(&["po"], &expect!["pod *"]);
        check(&["pods,ns"], &expect!["pod *, namespace *"]);
        check(&["Pod", "a", "b"], &expect!["pod a, pod b"]);
        check(&["po/a", "node/n"], &expect!["pod a, node n"]);
        check(&["events.events.k8s.io"], &expect!["event.events.k8s.io *"]);
        check(&["pods.v1."], &expect!["pod *"]);
        check(&["lease"], &expect!["lease.coordination.k8s.io *"]);
        check(&["foo"], &expect![[r#"error: the server doesn't have a resource type "foo""#]]);
        check(&["po/"], &expect!["error: arguments in resource/name form may not have more than one slash"]);
    }
}
