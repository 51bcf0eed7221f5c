//! As much of Go's grammar as the API's type files use: type declarations with their fields, tags and markers.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, ensure};

/// Markers of a declaration: `+name=value` lines; repeated ones are joined by commas.
pub(super) type Markers = BTreeMap<String, String>;

/// The types of one package.
#[derive(Default)]
pub(super) struct Package {
    /// Import paths by the name they have in the files.
    pub(super) imports: BTreeMap<String, String>,
    /// Declarations by name.
    pub(super) types: BTreeMap<String, Declaration>,
}

/// One `type`.
pub(super) enum Declaration {
    /// A struct.
    Struct {
        /// Its markers.
        markers: Markers,
        /// Its fields in order.
        fields: Vec<Field>,
    },
    /// A new name for another type.
    Other {
        /// That type.
        go: String,
    },
}

/// One field of a struct.
pub(super) struct Field {
    /// Its Go name; of an embedded field its type.
    pub(super) name: String,
    /// Its Go type.
    pub(super) go: String,
    /// Without a name of its own.
    pub(super) embedded: bool,
    /// Its JSON name; empty if inlined or unseen.
    pub(super) json: String,
    /// JSON leaves it out when empty.
    pub(super) omitempty: bool,
    /// JSON leaves it out when zero.
    pub(super) omitzero: bool,
    /// Its protobuf number; 0 if it has none.
    pub(super) number: u32,
    /// The key of its list for strategic merge.
    pub(super) merge_key: Option<String>,
    /// How strategic merge treats it.
    pub(super) patch_strategy: Option<String>,
    /// Its markers.
    pub(super) markers: Markers,
}

impl Package {
    /// Reads `types.go` of a folder, and what has been split from it (`types_jsonschema.go`).
    pub(super) fn read(folder: &Path) -> Result<Self> {
        let mut package = Self::default();
        for entry in std::fs::read_dir(folder).with_context(|| folder.display().to_string())? {
            let file = entry?.path();
            let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if name.starts_with("types") && name.ends_with(".go") && !name.contains("generated") {
                package.read_file(&std::fs::read_to_string(&file).with_context(|| file.display().to_string())?);
            }
        }
        ensure!(!package.types.is_empty(), "{} declares no type", folder.display());
        Ok(package)
    }

    fn read_file(&mut self, text: &str) {
        let mut lines = text.lines().map(str::trim);
        let mut markers = Markers::new();
        while let Some(line) = lines.next() {
            if line.starts_with("//") {
                collect(&mut markers, line);
            } else if line == "import (" {
                self.imports.extend(lines.by_ref().take_while(|l| *l != ")").filter_map(import));
            } else if let Some(rest) = line.strip_prefix("type ") {
                self.declare(rest, std::mem::take(&mut markers), &mut lines);
            } else if !line.is_empty() {
                markers.clear();
            }
        }
    }

    fn declare<'a>(&mut self, rest: &str, markers: Markers, lines: &mut impl Iterator<Item = &'a str>) {
        let Some((name, go)) = rest.split_once(' ') else { return };
        let go = go.split("//").next().unwrap_or(go).trim();
        let declaration = match go {
            "struct {" => Declaration::Struct { markers, fields: fields(lines) },
            "struct{}" | "struct {}" => Declaration::Struct { markers, fields: Vec::new() },
            other => Declaration::Other { go: other.to_owned() },
        };
        self.types.insert(name.to_owned(), declaration);
    }
}

fn import(line: &str) -> Option<(String, String)> {
    let (alias, rest) = line.split_once('"')?;
    let path = rest.trim_end_matches('"');
    let alias = if alias.is_empty() { path.rsplit('/').next()? } else { alias.trim() };
    Some((alias.to_owned(), path.to_owned()))
}

fn collect(markers: &mut Markers, line: &str) {
    let Some(marker) = line.trim_start_matches('/').trim_start().strip_prefix('+') else { return };
    let (name, value) = marker.split_once('=').unwrap_or((marker, ""));
    let slot = markers.entry(name.trim().to_owned()).or_default();
    if !slot.is_empty() {
        slot.push(',');
    }
    slot.push_str(value.trim());
}

fn fields<'a>(lines: &mut impl Iterator<Item = &'a str>) -> Vec<Field> {
    let mut found = Vec::new();
    let mut markers = Markers::new();
    for line in lines {
        if line == "}" {
            break;
        }
        if line.starts_with("//") {
            collect(&mut markers, line);
        } else if !line.is_empty() {
            found.extend(field(line, std::mem::take(&mut markers)));
        }
    }
    found
}

fn field(line: &str, markers: Markers) -> Option<Field> {
    let (left, rest) = line.split_once('`')?;
    let tag = rest.split('`').next()?;
    let mut words = left.split_whitespace();
    let first = words.next()?;
    let second = words.next();
    let json = tag_value(tag, "json").unwrap_or_default();
    let mut options = json.split(',');
    let name = options.next().unwrap_or_default();
    if name == "-" {
        return None;
    }
    let options: Vec<&str> = options.collect();
    Some(Field {
        name: first.to_owned(),
        go: second.unwrap_or(first).to_owned(),
        embedded: second.is_none() && name.is_empty(),
        json: name.to_owned(),
        omitempty: options.contains(&"omitempty"),
        omitzero: options.contains(&"omitzero"),
        number: tag_value(tag, "protobuf").and_then(|p| p.split(',').nth(1)?.parse().ok()).unwrap_or(0),
        merge_key: tag_value(tag, "patchMergeKey").map(str::to_owned),
        patch_strategy: tag_value(tag, "patchStrategy").map(str::to_owned),
        markers,
    })
}

fn tag_value<'a>(tag: &'a str, key: &str) -> Option<&'a str> {
    let start = tag.find(&format!("{key}:\""))? + key.len() + 2;
    tag[start..].split('"').next()
}
