//! The environment of a container: what the image says, what the pod says, and what both refer to.

use std::collections::BTreeMap;
use std::net::IpAddr;

use api::quantity::Quantity;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use client::{Client, Resource, resource};
use k8s_openapi::api::core::v1 as core;
use serde_json::Value;

use crate::Error;
use crate::expand::expand;
use crate::pod::Pod;
use crate::resources::{self, Capacity, Section};

/// What containers may refer to beside their pod.
#[derive(Debug, Clone)]
pub struct Surroundings {
    /// Name of the node.
    pub node_name: String,
    /// Addresses of the node.
    pub node_addresses: Vec<IpAddr>,
    /// Addresses of the pod.
    pub pod_addresses: Vec<IpAddr>,
    /// What the node has; the limit of containers that have none.
    pub capacity: Capacity,
}

/// Variables by name.
pub type Environment = BTreeMap<String, String>;

/// Collects the variables that the pod gives to a container.
///
/// # Errors
/// [`Error::Config`] naming the config map, secret or key that is missing.
pub async fn collect(
    client: &Client,
    pod: &Pod,
    container: &core::Container,
    around: &Surroundings,
) -> Result<Environment, Error> {
    let mut sources = Sources { client, namespace: pod.namespace(), read: BTreeMap::new() };
    let mut variables = Environment::new();
    for source in container.env_from.iter().flatten() {
        import(&mut sources, source, &mut variables).await?;
    }
    for variable in container.env.iter().flatten() {
        let value = match (&variable.value, &variable.value_from) {
            (Some(text), _) => Some(expand(text, |name| variables.get(name).map(String::as_str))),
            (None, Some(source)) => resolve(&mut sources, source, pod, container, around).await?,
            (None, None) => Some(String::new()),
        };
        if let Some(value) = value {
            variables.insert(variable.name.clone(), value);
        }
    }
    Ok(variables)
}

/// Reads each config map and secret once.
struct Sources<'a> {
    client: &'a Client,
    namespace: &'a str,
    read: BTreeMap<(&'static str, String), Option<BTreeMap<String, String>>>,
}

const CONFIG_MAP: (Resource, &str, &str) = (resource::CONFIG_MAPS, "configmap", "ConfigMap");
const SECRET: (Resource, &str, &str) = (resource::SECRETS, "secret", "Secret");

impl Sources<'_> {
    async fn data(
        &mut self,
        (resource, _, _): (Resource, &str, &str),
        name: &str,
    ) -> Result<Option<&BTreeMap<String, String>>, Error> {
        let key = (resource.plural, name.to_owned());
        if !self.read.contains_key(&key) {
            let data = match self.client.get(&resource.object(Some(self.namespace), name)).await {
                Ok(object) => Some(data_of(&object)),
                Err(error) if error.is_not_found() => None,
                Err(error) => return Err(error.into()),
            };
            self.read.insert(key.clone(), data);
        }
        Ok(self.read.get(&key).and_then(Option::as_ref))
    }

    async fn value(
        &mut self,
        kind: (Resource, &'static str, &'static str),
        name: &str,
        key: &str,
        is_optional: bool,
    ) -> Result<Option<String>, Error> {
        let namespace = self.namespace;
        match self.data(kind, name).await? {
            None if is_optional => Ok(None),
            None => Err(Error::config(format!("{} \"{name}\" not found", kind.1))),
            Some(data) => match data.get(key) {
                Some(value) => Ok(Some(value.clone())),
                None if is_optional => Ok(None),
                None => Err(Error::config(format!("couldn't find key {key} in {} {namespace}/{name}", kind.2))),
            },
        }
    }
}

