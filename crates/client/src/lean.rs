//! Objects without the part that only servers read.

use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::{Map, Value};

/// An object without its `metadata.managedFields`, for which not even memory was asked.
pub(crate) struct Lean(Value);

impl From<Lean> for Value {
    fn from(lean: Lean) -> Self {
        lean.0
    }
}

impl<'de> Deserialize<'de> for Lean {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Fields { of: Part::Object }).map(Self)
    }
}

#[derive(Clone, Copy)]
enum Part {
    Object,
    Metadata,
}

/// Reads the fields of a part.
struct Fields {
    of: Part,
}

impl<'de> Visitor<'de> for Fields {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(name) = fields.next_key::<String>()? {
            match (self.of, name.as_str()) {
                (Part::Object, "metadata") => drop(map.insert(name, fields.next_value::<Metadata>()?.0)),
                (Part::Metadata, "managedFields") => drop(fields.next_value::<IgnoredAny>()?),
                _ => drop(map.insert(name, fields.next_value()?)),
            }
        }
        Ok(Value::Object(map))
    }
}

struct Metadata(Value);

impl<'de> Deserialize<'de> for Metadata {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Fields { of: Part::Metadata }).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn lean(text: &str) -> Value {
        serde_json::from_str::<Lean>(text).unwrap().into()
    }

    #[test]
    fn only_the_managed_fields_are_missing() {
        let whole = json!({"kind": "Pod", "metadata": {"name": "a", "labels": {"managedFields": "x"}, "managedFields": [{"f": {}}]},
            "spec": {"metadata": {"managedFields": 1}, "managedFields": [2]}, "list": [1, "two", null]});
        let mut rest = whole.clone();
        rest["metadata"].as_object_mut().unwrap().remove("managedFields");
        assert_eq!(lean(&whole.to_string()), rest);
    }

    #[test]
    fn what_is_no_object_is_refused() {
        assert!(serde_json::from_str::<Lean>("[]").is_err());
        assert!(serde_json::from_str::<Lean>("{\"metadata\": 7}").is_err());
    }
}
