//! Keeps the status of disruption budgets: how many of their pods are healthy, and how many of them may go.

use std::sync::Arc;
use std::time::Duration;

use api::time;
use client::cache::{Cache, Change, Key};
use client::events::{About, Recorder, Severity};
use client::queue::Queue;
use client::{Client, Resource};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value, json};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::near::{Selector, holds, selector};
use crate::pods::Pods;
use crate::tree::{map, text};

const BUDGETS: Resource = Resource { group: "policy", version: "v1", plural: "poddisruptionbudgets" };
const DEPLOYMENTS: Resource = Resource { group: "apps", version: "v1", plural: "deployments" };
const CONTROLLERS: Resource = Resource::core("replicationcontrollers");
/// A pod that was to go and is still there after this time counts again (upstream's).
const PATIENCE: SignedDuration = SignedDuration::from_mins(2);
const RETRY: Duration = Duration::from_secs(1);

/// Runs until the shutdown.
pub(crate) async fn run(client: Client, recorder: Recorder, pods: Pods, mut shutdown: watch::Receiver<bool>) {
    let all = |resource: Resource| (client.clone(), resource.collection(None), Vec::new());
    let (budget_client, path, query) = all(BUDGETS);
    let (budgets, mut budget_changes) = Cache::start(budget_client, path, query, shutdown.clone());
    let Pods { cache: pods, changes: mut pod_changes } = pods;
    let mut pods_known = false;
    let disruption = Disruption { client, recorder, pods, budgets, queue: Queue::default() };
    loop {
        tokio::select! {
            () = client::stopped(&mut shutdown) => return,
            change = pod_changes.recv() => match change {
                Some(Change::Set(pod) | Change::Removed(pod)) => disruption.pod_changed(&pod),
                Some(Change::Synced) => pods_known = true,
                None => return,
            },
            change = budget_changes.recv() => match change {
                Some(Change::Set(budget)) => disruption.queue.add(Key::of(&budget)),
                Some(_) => {}
                None => return,
            },
            key = disruption.queue.next(), if pods_known => disruption.look(&key).await,
        }
    }
}

struct Disruption {
    client: Client,
    recorder: Recorder,
    pods: Cache,
    budgets: Cache,
    queue: Queue<Key>,
}

impl Disruption {
    /// All budgets of its namespace: the pod may have had other labels.
    fn pod_changed(&self, pod: &Value) {
        let namespace = Key::of(pod).namespace;
        let own = self.budgets.list().into_iter().map(|budget| Key::of(&budget));
        own.filter(|budget| budget.namespace == namespace).for_each(|budget| self.queue.add(budget));
    }

    async fn look(&self, key: &Key) {
        let Some(budget) = self.budgets.get(key) else { return };
        let selector = selector(&budget["spec"]["selector"]);
        let is_meant = |pod: &Arc<Value>| pod["metadata"]["namespace"] == key.namespace && is_selected(&selector, pod);
        let pods: Vec<Arc<Value>> = self.pods.list().into_iter().filter(is_meant).collect();
        let now = Timestamp::now();
        let status = match self.expected(&budget, &pods).await {
            Ok(expected) => status(&budget, &pods, expected, now),
            Err(why) => {
                self.recorder.tell(about(&budget), Severity::Warning, "CalculateExpectedPodCountFailed", &why);
                failed(&budget, &why, now)
            }
        };
        if let Err(error) = self.write(key, &budget, status.as_ref()).await {
            tracing::debug!(%error, budget = %key, "writing the status of a disruption budget");
            self.queue.add_at(key.clone(), Instant::now() + RETRY);
        }
        if let Some(wait) = recheck(status.as_ref().unwrap_or(&budget["status"]), now) {
            self.queue.add_at(key.clone(), Instant::now() + wait);
        }
    }

    async fn write(&self, key: &Key, budget: &Value, status: Option<&Value>) -> Result<(), client::Error> {
        let Some(status) = status else { return Ok(()) };
        let mut new = budget.clone();
        new["status"] = status.clone();
        // An eviction that took from the budget meanwhile must not be undone: the version decides.
        let path = BUDGETS.subresource(Some(&key.namespace), &key.name, "status");
        match self.client.update(&path, &new).await {
            Err(error) if error.is_conflict() || error.is_not_found() => Ok(()),
            other => other.map(drop),
        }
    }

