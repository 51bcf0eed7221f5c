//! Lease: who holds something, and until when.

use api::field::{FieldError, Path};
use serde_json::{Value, json};

use super::Behaviour;
use crate::table::{Column, age_cell};
use crate::tree::{integer, text};

pub(super) const BEHAVIOUR: Behaviour = Behaviour {
    validate,
    validate_update: |new, _| validate(new),
    columns: &[Column::NAME, Column::text("Holder", "Who holds it."), Column::AGE],
    cells: |object, now| {
        let holder = text(&object["spec"], "holderIdentity");
        vec![json!(text(&object["metadata"], "name")), json!(holder), age_cell(object, now)]
    },
    unconditional_update: false,
    create_on_update: true,
    ..Behaviour::PLAIN
};

fn validate(lease: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let path = Path::new("spec");
    let spec = &lease["spec"];
    if let Some(seconds) = integer(spec, "leaseDurationSeconds").filter(|seconds| *seconds <= 0) {
        errors.push(FieldError::invalid(&path.child("leaseDurationSeconds"), seconds, "must be greater than 0"));
    }
    if let Some(count) = integer(spec, "leaseTransitions").filter(|count| *count < 0) {
        errors.push(FieldError::invalid(&path.child("leaseTransitions"), count, "must be greater than or equal to 0"));
    }
    errors
}
