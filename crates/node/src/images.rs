//! Gets the image of a container: by its pull policy, with its pod's credentials, backing off from registries that refuse.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use client::{Client, resource};
use jiff::Timestamp;
use k8s_openapi::api::core::v1 as core;
use runtime::image::{Auth, Image, Reference, Store};
use serde_json::{Value, json};

use crate::error::chain;
use crate::events::{Events, Severity};
use crate::pod::Pod;

const FIRST_DELAY: Duration = Duration::from_secs(10);
const LONGEST_DELAY: Duration = Duration::from_secs(300);
/// A node's status names so many images, and each by so many names (upstream's limits).
const MOST_IMAGES: usize = 50;
const MOST_NAMES: usize = 5;

/// Why a container has no image yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// `ErrImagePull`, `ImagePullBackOff`, `ErrImageNeverPull`, `InvalidImageName`.
    pub reason: &'static str,
    /// A sentence.
    pub message: String,
    /// When to try again; `None` when only a change of the pod can help.
    pub retry: Option<Timestamp>,
}

/// The node's way to images.
pub struct Images {
    store: Arc<Store>,
    client: Client,
    recorder: Events,
    failures: Mutex<HashMap<(String, String), Failure>>,
}

#[derive(Debug, Clone)]
struct Failure {
    delay: Duration,
    until: Timestamp,
    message: String,
}

impl Images {
    /// Images of `store`.
    pub fn new(store: Arc<Store>, client: Client, recorder: Events) -> Self {
        Self { store, client, recorder, failures: Mutex::default() }
    }

    /// The store behind it.
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// The images of this machine as the Node's status names them; `None` when the store cannot be read now.
    pub fn status(&self) -> Option<Value> {
        let images = self.store.largest(MOST_IMAGES);
        let images = images.inspect_err(|error| tracing::warn!(error = chain(error), "listing images"));
        Some(listing(&images.ok()?))
    }

    /// The image of a container, if its pull policy is content with what is on this machine.
    ///
    /// # Errors
    /// A [`Refusal`] for the container's status, if no pull can help.
    pub fn present(&self, pod: &Pod, container: &core::Container) -> Result<Option<Image>, Refusal> {
        let name = name(container);
        let reference = Reference::parse(name).map_err(|error| {
            let message =
                format!("Failed to apply default image tag \"{name}\": couldn't parse image name \"{name}\": {error}");
            self.tell(pod, container, Severity::Warning, "InspectFailed", &message);
            Refusal { reason: "InvalidImageName", message, retry: None }
        })?;
        let policy = container.image_pull_policy.as_deref().unwrap_or("IfNotPresent");
        match self.store.find(&reference) {
            // An image that a person loaded by hand answers for its name whatever the policy says: there may be no registry at all.
            Some(image) if policy != "Always" || image.is_loaded_by_hand => {
                let message =
                    format!("Container image \"{name}\" already present on machine and can be accessed by the pod");
                self.tell(pod, container, Severity::Normal, "Pulled", &message);
                Ok(Some(image))
            }
            None if policy == "Never" => {
                let message = format!("Container image \"{name}\" is not present with pull policy of Never");
                self.tell(pod, container, Severity::Warning, "ErrImageNeverPull", &message);
                Err(Refusal { reason: "ErrImageNeverPull", message, retry: None })
            }
            _ => Ok(None),
        }
    }

    /// Pulls the image of a container. Cancelling the wait leaves a pull to end by itself.
    ///
    /// # Errors
    /// A [`Refusal`] for the container's status.
    pub async fn pull(&self, pod: &Pod, container: &core::Container) -> Result<Image, Refusal> {
        let name = name(container);
        let key = (pod.uid().to_owned(), name.to_owned());
        if let Some(failure) = self.failure(&key).filter(|failure| failure.until > Timestamp::now()) {
            return Err(self.backing_off(pod, container, &failure.message, Some(failure.until)));
        }
        self.tell(pod, container, Severity::Normal, "Pulling", &format!("Pulling image \"{name}\""));
        let begun = Timestamp::now();
        match self.fetch(pod, name).await {
            Ok(image) => {
                let took = format!("{:.3}s", (Timestamp::now() - begun).total(jiff::Unit::Second).unwrap_or(0.0));
                let size = image.size_bytes;
                let message = format!(
                    "Successfully pulled image \"{name}\" in {took} ({took} including waiting). Image size: {size} bytes."
                );
                self.tell(pod, container, Severity::Normal, "Pulled", &message);
                self.forget(&key);
                Ok(image)
            }
            Err(error) => {
                let cause = chain(&error);
                let message = format!("Failed to pull image \"{name}\": {cause}");
                self.tell(pod, container, Severity::Warning, "Failed", &message);
                self.tell(pod, container, Severity::Warning, "Failed", "Error: ErrImagePull");
                let retry = Some(self.remember(key, format!("ErrImagePull: {cause}")));
                Err(Refusal { reason: "ErrImagePull", message: cause, retry })
            }
        }
    }

    async fn fetch(&self, pod: &Pod, name: &str) -> Result<Image, runtime::image::Error> {
        self.store.pull(&Reference::parse(name)?, &self.auths(pod).await).await
    }

