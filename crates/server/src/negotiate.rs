//! In which form the client wants its answer.

use api::status::{Details, Status};
use http::HeaderMap;
use http::header::ACCEPT;

use crate::table::{Format, Include};

/// The forms that objects are answered in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// The objects themselves.
    Json,
    /// Rows for people.
    Table(Format),
    /// Metadata alone; the version of meta.k8s.io.
    Partial(&'static str),
}

/// What upstream offers. podling answers all of these with JSON, which every client reads.
const OFFERED: [&str; 3] = ["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];

/// One part of an Accept header.
struct Clause<'a> {
    media: &'a str,
    quality: f32,
    parameters: Vec<(&'a str, &'a str)>,
}

impl Clause<'_> {
    fn parameter(&self, name: &str) -> &str {
        self.parameters.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map_or("", |(_, value)| value)
    }

    fn is_json(&self) -> bool {
        matches!(
            self.media,
            "application/json" | "*/*" | "application/*" | "application/vnd.kubernetes.protobuf" | "application/cbor"
        )
    }
}

fn clauses(headers: &HeaderMap) -> Vec<Clause<'_>> {
    let values = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let mut clauses: Vec<_> = values.flat_map(|value| value.split(',')).filter_map(clause).collect();
    // Stable: clauses of equal quality stay in the client's order.
    clauses.sort_by(|a, b| b.quality.total_cmp(&a.quality));
    clauses
}

fn clause(text: &str) -> Option<Clause<'_>> {
    let mut parts = text.split(';').map(str::trim);
    let media = parts.next().filter(|media| !media.is_empty())?;
    let parameters: Vec<_> = parts.filter_map(|part| part.split_once('=')).map(|(k, v)| (k.trim(), v.trim())).collect();
    let quality =
        parameters.iter().find(|(name, _)| *name == "q").and_then(|(_, value)| value.parse().ok()).unwrap_or(1.0);
    Some(Clause { media, quality, parameters })
}

/// The form for objects. `include` is the query's word for what a table's rows carry; kinds without rows take no table.
pub(crate) fn form(headers: &HeaderMap, include: Option<&str>, has_rows: bool) -> Result<Form, Status> {
    let clauses = clauses(headers);
    if clauses.is_empty() {
        return Ok(Form::Json);
    }
    for clause in clauses.iter().filter(|clause| clause.is_json()) {
        let version = match clause.parameter("v") {
            "v1beta1" => "v1beta1",
            _ => "v1",
        };
        let ours = clause.parameter("g") == "meta.k8s.io" && ["v1", "v1beta1"].contains(&clause.parameter("v"));
        match clause.parameter("as") {
            "" => return Ok(Form::Json),
            "Table" if ours && has_rows => {
                return Ok(Form::Table(Format { version, include: self::include(include)? }));
            }
            "PartialObjectMetadata" | "PartialObjectMetadataList" if ours && has_rows => {
                return Ok(Form::Partial(version));
            }
            _ => {}
        }
    }
    let status = Status::not_acceptable(&OFFERED);
    Err(if has_rows { status.with_details(Details::default()) } else { status })
}

fn include(word: Option<&str>) -> Result<Include, Status> {
    match word {
        None | Some("" | "Metadata") => Ok(Include::Metadata),
        Some("Object") => Ok(Include::Object),
        Some("None") => Ok(Include::None),
        Some(other) => {
            let shown = api::field::quote(other);
            Err(Status::bad_request(format!(
                "Unable to convert to Table as requested: includeObject: Invalid value: {shown}: must be 'Metadata', \
                 'Object', 'None', or empty"
            )))
        }
    }
}

/// Whether a client takes plain JSON, for documents that have no other form.
pub(crate) fn plain(headers: &HeaderMap) -> Result<(), Status> {
    form(headers, None, false).map(drop)
}

/// Whether the client wants discovery in one document before it wants it in parts.
pub(crate) fn wants_aggregated(headers: &HeaderMap) -> Result<bool, Status> {
    for clause in clauses(headers).iter().filter(|clause| clause.is_json()) {
        match (clause.parameter("as"), clause.parameter("g"), clause.parameter("v")) {
            ("", ..) => return Ok(false),
            ("APIGroupDiscoveryList", "apidiscovery.k8s.io", "v2") => return Ok(true),
            _ => {}
        }
    }
    if headers.get(ACCEPT).is_none() { Ok(false) } else { Err(Status::not_acceptable(&OFFERED)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn accept(value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static(value))])
    }

    #[test]
    fn forms() {
        let form = |value, rows| super::form(&accept(value), None, rows).ok();
        let table = |version| Some(Form::Table(Format { version, include: Include::Metadata }));
        assert_eq!(super::form(&HeaderMap::new(), None, true).ok(), Some(Form::Json));
        assert_eq!(form("application/json, */*", true), Some(Form::Json));
        assert_eq!(form("application/json;as=Table;v=v1;g=meta.k8s.io,application/json", true), table("v1"));
        assert_eq!(form("application/json;as=Table;g=meta.k8s.io;v=v1beta1", true), table("v1beta1"));
        assert_eq!(form("application/json;as=Table;v=v1;g=meta.k8s.io", false), None);
        assert_eq!(form("application/json;as=Table;v=v1;g=meta.k8s.io,application/json", false), Some(Form::Json));
        assert_eq!(form("application/vnd.kubernetes.protobuf,application/json", true), Some(Form::Json));
        assert_eq!(form("text/html", true), None);
        assert_eq!(form("text/html;q=1,application/json;q=0.1", true), Some(Form::Json));
        let partial = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
        assert_eq!(form(partial, true), Some(Form::Partial("v1")));
    }

    #[test]
    fn aggregated_discovery() {
        let wants = |value| wants_aggregated(&accept(value)).ok();
        let v2 = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";
        assert_eq!(wants(v2), Some(true));
        let beta = "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json";
        assert_eq!(wants(beta), Some(false));
        assert_eq!(wants("application/json, */*"), Some(false));
    }
}
