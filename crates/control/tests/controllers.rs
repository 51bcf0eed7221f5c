//! The scheduler and the controllers against a real API server in this process.

use std::time::Duration;

use anyhow::Context;
use client::{Client, Delete, resource};
use control::Config;
use serde_json::{Value, json};
use testkit::{Cluster, eventually};

/// Short, so that tests of silent nodes need not wait long.
const GRACE: Duration = Duration::from_secs(2);

async fn start() -> anyhow::Result<(Cluster, Client)> {
    let cluster = Cluster::start().await?;
    let config = Config {
        scheduler: cluster.client("system:kube-scheduler", &[]),
        controllers: cluster.client("system:kube-controller-manager", &[]),
        authority_pem: "PEM".into(),
        node_grace: GRACE,
        signing: None,
    };
    tokio::spawn(control::run(config, None, cluster.shutdown()));
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
    assert_eq!(
        refusal_of(&admin, "second").await?,
        "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod."
    );
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

async fn beat(client: &Client, name: &str, number: u32) -> anyhow::Result<()> {
    let path = resource::LEASES.object(Some("kube-node-lease"), name);
    let spec = json!({"holderIdentity": name, "renewTime": format!("2026-01-01T00:00:{number:02}.000000Z")});
    let lease =
        json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name}, "spec": spec});
    if client.patch(&path, client::Patch::Merge, &json!({"spec": spec})).await.is_err() {
        client.create(&resource::LEASES.collection(Some("kube-node-lease")), &lease).await?;
    }
    Ok(())
}

async fn say_ready(client: &Client, name: &str) -> anyhow::Result<()> {
    let ready = json!({"status": {"conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady"}]}});
    client.patch(&resource::NODES.subresource(None, name, "status"), client::Patch::Strategic, &ready).await?;
    Ok(())
}

/// The taints of a node, once there are so many.
async fn taints(client: &Client, name: &str, count: usize) -> anyhow::Result<Vec<String>> {
    eventually("the taints of the node", async || {
        let node = client.get(&resource::NODES.object(None, name)).await.ok()?;
        let taints = node["spec"]["taints"].as_array().cloned().unwrap_or_default();
        let text = |taint: &Value, field: &str| taint[field].as_str().unwrap_or_default().to_owned();
        let shown: Vec<String> = taints.iter().map(|t| format!("{}:{}", text(t, "key"), text(t, "effect"))).collect();
        (shown.len() == count).then_some(shown)
    })
    .await
}