    /// How many pods there should be and how many of them healthy.
    async fn expected(&self, budget: &Value, pods: &[Arc<Value>]) -> Result<Expected, String> {
        let spec = &budget["spec"];
        let (least, most) = (&spec["minAvailable"], &spec["maxUnavailable"]);
        if let (true, Some(healthy)) = (most.is_null(), least.as_u64()) {
            return Ok(Expected { pods: pods.len() as u64, healthy });
        }
        if most.is_null() && least.is_null() {
            return Ok(Expected { pods: 0, healthy: 0 });
        }
        let all = self.scale(budget, pods).await?;
        let part = |value: &Value| scaled(value, all);
        let healthy = if most.is_null() { part(least) } else { all.saturating_sub(part(most)) };
        Ok(Expected { pods: all, healthy })
    }

    /// How many pods the controllers of these are to keep.
    async fn scale(&self, budget: &Value, pods: &[Arc<Value>]) -> Result<u64, String> {
        let mut scales: Map<String, Value> = Map::new();
        let mut is_unmanaged = false;
        for pod in pods {
            let owners = pod["metadata"]["ownerReferences"].as_array();
            let Some(owner) = owners.into_iter().flatten().find(|owner| owner["controller"] == true) else {
                is_unmanaged = true;
                continue;
            };
            let uid = text(&owner["uid"]);
            if !scales.contains_key(uid) {
                scales.insert(uid.to_owned(), self.replicas(pod, owner).await?.into());
            }
        }
        if is_unmanaged {
            self.recorder.tell(about(budget), Severity::Warning, "UnmanagedPods", &unmanaged(budget));
        }
        Ok(scales.values().filter_map(Value::as_u64).sum())
    }

    async fn replicas(&self, pod: &Value, owner: &Value) -> Result<u64, String> {
        let unknown = || format!("found no controllers for pod \"{}\"", text(&pod["metadata"]["name"]));
        let resource = match text(&owner["kind"]) {
            "ReplicationController" => CONTROLLERS,
            "Deployment" => DEPLOYMENTS,
            _ => return Err(unknown()),
        };
        let path = resource.object(Some(text(&pod["metadata"]["namespace"])), text(&owner["name"]));
        let controller = self.client.get(&path).await.map_err(|_| unknown())?;
        if controller["metadata"]["uid"] != owner["uid"] {
            return Err(unknown());
        }
        Ok(controller["spec"]["replicas"].as_u64().unwrap_or(1))
    }
}

/// What a budget is measured by.
#[derive(Debug, Clone, Copy)]
struct Expected {
    pods: u64,
    healthy: u64,
}

/// A number, or a share of all, rounded up.
fn scaled(value: &Value, all: u64) -> u64 {
    let percent = value.as_str().and_then(|text| text.strip_suffix('%')).and_then(|digits| digits.parse::<u64>().ok());
    percent.map_or_else(|| value.as_u64().unwrap_or(0), |percent| (percent * all).div_ceil(100))
}

/// The new status; `None` if it is as it should be.
fn status(budget: &Value, pods: &[Arc<Value>], expected: Expected, now: Timestamp) -> Option<Value> {
    let disrupted = disrupted(budget, pods, now);
    let healthy = pods.iter().filter(|pod| is_healthy(pod) && !disrupted.contains_key(text(&pod["metadata"]["name"])));
    let healthy = healthy.count() as u64;
    let allowed = if expected.pods == 0 { 0 } else { healthy.saturating_sub(expected.healthy) };
    let (word, reason) = if allowed > 0 { ("True", "SufficientPods") } else { ("False", "InsufficientPods") };
    let mut new = json!({
        "currentHealthy": healthy,
        "desiredHealthy": expected.healthy,
        "expectedPods": expected.pods,
        "disruptionsAllowed": allowed,
        "observedGeneration": budget["metadata"]["generation"],
        "conditions": [condition(budget, word, reason, "", now)],
    });
    if !disrupted.is_empty() {
        new["disruptedPods"] = Value::Object(disrupted);
    }
    (new != budget["status"]).then_some(new)
}

/// It could not be calculated: nothing may go.
fn failed(budget: &Value, why: &str, now: Timestamp) -> Option<Value> {
    let mut new = budget["status"].clone();
    new["disruptionsAllowed"] = 0.into();
    new["conditions"] = json!([condition(budget, "False", "SyncFailed", why, now)]);
    (new != budget["status"]).then_some(new)
}

fn condition(budget: &Value, status: &str, reason: &str, message: &str, now: Timestamp) -> Value {
    let conditions = budget["status"]["conditions"].as_array();
    let old =
        conditions.into_iter().flatten().find(|one| one["type"] == "DisruptionAllowed" && one["status"] == status);
    let since = old.and_then(|old| old["lastTransitionTime"].as_str()).map_or_else(|| time::format(now), str::to_owned);
    json!({"type": "DisruptionAllowed", "status": status, "reason": reason, "message": message,
        "lastTransitionTime": since, "observedGeneration": budget["metadata"]["generation"]})
}

