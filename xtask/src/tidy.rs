//! `cargo xtask tidy`: what the compiler does not look at.

mod function;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde_json::Value;

use crate::command::{cargo, program, root};

/// Which crates a crate may use (design; a new edge needs a decision record).
const EDGES: [(&str, &[&str]); 13] = [
    ("api", &[]),
    ("store", &[]),
    ("wire", &[]),
    ("network", &[]),
    ("shim", &["network"]),
    ("runtime", &["shim", "wire"]),
    ("client", &["api", "wire"]),
    ("server", &["api", "store", "wire"]),
    ("control", &["api", "client"]),
    ("node", &["api", "client", "network", "runtime", "wire"]),
    ("cli", &["api", "client", "wire"]),
    ("testkit", &["api", "client", "server", "store", "wire"]),
    ("podling", &["api", "cli", "client", "control", "network", "node", "runtime", "server", "shim", "store", "wire"]),
];
const MAX_FILE: usize = 600;
const BANNED_MODULES: [&str; 8] = ["utils", "util", "common", "helpers", "manager", "handlers", "impl", "core"];
const BANNED_CRATES: [&str; 2] = ["aws-lc-sys", "openssl-sys"];
const MAX_MAP: usize = 300;

/// Checks everything; all that is wrong is told at once.
///
/// # Errors
/// When something is wrong.
pub(crate) fn run() -> anyhow::Result<()> {
    let metadata: Value = serde_json::from_str(&cargo(&["metadata", "--format-version", "1"]).output()?)?;
    let files = tracked(".rs")?;
    let mut wrongs = Vec::new();
    edges(&metadata, &mut wrongs);
    crates(&metadata, &mut wrongs);
    dependencies(&metadata, &mut wrongs)?;
    sources(&files, &mut wrongs)?;
    map(&mut wrongs)?;
    if !wrongs.is_empty() {
        bail!("tidy found:\n{}", wrongs.join("\n"));
    }
    Ok(())
}

fn tracked(ending: &str) -> anyhow::Result<Vec<PathBuf>> {
    let list = program("git").args(["ls-files"]).output()?;
    Ok(list.lines().filter(|path| path.ends_with(ending)).map(PathBuf::from).collect())
}

fn members(metadata: &Value) -> impl Iterator<Item = &Value> {
    let packages = metadata["packages"].as_array().into_iter().flatten();
    packages.filter(|package| package["source"].is_null())
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// The dependencies of a package that are there in a build, not only in tests.
fn uses(package: &Value) -> impl Iterator<Item = &Value> {
    package["dependencies"].as_array().into_iter().flatten().filter(|dependency| dependency["kind"] != "dev")
}

fn edges(metadata: &Value, wrongs: &mut Vec<String>) {
    let allowed: BTreeMap<&str, &[&str]> = EDGES.into_iter().collect();
    let names: BTreeSet<&str> = members(metadata).map(|package| text(&package["name"])).collect();
    for package in members(metadata) {
        let name = text(&package["name"]);
        let Some(allowed) = allowed.get(name) else { continue };
        for used in uses(package).map(|dependency| text(&dependency["name"])).filter(|used| names.contains(used)) {
            if !allowed.contains(&used) {
                wrongs.push(format!("crates/{name} uses {used}: the design has no such edge"));
            }
        }
    }
}

fn crates(metadata: &Value, wrongs: &mut Vec<String>) {
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let name = text(&package["name"]);
        if BANNED_CRATES.contains(&name) {
            wrongs.push(format!("{name} is in the tree: building must need no C library beyond libc"));
        }
    }
}

fn dependencies(metadata: &Value, wrongs: &mut Vec<String>) -> anyhow::Result<()> {
    let page = read(Path::new("docs/dependencies.md"))?;
    let all = members(metadata).flat_map(|package| package["dependencies"].as_array().into_iter().flatten());
    let names: BTreeSet<&str> =
        all.filter(|d| d["path"].is_null()).map(|dependency| text(&dependency["name"])).collect();
    for name in names.iter().filter(|name| !page.contains(&format!("| {name} |"))) {
        wrongs.push(format!("docs/dependencies.md has no line for {name}"));
    }
    Ok(())
}

#[expect(clippy::print_stdout, reason = "the longest files and functions, for whoever wants to mend one")]
fn sources(files: &[PathBuf], wrongs: &mut Vec<String>) -> anyhow::Result<()> {
    let (mut sizes, mut functions) = (Vec::new(), Vec::new());
    for path in files {
        let content = read(path)?;
        let shown = path.display();
        let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        if BANNED_MODULES.contains(&stem) {
            wrongs.push(format!("{shown}: `{stem}` says nothing of what is in it"));
        }
        let own = content.lines().position(|line| line.starts_with("#[cfg(test)]")).unwrap_or(content.lines().count());
        let is_test = path.components().any(|part| matches!(part.as_os_str().to_str(), Some("tests" | "fuzz_targets")));
        if own > MAX_FILE && !is_test {
            wrongs.push(format!("{shown}: {own} lines, more than {MAX_FILE}"));
        }
        sizes.push((own, path));
        if !is_test {
            let lines: Vec<&str> = content.lines().take(own).collect();
            functions.extend(function::lengths(&shown.to_string(), &lines));
        }
        let marks = [concat!("to", "do!("), concat!("unimple", "mented!("), concat!("FIX", "ME")];
        for mark in marks.into_iter().filter(|mark| content.contains(mark)) {
            wrongs.push(format!("{shown}: {mark}"));
        }
    }
    sizes.sort_by_key(|(lines, _)| std::cmp::Reverse(*lines));
    println!("the longest files:");
    for (lines, path) in sizes.iter().take(10) {
        println!("{lines:6} {}", path.display());
    }
    functions.sort_by_key(|function| std::cmp::Reverse(function.lines));
    println!("the longest functions:");
    for function in functions.iter().take(10) {
        println!("{:6} {}", function.lines, function.place);
    }
    Ok(())
}

/// ARCHITECTURE.md stays short and names no file that is not there; nor do the other pages.
fn map(wrongs: &mut Vec<String>) -> anyhow::Result<()> {
    let length = read(Path::new("ARCHITECTURE.md"))?.lines().count();
    if length > MAX_MAP {
        wrongs.push(format!("ARCHITECTURE.md has {length} lines, more than {MAX_MAP}"));
    }
    for page in ["ARCHITECTURE.md", "CONTRIBUTING.md", "README.md"] {
        let content = read(Path::new(page))?;
        for path in paths(&content).filter(|path| !root().join(path).exists()) {
            wrongs.push(format!("{page} names {path}, which is not there"));
        }
    }
    Ok(())
}

/// What looks like a path of the workspace: in backquotes or in a link.
fn paths(page: &str) -> impl Iterator<Item = &str> {
    let quoted = page.split('`').skip(1).step_by(2);
    let linked = page.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    let starts = ["crates/", "docs/", "e2e/", "fuzz/", "xtask/", "conformance/"];
    quoted
        .chain(linked)
        .filter(move |text| starts.iter().any(|start| text.starts_with(start)) && !text.contains([' ', '*']))
}

fn read(path: &Path) -> anyhow::Result<String> {
    fs::read_to_string(root().join(path)).with_context(|| format!("reading {}", path.display()))
}