    /// Tells that a registry which refused is not asked again yet; what the container's status says meanwhile.
    pub fn backing_off(
        &self,
        pod: &Pod,
        container: &core::Container,
        cause: &str,
        retry: Option<Timestamp>,
    ) -> Refusal {
        let message = format!("Back-off pulling image \"{}\"", name(container));
        self.tell(pod, container, Severity::Normal, "BackOff", &message);
        Refusal { reason: "ImagePullBackOff", message: format!("{message}: {cause}"), retry }
    }

    fn tell(&self, pod: &Pod, container: &core::Container, severity: Severity, reason: &'static str, message: &str) {
        self.recorder.pod(pod, Some(field(pod, container)), severity, reason, message);
    }

    fn failure(&self, key: &(String, String)) -> Option<Failure> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
    }

    fn forget(&self, key: &(String, String)) {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }

    /// Forgets what is known of a pod that has gone.
    pub fn forget_pod(&self, uid: &str) {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).retain(|(pod, _), _| pod != uid);
    }

    /// Notes a failure; the moment of the next try.
    fn remember(&self, key: (String, String), message: String) -> Timestamp {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let delay = failures.get(&key).map_or(FIRST_DELAY, |failure| (failure.delay * 2).min(LONGEST_DELAY));
        let until = Timestamp::now().checked_add(delay).unwrap_or(Timestamp::MAX);
        failures.insert(key, Failure { delay, until, message });
        until
    }

    /// The credentials in the pod's `imagePullSecrets`. One that is missing is told of, and the pull is tried without it.
    async fn auths(&self, pod: &Pod) -> Vec<Auth> {
        let mut auths = Vec::new();
        let mut missing = Vec::new();
        for secret in pod.spec().image_pull_secrets.iter().flatten() {
            match self.client.get(&resource::SECRETS.object(Some(pod.namespace()), &secret.name)).await {
                Ok(object) => auths.extend(auths_of(&object)),
                Err(_) => missing.push(secret.name.as_str()),
            }
        }
        if !missing.is_empty() {
            let message = format!(
                "Unable to retrieve some image pull secrets ({}); attempting to pull the image may not succeed.",
                missing.join(", ")
            );
            self.recorder.pod(pod, None, Severity::Warning, "FailedToRetrieveImagePullSecret", &message);
        }
        auths
    }
}

/// What a node's status says of its images: by digest, then by name.
fn listing(images: &[Image]) -> Value {
    let entry = |image: &Image| {
        let names = image.digests.iter().chain(&image.names).take(MOST_NAMES);
        json!({"names": names.collect::<Vec<_>>(), "sizeBytes": image.size_bytes})
    };
    Value::Array(images.iter().map(entry).collect())
}

/// How events name a container.
pub fn field(pod: &Pod, container: &core::Container) -> String {
    let is_init = pod.init_containers().iter().any(|init| init.name == container.name);
    format!("spec.{}{{{}}}", if is_init { "initContainers" } else { "containers" }, container.name)
}

/// The image as the pod names it.
fn name(container: &core::Container) -> &str {
    container.image.as_deref().unwrap_or_default()
}

/// Reads `.dockerconfigjson` (or the older `.dockercfg`) of a secret.
fn auths_of(secret: &Value) -> Vec<Auth> {
    let decode = |key: &str| -> Option<Value> {
        serde_json::from_slice(&STANDARD.decode(secret["data"][key].as_str()?).ok()?).ok()
    };
    let registries = decode(".dockerconfigjson").map(|mut file| file["auths"].take()).or_else(|| decode(".dockercfg"));
    let entries = registries.as_ref().and_then(Value::as_object).into_iter().flatten();
    entries.filter_map(|(registry, entry)| auth_of(registry, entry)).collect()
}

fn auth_of(registry: &str, entry: &Value) -> Option<Auth> {
    let text = |field: &str| entry[field].as_str().filter(|text| !text.is_empty()).map(str::to_owned);
    let packed = text("auth").and_then(|auth| String::from_utf8(STANDARD.decode(auth).ok()?).ok());
    let unpacked = packed.as_ref().and_then(|pair| pair.split_once(':'));
    let username = text("username").or_else(|| unpacked.map(|(name, _)| name.to_owned()))?;
    let password = text("password").or_else(|| unpacked.map(|(_, word)| word.to_owned()))?;
    Some(Auth { registry: registry.to_owned(), username, password })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_names_digests_first_and_few_names() {
        let name = |number: usize| format!("docker.io/library/app:{number}");
        let image = Image {
            id: "sha256:00".into(),
            names: (0..9).map(name).collect(),
            digests: vec!["docker.io/library/app@sha256:ab".into()],
            config: Default::default(),
            layers: Vec::new(),
            size_bytes: 7,
            is_loaded_by_hand: false,
        };
        let names = ["docker.io/library/app@sha256:ab".to_owned(), name(0), name(1), name(2), name(3)];
        assert_eq!(listing(&[image]), json!([{"names": names, "sizeBytes": 7}]));
    }
}
