//! Kubeconfig files: where a cluster is, whom to believe, and who one is.

use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use wire::dial::Trust;
use wire::identity::Credential;

use crate::Error;

/// A cluster to write into a kubeconfig, with the certificate of the one who uses it.
#[derive(Debug)]
pub struct Entry<'a> {
    /// Name of context, cluster and user.
    pub name: &'a str,
    /// `https://host:port`.
    pub server: &'a str,
    /// PEM of the cluster's authority.
    pub authority_pem: &'a str,
    /// Who the user is.
    pub credential: &'a Credential,
}

/// What a client needs to speak to a cluster.
#[derive(Debug)]
pub struct Access {
    /// `https://host:port`.
    pub server: String,
    /// Whom to believe, what to show.
    pub trust: Trust,
    /// The context's namespace.
    pub namespace: String,
    /// The context's name.
    pub context: String,
}

/// A kubeconfig in memory.
pub struct Kubeconfig {
    path: PathBuf,
    content: Value,
}

/// The file that clients read without being told: the first of `$KUBECONFIG`, else `~/.kube/config`.
pub fn default_path() -> PathBuf {
    let listed = std::env::var_os("KUBECONFIG").filter(|list| !list.is_empty());
    if let Some(first) =
        listed.as_ref().and_then(|list| std::env::split_paths(list).find(|p| !p.as_os_str().is_empty()))
    {
        return first;
    }
    let home = std::env::var_os("HOME").unwrap_or_else(|| "/root".into());
    Path::new(&home).join(".kube/config")
}