#[tokio::test]
async fn a_silent_node_loses_its_pods_and_comes_back() -> anyhow::Result<()> {
    let (_cluster, admin) = start().await?;
    for name in ["lives", "stops"] {
        add_node(&admin, name, "4").await?;
        say_ready(&admin, name).await?;
        beat(&admin, name, 0).await?;
    }
    let bears = json!([{"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 1}]);
    let selector = json!({"kubernetes.io/hostname": "stops"});
    let labels = json!({"metadata": {"labels": selector}});
    admin.patch(&resource::NODES.object(None, "stops"), client::Patch::Merge, &labels).await?;
    let mut spec = asking("1");
    spec["tolerations"] = bears;
    spec["nodeSelector"] = selector;
    add_pod(&admin, "lost", spec).await?;
    assert_eq!(node_of(&admin, "lost").await?, "stops");
    let alive = tokio::spawn({
        let admin = admin.clone();
        async move {
            let mut ticks = tokio::time::interval(GRACE / 4);
            for number in 1..60 {
                ticks.tick().await;
                drop(beat(&admin, "lives", number).await);
            }
        }
    });
    let unreachable = "node.kubernetes.io/unreachable";
    let want = [format!("{unreachable}:NoSchedule"), format!("{unreachable}:NoExecute")];
    assert_eq!(taints(&admin, "stops", 2).await?, want);
    eventually("the pod to be told to go", async || {
        let pod = pod(&admin, "lost").await;
        pod.is_none_or(|pod| !pod["metadata"]["deletionTimestamp"].is_null()).then_some(())
    })
    .await?;
    beat(&admin, "stops", 30).await?;
    say_ready(&admin, "stops").await?;
    assert!(taints(&admin, "stops", 0).await?.is_empty());
    assert!(taints(&admin, "lives", 0).await?.is_empty());
    alive.abort();
    Ok(())
}

#[tokio::test]
async fn what_a_deleted_node_leaves_is_taken_away() -> anyhow::Result<()> {
    let (_cluster, admin) = start().await?;
    add_node(&admin, "gone", "4").await?;
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": api::block::NAMESPACE}});
    // The server makes it, once nodes claim blocks.
    drop(admin.create(&resource::NAMESPACES.collection(None), &namespace).await);
    for (block, holder) in [("10.42.0.0-26", "gone"), ("10.42.0.64-26", "here")] {
        let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": block},
            "spec": {"holderIdentity": holder}});
        admin.create(&resource::LEASES.collection(Some(api::block::NAMESPACE)), &lease).await?;
    }
    add_node(&admin, "here", "0").await?;
    add_pod(&admin, "left", asking("1")).await?;
    assert_eq!(node_of(&admin, "left").await?, "gone");
    let now = Delete::default();
    admin.delete(&resource::NODES.object(None, "gone"), &now).await?;
    eventually("the pod to go", async || pod(&admin, "left").await.is_none().then_some(())).await?;
    let blocks = resource::LEASES.collection(Some(api::block::NAMESPACE));
    eventually("the block to be free", async || {
        let left = admin.list(&blocks, &[]).await.ok()?.items;
        (left.len() == 1 && left[0]["spec"]["holderIdentity"] == "here").then_some(())
    })
    .await
}

/// Reports a pod that has a node as running and ready.
async fn make_ready(client: &Client, name: &str) -> anyhow::Result<()> {
    let path = resource::PODS.subresource(Some("default"), name, "status");
    let ready = json!({"type": "Ready", "status": "True"});
    let status = json!({"status": {"phase": "Running", "conditions": [ready]}});
    client.patch(&path, client::Patch::Strategic, &status).await?;
    Ok(())
}

#[tokio::test]
async fn evictions_spend_a_budget() -> anyhow::Result<()> {
    let (_cluster, client) = start().await?;
    add_node(&client, "n1", "8").await?;
    let budget = json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "two"},
        "spec": {"minAvailable": 2, "selector": {"matchExpressions": [{"key": "app", "operator": "In", "values": ["web"]}]}}});
    let budgets = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";
    for name in ["a", "b", "c"] {
        add_pod(&client, name, asking("1")).await?;
        let labels = json!({"metadata": {"labels": {"app": "web"}}});
        client.patch(&resource::PODS.object(Some("default"), name), client::Patch::Merge, &labels).await?;
        node_of(&client, name).await?;
        make_ready(&client, name).await?;
    }
    client.create(budgets, &budget).await?;
    let allowed = async |wanted: i64| {
        eventually("the budget's status", async || {
            let status = client.get(&format!("{budgets}/two")).await.ok()?["status"].clone();
            (status["observedGeneration"] == 1 && status["disruptionsAllowed"] == wanted).then_some(status)
        })
        .await
    };
    let status = allowed(1).await?;
    assert_eq!((status["currentHealthy"].as_i64(), status["desiredHealthy"].as_i64()), (Some(3), Some(2)));
    assert_eq!(status["conditions"][0]["reason"], "SufficientPods");
    let evict = async |name: &str| {
        let eviction =
            json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name, "namespace": "default"}});
        client.create(&resource::PODS.subresource(Some("default"), name, "eviction"), &eviction).await
    };
    evict("a").await?;
    let going = pod(&client, "a").await.context("it has time to end")?;
    let conditions = going["status"]["conditions"].as_array().context("conditions")?;
    assert!(conditions.iter().any(|one| one["type"] == "DisruptionTarget" && one["reason"] == "EvictionByEvictionAPI"));
    allowed(0).await?;
    let refusal = match evict("b").await {
        Err(client::Error::Api(status)) => status,
        other => anyhow::bail!("{other:?}"),
    };
    assert_eq!(refusal.code, 429);
    assert_eq!(refusal.message, "Cannot evict pod as it would violate the pod's disruption budget.");
    let causes = refusal.details.context("details")?.causes;
    assert_eq!(causes[0].reason, "DisruptionBudget");
    assert_eq!(causes[0].message, "The disruption budget two needs 2 healthy pods and has 2 currently");
    client.delete(&format!("{budgets}/two"), &Delete::default()).await?;
    evict("b").await?;
    Ok(())
}

#[tokio::test]
async fn the_important_push_out_the_less_important() -> anyhow::Result<()> {
    let (_cluster, client) = start().await?;
    add_node(&client, "n1", "2").await?;
    let class = json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": "high"}, "value": 1000});
    client.create("/apis/scheduling.k8s.io/v1/priorityclasses", &class).await?;
    for name in ["first", "second"] {
        add_pod(&client, name, asking("1")).await?;
        assert_eq!(node_of(&client, name).await?, "n1");
        make_ready(&client, name).await?;
    }
    let mut spec = asking("1");
    spec["priorityClassName"] = "high".into();
    add_pod(&client, "vip", spec).await?;
    let nominated = async || pod(&client, "vip").await?["status"]["nominatedNodeName"].as_str().map(str::to_owned);
    assert_eq!(eventually("a promise", nominated).await?, "n1");
    let going = async || {
        let pods = client.list(&resource::PODS.collection(Some("default")), &[]).await.ok()?.items;
        let mut going = pods.into_iter().filter(|pod| !pod["metadata"]["deletionTimestamp"].is_null());
        going.next().filter(|_| going.next().is_none())
    };
    let victim = eventually("one pod goes", going).await?;
    assert_eq!(victim["metadata"]["deletionGracePeriodSeconds"], 30, "it has the time that it asks for");
    let conditions = victim["status"]["conditions"].as_array().context("conditions")?;
    assert!(conditions.iter().any(|one| one["type"] == "DisruptionTarget" && one["reason"] == "PreemptionByScheduler"));
    // What is left behind is not for others.
    add_pod(&client, "thief", asking("1")).await?;
    let name = victim["metadata"]["name"].as_str().context("a name")?.to_owned();
    let now = Delete { grace_seconds: Some(0), ..Delete::default() };
    client.delete(&resource::PODS.object(Some("default"), &name), &now).await?;
    assert_eq!(node_of(&client, "vip").await?, "n1");
    assert!(pod(&client, "thief").await.context("it waits")?["spec"]["nodeName"].is_null());
    let told = async || {
        let events = client.list(&resource::EVENTS.collection(Some("default")), &[]).await.ok()?.items;
        events
            .into_iter()
            .find(|event| event["reason"] == "Preempted" && event["involvedObject"]["name"] == name.as_str())
    };
    eventually("the event", told).await?;
    Ok(())
}
