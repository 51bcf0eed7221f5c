//! Gives each namespace what it must have: the service account `default`, and the authority that its pods believe.

use client::cache::{Cache, Change, Key};
use client::queue::Queue;
use client::{Client, Patch, Resource, resource};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

const ACCOUNT: &str = "default";
const AUTHORITY: &str = "kube-root-ca.crt";
const RETRY: Duration = Duration::from_secs(1);

/// Runs until the shutdown.
pub async fn run(client: Client, authority_pem: String, mut shutdown: watch::Receiver<bool>) {
    let (namespaces, mut changes) =
        Cache::start(client.clone(), resource::NAMESPACES.collection(None), Vec::new(), shutdown.clone());
    let mut accounts = follow(&client, resource::SERVICE_ACCOUNTS, ACCOUNT, &shutdown);
    let mut authorities = follow(&client, resource::CONFIG_MAPS, AUTHORITY, &shutdown);
    let queue: Queue<String> = Queue::default();
    loop {
        tokio::select! {
            () = client::stopped(&mut shutdown) => return,
            change = changes.recv() => match change {
                Some(Change::Set(namespace)) => queue.add(Key::of(&namespace).name),
                Some(_) => {}
                None => return,
            },
            Some(change) = accounts.recv() => requeue(&queue, &change),
            Some(change) = authorities.recv() => requeue(&queue, &change),
            name = queue.next() => {
                let key = Key { namespace: String::new(), name: name.clone() };
                let is_active = namespaces.get(&key).is_some_and(|ns| ns["metadata"]["deletionTimestamp"].is_null());
                if is_active && let Err(error) = furnish(&client, &name, &authority_pem).await {
                    tracing::debug!(%error, namespace = name, "furnishing a namespace");
                    if !error.is_not_found() && error.code() != 403 {
                        queue.add_at(name, Instant::now() + RETRY);
                    }
                }
            }
        }
    }
}

fn follow(client: &Client, resource: Resource, name: &str, shutdown: &watch::Receiver<bool>) -> mpsc::Receiver<Change> {
    let selector = vec![("fieldSelector".to_owned(), format!("metadata.name={name}"))];
    Cache::start(client.clone(), resource.collection(None), selector, shutdown.clone()).1
}

/// What was taken away or changed is put right.
fn requeue(queue: &Queue<String>, change: &Change) {
    match change {
        Change::Set(object) | Change::Removed(object) => queue.add(Key::of(object).namespace),
        Change::Synced => {}
    }
}

async fn furnish(client: &Client, namespace: &str, authority_pem: &str) -> Result<(), client::Error> {
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": ACCOUNT}});
    ensure(client, resource::SERVICE_ACCOUNTS, namespace, &account).await?;
    let data = json!({"ca.crt": authority_pem});
    let authority = json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": AUTHORITY,
            "annotations": {"kubernetes.io/description": "Contains a CA bundle that can be used to verify the kube-apiserver."},
        },
        "data": data,
    });
    let present = ensure(client, resource::CONFIG_MAPS, namespace, &authority).await?;
    if present["data"] != data {
        let path = resource::CONFIG_MAPS.object(Some(namespace), AUTHORITY);
        client.patch(&path, Patch::Merge, &json!({"data": data})).await?;
    }
    Ok(())
}

/// The object as it is, made if it is missing.
async fn ensure(client: &Client, kind: Resource, namespace: &str, object: &Value) -> Result<Value, client::Error> {
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    match client.get(&kind.object(Some(namespace), name)).await {
        Err(error) if error.is_not_found() => client.create(&kind.collection(Some(namespace)), object).await,
        other => other,
    }
}
