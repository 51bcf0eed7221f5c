//! The objects that each cluster has from its first moment on.

use api::status::Status;
use serde_json::{Value, json};

use crate::Cluster;
use crate::kinds;
use crate::registry::{Registry, Resource, Target, WriteOptions};
use crate::tree::text;

/// `podling-blocks` holds the nodes' claims of blocks of addresses, one lease for each.
const NAMESPACES: [&str; 5] = ["default", "kube-node-lease", "kube-public", "kube-system", api::block::NAMESPACE];

/// Makes what is missing, all at once, so that the store has to sync only a few times.
pub(crate) async fn run(registry: &Registry, cluster: &Cluster) -> Result<(), Status> {
    let namespaces = NAMESPACES.map(|name| {
        let tree = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        (Resource::known("", "namespaces"), tree)
    });
    let classes = kinds::SYSTEM_PRIORITIES.map(|(name, value)| {
        let what = match name {
            "system-node-critical" => "pods that must not be moved from their node",
            _ => "pods that the cluster cannot be without, but that may move",
        };
        let tree = json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name},
            "value": value, "description": format!("Used for {what}.")});
        (Resource::known("scheduling.k8s.io", "priorityclasses"), tree)
    });
    let service = (Resource::known("", "services"), service(cluster));
    let all = namespaces.into_iter().chain(classes).chain([service]);
    let all = all.map(|(resource, tree)| ensure(registry, resource, tree));
    futures_util::future::try_join_all(all).await.map(drop)
}

/// The service under which pods find the API server.
fn service(cluster: &Cluster) -> Value {
    let address = cluster.service_address.map_or_else(|| "None".to_owned(), |address| address.to_string());
    let labels = json!({"component": "apiserver", "provider": "kubernetes"});
    json!({"apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "kubernetes", "namespace": "default", "labels": labels},
        "spec": {"type": "ClusterIP", "clusterIP": address, "clusterIPs": [address],
            "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack",
            "ports": [{"name": "https", "protocol": "TCP", "port": 443, "targetPort": cluster.port}]},
        "status": {"loadBalancer": {}}})
}

async fn ensure(registry: &Registry, resource: Resource, mut tree: Value) -> Result<(), Status> {
    let meta = &tree["metadata"];
    let target = Target::new(resource, text(meta, "namespace"), text(meta, "name"));
    if registry.find(&target).await?.is_some() {
        return Ok(());
    }
    (resource.behaviour.defaults)(&mut tree);
    registry.create(resource, tree, WriteOptions::default()).await.map(drop)
}
