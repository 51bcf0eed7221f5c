//! OpenAPI v3: an index, and a document per group and version, made of the schema table and of the prose that the build
//! took from the k8s-openapi dependency.
//!
//! Documents are made when they are asked for and not kept: clients keep them, by a hash that changes with the binary only.

mod v2;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::Read;
use std::sync::OnceLock;

use api::kind::{self, Kind, Verb};
use api::query::Query;
use api::schema::{self, Field, ListType, Shape, Type};
use api::status::Status;
use http::header::{CACHE_CONTROL, ETAG, EXPIRES, IF_NONE_MATCH, LOCATION, VARY};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use wire::Body;

use crate::{Cluster, discovery, negotiate, render};

static PROSE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/prose.zlib"));
const QUANTITY: &str = "io.k8s.apimachinery.pkg.api.resource.Quantity";
const INT_OR_STRING: &str = "io.k8s.apimachinery.pkg.util.intstr.IntOrString";
const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";

/// The index and the documents.
pub(crate) struct OpenApi {
    hash: String,
    version: String,
}

impl OpenApi {
    pub(crate) fn new(cluster: &Cluster) -> Self {
        let mut hasher = Sha256::new();
        hasher.update(PROSE);
        hasher.update(env!("CARGO_PKG_VERSION"));
        hasher.update(&cluster.commit);
        hasher.update(&cluster.version);
        hasher.update(format!("{:?}", kind::ALL));
        let hash = hasher.finalize().iter().map(|byte| format!("{byte:02X}")).collect();
        Self { hash, version: cluster.version.clone() }
    }

    /// The document at a path below `/openapi`.
    pub(crate) fn answer(
        &self,
        headers: &HeaderMap,
        query: &Query,
        path: &str,
    ) -> Result<Option<Response<Body>>, Status> {
        if path == "/openapi/v2" {
            return Ok(Some(v2::answer(headers, &self.version)));
        }
        let Some(rest) = path.strip_prefix("/openapi/v3") else { return Ok(None) };
        negotiate::plain(headers)?;
        if rest.is_empty() {
            return Ok(Some(self.index()));
        }
        let group = discovery::served().into_iter().find(|(group, version)| rest[1..] == place(group, version));
        let Some((group, version)) = group else { return Ok(None) };
        match query.non_empty("hash") {
            Some(hash) if hash != self.hash => Ok(Some(self.elsewhere(path))),
            hash => Ok(Some(self.document(headers, group, version, hash.is_some()))),
        }
    }

    fn index(&self) -> Response<Body> {
        let paths: Map<_, _> = discovery::served()
            .into_iter()
            .map(|(group, version)| {
                let place = place(group, version);
                let url = format!("/openapi/v3/{place}?hash={}", self.hash);
                (place, json!({"serverRelativeURL": url}))
            })
            .collect();
        render::tree(StatusCode::OK, &json!({"paths": paths}))
    }

    fn etag(&self) -> HeaderValue {
        HeaderValue::from_str(&format!("\"{}\"", self.hash)).unwrap_or(HeaderValue::from_static("\"\""))
    }

    fn elsewhere(&self, path: &str) -> Response<Body> {
        let mut response = Response::new(wire::body::empty());
        *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
        if let Ok(place) = HeaderValue::from_str(&format!("{path}?hash={}", self.hash)) {
            response.headers_mut().insert(LOCATION, place);
        }
        response
    }

    fn document(&self, headers: &HeaderMap, group: &str, version: &str, hashed: bool) -> Response<Body> {
        let etag = self.etag();
        if headers.get(IF_NONE_MATCH).is_some_and(|known| *known == etag) {
            let mut response = Response::new(wire::body::empty());
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            response.headers_mut().insert(ETAG, etag);
            return response;
        }
        let mut response = render::tree(StatusCode::OK, &document(&self.version, group, version));
        let headers = response.headers_mut();
        headers.insert(ETAG, etag);
        headers.insert(VARY, HeaderValue::from_static("Accept"));
        if hashed {
            headers.insert(CACHE_CONTROL, HeaderValue::from_static("public, immutable"));
            headers.insert(EXPIRES, HeaderValue::from_static("Fri, 31 Dec 2100 23:59:59 GMT"));
        }
        response
    }
}

/// `api/v1`, `apis/GROUP/VERSION`.
fn place(group: &str, version: &str) -> String {
    if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") }
}

