//! The fields of every type as data: what decoding, protobuf, patches, apply and OpenAPI all read. The facts are
//! made by `cargo xtask schema`; prose and behaviour are not here.

mod read;

use std::collections::HashMap;
use std::sync::OnceLock;

/// A struct of the API.
#[derive(Debug)]
pub struct Type {
    /// Its OpenAPI name: `io.k8s.api.core.v1.Pod`.
    pub name: &'static str,
    /// Changed only as a whole by server-side apply.
    pub atomic: bool,
    /// Its fields in Go's order; those of inlined structs stand in their place.
    pub fields: Vec<Field>,
    by_name: HashMap<&'static str, usize>,
    by_number: Vec<(u32, Slot)>,
    /// Those fields (by index) that Go's JSON encoder writes even when they were never set.
    pub always: Vec<usize>,
}

/// What a protobuf number of a message leads to.
#[derive(Debug, Clone, Copy)]
pub enum Slot {
    /// A field.
    Field(usize),
    /// A message whose fields JSON shows in this struct.
    Inline(&'static str),
}

/// One field.
#[derive(Debug, Clone)]
pub struct Field {
    /// Its JSON name.
    pub name: &'static str,
    /// Its protobuf number; 0 if it has none.
    pub number: u32,
    /// What it holds.
    pub shape: Shape,
    /// A pointer in Go: a zero is a value, not an absence.
    pub pointer: bool,
    /// JSON leaves it out when it is empty.
    pub omitempty: bool,
    /// JSON leaves it out when it is zero, structs included.
    pub omitzero: bool,
    /// Upstream's documents list it as required.
    pub required: bool,
    /// How server-side apply tells the items of its list apart.
    pub list: ListType,
    /// Its map or struct is changed only as a whole by server-side apply.
    pub atomic: bool,
    /// The key by which strategic merge tells the items of its list apart.
    pub merge_key: Option<&'static str>,
    /// Strategic merge joins it with what is there, by key or as a set.
    pub merges: bool,
    /// Strategic merge replaces it as a whole although it is a struct.
    pub replaces: bool,
    /// Strategic merge honours `$retainKeys` for it.
    pub retains_keys: bool,
    /// The default that stands in upstream's documents, as JSON.
    pub default: Option<&'static str>,
    /// The inlined structs that it comes through, each with a dot behind it; messages show them.
    pub through: String,
}

/// How server-side apply sees a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListType {
    /// One value (also for what is no list).
    Atomic,
    /// Scalars without order or repeats.
    Set,
    /// Items with these keys.
    Map(Vec<&'static str>),
}

/// What a field holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shape {
    /// Text.
    String,
    /// Base64 text in JSON.
    Bytes,
    /// True or false.
    Bool,
    /// 32 bits, signed.
    Int32,
    /// 64 bits, signed.
    Int64,
    /// A number.
    Float64,
    /// `100m`, `1Gi`.
    Quantity,
    /// A number or text.
    IntOrString,
    /// RFC 3339, whole seconds.
    Time,
    /// RFC 3339, six decimals.
    MicroTime,
    /// Go's `1m30s`.
    Duration,
    /// Any JSON: a schema's default or example.
    Any,
    /// Any JSON object: an object whose kind only its reader knows.
    Raw,
    /// Any JSON: the field set of server-side apply.
    Fields,
    /// A struct.
    Struct(&'static str),
    /// A list.
    List(Box<Shape>),
    /// A map with text keys.
    Map(Box<Shape>),
    /// A shape with a Go name of its own, which error messages show and which protobuf wraps if it is a list.
    Named(Box<Shape>, &'static str),
}

impl Shape {
    /// Without the Go name.
    pub fn bare(&self) -> &Self {
        match self {
            Self::Named(inner, _) => inner.bare(),
            other => other,
        }
    }

    /// As Go prints the type.
    pub fn go(&self) -> String {
        match self {
            Self::String => "string".to_owned(),
            Self::Bytes => "[]uint8".to_owned(),
            Self::Bool => "bool".to_owned(),
            Self::Int32 => "int32".to_owned(),
            Self::Int64 => "int64".to_owned(),
            Self::Float64 => "float64".to_owned(),
            Self::Quantity => "resource.Quantity".to_owned(),
            Self::IntOrString => "intstr.IntOrString".to_owned(),
            Self::Time => "v1.Time".to_owned(),
            Self::MicroTime => "v1.MicroTime".to_owned(),
            Self::Duration => "v1.Duration".to_owned(),
            Self::Any => "interface {}".to_owned(),
            Self::Raw => "runtime.RawExtension".to_owned(),
            Self::Fields => "v1.FieldsV1".to_owned(),
            Self::Struct(name) => {
                let mut parts = name.rsplit('.');
                let (last, package) = (parts.next().unwrap_or(name), parts.next().unwrap_or("v1"));
                format!("{package}.{last}")
            }
            Self::List(item) => format!("[]{}", item.go()),
            Self::Map(value) => format!("map[string]{}", value.go()),
            Self::Named(_, name) => (*name).to_owned(),
        }
    }

    /// The struct it is or holds, through lists and maps.
    pub fn target(&self) -> Option<&'static Type> {
        match self {
            Self::Struct(name) => lookup(name),
            Self::List(inner) | Self::Map(inner) | Self::Named(inner, _) => inner.target(),
            _ => None,
        }
    }
}

impl Type {
    /// The field of that JSON name.
    pub fn field(&self, name: &str) -> Option<&Field> {
        self.by_name.get(name).map(|i| &self.fields[*i])
    }

