//! What is particular to each kind: one file of pure functions per kind, gathered in a [`Behaviour`]. Everything else about
//! a kind is data in `api::kind` and `api::schema`; everything common is in `registry`.

pub(crate) mod check;
pub(crate) mod meta;

pub(crate) mod certificate_signing_request;
mod config_map;
mod event;
mod lease;
pub(crate) mod namespace;
mod node;
pub(crate) mod pod;
mod pod_disruption_budget;
mod pod_template;
mod priority_class;
mod secret;
mod selector;
mod service;
mod service_account;
mod workload;

use api::field::FieldError;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::table::Column;
use crate::tree::text;
use check::Wrongs;

pub(crate) use event::CONVERSION as EVENT_CONVERSION;
pub(crate) use priority_class::SYSTEM as SYSTEM_PRIORITIES;

/// The functions of a kind. All are pure; times are handed in.
#[derive(Clone, Copy)]
pub(crate) struct Behaviour {
    /// Fills in what was not said.
    pub(crate) defaults: fn(&mut Value),
    /// Clears and sets what a creator may not say.
    pub(crate) prepare_create: fn(&mut Value, Timestamp),
    /// Puts back what an update may not change: new, old.
    pub(crate) prepare_update: fn(&mut Value, &Value),
    /// The same for an update of the status.
    pub(crate) prepare_status: fn(&mut Value, &Value),
    /// What is wrong with a new object, beside its metadata.
    pub(crate) validate: fn(&Value) -> Vec<FieldError>,
    /// What is wrong with a changed object: new, old.
    pub(crate) validate_update: fn(&Value, &Value) -> Vec<FieldError>,
    /// What is wrong with a changed status: new, old.
    pub(crate) validate_status: fn(&Value, &Value) -> Vec<FieldError>,
    /// The rule for the name.
    pub(crate) name: fn(&str) -> Wrongs,
    /// The table's columns.
    pub(crate) columns: &'static [Column],
    /// An object's cells, one per column.
    pub(crate) cells: fn(&Value, Timestamp) -> Vec<Value>,
    /// The conditions of an object's row.
    pub(crate) row_conditions: fn(&Value) -> Option<Value>,
    /// The fields by which objects can be selected, beside name and namespace.
    pub(crate) fields: fn(&Value) -> Vec<(&'static str, String)>,
    /// What the author of a new object should know.
    pub(crate) warnings: fn(&Value) -> Vec<String>,
    /// For kinds whose objects get time to end: how many seconds, given what was asked for.
    pub(crate) grace: Option<fn(&Value, Option<i64>) -> i64>,
    /// Whether `metadata.generation` counts changes of the spec.
    pub(crate) has_generation: bool,
    /// Whether an update without a resourceVersion overwrites.
    pub(crate) unconditional_update: bool,
    /// Whether a PUT creates what is not there.
    pub(crate) create_on_update: bool,
}

impl Behaviour {
    /// A kind without anything particular.
    pub(crate) const PLAIN: Self = Self {
        defaults: |_| {},
        prepare_create: |_, _| {},
        prepare_update: |_, _| {},
        prepare_status: |_, _| {},
        validate: |_| Vec::new(),
        validate_update: |_, _| Vec::new(),
        validate_status: |_, _| Vec::new(),
        name: check::dns_subdomain,
        columns: &[Column::NAME, Column::AGE],
        cells: |object, now| vec![json!(text(&object["metadata"], "name")), crate::table::age_cell(object, now)],
        row_conditions: |_| None,
        fields: |_| Vec::new(),
        warnings: |_| Vec::new(),
        grace: None,
        has_generation: false,
        unconditional_update: true,
        create_on_update: false,
    };
}

/// The behaviour of a kind.
pub(crate) fn behaviour(kind: &str) -> &'static Behaviour {
    match kind {
        "CertificateSigningRequest" => &certificate_signing_request::BEHAVIOUR,
        "ConfigMap" => &config_map::BEHAVIOUR,
        "Deployment" => &workload::DEPLOYMENT,
        "Event" => &event::BEHAVIOUR,
        "Lease" => &lease::BEHAVIOUR,
        "Namespace" => &namespace::BEHAVIOUR,
        "Node" => &node::BEHAVIOUR,
        "Pod" => &pod::BEHAVIOUR,
        "PodDisruptionBudget" => &pod_disruption_budget::BEHAVIOUR,
        "PodTemplate" => &pod_template::BEHAVIOUR,
        "PriorityClass" => &priority_class::BEHAVIOUR,
        "ReplicationController" => &workload::REPLICATION_CONTROLLER,
        "Secret" => &secret::BEHAVIOUR,
        "Service" => &service::BEHAVIOUR,
        "ServiceAccount" => &service_account::BEHAVIOUR,
        _ => &Behaviour::PLAIN,
    }
}
