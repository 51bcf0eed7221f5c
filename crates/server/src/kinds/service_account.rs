//! ServiceAccount: who a pod is.

use serde_json::json;

use super::Behaviour;
use crate::table::{Column, age_cell};
use crate::tree::text;

pub(super) const BEHAVIOUR: Behaviour = Behaviour {
    columns: &[Column::NAME, Column::AGE],
    cells: |object, now| vec![json!(text(&object["metadata"], "name")), age_cell(object, now)],
    ..Behaviour::PLAIN
};
