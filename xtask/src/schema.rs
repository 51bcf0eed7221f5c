//! `cargo xtask schema`: reads the facts of the API's types (names, numbers, keys; no prose) out of the published Go
//! modules and writes them as one compact file, which `api::schema` reads.

mod golang;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use golang::{Declaration, Field, Package};

const API: &str = "k8s.io/api";
const MACHINERY: &str = "k8s.io/apimachinery";
const EXTENSIONS: &str = "k8s.io/apiextensions-apiserver";

/// The packages whose types are taken, below their module.
const PACKAGES: &[(&str, &str)] = &[
    (MACHINERY, "pkg/apis/meta/v1"),
    (API, "core/v1"),
    (API, "events/v1"),
    (API, "coordination/v1"),
    (API, "scheduling/v1"),
    (API, "scheduling/v1alpha3"),
    (API, "authorization/v1"),
    (API, "authentication/v1"),
    (API, "policy/v1"),
    (API, "apps/v1"),
    (API, "autoscaling/v1"),
    (API, "batch/v1"),
    (API, "certificates/v1"),
    (API, "networking/v1"),
    (API, "discovery/v1"),
    (API, "rbac/v1"),
    (EXTENSIONS, "pkg/apis/apiextensions/v1"),
];

/// Types with a form of their own on the wire.
const BUILT_IN: &[(&str, &str)] = &[
    ("io.k8s.apimachinery.pkg.apis.meta.v1.Time", "time"),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime", "microtime"),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.Duration", "duration"),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.FieldsV1", "fields"),
    ("io.k8s.apimachinery.pkg.api.resource.Quantity", "quantity"),
    ("io.k8s.apimachinery.pkg.util.intstr.IntOrString", "intorstring"),
    ("io.k8s.apimachinery.pkg.runtime.RawExtension", "raw"),
    ("io.k8s.apimachinery.pkg.runtime.Object", "raw"),
    ("io.k8s.apimachinery.pkg.types.UID", "types.UID:string"),
    ("io.k8s.apimachinery.pkg.types.NodeName", "types.NodeName:string"),
    ("io.k8s.apimachinery.pkg.types.NamespacedName", "string"),
    ("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSON", "any"),
    ("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrArray", "any"),
    ("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrBool", "any"),
    ("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrStringArray", "any"),
];

/// What `schema` takes.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The version of the Go modules.
    #[arg(long, default_value = "v0.37.2")]
    version: String,
    /// Where to write.
    #[arg(long, default_value = "crates/api/schema/facts.txt")]
    output: PathBuf,
}

/// Makes the file anew.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let mut modules = BTreeMap::new();
    for module in [API, MACHINERY, EXTENSIONS] {
        modules.insert(module, download(module, &arguments.version)?);
    }
    let mut packages = BTreeMap::new();
    for (module, folder) in PACKAGES {
        let import = format!("{module}/{folder}");
        let package = Package::read(&modules[module].join(folder)).with_context(|| import.clone())?;
        packages.insert(openapi_prefix(&import), package);
    }
    let text = Writer { packages: &packages }.write(&arguments.version)?;
    std::fs::write(&arguments.output, text).with_context(|| arguments.output.display().to_string())
}

fn download(module: &str, version: &str) -> Result<PathBuf> {
    let output = Command::new("go")
        .args(["mod", "download", "-json", &format!("{module}@{version}")])
        .current_dir(std::env::temp_dir())
        .output()
        .context("run go")?;
    ensure!(output.status.success(), "go mod download {module}: {}", String::from_utf8_lossy(&output.stdout));
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    Ok(Path::new(answer["Dir"].as_str().context("go names no folder")?).to_owned())
}

/// `k8s.io/api/core/v1` is `io.k8s.api.core.v1`.
fn openapi_prefix(import: &str) -> String {
    format!("io.{}", import.replacen("k8s.io", "k8s", 1).replace('/', "."))
}

struct Writer<'a> {
    packages: &'a BTreeMap<String, Package>,
}

