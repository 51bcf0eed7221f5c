//! The kinds that are served, as rows of a table; whatever a kind does beyond its row is not known here.

mod table;

pub use table::ALL;

/// Whether objects of a kind live in namespaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// In the cluster as a whole.
    Cluster,
    /// In a namespace each.
    Namespaced,
}

impl Scope {
    /// The word of aggregated discovery.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cluster => "Cluster",
            Self::Namespaced => "Namespaced",
        }
    }
}

/// What can be asked of a resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verb {
    /// POST.
    Create,
    /// DELETE of one.
    Delete,
    /// DELETE of many.
    DeleteCollection,
    /// GET of one.
    Get,
    /// GET of many.
    List,
    /// PATCH.
    Patch,
    /// PUT.
    Update,
    /// GET of changes.
    Watch,
}

impl Verb {
    /// The word of discovery and authorization.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Delete => "delete",
            Self::DeleteCollection => "deletecollection",
            Self::Get => "get",
            Self::List => "list",
            Self::Patch => "patch",
            Self::Update => "update",
            Self::Watch => "watch",
        }
    }
}

/// A part of a resource with a path of its own: `pods/status`.
#[derive(Debug, PartialEq, Eq)]
pub struct Subresource {
    /// The last part of its path.
    pub name: &'static str,
    /// Group of what its body is.
    pub group: &'static str,
    /// Version of what its body is.
    pub version: &'static str,
    /// Kind of what its body is.
    pub kind: &'static str,
    /// What can be asked of it.
    pub verbs: &'static [Verb],
}

/// One row: a kind and the resource it is served as.
#[derive(Debug, PartialEq, Eq)]
pub struct Kind {
    /// Empty for core.
    pub group: &'static str,
    /// Such as `v1`.
    pub version: &'static str,
    /// Such as `Pod`.
    pub kind: &'static str,
    /// Such as `PodList`.
    pub list_kind: &'static str,
    /// The word in paths; empty for a type that is only the body of a subresource.
    pub plural: &'static str,
    /// Such as `pod`.
    pub singular: &'static str,
    /// Such as `po`.
    pub short_names: &'static [&'static str],
    /// Groups of resources that clients ask for as one: `all`.
    pub categories: &'static [&'static str],
    /// Where objects live.
    pub scope: Scope,
    /// What can be asked.
    pub verbs: &'static [Verb],
    /// In the order of discovery.
    pub subresources: &'static [Subresource],
    /// The type's name in the schema.
    pub schema: &'static str,
    /// Whether the status is written apart from the rest.
    pub has_status: bool,
    /// The name under which objects are stored; kinds with the same one are views of the same objects. `None`: not stored.
    pub storage: Option<&'static str>,
}

impl Kind {
    /// `v1` or `group/version`.
    pub fn api_version(&self) -> String {
        api_version(self.group, self.version)
    }

    /// Whether objects live in namespaces.
    pub fn is_namespaced(&self) -> bool {
        self.scope == Scope::Namespaced
    }

    /// Whether `verb` can be asked of the resource itself.
    pub fn allows(&self, verb: Verb) -> bool {
        self.verbs.contains(&verb)
    }

    /// The subresource of that name.
    pub fn subresource(&self, name: &str) -> Option<&'static Subresource> {
        self.subresources.iter().find(|s| s.name == name)
    }
}

/// `v1` or `group/version`.
pub fn api_version(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}

/// Group and version of an apiVersion.
pub fn split_api_version(api_version: &str) -> (&str, &str) {
    api_version.split_once('/').unwrap_or(("", api_version))
}

/// The row of a resource in a path.
pub fn by_resource(group: &str, version: &str, plural: &str) -> Option<&'static Kind> {
    ALL.iter().find(|k| k.plural == plural && k.group == group && k.version == version && !plural.is_empty())
}

/// The row of a kind in a body.
pub fn by_kind(group: &str, version: &str, kind: &str) -> Option<&'static Kind> {
    ALL.iter().find(|k| k.kind == kind && k.group == group && k.version == version)
}

/// The groups with their versions in the order of discovery.
pub fn group_versions() -> Vec<(&'static str, &'static str)> {
    let mut found: Vec<(&str, &str)> = Vec::new();
    for kind in ALL.iter().filter(|k| !k.plural.is_empty()) {
        if !found.contains(&(kind.group, kind.version)) {
            found.push((kind.group, kind.version));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::{ALL, Verb, by_kind, by_resource, group_versions, split_api_version};
    use expect_test::expect;

    #[test]
    fn finds_rows() {
        let pod = by_resource("", "v1", "pods").expect("served");
        assert_eq!(pod.kind, "Pod");
        assert_eq!(by_kind("", "v1", "Pod"), Some(pod));
        assert_eq!(by_resource("", "v2", "pods"), None);
        assert_eq!(by_resource("policy", "v1", ""), None);
        assert_eq!(by_kind("policy", "v1", "Eviction").map(|k| k.plural), Some(""));
        assert!(pod.allows(Verb::Watch) && pod.is_namespaced());
        assert_eq!(pod.subresource("eviction").map(|s| s.group), Some("policy"));
        assert_eq!(split_api_version("apps/v1"), ("apps", "v1"));
    }

    #[test]
    fn rows_are_consistent() {
        for (i, kind) in ALL.iter().enumerate() {
            assert!(kind.schema.ends_with(&format!(".{}", kind.kind)), "{}", kind.schema);
            assert_eq!(kind.has_status, kind.subresource("status").is_some(), "{}", kind.kind);
            assert_eq!(kind.storage.is_some(), kind.allows(Verb::Get), "{}", kind.kind);
            assert_eq!(kind.list_kind.is_empty(), !kind.allows(Verb::List), "{}", kind.kind);
            let twin =
                ALL[i + 1..].iter().find(|o| (o.group, o.version, o.kind) == (kind.group, kind.version, kind.kind));
            assert!(twin.is_none(), "{} is there twice", kind.kind);
        }
    }

    #[test]
    fn groups_in_order() {
        let shown: Vec<_> = group_versions().iter().map(|(g, v)| super::api_version(g, v)).collect();
        let want = expect![
            "v1 apps/v1 events.k8s.io/v1 authentication.k8s.io/v1 authorization.k8s.io/v1 certificates.k8s.io/v1 policy/v1 apiextensions.k8s.io/v1 scheduling.k8s.io/v1 coordination.k8s.io/v1"
        ];
        want.assert_eq(&shown.join(" "));
    }
}