/// Pods that were evicted and are still to go.
fn disrupted(budget: &Value, pods: &[Arc<Value>], now: Timestamp) -> Map<String, Value> {
    let marked = budget["status"]["disruptedPods"].as_object();
    let is_waited_for = |name: &str, when: &Value| {
        let is_there =
            pods.iter().any(|pod| pod["metadata"]["name"] == name && pod["metadata"]["deletionTimestamp"].is_null());
        is_there && stamp(when).is_some_and(|when| when + PATIENCE >= now)
    };
    let kept = marked.into_iter().flatten().filter(|(name, when)| is_waited_for(name, when));
    kept.map(|(name, when)| (name.clone(), when.clone())).collect()
}

/// When to look again because a pod may not have gone.
fn recheck(status: &Value, now: Timestamp) -> Option<Duration> {
    let marked = status["disruptedPods"].as_object().into_iter().flatten();
    let due = marked.filter_map(|(_, when)| stamp(when)).map(|when| when + PATIENCE).min()?;
    Some(Duration::try_from(due.duration_since(now)).unwrap_or_default() + RETRY)
}

fn is_healthy(pod: &Value) -> bool {
    let mut conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
    pod["metadata"]["deletionTimestamp"].is_null()
        && conditions.any(|one| one["type"] == "Ready" && one["status"] == "True")
}

fn is_selected(selector: &Selector, pod: &Value) -> bool {
    holds(selector, &map(&pod["metadata"]["labels"]))
}

fn unmanaged(budget: &Value) -> String {
    format!(
        "Pods selected by this PodDisruptionBudget (selector: {}) were found to be unmanaged. As a result, the status of the PDB cannot be \
         calculated correctly, which may result in undefined behavior. To account for these pods please set \".spec.minAvailable\" field \
         of the PDB to an integer value.",
        budget["spec"]["selector"]
    )
}

fn about(budget: &Value) -> About {
    About::object("PodDisruptionBudget", budget)
}

fn stamp(value: &Value) -> Option<Timestamp> {
    value.as_str()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str, ready: &str) -> Arc<Value> {
        Arc::new(json!({"metadata": {"name": name}, "status": {"conditions": [{"type": "Ready", "status": ready}]}}))
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn shares_are_rounded_up() {
        for (value, all, expected) in
            [(json!(2), 7, 2), (json!("50%"), 7, 4), (json!("0%"), 7, 0), (json!("100%"), 7, 7), (json!("1%"), 0, 0)]
        {
            assert_eq!(scaled(&value, all), expected, "{value} of {all}");
        }
    }

    #[test]
    fn who_is_evicted_does_not_count_until_it_is_late() {
        let pods = [pod("a", "True"), pod("b", "True"), pod("c", "False")];
        let budget = json!({"metadata": {"generation": 2}, "status": {"disruptedPods": {"b": "2026-01-01T00:00:00Z", "x": "2026-01-01T00:00:00Z"}}});
        let expected = Expected { pods: 3, healthy: 1 };
        let soon = status(&budget, &pods, expected, at("2026-01-01T00:01:00Z")).unwrap();
        assert_eq!((soon["currentHealthy"].as_u64(), soon["disruptionsAllowed"].as_u64()), (Some(1), Some(0)));
        assert_eq!(soon["disruptedPods"], json!({"b": "2026-01-01T00:00:00Z"}));
        assert_eq!(soon["conditions"][0]["reason"], "InsufficientPods");
        assert!(recheck(&soon, at("2026-01-01T00:01:00Z")).unwrap() > Duration::from_secs(59));
        let late = status(&budget, &pods, expected, at("2026-01-01T00:03:00Z")).unwrap();
        assert_eq!((late["currentHealthy"].as_u64(), late["disruptionsAllowed"].as_u64()), (Some(2), Some(1)));
        assert!(late["disruptedPods"].is_null() && late["observedGeneration"] == 2);
        let settled = json!({"metadata": {"generation": 2}, "status": late});
        assert_eq!(status(&settled, &pods, expected, at("2026-01-01T00:04:00Z")), None);
        let broken = failed(&settled, "found no controllers", at("2026-01-01T00:04:00Z")).unwrap();
        assert_eq!(
            (broken["disruptionsAllowed"].as_u64(), text(&broken["conditions"][0]["reason"])),
            (Some(0), "SyncFailed")
        );
    }
}
