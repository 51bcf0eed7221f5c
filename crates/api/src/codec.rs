//! The forms in which objects travel: JSON, protobuf, YAML.

pub mod json;

pub mod protobuf;

pub mod yaml;

mod zero;
