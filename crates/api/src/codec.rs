//! The forms in which objects travel: JSON, protobuf, YAML.

pub mod json;

pub mod yaml;

mod zero;
