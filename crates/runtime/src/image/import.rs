//! Makes an image of a root file system: a tar, and how to run it.

use std::io::Read;

use serde_json::{Value, json};

use super::store::{NewNames, Store};
use super::{Error, Reference, architecture};

/// How an imported root file system is run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Overrides {
    /// The command.
    pub entrypoint: Vec<String>,
    /// Its default arguments.
    pub cmd: Vec<String>,
    /// `NAME=value`.
    pub env: Vec<String>,
    /// `8080` or `8080/udp`.
    pub expose: Vec<String>,
    /// Who runs it.
    pub user: String,
    /// Where it runs.
    pub working_dir: String,
}

impl Store {
    /// Imports a root file system, packed or plain, under a name. Returns the image's id.
    ///
    /// # Errors
    /// [`Error::Malformed`] when it is no tar, or a variable or port is none.
    pub fn import(&self, name: &Reference, source: impl Read, overrides: &Overrides) -> Result<String, Error> {
        let config = configuration(overrides)?;
        let diff_id = self.add_unknown_layer(source)?;
        let document = json!({
            "architecture": architecture(),
            "os": "linux",
            "config": config,
            "rootfs": {"type": "layers", "diff_ids": [diff_id]},
        });
        let names = NewNames { names: vec![name.to_string()], digests: Vec::new(), by_hand: true };
        self.add_image(document.to_string().as_bytes(), &names)
    }
}

fn configuration(overrides: &Overrides) -> Result<Value, Error> {
    if let Some(wrong) = overrides.env.iter().find(|variable| !variable.contains('=') || variable.starts_with('=')) {
        return Err(Error::malformed("environment variable", format!("\"{wrong}\" is not NAME=value")));
    }
    let mut config = json!({});
    let lists = [("Entrypoint", &overrides.entrypoint), ("Cmd", &overrides.cmd), ("Env", &overrides.env)];
    for (field, list) in lists.into_iter().filter(|(_, list)| !list.is_empty()) {
        config[field] = json!(list);
    }
    for (field, text) in [("User", &overrides.user), ("WorkingDir", &overrides.working_dir)] {
        if !text.is_empty() {
            config[field] = text.as_str().into();
        }
    }
    for port in &overrides.expose {
        let (number, protocol) = port.split_once('/').unwrap_or((port, "tcp"));
        let is_port = number.parse::<u16>().is_ok_and(|number| number > 0);
        if !is_port || !matches!(protocol, "tcp" | "udp" | "sctp") {
            return Err(Error::malformed("port", format!("\"{port}\" is not NUMBER or NUMBER/PROTOCOL")));
        }
        config["ExposedPorts"][format!("{number}/{protocol}")] = json!({});
    }
    Ok(config)
}
