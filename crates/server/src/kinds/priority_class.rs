//! PriorityClass: a name for how important pods are.

use api::field::{FieldError, Path};
use serde_json::{Value, json};

use super::{Behaviour, check, meta};
use crate::table::{Column, age_cell};
use crate::tree::{default_text, integer, is_set, text};

/// The highest value that users may give.
const HIGHEST: i64 = 1_000_000_000;
/// The classes of the system, with their values.
pub(crate) const SYSTEM: [(&str, i64); 2] =
    [("system-cluster-critical", 2_000_000_000), ("system-node-critical", 2_000_001_000)];

pub(super) const BEHAVIOUR: Behaviour = Behaviour {
    defaults: |class| default_text(class, "preemptionPolicy", "PreemptLowerPriority"),
    validate,
    validate_update: |new, old| {
        let mut errors = Vec::new();
        for name in ["value", "preemptionPolicy"] {
            if new.get(name) != old.get(name) {
                errors.push(match name {
                    "value" => FieldError::forbidden(&Path::new(name), "may not be changed in an update."),
                    _ => {
                        let mut errors = Vec::new();
                        meta::immutable(&mut errors, new.get(name), old.get(name), &Path::new(name));
                        errors.remove(0)
                    }
                });
            }
        }
        errors
    },
    columns: &[
        Column::NAME,
        Column::count("Value", "How important its pods are."),
        Column { kind: "boolean", ..Column::text("Global-Default", "Whether pods without a class get it.") },
        Column::AGE,
        Column::text("PreemptionPolicy", "Whether its pods push out others."),
    ],
    cells: |object, now| {
        let default = is_set(object, "globalDefault");
        vec![
            json!(text(&object["metadata"], "name")),
            json!(integer(object, "value").unwrap_or_default()),
            json!(default),
            age_cell(object, now),
            json!(text(object, "preemptionPolicy")),
        ]
    },
    has_generation: true,
    name: check::dns_subdomain,
    ..Behaviour::PLAIN
};

fn validate(class: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let name = text(&class["metadata"], "name");
    let value = integer(class, "value").unwrap_or_default();
    let known = SYSTEM.iter().any(|(system, number)| *system == name && *number == value);
    if name.starts_with("system-") {
        if !known {
            let detail = format!(
                "priority class names with 'system-' prefix are reserved for system use only. error: {name} is not a known \
                 system priority class"
            );
            errors.push(FieldError::forbidden(&Path::new("metadata").child("name"), detail));
        }
    } else if value > HIGHEST {
        let detail = format!("maximum allowed value of a user defined priority is {HIGHEST}");
        errors.push(FieldError::forbidden(&Path::new("value"), detail));
    }
    let policy = text(class, "preemptionPolicy");
    check::one_of(&mut errors, &Path::new("preemptionPolicy"), policy, &["PreemptLowerPriority", "Never"]);
    errors
}