    /// The index in `fields` of the field of that JSON name.
    pub fn index(&self, name: &str) -> Option<usize> {
        self.by_name.get(name).copied()
    }

    /// What the protobuf field of that number is.
    pub fn slot(&self, number: u32) -> Option<Slot> {
        let at = self.by_number.binary_search_by_key(&number, |(n, _)| *n).ok()?;
        Some(self.by_number[at].1)
    }

    /// The last part of its name: `Pod`.
    pub fn short_name(&self) -> &'static str {
        self.name.rsplit('.').next().unwrap_or(self.name)
    }
}

fn table() -> &'static HashMap<&'static str, Type> {
    static TABLE: OnceLock<HashMap<&'static str, Type>> = OnceLock::new();
    TABLE.get_or_init(|| read::table(include_str!("../schema/facts.txt")))
}

/// The type of that OpenAPI name.
pub fn lookup(name: &str) -> Option<&'static Type> {
    table().get(name)
}

/// All types, in no order.
pub fn all() -> impl Iterator<Item = &'static Type> {
    table().values()
}

#[cfg(test)]
mod tests {
    use super::{ListType, Shape, all, lookup};
    use crate::kind;

    #[test]
    fn every_kind_and_every_reference_has_its_type() {
        for kind in kind::ALL {
            assert!(lookup(kind.schema).is_some(), "{}", kind.schema);
        }
        for t in all() {
            for f in &t.fields {
                let mut shape = f.shape.bare();
                while let Shape::List(inner) | Shape::Map(inner) | Shape::Named(inner, _) = shape {
                    shape = inner;
                }
                assert_eq!(matches!(shape, Shape::Struct(_)), f.shape.target().is_some(), "{} {}", t.name, f.name);
            }
        }
    }

    #[test]
    fn the_facts_of_some_fields() {
        let container = lookup("io.k8s.api.core.v1.Container").expect("known");
        let ports = container.field("ports").expect("known");
        assert_eq!(ports.list, ListType::Map(vec!["containerPort", "protocol"]));
        assert_eq!((ports.merge_key, ports.merges, ports.number), (Some("containerPort"), true, 6));
        assert_eq!(ports.shape.go(), "[]v1.ContainerPort");
        assert_eq!(container.field("imagePullPolicy").expect("known").shape.go(), "v1.PullPolicy");
        let volume = lookup("io.k8s.api.core.v1.Volume").expect("known");
        assert!(volume.field("emptyDir").expect("inlined").pointer);
        let volumes = lookup("io.k8s.api.core.v1.PodSpec").expect("known").field("volumes").expect("known").clone();
        assert!(volumes.merges && volumes.retains_keys);
        assert!(lookup("io.k8s.api.core.v1.ObjectReference").expect("known").atomic);
        assert!(lookup("io.k8s.api.core.v1.PodSpec").expect("known").field("nodeSelector").expect("known").atomic);
    }
}
