//! What archives and registries say of images: the JSON documents of the OCI image specification and of Docker's formats.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{Error, architecture};

/// Media types of an index (a list of manifests for several platforms).
pub const INDEX_TYPES: [&str; 2] =
    ["application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json"];
/// Media types of a manifest.
pub const MANIFEST_TYPES: [&str; 2] =
    ["application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json"];

/// A pointer to content.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Descriptor {
    /// What it is.
    pub media_type: String,
    /// Its digest.
    pub digest: String,
    /// Its length in bytes.
    pub size: u64,
    /// In an index: for which machines.
    pub platform: Option<Platform>,
    /// In an OCI layout: names.
    pub annotations: BTreeMap<String, String>,
}

/// A kind of machine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Platform {
    /// As Go names it.
    pub architecture: String,
    /// As Go names it.
    pub os: String,
    /// Of the architecture.
    pub variant: String,
}

/// An index, or a manifest: which of them, its fields tell.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Document {
    /// What it is, if it says so.
    pub media_type: String,
    /// Of an index.
    pub manifests: Vec<Descriptor>,
    /// Of a manifest.
    pub config: Option<Descriptor>,
    /// Of a manifest, the lowest first.
    pub layers: Vec<Descriptor>,
}

impl Document {
    /// Reads either.
    ///
    /// # Errors
    /// [`Error::Malformed`] when it is neither.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        serde_json::from_slice(bytes).map_err(|e| Error::malformed("manifest", e))
    }

    /// In an index: the manifest for this machine.
    ///
    /// # Errors
    /// [`Error::Architecture`] naming what there is instead.
    pub fn for_this_machine(&self) -> Result<&Descriptor, Error> {
        let fits = |entry: &&Descriptor| {
            entry.platform.as_ref().is_none_or(|p| p.os == "linux" && p.architecture == architecture())
        };
        self.manifests.iter().find(fits).ok_or_else(|| {
            let platforms = self.manifests.iter().filter_map(|entry| entry.platform.as_ref());
            let names: Vec<String> = platforms.map(|p| format!("{}/{}", p.os, p.architecture)).collect();
            Error::Architecture { found: names.join(", "), wanted: architecture() }
        })
    }
}

/// The configuration of an image, as far as it matters for running it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    /// The command.
    pub entrypoint: Vec<String>,
    /// Its default arguments.
    pub cmd: Vec<String>,
    /// `NAME=value`.
    pub env: Vec<String>,
    /// Who runs it.
    pub user: String,
    /// Where it runs.
    pub working_dir: String,
    /// The signal that asks it to end.
    pub stop_signal: Option<String>,
    /// `8080/tcp`.
    pub exposed_ports: Vec<String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
}

/// An image's configuration document.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct ConfigDocument {
    architecture: String,
    os: String,
    config: Option<RawConfig>,
    rootfs: RootFs,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct RootFs {
    diff_ids: Vec<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct RawConfig {
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    env: Option<Vec<String>>,
    user: Option<String>,
    working_dir: Option<String>,
    stop_signal: Option<String>,
    exposed_ports: Option<BTreeMap<String, serde_json::Value>>,
    labels: Option<BTreeMap<String, String>>,
}

impl ConfigDocument {
    /// Reads a configuration and checks that it is for this machine.
    ///
    /// # Errors
    /// [`Error::Malformed`] or [`Error::Architecture`].
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let document: Self = serde_json::from_slice(bytes).map_err(|e| Error::malformed("image configuration", e))?;
        let fits = |said: &str, wanted: &str| said.is_empty() || said == wanted;
        if !fits(&document.architecture, architecture()) || !fits(&document.os, "linux") {
            let found = format!("{}/{}", document.os, document.architecture);
            return Err(Error::Architecture { found, wanted: architecture() });
        }
        Ok(document)
    }

    /// The digests of the layers' uncompressed content, the lowest first.
    pub fn diff_ids(&self) -> &[String] {
        &self.rootfs.diff_ids
    }

    /// What matters for running it.
    pub fn config(&self) -> Config {
        let raw = self.config.clone().unwrap_or_default();
        Config {
            entrypoint: raw.entrypoint.unwrap_or_default(),
            cmd: raw.cmd.unwrap_or_default(),
            env: raw.env.unwrap_or_default(),
            user: raw.user.unwrap_or_default(),
            working_dir: raw.working_dir.unwrap_or_default(),
            stop_signal: raw.stop_signal.filter(|name| !name.is_empty()),
            exposed_ports: raw.exposed_ports.unwrap_or_default().into_keys().collect(),
            labels: raw.labels.unwrap_or_default(),
        }
    }
}

/// `sha256:…` of some bytes.
pub fn digest_of(bytes: &[u8]) -> String {
    encode(Sha256::new().chain_update(bytes))
}

pub(crate) fn encode(hash: Sha256) -> String {
    use std::fmt::Write;
    let mut text = String::from("sha256:");
    for byte in hash.finalize() {
        // Writing to a string cannot fail.
        let _written = write!(text, "{byte:02x}");
    }
    text
}
