//! Reads the file of facts into the table. The file is ours and tested, so a bad line is a bug and panics.

use std::collections::HashMap;

use super::{Field, ListType, Shape, Slot, Type};

/// One line of a struct: a field, or the struct whose fields stand here.
struct Line {
    inline: Option<&'static str>,
    field: Field,
}

type Raw = HashMap<&'static str, (bool, Vec<Line>)>;

/// The table of the facts in `text`.
pub(super) fn table(text: &'static str) -> HashMap<&'static str, Type> {
    let raw = raw(text);
    raw.iter().map(|(name, (atomic, lines))| (*name, build(name, *atomic, lines, &raw))).collect()
}

fn raw(text: &'static str) -> Raw {
    let mut raw = Raw::new();
    let mut current = "";
    for line in text.lines().filter(|l| !l.starts_with('#')) {
        if let Some(rest) = line.strip_prefix(' ') {
            raw.get_mut(current).expect("fields follow their type").1.push(read_line(rest));
        } else {
            let (name, flags) = line.split_once(' ').unwrap_or((line, ""));
            current = name;
            raw.insert(name, (flags == "atomic", Vec::new()));
        }
    }
    raw
}

fn build(name: &'static str, atomic: bool, lines: &[Line], raw: &Raw) -> Type {
    let mut fields = Vec::new();
    let mut by_number = Vec::new();
    for line in lines {
        match line.inline {
            Some(inner) => {
                push_inlined(&mut fields, inner, "", raw);
                by_number.push((line.field.number, Slot::Inline(inner)));
            }
            None => {
                by_number.push((line.field.number, Slot::Field(fields.len())));
                fields.push(line.field.clone());
            }
        }
    }
    by_number.retain(|(n, _)| *n != 0);
    by_number.sort_by_key(|(n, _)| *n);
    let by_name = fields.iter().enumerate().map(|(i, f): (usize, &Field)| (f.name, i)).collect();
    let always = (0..fields.len()).filter(|i| is_always_written(&fields[*i])).collect();
    Type { name, atomic, fields, by_name, by_number, always }
}

fn push_inlined(fields: &mut Vec<Field>, name: &str, through: &str, raw: &Raw) {
    let through = format!("{through}{}.", name.rsplit('.').next().unwrap_or(name));
    for line in &raw.get(name).expect("inlined types are in the file").1 {
        match line.inline {
            Some(inner) => push_inlined(fields, inner, &through, raw),
            None => fields.push(Field { through: through.clone(), ..line.field.clone() }),
        }
    }
}

/// Whether Go's JSON encoder writes the field even if it was never set: no `omitempty`, or a struct by value, which
/// `omitempty` does not concern.
fn is_always_written(field: &Field) -> bool {
    let is_value_struct = !field.pointer
        && matches!(
            field.shape.bare(),
            Shape::Struct(_) | Shape::Time | Shape::MicroTime | Shape::Quantity | Shape::IntOrString | Shape::Raw
        );
    !field.omitzero && (!field.omitempty || is_value_struct)
}

fn read_line(line: &'static str) -> Line {
    let mut words = line.split(' ');
    let name = words.next().unwrap_or_default();
    let shape = shape(words.next().expect("a field has a shape"));
    let number = words.next().and_then(|n| n.parse().ok()).expect("a field has a number");
    let inline = match &shape {
        Shape::Struct(inner) if name == "+" => Some(*inner),
        _ => None,
    };
    let mut field = Field {
        name,
        number,
        shape,
        pointer: false,
        omitempty: false,
        omitzero: false,
        required: false,
        list: ListType::Atomic,
        atomic: false,
        merge_key: None,
        merges: false,
        replaces: false,
        retains_keys: false,
        default: None,
        through: String::new(),
    };
    words.for_each(|word| apply(&mut field, word));
    Line { inline, field }
}

fn apply(field: &mut Field, word: &'static str) {
    match word.split_once('=') {
        None if word == "p" => field.pointer = true,
        None if word == "o" => field.omitempty = true,
        None if word == "z" => field.omitzero = true,
        None if word == "r" => field.required = true,
        Some(("mk", key)) => field.merge_key = Some(key),
        Some(("ps", strategy)) => {
            field.merges = strategy.split(',').any(|s| s == "merge");
            field.replaces = strategy.split(',').any(|s| s == "replace");
            field.retains_keys = strategy.split(',').any(|s| s == "retainKeys");
        }
        Some(("lt", "set")) => field.list = ListType::Set,
        Some(("lk", keys)) => field.list = ListType::Map(keys.split(',').collect()),
        Some(("mt" | "st", how)) => field.atomic = how == "atomic",
        Some(("df", default)) => field.default = Some(default),
        _ => {}
    }
}

fn shape(text: &'static str) -> Shape {
    if let Some(item) = text.strip_prefix("[]") {
        return Shape::List(Box::new(shape(item)));
    }
    if let Some(value) = text.strip_prefix("{}") {
        return Shape::Map(Box::new(shape(value)));
    }
    if let Some(name) = text.strip_prefix('@') {
        return Shape::Struct(name);
    }
    if let Some((name, inner)) = text.split_once(':') {
        return Shape::Named(Box::new(shape(inner)), name);
    }
    scalar(text)
}

fn scalar(text: &str) -> Shape {
    match text {
        "string" => Shape::String,
        "bytes" => Shape::Bytes,
        "bool" => Shape::Bool,
        "int32" => Shape::Int32,
        "int64" => Shape::Int64,
        "float64" => Shape::Float64,
        "quantity" => Shape::Quantity,
        "intorstring" => Shape::IntOrString,
        "time" => Shape::Time,
        "microtime" => Shape::MicroTime,
        "duration" => Shape::Duration,
        "any" => Shape::Any,
        "raw" => Shape::Raw,
        "fields" => Shape::Fields,
        other => panic!("unknown shape {other}"),
    }
}
