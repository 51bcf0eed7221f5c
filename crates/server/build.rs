//! Takes the prose about types and fields, which `kubectl explain` shows, from the doc comments of the k8s-openapi
//! dependency, and packs it.

use std::collections::HashMap;
use std::env;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The packages whose types are served, or are parts of such.
const PACKAGES: [&str; 13] = [
    "api/authentication/v1",
    "api/authorization/v1",
    "api/autoscaling/v1",
    "api/coordination/v1",
    "api/core/v1",
    "api/events/v1",
    "api/policy/v1",
    "api/scheduling/v1",
    "api/apps/v1",
    "api/batch/v1",
    "apimachinery/pkg/apis/meta/v1",
    "apimachinery/pkg/api/resource",
    "apimachinery/pkg/util/intstr",
];

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-changed=build.rs");
    let mut prose = String::new();
    match source() {
        Some(source) => {
            for package in PACKAGES {
                read_package(&source.join(package), &mut prose)?;
            }
        }
        None => println!("cargo::warning=the source of k8s-openapi was not found: explain will show no descriptions"),
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or(io::ErrorKind::NotFound)?);
    let file = fs::File::create(out.join("prose.zlib"))?;
    let mut packer = flate2::write::ZlibEncoder::new(file, flate2::Compression::best());
    packer.write_all(prose.as_bytes())?;
    packer.finish().map(drop)
}

/// Where cargo keeps the dependency's source.
fn source() -> Option<PathBuf> {
    let cargo = env::var_os("CARGO")?;
    let output = Command::new(cargo).args(["metadata", "--format-version=1", "--offline", "--frozen"]).output().ok()?;
    let metadata = String::from_utf8(output.stdout).ok()?;
    let manifests = metadata.split("\"manifest_path\":\"").skip(1).filter_map(|rest| rest.split('"').next());
    let manifest =
        manifests.into_iter().find(|path| path.contains("/k8s-openapi-") && path.ends_with("/Cargo.toml"))?;
    let source = Path::new(manifest).parent()?.join("src/v1_37");
    source.is_dir().then_some(source)
}

fn read_package(dir: &Path, prose: &mut String) -> io::Result<()> {
    let Ok(listing) = fs::read_dir(dir) else { return Ok(()) };
    let mut files = listing.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<Vec<_>>>()?;
    files.sort();
    for file in files.iter().filter(|file| file.extension().is_some_and(|extension| extension == "rs")) {
        read_type(&fs::read_to_string(file)?, prose);
    }
    Ok(())
}

/// One line per type (`=NAME TAB TEXT`), then one per field (`NAME TAB TEXT`).
fn read_type(source: &str, prose: &mut String) {
    let Some(name) = source.lines().find_map(|line| line.strip_prefix("// Generated from definition ")) else { return };
    let names: HashMap<&str, &str> = source.lines().filter_map(json_name).collect();
    let mut lines = source.lines();
    let about = documentation(&mut lines, |line| line.starts_with("pub struct ").then_some(""));
    let Some((_, about)) = about else { return };
    prose.push_str(&format!("={}\t{about}\n", name.trim()));
    while let Some((field, text)) = documentation(&mut lines, field_name) {
        let known = names.get(field).copied().unwrap_or(field);
        prose.push_str(&format!("{known}\t{text}\n"));
    }
}

/// From a line of the generated deserializer: the name in Rust and the name in JSON.
fn json_name(line: &str) -> Option<(&str, &str)> {
    let (json, rust) = line.trim().strip_prefix('"')?.split_once("\" => Field::Key_")?;
    Some((rust.trim_end_matches(','), json))
}

fn field_name(line: &str) -> Option<&str> {
    line.strip_prefix("    pub ")?.split(':').next()
}

/// The next documented item: its name and its text, on one line. Nothing at the end of the struct.
fn documentation<'a>(
    lines: &mut std::str::Lines<'a>,
    item: impl Fn(&'a str) -> Option<&'a str>,
) -> Option<(&'a str, String)> {
    let mut text = String::new();
    for line in lines {
        if line == "}" {
            return None;
        }
        if let Some(more) = line.trim_start().strip_prefix("///") {
            if !text.is_empty() {
                text.push_str("\\n");
            }
            text.push_str(more.strip_prefix(' ').unwrap_or(more));
        } else if let Some(name) = item(line) {
            return Some((name, text));
        }
    }
    None
}
