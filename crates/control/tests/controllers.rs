//! The scheduler and the controllers against a real API server in this process.

use anyhow::Context;
use client::{Client, Delete, resource};
use control::Config;
use serde_json::{Value, json};
use testkit::{Cluster, eventually};

async fn start() -> anyhow::Result<(Cluster, Client)> {
    let cluster = Cluster::start().await?;
    let config = Config {
        scheduler: cluster.client("system:kube-scheduler", &[]),
        controllers: cluster.client("system:kube-controller-manager", &[]),
        authority_pem: "PEM".into(),
    };
    tokio::spawn(control::run(config, cluster.shutdown()));
    let admin = cluster.admin();
    Ok((cluster, admin))
}

async fn add_node(client: &Client, name: &str, cpu: &str) -> anyhow::Result<()> {
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}});
    client.create(&resource::NODES.collection(None), &node).await?;
    let amounts = json!({"cpu": cpu, "memory": "1Gi", "pods": "100"});
    let status = json!({"status": {"allocatable": amounts, "capacity": amounts}});
    let path = resource::NODES.subresource(None, name, "status");
    client.patch(&path, client::Patch::Merge, &status).await?;
    Ok(())
}

async fn add_pod(client: &Client, name: &str, spec: Value) -> anyhow::Result<()> {
    eventually("the service account", async || {
        client.get(&resource::SERVICE_ACCOUNTS.object(Some("default"), "default")).await.ok()
    })
    .await?;
    let mut spec = spec;
    spec["containers"][0]["name"] = "c".into();
    spec["containers"][0]["image"] = "i".into();
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec});
    client.create(&resource::PODS.collection(Some("default")), &pod).await?;
    Ok(())
}

async fn pod(client: &Client, name: &str) -> Option<Value> {
    client.get(&resource::PODS.object(Some("default"), name)).await.ok()
}

fn asking(cpu: &str) -> Value {
    json!({"containers": [{"resources": {"requests": {"cpu": cpu}}}]})
}

async fn node_of(client: &Client, name: &str) -> anyhow::Result<String> {
    eventually("a node for the pod", async || pod(client, name).await?["spec"]["nodeName"].as_str().map(str::to_owned))
        .await
}

async fn refusal_of(client: &Client, name: &str) -> anyhow::Result<String> {
    eventually("a reason why the pod waits", async || {
        let pod = pod(client, name).await?;
        let condition = pod["status"]["conditions"].as_array()?.iter().find(|c| c["type"] == "PodScheduled")?.clone();
        (condition["status"] == "False").then(|| condition["message"].as_str().unwrap_or_default().to_owned())
    })
    .await
}

#[tokio::test]
async fn pods_get_nodes_as_there_is_room() -> anyhow::Result<()> {
    let (_cluster, admin) = start().await?;
    add_pod(&admin, "first", asking("1")).await?;
    assert_eq!(refusal_of(&admin, "first").await?, "no nodes available to schedule pods");
    add_node(&admin, "small", "1").await?;
    assert_eq!(node_of(&admin, "first").await?, "small");
    add_pod(&admin, "second", asking("1")).await?;
    assert_eq!(refusal_of(&admin, "second").await?, "0/1 nodes are available: 1 Insufficient cpu.");
    let now = Delete { grace_seconds: Some(0), ..Delete::default() };
    admin.delete(&resource::PODS.object(Some("default"), "first"), &now).await?;
    assert_eq!(node_of(&admin, "second").await?, "small");
    let events = admin.list(&resource::EVENTS.collection(Some("default")), &[]).await?.items;
    let reasons: Vec<&str> = events.iter().filter_map(|event| event["reason"].as_str()).collect();
    assert!(reasons.contains(&"Scheduled") && reasons.contains(&"FailedScheduling"), "{reasons:?}");
    Ok(())
}

#[tokio::test]
async fn a_gated_or_foreign_pod_is_left_alone() -> anyhow::Result<()> {
    let (_cluster, admin) = start().await?;
    add_node(&admin, "node", "4").await?;
    let mut foreign = asking("1");
    foreign["schedulerName"] = "other".into();
    add_pod(&admin, "foreign", foreign).await?;
    add_pod(&admin, "own", asking("1")).await?;
    // The scheduler takes pods in order: when the later one has its node, the earlier one was passed over.
    node_of(&admin, "own").await?;
    assert!(pod(&admin, "foreign").await.context("gone")?["spec"]["nodeName"].is_null());
    Ok(())
}

#[tokio::test]
async fn a_namespace_is_furnished_and_emptied() -> anyhow::Result<()> {
    let (_cluster, admin) = start().await?;
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "team"}});
    admin.create(&resource::NAMESPACES.collection(None), &namespace).await?;
    let authority = eventually("the authority", async || {
        admin.get(&resource::CONFIG_MAPS.object(Some("team"), "kube-root-ca.crt")).await.ok()
    });
    assert_eq!(authority.await?["data"]["ca.crt"], "PEM");
    let held = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "held", "finalizers": ["example.com/hold"]}});
    admin.create(&resource::CONFIG_MAPS.collection(Some("team")), &held).await?;
    admin.delete(&resource::NAMESPACES.object(None, "team"), &Delete::default()).await?;
    let holder = eventually("what holds the namespace", async || {
        let namespace = admin.get(&resource::NAMESPACES.object(None, "team")).await.ok()?;
        let conditions = namespace["status"]["conditions"].as_array()?.clone();
        conditions.into_iter().find(|c| c["type"] == "NamespaceFinalizersRemaining" && c["status"] == "True")
    });
    let message = holder.await?["message"].as_str().unwrap_or_default().to_owned();
    assert!(message.ends_with("example.com/hold in 1 resource instances"), "{message}");
    let release = json!({"metadata": {"finalizers": null}});
    admin.patch(&resource::CONFIG_MAPS.object(Some("team"), "held"), client::Patch::Merge, &release).await?;
    eventually("the end of the namespace", async || {
        let gone = admin.get(&resource::NAMESPACES.object(None, "team")).await;
        gone.is_err_and(|error| error.is_not_found()).then_some(())
    })
    .await
}
