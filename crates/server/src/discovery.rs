//! What is served, for clients that ask: in one document, or in parts.

use std::collections::BTreeMap;

use api::kind::{self, Kind, Verb};
use api::status::Status;
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_NONE_MATCH, VARY};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha512};
use wire::Body;

use crate::negotiate;
use crate::table::json_bytes;
use crate::{Cluster, render};

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// One document in one form.
struct Document {
    bytes: Bytes,
    etag: HeaderValue,
}

impl Document {
    fn new(tree: &Value) -> Self {
        let bytes = json_bytes(tree);
        let hash: String = Sha512::digest(&bytes).iter().map(|byte| format!("{byte:02X}")).collect();
        let etag = HeaderValue::from_str(&format!("\"{hash}\"")).unwrap_or(HeaderValue::from_static("\"\""));
        Self { bytes, etag }
    }
}

/// All documents; they change only with the binary.
pub(crate) struct Documents {
    /// By path, without form.
    plain: BTreeMap<String, Document>,
    /// `/api` and `/apis` in one document each.
    aggregated: BTreeMap<&'static str, Document>,
}

impl Documents {
    pub(crate) fn new(cluster: &Cluster) -> Self {
        let mut plain = BTreeMap::new();
        let mut add = |path: String, tree: Value| drop(plain.insert(path, Document::new(&tree)));
        add("/api".to_owned(), versions(cluster));
        add("/apis".to_owned(), groups());
        for (group, version) in served() {
            let root = if group.is_empty() { "/api".to_owned() } else { format!("/apis/{group}") };
            add(format!("{root}/{version}"), resources(group, version));
            if !group.is_empty() {
                add(root, with_type(self::group(group, version), "APIGroup"));
            }
        }
        let aggregated = BTreeMap::from([
            ("/api", Document::new(&self::aggregated(true))),
            ("/apis", Document::new(&self::aggregated(false))),
        ]);
        Self { plain, aggregated }
    }

    /// The document at a path.
    pub(crate) fn answer(&self, headers: &HeaderMap, path: &str) -> Result<Option<Response<Body>>, Status> {
        if let Some(document) = self.aggregated.get(path) {
            if negotiate::wants_aggregated(headers)? {
                let mut response = conditional(headers, document, AGGREGATED);
                response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("public"));
                response.headers_mut().insert(ETAG, document.etag.clone());
                return Ok(Some(response));
            }
        } else {
            negotiate::plain(headers)?;
        }
        Ok(self.plain.get(path).map(|document| render::json(StatusCode::OK, document.bytes.clone())))
    }
}

/// A document, or word that the client already has it. A 304 carries no Content-Type: clients take it over into what they
/// have kept.
fn conditional(headers: &HeaderMap, document: &Document, content_type: &'static str) -> Response<Body> {
    let mut response = Response::new(wire::body::empty());
    if headers.get(IF_NONE_MATCH).is_some_and(|known| *known == document.etag) {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    } else {
        *response.body_mut() = wire::body::full(document.bytes.clone());
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    }
    response.headers_mut().insert(VARY, HeaderValue::from_static("Accept"));
    response
}

/// `GET /`.
pub(crate) fn index() -> Response<Body> {
    let mut paths = vec!["/api".to_owned(), "/api/v1".to_owned(), "/apis".to_owned(), "/apis/".to_owned()];
    for (group, version) in served().into_iter().filter(|(group, _)| !group.is_empty()) {
        paths.push(format!("/apis/{group}"));
        paths.push(format!("/apis/{group}/{version}"));
    }
    paths.extend(["/healthz", "/livez", "/openapi/v3", "/readyz", "/version"].map(str::to_owned));
    render::tree(StatusCode::OK, &json!({"paths": paths}))
}

/// The groups and versions that are served, core first.
pub(crate) fn served() -> Vec<(&'static str, &'static str)> {
    kind::group_versions()
}

fn kinds(group: &str, version: &str) -> impl Iterator<Item = &'static Kind> {
    kind::ALL.iter().filter(move |kind| kind.group == group && kind.version == version && !kind.plural.is_empty())
}