/// The text of a config map's or secret's data.
fn data_of(object: &Value) -> BTreeMap<String, String> {
    let is_secret = object["kind"] == "Secret";
    let entries = object["data"].as_object().into_iter().flatten();
    let text = |value: &Value| {
        let text = value.as_str().unwrap_or_default();
        if !is_secret {
            return text.to_owned();
        }
        let bytes = STANDARD.decode(text).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    entries.map(|(key, value)| (key.clone(), text(value))).collect()
}

async fn import(
    sources: &mut Sources<'_>,
    source: &core::EnvFromSource,
    variables: &mut Environment,
) -> Result<(), Error> {
    let prefix = source.prefix.as_deref().unwrap_or_default();
    let (kind, name, is_optional) = match (&source.config_map_ref, &source.secret_ref) {
        (Some(reference), _) => (CONFIG_MAP, &reference.name, reference.optional),
        (None, Some(reference)) => (SECRET, &reference.name, reference.optional),
        (None, None) => return Ok(()),
    };
    match sources.data(kind, name).await? {
        Some(data) => variables.extend(data.iter().map(|(key, value)| (format!("{prefix}{key}"), value.clone()))),
        None if is_optional == Some(true) => {}
        None => return Err(Error::config(format!("{} \"{name}\" not found", kind.1))),
    }
    Ok(())
}

async fn resolve(
    sources: &mut Sources<'_>,
    source: &core::EnvVarSource,
    pod: &Pod,
    container: &core::Container,
    around: &Surroundings,
) -> Result<Option<String>, Error> {
    if let Some(key) = &source.config_map_key_ref {
        return sources.value(CONFIG_MAP, &key.name, &key.key, key.optional == Some(true)).await;
    }
    if let Some(key) = &source.secret_key_ref {
        return sources.value(SECRET, &key.name, &key.key, key.optional == Some(true)).await;
    }
    if let Some(field) = &source.field_ref {
        return field_value(pod, around, &field.field_path).map(Some);
    }
    if let Some(selector) = &source.resource_field_ref {
        let other = selector.container_name.as_deref().and_then(|name| pod.container(name));
        return resource_value(other.unwrap_or(container), selector, &around.capacity).map(Some);
    }
    Err(Error::config("a variable has a source that this node does not know"))
}

fn joined<'a>(addresses: impl IntoIterator<Item = &'a IpAddr>) -> String {
    addresses.into_iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

/// The value of a field of the pod, as the downward API names it.
///
/// # Errors
/// [`Error::Config`] when there is no such field.
pub fn field_value(pod: &Pod, around: &Surroundings, path: &str) -> Result<String, Error> {
    let spec = pod.spec();
    let text = match path {
        "metadata.name" => pod.name().to_owned(),
        "metadata.namespace" => pod.namespace().to_owned(),
        "metadata.uid" => pod.uid().to_owned(),
        "metadata.labels" => listing(pod.meta().labels.as_ref()),
        "metadata.annotations" => listing(pod.meta().annotations.as_ref()),
        "spec.nodeName" => around.node_name.clone(),
        "spec.serviceAccountName" => spec.service_account_name.clone().unwrap_or_default(),
        "status.hostIP" => joined(around.node_addresses.first()),
        "status.hostIPs" => joined(&around.node_addresses),
        "status.podIP" => joined(around.pod_addresses.first()),
        "status.podIPs" => joined(&around.pod_addresses),
        other => return subscript(pod, other),
    };
    Ok(text)
}

/// `metadata.labels['key']` and `metadata.annotations['key']`.
fn subscript(pod: &Pod, path: &str) -> Result<String, Error> {
    let parse = || {
        let (field, key) = path.strip_suffix("']")?.split_once("['")?;
        let map = match field {
            "metadata.labels" => pod.meta().labels.as_ref(),
            "metadata.annotations" => pod.meta().annotations.as_ref(),
            _ => return None,
        };
        Some(map.and_then(|map| map.get(key)).cloned().unwrap_or_default())
    };
    parse().ok_or_else(|| Error::config(format!("unsupported fieldPath: {path}")))
}

fn listing(map: Option<&BTreeMap<String, String>>) -> String {
    let lines: Vec<String> = map.into_iter().flatten().map(|(key, value)| format!("{key}={value:?}")).collect();
    lines.join("\n")
}

/// The value of a resource of a container, in units of the divisor, rounded up.
///
/// # Errors
/// [`Error::Config`] when there is no such resource.
pub fn resource_value(
    container: &core::Container,
    selector: &core::ResourceFieldSelector,
    capacity: &Capacity,
) -> Result<String, Error> {
    let unknown = || Error::config(format!("unsupported container resource : {}", selector.resource));
    let (section, resource) = selector.resource.split_once('.').ok_or_else(unknown)?;
    let section = if section == "limits" { Section::Limits } else { Section::Requests };
    let amount = resources::amount(container, section, resource);
    let divisor = selector.divisor.as_ref().and_then(|text| Quantity::parse(&text.0).ok());
    let is_cpu = resource == "cpu";
    // Limits that are not set are what the node has; requests that are not set are nothing.
    let (given, node) = match resource {
        "cpu" => (amount.map(resources::milli), capacity.cpu_milli),
        "memory" => (amount.map(resources::bytes), capacity.memory_bytes),
        "ephemeral-storage" => (amount.map(resources::bytes), capacity.storage_bytes),
        _ => return Err(unknown()),
    };
    let value = given.unwrap_or(if section == Section::Limits { node } else { 0 });
    let unit = match divisor {
        Some(divisor) if is_cpu => resources::milli(divisor),
        Some(divisor) => resources::bytes(divisor),
        None => 0,
    };
    let unit = match unit {
        0 if is_cpu => 1000,
        0 => 1,
        unit => unit,
    };
    Ok(value.div_ceil(unit).to_string())
}