impl Writer<'_> {
    fn write(&self, version: &str) -> Result<String> {
        let mut out = format!("# made by `cargo xtask schema` from {API}, {MACHINERY} and {EXTENSIONS} {version}\n");
        let mut seen = BTreeSet::new();
        for (prefix, package) in self.packages {
            for (name, declaration) in &package.types {
                let full = format!("{prefix}.{name}");
                let Declaration::Struct { markers, fields } = declaration else { continue };
                if BUILT_IN.iter().any(|(n, _)| *n == full) || !seen.insert(full.clone()) {
                    continue;
                }
                let atomic = if markers.get("structType").is_some_and(|v| v == "atomic") { " atomic" } else { "" };
                writeln!(out, "{full}{atomic}")?;
                for field in fields {
                    self.field(&mut out, prefix, package, field).with_context(|| format!("{full}.{}", field.name))?;
                }
            }
        }
        Ok(out)
    }

    fn field(&self, out: &mut String, prefix: &str, package: &Package, field: &Field) -> Result<()> {
        if field.json.is_empty() && !field.embedded {
            return Ok(());
        }
        let go = field.go.trim_start_matches('*');
        let shape = self.shape(prefix, package, go)?;
        let json = if field.json.is_empty() { "+" } else { &field.json };
        write!(out, " {json} {shape} {}", field.number)?;
        for word in flags(field) {
            write!(out, " {word}")?;
        }
        out.push('\n');
        Ok(())
    }

    /// The wire form of a Go type as it reads in `package`.
    fn shape(&self, prefix: &str, package: &Package, go: &str) -> Result<String> {
        if let Some(item) = go.strip_prefix("[]") {
            return Ok(if item == "byte" {
                "bytes".to_owned()
            } else {
                format!("[]{}", self.shape(prefix, package, item)?)
            });
        }
        if let Some((_, value)) = go.strip_prefix("map[").and_then(|rest| rest.split_once(']')) {
            return Ok(format!("{{}}{}", self.shape(prefix, package, value)?));
        }
        if let Some(scalar) = scalar(go) {
            return Ok(scalar.to_owned());
        }
        match go.trim_start_matches('*').split_once('.') {
            Some((alias, name)) => {
                let import = package.imports.get(alias).with_context(|| format!("no import for {go}"))?;
                self.named(&openapi_prefix(import), name)
            }
            None => self.named(prefix, go.trim_start_matches('*')),
        }
    }

    fn named(&self, prefix: &str, name: &str) -> Result<String> {
        let full = format!("{prefix}.{name}");
        if let Some((_, shape)) = BUILT_IN.iter().find(|(n, _)| *n == full) {
            return Ok((*shape).to_owned());
        }
        let Some(package) = self.packages.get(prefix) else { bail!("{full} is in no package that is read") };
        match package.types.get(name) {
            Some(Declaration::Struct { .. }) => Ok(format!("@{full}")),
            Some(Declaration::Other { go, .. }) => {
                let short = prefix.rsplit('.').next().unwrap_or(prefix);
                Ok(format!("{short}.{name}:{}", self.shape(prefix, package, go)?))
            }
            None => bail!("{full} is not declared"),
        }
    }
}

fn scalar(go: &str) -> Option<&'static str> {
    Some(match go {
        "string" => "string",
        "bool" => "bool",
        "int32" | "uint16" | "uint8" => "int32",
        "int64" | "int" => "int64",
        "float64" => "float64",
        "interface{}" | "any" => "raw",
        _ => return None,
    })
}

fn flags(field: &Field) -> Vec<String> {
    let mut words = Vec::new();
    let mut mark = |on: bool, word: &str| words.extend(on.then(|| word.to_owned()));
    mark(field.go.starts_with('*'), "p");
    mark(field.omitempty, "o");
    mark(field.omitzero, "z");
    let has = |name: &str| field.markers.contains_key(name);
    mark(!has("optional") && !has("k8s:optional") && (has("required") || has("k8s:required") || !field.omitempty), "r");
    mark(has("nullable"), "n");
    let mut value =
        |word: &str, text: Option<&String>| words.extend(text.filter(|t| !t.is_empty()).map(|t| format!("{word}={t}")));
    value("mk", field.merge_key.as_ref());
    value("ps", field.patch_strategy.as_ref());
    value("lt", field.markers.get("listType"));
    value("lk", field.markers.get("listMapKey"));
    value("mt", field.markers.get("mapType"));
    value("st", field.markers.get("structType"));
    value("df", field.markers.get("default").filter(|d| !d.contains(' ')));
    words
}
