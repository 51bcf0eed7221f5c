//! The forms in which objects travel: JSON, protobuf, YAML.

pub mod yaml;