fn document(server_version: &str, group: &str, version: &str) -> Value {
    let kinds = || kind::ALL.iter().filter(|kind| kind.group == group && kind.version == version);
    let mut paths = Map::new();
    let mut wanted = BTreeSet::from([format!("{META}.DeleteOptions"), format!("{META}.Status")]);
    for kind in kinds() {
        add_paths(&mut paths, kind);
        wanted.insert(kind.schema.to_owned());
        let parts = kind.subresources.iter().filter_map(|part| kind::by_kind(part.group, part.version, part.kind));
        wanted.extend(parts.map(|part| part.schema.to_owned()));
    }
    let mut schemas = components(wanted);
    for kind in kinds().filter(|kind| !kind.list_kind.is_empty()) {
        add_list(&mut schemas, kind);
    }
    json!({"openapi": "3.0.0", "info": {"title": "Kubernetes", "version": server_version}, "paths": paths,
        "components": {"schemas": schemas}})
}

fn type_of(group: &str, version: &str, kind: &str) -> Value {
    json!({"group": group, "version": version, "kind": kind})
}

/// The paths of a kind, with one operation per verb. Clients look here for what a PATCH takes.
fn add_paths(paths: &mut Map<String, Value>, kind: &Kind) {
    if kind.plural.is_empty() {
        return;
    }
    let root = format!("/{}", place(kind.group, kind.version));
    let scoped = if kind.is_namespaced() { format!("{root}/namespaces/{{namespace}}") } else { root.clone() };
    let own = type_of(kind.group, kind.version, kind.kind);
    let all = format!("{scoped}/{}", kind.plural);
    let mut place_verbs = |path: String, verbs: &[Verb], own: &Value, schema: &str| {
        let operations: Map<_, _> = verbs.iter().map(|verb| operation(*verb, kind, own, schema)).collect();
        if !operations.is_empty() {
            paths.insert(path, operations.into());
        }
    };
    let of = |wanted: &[Verb]| kind.verbs.iter().copied().filter(|verb| wanted.contains(verb)).collect::<Vec<_>>();
    place_verbs(all.clone(), &of(&[Verb::List, Verb::Create, Verb::DeleteCollection]), &own, kind.schema);
    let one = format!("{all}/{{name}}");
    place_verbs(one.clone(), &of(&[Verb::Get, Verb::Update, Verb::Patch, Verb::Delete]), &own, kind.schema);
    if kind.is_namespaced() && kind.allows(Verb::List) {
        place_verbs(format!("{root}/{}", kind.plural), &[Verb::List], &own, kind.schema);
    }
    for part in kind.subresources {
        let schema = kind::by_kind(part.group, part.version, part.kind).map_or("", |kind| kind.schema);
        let own = type_of(part.group, part.version, part.kind);
        place_verbs(format!("{one}/{}", part.name), part.verbs, &own, schema);
    }
}

fn operation(verb: Verb, kind: &Kind, own: &Value, schema: &str) -> (String, Value) {
    let method = match verb {
        Verb::Create => "post",
        Verb::Delete | Verb::DeleteCollection => "delete",
        Verb::Get | Verb::List | Verb::Watch => "get",
        Verb::Patch => "patch",
        Verb::Update => "put",
    };
    let action = match verb {
        Verb::Create => "post",
        Verb::Update => "put",
        other => other.as_str(),
    };
    let parameters: Vec<_> = parameters(verb).iter().map(|(name, kind)| query(name, kind)).collect();
    let body = |schema: &str| json!({"content": {"*/*": {"schema": {"$ref": reference(schema)}}}, "required": true});
    let mut operation = json!({"operationId": format!("{}{}", verb.as_str(), kind.kind), "parameters": parameters,
        "responses": {"200": {"description": "OK"}}, "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind": own});
    if matches!(verb, Verb::Create | Verb::Update) && !schema.is_empty() {
        operation["requestBody"] = body(schema);
    }
    if verb == Verb::Patch {
        operation["requestBody"] = body(&format!("{META}.Patch"));
    }
    (method.to_owned(), operation)
}

fn parameters(verb: Verb) -> &'static [(&'static str, &'static str)] {
    match verb {
        Verb::Create | Verb::Update => {
            &[("dryRun", "string"), ("fieldManager", "string"), ("fieldValidation", "string")]
        }
        Verb::Patch => {
            &[("dryRun", "string"), ("fieldManager", "string"), ("fieldValidation", "string"), ("force", "boolean")]
        }
        Verb::Delete => &[("dryRun", "string"), ("gracePeriodSeconds", "integer"), ("propagationPolicy", "string")],
        Verb::Get => &[],
        Verb::List | Verb::Watch | Verb::DeleteCollection => &[
            ("allowWatchBookmarks", "boolean"),
            ("continue", "string"),
            ("fieldSelector", "string"),
            ("labelSelector", "string"),
            ("limit", "integer"),
            ("resourceVersion", "string"),
            ("resourceVersionMatch", "string"),
            ("sendInitialEvents", "boolean"),
            ("timeoutSeconds", "integer"),
            ("watch", "boolean"),
        ],
    }
}

