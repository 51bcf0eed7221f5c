//! Which objects of a kind a list, watch or deletion is about.

use std::borrow::Cow;
use std::sync::Arc;

use api::selector::{FieldSelector, LabelSelector};
use api::status::Status;

use super::Resource;
use super::object::derived;

/// A place and selectors.
#[derive(Clone)]
pub(crate) struct Selection {
    pub(crate) resource: Resource,
    pub(crate) namespace: Option<String>,
    pub(crate) labels: Option<Arc<LabelSelector>>,
    pub(crate) fields: Option<Arc<FieldSelector>>,
}

impl Selection {
    /// All objects of a kind, or those of a namespace.
    pub(crate) fn all(resource: Resource, namespace: Option<&str>) -> Self {
        Self { resource, namespace: namespace.map(str::to_owned), labels: None, fields: None }
    }

    /// The keys among which the selected ones are.
    pub(crate) fn prefix(&self) -> String {
        let namespace = self.resource.kind.is_namespaced().then_some(self.namespace.as_deref()).flatten();
        self.resource.prefix(namespace)
    }

    /// Whether selectors leave anything out.
    pub(crate) fn is_filtered(&self) -> bool {
        self.labels.is_some() || self.fields.is_some()
    }

    /// The one name that can match, if the field selector asks for one.
    pub(crate) fn only_name(&self) -> Option<&str> {
        self.fields.as_ref()?.exact("metadata.name")
    }

    pub(crate) fn matches(&self, entry: &store::Entry) -> bool {
        if !self.is_filtered() {
            return true;
        }
        let derived = derived(entry);
        let head = derived.head(entry);
        let labels = self.labels.as_ref().is_none_or(|labels| labels.matches(&head.labels));
        labels
            && self.fields.as_ref().is_none_or(|fields| {
                fields.matches(&|name| match name {
                    "metadata.name" => Cow::Borrowed(head.name.as_str()),
                    "metadata.namespace" => Cow::Borrowed(head.namespace.as_str()),
                    name => {
                        let all = derived.fields(&self.resource, entry);
                        let found = all.iter().find(|(known, _)| *known == name);
                        Cow::Borrowed(found.map_or("", |(_, value)| value.as_str()))
                    }
                })
            })
    }
}

/// Refuses selectors on fields that the kind does not offer.
pub(crate) fn check_fields(resource: &Resource, fields: &FieldSelector) -> Result<(), Status> {
    let offered = (resource.behaviour.fields)(&serde_json::Value::Null);
    for name in fields.terms().iter().map(|term| term.field.as_str()) {
        let common = name == "metadata.name" || (name == "metadata.namespace" && resource.kind.is_namespaced());
        if !common && !offered.iter().any(|(known, _)| *known == name) {
            return Err(Status::bad_request(unknown_field(name, offered.is_empty())));
        }
    }
    Ok(())
}

fn unknown_field(name: &str, only_common: bool) -> String {
    if !only_common {
        return format!("field label not supported: {name}");
    }
    let name = api::field::quote(name);
    format!("{name} is not a known field selector: only \"metadata.name\", \"metadata.namespace\"")
}
