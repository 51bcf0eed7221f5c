//! What there is to say of a volume of a pod.

use serde_json::Value;

use crate::describe::page::{items, plain};

type Facts = Vec<(&'static str, String)>;

/// A source of volumes, what it is called, and what is said of it beyond that.
type Source = (&'static str, &'static str, fn(&Value) -> Facts);

const SOURCES: [Source; 7] = [
    ("emptyDir", "EmptyDir (a temporary directory that shares a pod's lifetime)", empty_dir),
    ("hostPath", "HostPath (bare host directory volume)", host_path),
    ("configMap", "ConfigMap (a volume populated by a ConfigMap)", config_map),
    ("secret", "Secret (a volume populated by a Secret)", secret),
    (
        "persistentVolumeClaim",
        "PersistentVolumeClaim (a reference to a PersistentVolumeClaim in the same namespace)",
        claim,
    ),
    ("projected", "Projected (a volume that contains injected data from multiple sources)", projected),
    ("downwardAPI", "DownwardAPI (a volume populated by information about the pod)", |_| Vec::new()),
];

/// All of it, its type first.
pub(super) fn facts(volume: &Value) -> Facts {
    for (field, title, more) in SOURCES {
        if let Some(source) = volume.get(field) {
            let mut facts = vec![("Type", title.to_owned())];
            facts.extend(more(source));
            return facts;
        }
    }
    let field = volume.as_object().into_iter().flatten().map(|(name, _)| name.as_str()).find(|name| *name != "name");
    vec![("Type", field.unwrap_or("<unknown>").to_owned())]
}

fn or(value: &Value, default: &str) -> String {
    match plain(value) {
        empty if empty.is_empty() => default.to_owned(),
        text => text,
    }
}

fn optional(source: &Value) -> (&'static str, String) {
    ("Optional", or(&source["optional"], "false"))
}

fn empty_dir(source: &Value) -> Facts {
    vec![("Medium", plain(&source["medium"])), ("SizeLimit", or(&source["sizeLimit"], "<unset>"))]
}

fn host_path(source: &Value) -> Facts {
    vec![("Path", plain(&source["path"])), ("HostPathType", plain(&source["type"]))]
}

fn config_map(source: &Value) -> Facts {
    vec![("Name", plain(&source["name"])), optional(source)]
}

fn secret(source: &Value) -> Facts {
    vec![("SecretName", plain(&source["secretName"])), optional(source)]
}

fn claim(source: &Value) -> Facts {
    vec![("ClaimName", plain(&source["claimName"])), ("ReadOnly", or(&source["readOnly"], "false"))]
}

fn projected(source: &Value) -> Facts {
    items(&source["sources"]).iter().flat_map(part).collect()
}

/// One source of a projected volume.
fn part(source: &Value) -> Facts {
    let mut facts = Vec::new();
    if let Some(token) = source.get("serviceAccountToken") {
        facts.push(("TokenExpirationSeconds", or(&token["expirationSeconds"], "3600")));
    }
    for (field, title) in [("configMap", "ConfigMapName"), ("secret", "SecretName")] {
        if let Some(source) = source.get(field) {
            facts.extend([(title, plain(&source["name"])), optional(source)]);
        }
    }
    if source.get("downwardAPI").is_some() {
        facts.push(("DownwardAPI", "true".to_owned()));
    }
    facts
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn each_source_says_what_it_is() {
        let text = |volume: Value| {
            facts(&volume).into_iter().map(|(title, value)| format!("{title}={value}")).collect::<Vec<_>>().join("; ")
        };
        let empty = text(json!({"name": "v", "emptyDir": {}}));
        assert_eq!(
            empty,
            "Type=EmptyDir (a temporary directory that shares a pod's lifetime); Medium=; SizeLimit=<unset>"
        );
        let sources = json!([{"serviceAccountToken": {}}, {"secret": {"name": "s", "optional": true}}]);
        let projected = text(json!({"name": "v", "projected": {"sources": sources}}));
        assert!(projected.ends_with("; TokenExpirationSeconds=3600; SecretName=s; Optional=true"), "{projected}");
        assert_eq!(text(json!({"name": "v", "nfs": {}})), "Type=nfs");
    }
}
