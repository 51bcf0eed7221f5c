//! Names for what a request is about.

use std::fmt::Write;

/// A collection of the API, by the words of its path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Resource {
    /// The group; empty for core.
    pub group: &'static str,
    /// The version.
    pub version: &'static str,
    /// The plural.
    pub plural: &'static str,
}

impl Resource {
    /// A collection of the core group.
    pub const fn core(plural: &'static str) -> Self {
        Self { group: "", version: "v1", plural }
    }

    /// The path of the collection, in a namespace or across all.
    pub fn collection(&self, namespace: Option<&str>) -> String {
        let mut path = match self.group {
            "" => format!("/api/{}", self.version),
            group => format!("/apis/{group}/{}", self.version),
        };
        if let Some(namespace) = namespace {
            push(&mut path, &["namespaces", namespace]);
        }
        push(&mut path, &[self.plural]);
        path
    }

    /// The path of one object.
    pub fn object(&self, namespace: Option<&str>, name: &str) -> String {
        let mut path = self.collection(namespace);
        push(&mut path, &[name]);
        path
    }

    /// The path of a subresource of one object.
    pub fn subresource(&self, namespace: Option<&str>, name: &str, subresource: &str) -> String {
        let mut path = self.object(namespace, name);
        push(&mut path, &[subresource]);
        path
    }
}

fn push(path: &mut String, segments: &[&str]) {
    for segment in segments {
        path.push('/');
        escape(segment, path);
    }
}

/// Appends `text` percent-encoded for a path segment or a query value.
pub(crate) fn escape(text: &str, out: &mut String) {
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b':' => out.push(byte.into()),
            // Writing to a string cannot fail.
            _ => {
                let _written = write!(out, "%{byte:02X}");
            }
        }
    }
}

/// Appends a query to a path.
pub fn with_query(path: &str, query: &[(&str, &str)]) -> String {
    let mut out = path.to_owned();
    for (index, (key, value)) in query.iter().enumerate() {
        out.push(if index == 0 && !path.contains('?') { '?' } else { '&' });
        escape(key, &mut out);
        out.push('=');
        escape(value, &mut out);
    }
    out
}

/// Pods.
pub const PODS: Resource = Resource::core("pods");
/// Nodes.
pub const NODES: Resource = Resource::core("nodes");
/// Namespaces.
pub const NAMESPACES: Resource = Resource::core("namespaces");
/// Events of the core group.
pub const EVENTS: Resource = Resource::core("events");
/// Config maps.
pub const CONFIG_MAPS: Resource = Resource::core("configmaps");
/// Secrets.
pub const SECRETS: Resource = Resource::core("secrets");
/// Service accounts.
pub const SERVICE_ACCOUNTS: Resource = Resource::core("serviceaccounts");
/// Requests for certificates.
pub const CERTIFICATE_REQUESTS: Resource =
    Resource { group: "certificates.k8s.io", version: "v1", plural: "certificatesigningrequests" };
/// Leases.
pub const LEASES: Resource = Resource { group: "coordination.k8s.io", version: "v1", plural: "leases" };

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_those_of_the_api() {
        assert_eq!(PODS.object(Some("default"), "web"), "/api/v1/namespaces/default/pods/web");
        assert_eq!(LEASES.collection(None), "/apis/coordination.k8s.io/v1/leases");
        assert_eq!(PODS.subresource(Some("a/b"), "w", "log"), "/api/v1/namespaces/a%2Fb/pods/w/log");
    }

    #[test]
    fn a_query_is_escaped() {
        assert_eq!(with_query("/p", &[("labelSelector", "a in (b,c)")]), "/p?labelSelector=a%20in%20%28b%2Cc%29");
        assert_eq!(with_query("/p?x=1", &[("y", "2")]), "/p?x=1&y=2");
    }
}
