//! Empties namespaces that are being deleted: pods first, then everything else, then the namespace itself.

use std::time::Duration;

use api::kind::{self, Kind, Verb};
use api::time;
use client::cache::{Cache, Change, Key};
use client::queue::Queue;
use client::{Client, Delete, Patch, Resource, resource};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::pods::Pods;

/// What holds a namespace back beside pods (finalizers of others) is looked at again after this time.
const RETRY: Duration = Duration::from_secs(1);
const FINALIZER: &str = "kubernetes";

/// Runs until the shutdown.
pub(crate) async fn run(client: Client, pods: Pods, mut shutdown: watch::Receiver<bool>) {
    let (namespaces, mut changes) =
        Cache::start(client.clone(), resource::NAMESPACES.collection(None), Vec::new(), shutdown.clone());
    // Of pods it matters only that they go.
    let mut pods = pods.changes;
    let queue: Queue<String> = Queue::default();
    let is_ending = |name: &str| {
        let key = Key { namespace: String::new(), name: name.to_owned() };
        namespaces.get(&key).filter(|namespace| !namespace["metadata"]["deletionTimestamp"].is_null())
    };
    loop {
        tokio::select! {
            () = client::stopped(&mut shutdown) => return,
            change = changes.recv() => match change {
                Some(Change::Set(namespace)) if is_ending(&Key::of(&namespace).name).is_some() => {
                    queue.add(Key::of(&namespace).name);
                }
                Some(_) => {}
                None => return,
            },
            Some(change) = pods.recv() => {
                if let Change::Removed(pod) = change
                    && is_ending(&Key::of(&pod).namespace).is_some()
                {
                    queue.add(Key::of(&pod).namespace);
                }
            }
            name = queue.next() => {
                let Some(namespace) = is_ending(&name) else { continue };
                match empty(&client, &namespace).await {
                    Ok(true) => {}
                    Ok(false) => queue.add_at(name, Instant::now() + RETRY),
                    Err(error) => {
                        tracing::debug!(%error, namespace = name, "emptying a namespace");
                        queue.add_at(name, Instant::now() + RETRY);
                    }
                }
            }
        }
    }
}

/// What is left in a namespace.
#[derive(Debug, Default)]
struct Remains {
    /// `pods. has 2 resource instances`, …
    instances: Vec<String>,
    /// `example.com/hold in 1 resource instances`, …
    finalizers: std::collections::BTreeMap<String, usize>,
}

/// Deletes what is left. True once the namespace itself was let go.
async fn empty(client: &Client, namespace: &Value) -> Result<bool, client::Error> {
    let name = namespace["metadata"]["name"].as_str().unwrap_or_default();
    let mut remains = Remains::default();
    sweep(client, name, kinds().filter(|kind| kind.plural == "pods"), &mut remains).await?;
    if remains.instances.is_empty() {
        sweep(client, name, kinds().filter(|kind| kind.plural != "pods"), &mut remains).await?;
    }
    if !remains.instances.is_empty() {
        report(client, namespace, &remains).await?;
        return Ok(false);
    }
    let finalizers = namespace["spec"]["finalizers"].as_array().cloned().unwrap_or_default();
    let rest: Vec<Value> = finalizers.into_iter().filter(|finalizer| finalizer != FINALIZER).collect();
    let mut last = client.get(&resource::NAMESPACES.object(None, name)).await?;
    last["spec"]["finalizers"] = rest.into();
    match client.update(&resource::NAMESPACES.subresource(None, name, "finalize"), &last).await {
        Ok(_) => Ok(true),
        Err(error) if error.is_not_found() => Ok(true),
        Err(error) => Err(error),
    }
}

/// The kinds that live in namespaces and can be deleted in bulk, each storage once.
fn kinds() -> impl Iterator<Item = &'static Kind> {
    let is_own =
        |kind: &&'static Kind| kind.is_namespaced() && kind.allows(Verb::DeleteCollection) && kind.allows(Verb::List);
    kind::ALL.iter().filter(is_own).filter(|kind| kind.group != "events.k8s.io")
}

async fn sweep(
    client: &Client,
    namespace: &str,
    kinds: impl Iterator<Item = &'static Kind>,
    remains: &mut Remains,
) -> Result<(), client::Error> {
    for kind in kinds {
        let path =
            Resource { group: kind.group, version: kind.version, plural: kind.plural }.collection(Some(namespace));
        let before = client.list(&path, &[("limit", "1")]).await?;
        if before.items.is_empty() {
            continue;
        }
        let how = Delete { propagation: Some("Background".into()), ..Delete::default() };
        client.delete(&path, &how).await?;
        let left = client.list(&path, &[]).await?.items;
        if left.is_empty() {
            continue;
        }
        let name = format!("{}.{}", kind.plural, kind.group);
        remains.instances.push(format!("{name} has {} resource instances", left.len()));
        for object in &left {
            for finalizer in object["metadata"]["finalizers"].as_array().into_iter().flatten().filter_map(Value::as_str)
            {
                *remains.finalizers.entry(finalizer.to_owned()).or_default() += 1;
            }
        }
    }
    Ok(())
}

/// Says in the namespace's conditions what holds it back.
async fn report(client: &Client, namespace: &Value, remains: &Remains) -> Result<(), client::Error> {
    let name = namespace["metadata"]["name"].as_str().unwrap_or_default();
    let counts = remains.finalizers.iter().map(|(name, count)| format!("{name} in {count} resource instances"));
    let counts: Vec<String> = counts.collect();
    let content = format!("Some resources are remaining: {}", remains.instances.join(", "));
    let holders = format!("Some content in the namespace has finalizers remaining: {}", counts.join(", "));
    let none = |text: &str| (false, text.to_owned());
    let all = [
        ("NamespaceDeletionDiscoveryFailure", "ResourcesDiscovered", none("All resources successfully discovered")),
        (
            "NamespaceDeletionGroupVersionParsingFailure",
            "ParsedGroupVersions",
            none("All legacy kube types successfully parsed"),
        ),
        (
            "NamespaceDeletionContentFailure",
            "ContentDeleted",
            none("All content successfully deleted, may be waiting on finalization"),
        ),
        ("NamespaceContentRemaining", "SomeResourcesRemain", (true, content)),
        (
            "NamespaceFinalizersRemaining",
            if counts.is_empty() { "ContentHasNoFinalizers" } else { "SomeFinalizersRemain" },
            if counts.is_empty() { none("All content-preserving finalizers finished") } else { (true, holders) },
        ),
    ];
    let known = namespace["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let now = time::format(Timestamp::now());
    let conditions: Vec<Value> = all
        .into_iter()
        .map(|(kind, reason, (holds, message))| {
            let status = if holds { "True" } else { "False" };
            let old = known.iter().find(|old| old["type"] == kind && old["status"] == status);
            let since = old.and_then(|old| old["lastTransitionTime"].as_str()).unwrap_or(&now);
            json!({"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": since})
        })
        .collect();
    if Value::from(conditions.clone()) == namespace["status"]["conditions"] {
        return Ok(());
    }
    let path = resource::NAMESPACES.subresource(None, name, "status");
    match client.patch(&path, Patch::Merge, &json!({"status": {"conditions": conditions}})).await {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(()),
    }
}