fn query(name: &str, kind: &str) -> Value {
    json!({"name": name, "in": "query", "schema": {"type": kind, "uniqueItems": true}})
}

fn reference(name: &str) -> String {
    format!("#/components/schemas/{name}")
}

/// The schemas of some types and of all that they are made of.
fn components(wanted: BTreeSet<String>) -> BTreeMap<String, Value> {
    let prose = Prose::read();
    let mut found = BTreeMap::new();
    let mut open: Vec<_> = wanted.into_iter().collect();
    while let Some(name) = open.pop() {
        if found.contains_key(&name) {
            continue;
        }
        let Some(of) = schema::lookup(&name) else { continue };
        open.extend(of.fields.iter().filter_map(|field| field.shape.target()).map(|target| target.name.to_owned()));
        found.insert(name, of_type(of, prose));
    }
    for (name, value) in scalars() {
        found.insert(name, value);
    }
    found
}

/// Types that are no structs in JSON.
fn scalars() -> [(String, Value); 7] {
    let about = |name: &str| Prose::read().of(name).to_owned();
    let time = json!({"type": "string", "format": "date-time"});
    [
        (
            QUANTITY.to_owned(),
            json!({"description": about(QUANTITY), "oneOf": [{"type": "string"}, {"type": "number"}]}),
        ),
        (
            INT_OR_STRING.to_owned(),
            json!({"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]}),
        ),
        (format!("{META}.Time"), time.clone()),
        (format!("{META}.MicroTime"), time),
        (format!("{META}.Duration"), json!({"type": "string"})),
        (format!("{META}.FieldsV1"), json!({"type": "object"})),
        (format!("{META}.Patch"), json!({"type": "object"})),
    ]
}

fn of_type(of: &Type, prose: &Prose) -> Value {
    let mut schema = json!({"type": "object"});
    let about = prose.of(of.name);
    if !about.is_empty() {
        schema["description"] = about.into();
    }
    let properties: Map<_, _> = of
        .fields
        .iter()
        .map(|field| (field.name.to_owned(), of_field(field, prose.of_field(of.name, field.name))))
        .collect();
    let required: Vec<_> = of.fields.iter().filter(|field| field.required).map(|field| field.name).collect();
    if !properties.is_empty() {
        schema["properties"] = properties.into();
    }
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    let kinds: Vec<_> = kind::ALL
        .iter()
        .filter(|kind| kind.schema == of.name)
        .map(|kind| type_of(kind.group, kind.version, kind.kind))
        .collect();
    if !kinds.is_empty() {
        schema["x-kubernetes-group-version-kind"] = json!(kinds);
    }
    if of.atomic {
        schema["x-kubernetes-map-type"] = "atomic".into();
    }
    schema
}

fn of_field(field: &Field, about: &str) -> Value {
    let mut schema = of_shape(&field.shape);
    if schema.get("$ref").is_some() {
        // A reference takes nothing beside it, so it is wrapped.
        schema = json!({"allOf": [schema]});
    }
    if !about.is_empty() {
        schema["description"] = about.into();
    }
    if let Some(default) = field.default.and_then(|text| serde_json::from_str(text).ok()) {
        schema["default"] = default;
    }
    if matches!(field.shape.bare(), Shape::List(_)) {
        let (kind, keys) = match &field.list {
            ListType::Atomic => ("atomic", None),
            ListType::Set => ("set", None),
            ListType::Map(keys) => ("map", Some(keys)),
        };
        schema["x-kubernetes-list-type"] = kind.into();
        if let Some(keys) = keys {
            schema["x-kubernetes-list-map-keys"] = json!(keys);
        }
    } else if field.atomic {
        schema["x-kubernetes-map-type"] = "atomic".into();
    }
    if let Some(key) = field.merge_key {
        schema["x-kubernetes-patch-merge-key"] = key.into();
    }
    let strategy = match (field.merges, field.retains_keys) {
        (true, true) => "merge,retainKeys",
        (true, false) => "merge",
        (false, true) => "retainKeys",
        (false, false) => return schema,
    };
    schema["x-kubernetes-patch-strategy"] = strategy.into();
    schema
}

fn of_shape(shape: &Shape) -> Value {
    let refer = |name: &str| json!({"$ref": reference(name)});
    match shape {
        Shape::String => json!({"type": "string"}),
        Shape::Bytes => json!({"type": "string", "format": "byte"}),
        Shape::Bool => json!({"type": "boolean"}),
        Shape::Int32 => json!({"type": "integer", "format": "int32"}),
        Shape::Int64 => json!({"type": "integer", "format": "int64"}),
        Shape::Float64 => json!({"type": "number", "format": "double"}),
        Shape::Quantity => refer(QUANTITY),
        Shape::IntOrString => refer(INT_OR_STRING),
        Shape::Time => refer(&format!("{META}.Time")),
        Shape::MicroTime => refer(&format!("{META}.MicroTime")),
        Shape::Duration => refer(&format!("{META}.Duration")),
        Shape::Fields => refer(&format!("{META}.FieldsV1")),
        Shape::Any => json!({}),
        Shape::Raw => json!({"type": "object"}),
        Shape::Struct(name) => refer(name),
        Shape::List(item) => json!({"type": "array", "items": wrapped(of_shape(item))}),
        Shape::Map(value) => json!({"type": "object", "additionalProperties": wrapped(of_shape(value))}),
        Shape::Named(inner, _) => of_shape(inner),
    }
}

/// Items are wrapped as upstream wraps them.
fn wrapped(schema: Value) -> Value {
    if schema.get("$ref").is_some() { json!({"allOf": [schema]}) } else { schema }
}

fn add_list(schemas: &mut BTreeMap<String, Value>, kind: &Kind) {
    let meta = format!("{META}.ListMeta");
    schemas.extend(components(BTreeSet::from([meta.clone()])));
    let text = |about: &str| json!({"type": "string", "description": about});
    let list = json!({"type": "object", "required": ["items"],
        "properties": {
            "apiVersion": text("The version of the list."),
            "kind": text("The kind of the list."),
            "metadata": {"allOf": [{"$ref": reference(&meta)}]},
            "items": {"type": "array", "items": {"allOf": [{"$ref": reference(kind.schema)}]}}},
        "x-kubernetes-group-version-kind": [type_of(kind.group, kind.version, kind.list_kind)]});
    schemas.insert(format!("{}List", kind.schema), list);
}

/// What types and fields are for, in words.
struct Prose {
    types: HashMap<String, (String, HashMap<String, String>)>,
}

impl Prose {
    /// Unpacks it, once.
    fn read() -> &'static Self {
        static READ: OnceLock<Prose> = OnceLock::new();
        READ.get_or_init(|| {
            let mut text = String::new();
            if let Err(error) = flate2::read::ZlibDecoder::new(PROSE).read_to_string(&mut text) {
                tracing::error!(%error, "the prose of the API cannot be unpacked");
            }
            Self::parse(&text)
        })
    }

    fn parse(text: &str) -> Self {
        let mut types: HashMap<String, (String, HashMap<String, String>)> = HashMap::new();
        let mut current = None;
        for line in text.lines() {
            let Some((name, about)) = line.split_once('\t') else { continue };
            let about = about.replace("\\n", "\n");
            match name.strip_prefix('=') {
                Some(name) => {
                    types.insert(name.to_owned(), (about, HashMap::new()));
                    current = Some(name);
                }
                None => {
                    if let Some((_, fields)) = current.and_then(|current| types.get_mut(current)) {
                        fields.insert(name.to_owned(), about);
                    }
                }
            }
        }
        Self { types }
    }

    fn of(&self, name: &str) -> &str {
        self.types.get(name).map(|(about, _)| about.as_str()).unwrap_or_default()
    }

    fn of_field(&self, name: &str, field: &str) -> &str {
        let fields = self.types.get(name).map(|(_, fields)| fields);
        fields.and_then(|fields| fields.get(field)).map(String::as_str).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_patch_takes_field_validation() {
        for (group, version) in discovery::served() {
            let document = document("v1", group, version);
            for (path, operations) in document["paths"].as_object().expect("paths") {
                let Some(patch) = operations.get("patch") else { continue };
                let names: Vec<_> =
                    patch["parameters"].as_array().expect("a list").iter().map(|p| &p["name"]).collect();
                assert!(names.iter().any(|name| *name == "fieldValidation"), "{path}");
            }
        }
    }

    #[test]
    fn every_reference_leads_somewhere() {
        for (group, version) in discovery::served() {
            let document = document("v1", group, version);
            let text = document.to_string();
            let schemas = document["components"]["schemas"].as_object().expect("schemas");
            for name in text.split("#/components/schemas/").skip(1).filter_map(|rest| rest.split('"').next()) {
                assert!(schemas.contains_key(name), "{group}/{version}: {name}");
            }
        }
    }

    #[test]
    fn containers_are_explained() {
        let document = document("v1", "", "v1");
        let container = &document["components"]["schemas"]["io.k8s.api.core.v1.Container"];
        let env = &container["properties"]["env"];
        assert!(env["description"].as_str().is_some_and(|text| !text.is_empty()), "{env}");
        assert_eq!(env["x-kubernetes-patch-merge-key"], "name");
        assert_eq!(env["x-kubernetes-list-type"], "map");
    }
}
