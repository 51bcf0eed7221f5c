//! The grammar of request paths: which part names what. Knows no kinds; whether a resource is served is decided elsewhere.

use crate::{Error, query};

/// What a path asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RequestPath {
    /// A resource, or something within one.
    Resource(ResourcePath),
    /// Anything else: `/healthz`, `/apis`, `/api/v1`; decoded.
    Other(String),
}

/// A path below a group and version.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ResourcePath {
    /// Empty for core.
    pub group: String,
    /// Such as `v1`.
    pub version: String,
    /// The namespace; for a Namespace object its own name too.
    pub namespace: Option<String>,
    /// The plural.
    pub resource: String,
    /// One object.
    pub name: Option<String>,
    /// A part of it.
    pub subresource: Option<String>,
    /// What follows the subresource, without a leading slash: the path of a proxied request.
    pub rest: String,
    /// Whether the path is of the old `/watch/` form.
    pub watch: bool,
}

impl RequestPath {
    /// Reads the path part of a URL, still percent-encoded. A trailing slash means nothing.
    pub fn parse(raw: &str) -> Result<Self, Error> {
        let path = query::decode(raw, false)?;
        Ok(resource(&path).map_or(Self::Other(path), Self::Resource))
    }
}

fn resource(path: &str) -> Option<ResourcePath> {
    let trimmed = path.strip_prefix('/')?;
    let parts: Vec<&str> = trimmed.strip_suffix('/').unwrap_or(trimmed).split('/').collect();
    let (group, version, rest) = match parts.as_slice() {
        ["api", version, rest @ ..] => ("", version, rest),
        ["apis", group, version, rest @ ..] if !group.is_empty() => (*group, version, rest),
        _ => return None,
    };
    let (watch, rest) = match rest {
        ["watch", rest @ ..] => (true, rest),
        rest => (false, rest),
    };
    let (namespace, rest) = namespace(rest);
    let (resource, rest) = rest.split_first()?;
    let (name, rest) = rest.split_first().map_or((None, rest), |(name, rest)| (Some(*name), rest));
    let (subresource, rest) = rest.split_first().map_or((None, rest), |(sub, rest)| (Some(*sub), rest));
    let named = [Some(*version), namespace, Some(*resource), name, subresource];
    if named.iter().flatten().any(|part| matches!(*part, "" | "." | "..")) {
        return None;
    }
    Some(ResourcePath {
        group: group.to_owned(),
        version: (*version).to_owned(),
        namespace: namespace.map(str::to_owned),
        resource: (*resource).to_owned(),
        name: name.map(str::to_owned),
        subresource: subresource.map(str::to_owned),
        rest: rest.join("/"),
        watch,
    })
}

/// Takes the namespace off, unless the path is about the Namespace object itself or one of its two subresources.
fn namespace<'a, 'b>(parts: &'a [&'b str]) -> (Option<&'b str>, &'a [&'b str]) {
    match parts {
        ["namespaces", name] | ["namespaces", name, "status" | "finalize", ..] => (Some(*name), parts),
        ["namespaces", name, rest @ ..] => (Some(*name), rest),
        _ => (None, parts),
    }
}

#[cfg(test)]
mod tests {
    use super::RequestPath;
    use expect_test::{Expect, expect};

    fn check(path: &str, want: &Expect) {
        let shown = match RequestPath::parse(path) {
            Ok(RequestPath::Resource(p)) => {
                let or = |part: &Option<String>| part.clone().unwrap_or_else(|| "-".to_owned());
                let watch = if p.watch { "watch " } else { "" };
                let of = [or(&p.namespace), p.resource, or(&p.name), or(&p.subresource)].join(" ");
                format!("{watch}{}/{} {of} {}", p.group, p.version, p.rest)
            }
            Ok(RequestPath::Other(path)) => format!("other {path}"),
            Err(error) => format!("error: {error}"),
        };
        want.assert_eq(shown.trim_end());
    }

    #[test]
    fn resources() {
        check("/api/v1/pods", &expect!["/v1 - pods - -"]);
        check("/api/v1/namespaces/default/pods/", &expect!["/v1 default pods - -"]);
        check("/api/v1/namespaces/default/pods/web/status", &expect!["/v1 default pods web status"]);
        check("/api/v1/namespaces", &expect!["/v1 - namespaces - -"]);
        check("/api/v1/namespaces/a", &expect!["/v1 a namespaces a -"]);
        check("/api/v1/namespaces/a/finalize", &expect!["/v1 a namespaces a finalize"]);
        check("/apis/apps/v1/namespaces/a/deployments/d/scale", &expect!["apps/v1 a deployments d scale"]);
        check("/api/v1/nodes/n/proxy/a//b/", &expect!["/v1 - nodes n proxy a//b"]);
        check("/api/v1/watch/namespaces/a/pods/w", &expect!["watch /v1 a pods w -"]);
        check("/api/v1/watch/pods", &expect!["watch /v1 - pods - -"]);
        check("/api/v1/namespaces/a/services/https:x:443/proxy/", &expect!["/v1 a services https:x:443 proxy"]);
        check("/api/v1/namespaces/a/pods/w%2Fstatus", &expect!["/v1 a pods w status"]);
    }

    #[test]
    fn others() {
        check("/", &expect!["other /"]);
        check("/healthz", &expect!["other /healthz"]);
        check("/api", &expect!["other /api"]);
        check("/api/v1", &expect!["other /api/v1"]);
        check("/api/v1/", &expect!["other /api/v1/"]);
        check("/apis/apps/v1", &expect!["other /apis/apps/v1"]);
        check("/openapi/v3/api/v1", &expect!["other /openapi/v3/api/v1"]);
        check("/api/v1/namespaces//pods", &expect!["other /api/v1/namespaces//pods"]);
        check("/api/v1/namespaces/../pods", &expect!["other /api/v1/namespaces/../pods"]);
        check("/api//pods", &expect!["other /api//pods"]);
        check("api/v1/pods", &expect!["other api/v1/pods"]);
        check("/a%zz", &expect![[r#"error: invalid URL escape "%zz""#]]);
    }
}