impl Kubeconfig {
    /// Reads a file; one that is not there is empty.
    ///
    /// # Errors
    /// [`Error::Failed`] when it cannot be read or is no YAML.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let failed = |source| Error::Failed { doing: format!("reading {}", path.display()), source };
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(failed(error.into())),
        };
        let documents = api::codec::yaml::decode(&text).map_err(|e| failed(e.into()))?;
        let content = documents.into_iter().next().filter(Value::is_object).unwrap_or_else(|| json!({}));
        Ok(Self { path: path.to_owned(), content })
    }

    /// The access that a context gives; the current context unless one is named.
    ///
    /// # Errors
    /// [`Error::Failed`] naming what is missing.
    pub fn access(&self, context: Option<&str>) -> Result<Access, Error> {
        let name = context.or_else(|| self.content["current-context"].as_str()).unwrap_or_default();
        let failed = |what: String| Error::failed(format!("reading {}", self.path.display()), what);
        let context = self.find("contexts", name).ok_or_else(|| failed(format!("there is no context \"{name}\"")))?;
        let context = &context["context"];
        let (cluster, user) = (text(&context["cluster"]), text(&context["user"]));
        let cluster = &self
            .find("clusters", cluster)
            .ok_or_else(|| failed(format!("there is no cluster \"{cluster}\"")))?["cluster"];
        let server = cluster["server"].as_str().ok_or_else(|| failed("the cluster has no server".to_owned()))?;
        let user = self.find("users", user).map_or(Value::Null, |entry| entry["user"].clone());
        let trust = Trust {
            authorities_pem: self.material(cluster, "certificate-authority")?,
            credential: self.credential(&user)?,
            ..Trust::default()
        };
        let namespace = context["namespace"].as_str().filter(|name| !name.is_empty()).unwrap_or("default");
        Ok(Access { server: server.to_owned(), trust, namespace: namespace.to_owned(), context: name.to_owned() })
    }

    /// The same content for another file.
    #[must_use]
    pub fn at(mut self, path: PathBuf) -> Self {
        self.path = path;
        self
    }

    /// PEM of the authority of the cluster of this name.
    pub fn authority(&self, name: &str) -> Option<String> {
        let entry = self.find("clusters", name)?;
        self.material(&entry["cluster"], "certificate-authority").ok().flatten()
    }

    /// Adds an entry, or replaces the one of its name, and makes it current.
    pub fn set(&mut self, entry: &Entry<'_>) {
        let encode = |text: &str| STANDARD.encode(text);
        let cluster = json!({"server": entry.server, "certificate-authority-data": encode(entry.authority_pem)});
        let user = json!({
            "client-certificate-data": encode(&entry.credential.certificate_pem),
            "client-key-data": encode(&entry.credential.key_pem),
        });
        self.put("clusters", "cluster", entry.name, cluster);
        self.put("users", "user", entry.name, user);
        self.put("contexts", "context", entry.name, json!({"cluster": entry.name, "user": entry.name}));
        self.content["apiVersion"] = "v1".into();
        self.content["kind"] = "Config".into();
        if !self.content["preferences"].is_object() {
            self.content["preferences"] = json!({});
        }
        self.content["current-context"] = entry.name.into();
    }

    /// Takes the entry of this name away, if its server is `server`: another cluster of the same name is left alone. True if something changed.
    pub fn remove(&mut self, name: &str, server: &str) -> bool {
        if self.find("clusters", name).is_none_or(|entry| entry["cluster"]["server"] != server) {
            return false;
        }
        for list in ["clusters", "users", "contexts"] {
            if let Some(entries) = self.content[list].as_array_mut() {
                entries.retain(|entry| entry["name"] != name);
            }
        }
        if self.content["current-context"] == name {
            self.content["current-context"] = "".into();
        }
        true
    }

    /// Whether no cluster is left in it.
    pub fn is_empty(&self) -> bool {
        self.content["clusters"].as_array().is_none_or(Vec::is_empty)
    }

    /// Writes the file, readable by its owner only, whole or not at all.
    ///
    /// # Errors
    /// [`Error::Failed`] naming the file.
    pub fn write(&self) -> Result<(), Error> {
        if let Some(parent) = self.path.parent() {
            let doing = || format!("making {}", parent.display());
            std::fs::create_dir_all(parent).map_err(|e| Error::failed(doing(), e))?;
        }
        let text = api::codec::yaml::encode(&self.content);
        Ok(wire::authority::write_private(&self.path, text.as_bytes())?)
    }

    fn find(&self, list: &str, name: &str) -> Option<&Value> {
        self.content[list].as_array()?.iter().find(|entry| entry["name"] == name)
    }

    fn put(&mut self, list: &str, field: &str, name: &str, value: Value) {
        let mut entry = json!({"name": name});
        entry[field] = value;
        if !self.content[list].is_array() {
            self.content[list] = json!([]);
        }
        if let Some(entries) = self.content[list].as_array_mut() {
            entries.retain(|entry| entry["name"] != name);
            entries.push(entry);
        }
    }

    fn credential(&self, user: &Value) -> Result<Option<Credential>, Error> {
        let certificate = self.material(user, "client-certificate")?;
        let key = self.material(user, "client-key")?;
        Ok(certificate.zip(key).map(|(certificate_pem, key_pem)| Credential { certificate_pem, key_pem }))
    }

    /// The PEM text of `field`: inline, or in a file relative to the kubeconfig.
    fn material(&self, entry: &Value, field: &str) -> Result<Option<String>, Error> {
        let doing = || format!("reading {field} in {}", self.path.display());
        if let Some(data) = entry[format!("{field}-data")].as_str() {
            let bytes = STANDARD.decode(data).map_err(|e| Error::failed(doing(), e))?;
            return String::from_utf8(bytes).map(Some).map_err(|e| Error::failed(doing(), e));
        }
        let Some(file) = entry[field].as_str() else { return Ok(None) };
        let base = self.path.parent().unwrap_or(Path::new("."));
        std::fs::read_to_string(base.join(file)).map(Some).map_err(|e| Error::failed(doing(), e))
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_goes_in_beside_others_and_out_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sub/config");
        let credential = Credential { certificate_pem: "CERT".into(), key_pem: "KEY".into() };
        for (name, server) in [("one", "https://1"), ("two", "https://2")] {
            let mut config = Kubeconfig::read(&path).unwrap();
            config.set(&Entry { name, server, authority_pem: "CA", credential: &credential });
            config.write().unwrap();
        }
        let mut config = Kubeconfig::read(&path).unwrap();
        let access = config.access(None).unwrap();
        assert_eq!((access.context.as_str(), access.server.as_str()), ("two", "https://2"));
        assert_eq!(access.trust.authorities_pem.as_deref(), Some("CA"));
        assert_eq!(access.trust.credential.unwrap().key_pem, "KEY");
        assert_eq!(config.access(Some("one")).unwrap().server, "https://1");
        assert!(!config.remove("one", "https://other"));
        assert!(config.remove("one", "https://1"));
        assert!(config.access(Some("one")).unwrap_err().to_string().contains("reading"));
    }
}
