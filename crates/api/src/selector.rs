//! Selectors: which objects a client means, by label and by field. Which fields a kind offers is not known here.

mod field;
mod label;
mod parse;

pub use field::{FieldSelector, Term};
pub use label::{LabelSelector, Operator, Requirement};
