//! The pods, as the controllers see them: followed once, for all of them.

use client::cache::{Cache, Change, Shared};
use client::{Client, resource};
use serde_json::Value;
use tokio::sync::{mpsc, watch};

/// What one controller sees of them.
pub(crate) struct Pods {
    /// Those that are known, without what no controller looks at (see [`trim`]).
    pub(crate) cache: Cache,
    /// What becomes of them. It must be taken in time: the others wait for the slowest.
    pub(crate) changes: mpsc::Receiver<Change>,
}

/// Follows them for so many controllers.
pub(crate) fn follow<const READERS: usize>(client: Client, shutdown: &watch::Receiver<bool>) -> [Pods; READERS] {
    let mut shared = Shared::new(client, resource::PODS.collection(None), Vec::new(), trim);
    let readers = std::array::from_fn(|_| {
        let (cache, changes) = shared.reader();
        Pods { cache, changes }
    });
    shared.start(shutdown.clone());
    readers
}

/// Takes out of a pod what no controller needs.
fn trim(pod: &mut Value) {
    if let Some(metadata) = pod["metadata"].as_object_mut() {
        metadata.retain(|field, _| !matches!(field.as_str(), "annotations" | "managedFields"));
    }
    for list in ["initContainers", "containers"] {
        for fields in pod["spec"]
            .get_mut(list)
            .and_then(Value::as_array_mut)
            .into_iter()
            .flatten()
            .filter_map(Value::as_object_mut)
        {
            fields.retain(|field, _| matches!(field.as_str(), "image" | "ports" | "resources"));
        }
    }
    if let Some(status) = pod["status"].as_object_mut() {
        status.retain(|field, _| matches!(field.as_str(), "phase" | "conditions" | "nominatedNodeName" | "startTime"));
    }
}