fn versions(cluster: &Cluster) -> Value {
    let address = std::net::SocketAddr::new(cluster.address, cluster.port).to_string();
    json!({"kind": "APIVersions", "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}]})
}

fn group(group: &str, version: &str) -> Value {
    let version = json!({"groupVersion": format!("{group}/{version}"), "version": version});
    json!({"name": group, "versions": [version], "preferredVersion": version})
}

fn with_type(tree: Value, kind: &str) -> Value {
    let mut typed = json!({"kind": kind, "apiVersion": "v1"});
    crate::tree::fields(&mut typed).extend(tree.as_object().cloned().unwrap_or_default());
    typed
}

fn groups() -> Value {
    let groups: Vec<_> =
        served().into_iter().filter(|(group, _)| !group.is_empty()).map(|(g, v)| group(g, v)).collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

fn words(verbs: &[Verb]) -> Vec<&'static str> {
    verbs.iter().map(|verb| verb.as_str()).collect()
}

fn resources(group: &str, version: &str) -> Value {
    let list: Vec<_> =
        kinds(group, version).flat_map(|kind| std::iter::once(resource(kind)).chain(parts(kind))).collect();
    let mut tree =
        json!({"kind": "APIResourceList", "groupVersion": kind::api_version(group, version), "resources": list});
    // Upstream's core list says no version of itself, and clients are used to it.
    if !group.is_empty() {
        tree["apiVersion"] = "v1".into();
    }
    tree
}

fn resource(kind: &Kind) -> Value {
    let mut row = json!({"name": kind.plural, "singularName": kind.singular, "namespaced": kind.is_namespaced(),
        "kind": kind.kind, "verbs": words(kind.verbs)});
    if !kind.short_names.is_empty() {
        row["shortNames"] = json!(kind.short_names);
    }
    if !kind.categories.is_empty() {
        row["categories"] = json!(kind.categories);
    }
    row
}

fn parts(kind: &'static Kind) -> impl Iterator<Item = Value> {
    kind.subresources.iter().map(|part| {
        let mut row = Map::new();
        row.insert("name".to_owned(), format!("{}/{}", kind.plural, part.name).into());
        row.insert("singularName".to_owned(), "".into());
        row.insert("namespaced".to_owned(), kind.is_namespaced().into());
        if (part.group, part.version) != (kind.group, kind.version) {
            row.insert("group".to_owned(), part.group.into());
            row.insert("version".to_owned(), part.version.into());
        }
        row.insert("kind".to_owned(), part.kind.into());
        row.insert("verbs".to_owned(), json!(words(part.verbs)));
        row.into()
    })
}

fn aggregated(core: bool) -> Value {
    let items: Vec<_> = served()
        .into_iter()
        .filter(|(group, _)| group.is_empty() == core)
        .map(|(group, version)| {
            let resources: Vec<_> = kinds(group, version).map(aggregated_resource).collect();
            let meta = if group.is_empty() { json!({}) } else { json!({"name": group}) };
            json!({"metadata": meta, "versions": [{"version": version, "freshness": "Current", "resources": resources}]})
        })
        .collect();
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items})
}

fn aggregated_resource(kind: &'static Kind) -> Value {
    // A group and version that go without saying are left empty.
    let type_of = |group: &str, version: &str, name: &str| {
        let own = (group, version) == (kind.group, kind.version);
        let (group, version) = if own { ("", "") } else { (group, version) };
        json!({"group": group, "version": version, "kind": name})
    };
    let mut row = json!({"resource": kind.plural, "scope": kind.scope.as_str(), "singularResource": kind.singular,
        "responseKind": type_of(kind.group, kind.version, kind.kind), "verbs": words(kind.verbs)});
    if !kind.short_names.is_empty() {
        row["shortNames"] = json!(kind.short_names);
    }
    if !kind.categories.is_empty() {
        row["categories"] = json!(kind.categories);
    }
    let parts: Vec<_> = kind
        .subresources
        .iter()
        .map(|part| {
            let kind = type_of(part.group, part.version, part.kind);
            json!({"subresource": part.name, "responseKind": kind, "verbs": words(part.verbs)})
        })
        .collect();
    if !parts.is_empty() {
        row["subresources"] = json!(parts);
    }
    row
}
