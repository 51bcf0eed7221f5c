//! The writer. Its layout is that of the YAML library under kubectl: people compare the two outputs line by line.

mod order;
mod scalar;

use serde_json::{Map, Value};

/// A block of YAML that ends with a line break.
pub fn encode(value: &Value) -> String {
    let mut writer = Writer { out: String::with_capacity(1024), column: 0 };
    match value {
        Value::Object(fields) if !fields.is_empty() => writer.mapping(fields, 0),
        Value::Array(items) if !items.is_empty() => writer.sequence(items, 0),
        scalar => {
            writer.scalar(scalar, 2);
            writer.line_end();
        }
    }
    writer.out
}

/// Beyond this column a space becomes a line break.
const WIDTH: usize = 80;
/// A longer key is written on a line of its own.
const SIMPLE_KEY: usize = 128;

struct Writer {
    out: String,
    column: usize,
}

impl Writer {
    fn push(&mut self, text: &str) {
        self.out.push_str(text);
        self.column += text.chars().count();
    }

    fn push_char(&mut self, c: char) {
        self.out.push(c);
        self.column += 1;
    }

    fn line_end(&mut self) {
        self.out.push('\n');
        self.column = 0;
    }

    /// Spaces up to column `indent`.
    fn pad(&mut self, indent: usize) {
        while self.column < indent {
            self.push_char(' ');
        }
    }

    /// The entries, one a line; the first starts where the writer is.
    fn mapping(&mut self, fields: &Map<String, Value>, indent: usize) {
        let mut keys: Vec<&String> = fields.keys().collect();
        keys.sort_by(|a, b| order::compare(a, b));
        for key in keys {
            self.pad(indent);
            let simple = key.len() <= SIMPLE_KEY && !key.contains(scalar::is_break);
            if simple {
                self.key(key);
                self.push(":");
                self.value(&fields[key], indent);
            } else {
                self.push("? ");
                self.text(key, indent + 2);
                if self.column > 0 {
                    self.line_end();
                }
                self.pad(indent);
                self.push(":");
                self.item(&fields[key], indent);
            }
        }
    }

    fn sequence(&mut self, items: &[Value], indent: usize) {
        for item in items {
            self.pad(indent);
            self.push("-");
            self.item(item, indent);
        }
    }

    /// What follows a key: on the same line or below it. Lists are not indented below their key.
    fn value(&mut self, value: &Value, indent: usize) {
        match value {
            Value::Object(fields) if !fields.is_empty() => {
                self.line_end();
                self.mapping(fields, indent + 2);
            }
            Value::Array(items) if !items.is_empty() => {
                self.line_end();
                self.sequence(items, indent);
            }
            scalar => self.rest_of_line(scalar, indent),
        }
    }

    /// What follows a dash: always on the same line.
    fn item(&mut self, value: &Value, indent: usize) {
        match value {
            Value::Object(fields) if !fields.is_empty() => self.mapping(fields, indent + 2),
            Value::Array(items) if !items.is_empty() => self.sequence(items, indent + 2),
            scalar => self.rest_of_line(scalar, indent),
        }
    }

    fn rest_of_line(&mut self, value: &Value, indent: usize) {
        self.push(" ");
        self.scalar(value, indent + 2);
        if self.column > 0 {
            self.line_end();
        }
    }

    fn scalar(&mut self, value: &Value, indent: usize) {
        match value {
            Value::Null => self.push("null"),
            Value::Bool(true) => self.push("true"),
            Value::Bool(false) => self.push("false"),
            Value::Number(number) => self.push(&scalar::number(number)),
            Value::String(text) => self.text(text, indent),
            Value::Array(_) => self.push("[]"),
            Value::Object(_) => self.push("{}"),
        }
    }
}
