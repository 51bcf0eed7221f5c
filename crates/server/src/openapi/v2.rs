//! OpenAPI v2, as little of it as clients need: which kinds can be patched with `fieldValidation`.
//!
//! kubectl up to 1.28 asks for it before it creates anything, newer ones when a kind is unknown to version 3. They read it as a protobuf message of
//! gnostic's `OpenAPIv2.proto`, whose field numbers stand below; schemas are only in version 3.

use api::kind::{self, Kind, Verb};
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use serde_json::{Map, Value, json};
use wire::Body;

use crate::render;

const PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
/// How requests name it: with `@` before the version.
const ASKED: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
const PARAMETERS: [&str; 4] = ["dryRun", "fieldManager", "fieldValidation", "force"];
const TITLE: &str = "podling";

/// The document, in the form that is asked for.
pub(super) fn answer(headers: &HeaderMap, version: &str) -> Response<Body> {
    let accept = headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if !accept.contains(ASKED) {
        return render::tree(StatusCode::OK, &document(version));
    }
    let mut response = Response::new(wire::body::full(message(version)));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(PROTOBUF));
    response
}

fn patched() -> impl Iterator<Item = &'static Kind> {
    kind::ALL.iter().filter(|kind| kind.allows(Verb::Patch) && !kind.plural.is_empty())
}

fn path(kind: &Kind) -> String {
    let root = super::place(kind.group, kind.version);
    let scope = if kind.is_namespaced() { "namespaces/{namespace}/" } else { "" };
    format!("/{root}/{scope}{}/{{name}}", kind.plural)
}

fn document(version: &str) -> Value {
    let parameters: Vec<Value> =
        PARAMETERS.iter().map(|name| json!({"name": name, "in": "query", "type": "string"})).collect();
    let operation = |kind: &Kind| {
        let own = json!({"group": kind.group, "version": kind.version, "kind": kind.kind});
        json!({"patch": {"parameters": parameters, "responses": {}, "x-kubernetes-group-version-kind": own}})
    };
    let paths: Map<String, Value> = patched().map(|kind| (path(kind), operation(kind))).collect();
    json!({"swagger": "2.0", "info": {"title": TITLE, "version": version}, "paths": paths})
}

/// The same as gnostic's `Document`.
fn message(version: &str) -> Vec<u8> {
    let info = [field(1, TITLE.as_bytes()), field(2, version.as_bytes())].concat();
    let paths: Vec<u8> = patched().flat_map(|kind| field(2, &path_item(kind))).collect();
    [field(1, b"2.0"), field(2, &info), field(8, &paths)].concat()
}

/// `NamedPathItem { name, value: PathItem { patch } }`.
fn path_item(kind: &Kind) -> Vec<u8> {
    let parameters: Vec<u8> = PARAMETERS.iter().flat_map(|name| field(8, &parameter(name))).collect();
    // Values of extensions are YAML text.
    let own = format!("group: \"{}\"\nkind: {}\nversion: {}\n", kind.group, kind.kind, kind.version);
    let extension = [field(1, b"x-kubernetes-group-version-kind"), field(2, &field(2, own.as_bytes()))].concat();
    let operation = [parameters, field(9, b""), field(13, &extension)].concat();
    [field(1, path(kind).as_bytes()), field(2, &field(8, &operation))].concat()
}

/// `ParametersItem { parameter { non_body_parameter { query_parameter_sub_schema { in, name, type } } } }`.
fn parameter(name: &str) -> Vec<u8> {
    let query = [field(2, b"query"), field(4, name.as_bytes()), field(6, b"string")].concat();
    field(1, &field(2, &field(3, &query)))
}

/// One field of wire type 2: its key, its length, its bytes.
fn field(number: u32, content: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(content.len() + 6);
    varint(u64::from(number << 3 | 2), &mut out);
    varint(content.len() as u64, &mut out);
    out.extend_from_slice(content);
    out
}

fn varint(mut number: u64, out: &mut Vec<u8>) {
    while number >= 0x80 {
        out.push((number & 0x7f | 0x80) as u8);
        number >>= 7;
    }
    out.push(number as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_written_as_protobuf_has_them() {
        assert_eq!(field(13, &[7; 200])[..5], [0x6a, 0xc8, 0x01, 7, 7]);
        assert_eq!(field(1, b"2.0"), [0x0a, 3, b'2', b'.', b'0']);
    }

    #[test]
    fn each_kind_that_can_be_patched_has_a_path() {
        let document = document("v1");
        let pod = &document["paths"]["/api/v1/namespaces/{namespace}/pods/{name}"]["patch"];
        assert_eq!(pod["x-kubernetes-group-version-kind"]["kind"], "Pod");
        assert_eq!(document["paths"].as_object().unwrap().len(), patched().count());
    }
}
