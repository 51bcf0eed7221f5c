//! Evictions: deletions of pods on behalf of someone who empties a node, as far as the pods' disruption budgets allow.

use api::selector::LabelSelector;
use api::status::Status;
use http::Response;
use serde_json::{Value, json};
use store::Revision;
use wire::Body;

use crate::call::{Call, warn};
use crate::registry::{
    DeleteOptions, ListOptions, Registry, Resource, Selection, TRIES, Target, Update, WriteOptions, now,
    object as stored,
};
use crate::table::rfc3339;
use crate::tree::{at, entries, integer, items, object, set, text, text_at};
use crate::{body, options, subresource};

const REFUSAL: &str = "Cannot evict pod as it would violate the pod's disruption budget.";
const CAUSE: &str = "DisruptionBudget";
/// So many evictions may wait for the controller to see them.
const MOST_DISRUPTED: usize = 2000;
/// When to ask again while the controller has not seen the budget.
const SOON: u16 = 10;

/// Answers a request for an eviction.
pub(crate) async fn answer(registry: &Registry, mut call: Call, target: &Target) -> Result<Response<Body>, Status> {
    let query_dry_run = options::dry_run(&call.query, "CreateOptions")?;
    let unknown = options::unknown(&call.query, "CreateOptions")?;
    let (eviction, warnings) = body::loose(&mut call, "policy", "Eviction", unknown).await?;
    let said = text_at(&eviction, &["metadata", "name"]);
    if !said.is_empty() && said != target.name {
        return Err(Status::bad_request("name in URL does not match name in Eviction object"));
    }
    let wanted = eviction.get("deleteOptions").cloned().unwrap_or_else(|| json!({}));
    let asked = options::delete(&api::query::Query::default(), &wanted)?;
    let asked = DeleteOptions { dry_run: asked.dry_run || query_dry_run, ..asked };
    evict(registry, target, asked).await?;
    let mut response = subresource::created();
    warn(&mut response, &warnings);
    Ok(response)
}

async fn evict(registry: &Registry, target: &Target, asked: DeleteOptions) -> Result<(), Status> {
    let mut refusal = Status::modified(target.resource.named(), &target.name);
    for _ in 0..TRIES {
        let entry = registry.get(target).await?;
        let pod = stored::decode(&entry);
        if !is_out_of_service(&pod) {
            return evict_running(registry, target, asked, &pod, entry.modified).await;
        }
        match end(registry, target, as_seen(&asked, &pod, entry.modified)).await {
            // It changed, so it may run by now, and then its budgets count.
            Err(status) if status.code == 409 && asked.resource_version.is_empty() => refusal = status,
            ended => return ended,
        }
    }
    Err(refusal)
}

/// How to delete a pod whose budgets count for nothing: if it is yet to run, only as long as that is so.
fn as_seen(asked: &DeleteOptions, pod: &Value, revision: Revision) -> DeleteOptions {
    let mut options = asked.clone();
    if options.resource_version.is_empty() && text(&pod["status"], "phase") == "Pending" && !is_ending(pod) {
        options.resource_version = revision.to_string();
    }
    options
}

async fn evict_running(
    registry: &Registry,
    target: &Target,
    asked: DeleteOptions,
    pod: &Value,
    revision: Revision,
) -> Result<(), Status> {
    let budgets = budgets(registry, pod).await?;
    let [budget] = &budgets[..] else {
        if budgets.is_empty() {
            return end(registry, target, asked).await;
        }
        let message =
            "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";
        return Err(Status::failure(500, "", message));
    };
    let name = text(&budget["metadata"], "name").to_owned();
    if !spares(pod, budget) {
        spend(registry, pod, &name, asked.dry_run).await?;
        return end(registry, target, asked).await;
    }
    // It counts for nothing as long as it is as it is.
    let is_conditional = !asked.resource_version.is_empty();
    let unchanged = DeleteOptions { resource_version: revision.to_string(), ..asked.clone() };
    match end(registry, target, if is_conditional { asked } else { unchanged }).await {
        Err(status) if status.code == 409 && !is_conditional => Err(unseen(&name)),
        ended => ended,
    }
}

/// A pod whose end takes nothing from anybody.
fn is_out_of_service(pod: &Value) -> bool {
    ["Succeeded", "Failed", "Pending"].contains(&text(&pod["status"], "phase")) || is_ending(pod)
}

fn is_ending(pod: &Value) -> bool {
    at(pod, &["metadata", "deletionTimestamp"]).is_some_and(|when| !when.is_null())
}

/// Whether the budget need not be asked: the pod is not ready.
fn spares(pod: &Value, budget: &Value) -> bool {
    let conditions = items(&pod["status"], "conditions");
    if conditions.iter().any(|one| text(one, "type") == "Ready" && text(one, "status") == "True") {
        return false;
    }
    let count = |name: &str| integer(&budget["status"], name).unwrap_or(0);
    text(&budget["spec"], "unhealthyPodEvictionPolicy") == "AlwaysAllow"
        || count("currentHealthy") >= count("desiredHealthy") && count("desiredHealthy") > 0
}

async fn budgets(registry: &Registry, pod: &Value) -> Result<Vec<Value>, Status> {
    let namespace = text_at(pod, &["metadata", "namespace"]);
    let all = Selection::all(Resource::known("policy", "poddisruptionbudgets"), Some(namespace));
    let labels = at(pod, &["metadata"])
        .into_iter()
        .flat_map(|metadata| entries(metadata, "labels"))
        .map(|(key, value)| (key.to_owned(), value.as_str().unwrap_or_default().to_owned()))
        .collect();
    let page = registry.list(&all, &ListOptions::ALL).await?;
    let mut meant = Vec::new();
    for budget in page.entries.iter().map(|entry| stored::decode(entry)) {
        let selector = LabelSelector::from_object(&budget["spec"]["selector"]).map_err(|error| {
            let name = text(&budget["metadata"], "name");
            Status::failure(500, "", format!("the selector of the disruption budget {name} cannot be read: {error}"))
        })?;
        if selector.matches(&labels) {
            meant.push(budget);
        }
    }
    Ok(meant)
}

/// Takes one disruption from a budget, or says why there is none.
async fn spend(registry: &Registry, pod: &Value, name: &str, dry_run: bool) -> Result<(), Status> {
    let resource = Resource::known("policy", "poddisruptionbudgets");
    let target = Target::new(resource, text_at(pod, &["metadata", "namespace"]), name);
    let victim = text_at(pod, &["metadata", "name"]).to_owned();
    let change = |budget: &Value| {
        check(budget, name)?;
        let mut new = budget.clone();
        let status = object(&mut new, "status");
        let left = integer(status, "disruptionsAllowed").unwrap_or(0) - 1;
        set(status, "disruptionsAllowed", left);
        set(object(status, "disruptedPods"), &victim, rfc3339(now()));
        if left == 0 {
            exhaust(status);
        }
        Ok(new)
    };
    let options = WriteOptions { dry_run };
    let update =
        Update { target: &target, subresource: "status", change: &change, uid_is_precondition: false, options };
    registry.update(&update).await.map(drop)
}

/// The condition of a budget that allows nothing more.
fn exhaust(status: &mut Value) {
    let observed = status.get("observedGeneration").cloned().unwrap_or_default();
    let conditions = status.get_mut("conditions").and_then(Value::as_array_mut).into_iter().flatten();
    for condition in conditions.filter(|condition| text(condition, "type") == "DisruptionAllowed") {
        if text(condition, "status") != "False" {
            set(condition, "lastTransitionTime", rfc3339(now()));
        }
        set(condition, "status", "False");
        set(condition, "reason", "InsufficientPods");
        set(condition, "message", "");
        set(condition, "observedGeneration", observed.clone());
    }
}

fn check(budget: &Value, name: &str) -> Result<(), Status> {
    let status = &budget["status"];
    let count = |field: &str| integer(status, field).unwrap_or(0);
    let generation = integer(&budget["metadata"], "generation").unwrap_or(0);
    if count("observedGeneration") < generation {
        return Err(unseen(name));
    }
    let resource = api::status::Resource { group: "policy", name: "poddisruptionbudget" };
    let denied = |why: &str, told: &str| {
        let message = format!("The disruption budget {name} does not allow evicting pods currently: {told}");
        Err(Status::forbidden(resource, name, why).with_cause(CAUSE, &message, ""))
    };
    if count("disruptionsAllowed") < 0 {
        let why = "pdb disruptions allowed is negative";
        return denied(why, why);
    }
    if entries(status, "disruptedPods").count() > MOST_DISRUPTED {
        let why = "DisruptedPods map too big - too many evictions not confirmed by PDB controller";
        return denied(why, "too many pending evictions not confirmed by PDB controller");
    }
    if count("disruptionsAllowed") > 0 {
        return Ok(());
    }
    let mut conditions = items(status, "conditions").iter();
    let condition = conditions.find(|one| text(one, "type") == "DisruptionAllowed" && text(one, "status") == "False");
    let told =
        condition.map(|one| (text(one, "reason"), text(one, "message"))).filter(|(_, message)| !message.is_empty());
    let (healthy, desired) = (count("currentHealthy"), count("desiredHealthy"));
    let message = match told {
        Some(("SyncFailed", why)) => {
            format!("The disruption budget {name} does not allow evicting pods currently because it failed sync: {why}")
        }
        _ if healthy <= desired => {
            format!("The disruption budget {name} needs {desired} healthy pods and has {healthy} currently")
        }
        Some((reason, why)) => {
            format!("The disruption budget {name} does not allow evicting pods currently ({reason}): {why}")
        }
        None => format!("The disruption budget {name} does not allow evicting pods currently"),
    };
    Err(refusal(0, &message))
}

/// The controller has not looked at the budget yet.
fn unseen(name: &str) -> Status {
    refusal(SOON, &format!("The disruption budget {name} is still being processed by the server."))
}

fn refusal(seconds: u16, cause: &str) -> Status {
    let status = Status::failure(429, "TooManyRequests", REFUSAL).with_cause(CAUSE, cause, "");
    status.with_retry_after(seconds)
}

/// Says in the pod why it goes, and deletes it.
async fn end(registry: &Registry, target: &Target, asked: DeleteOptions) -> Result<(), Status> {
    let mut asked = asked;
    if !asked.dry_run && !is_finished(registry, target).await? {
        let change = |pod: &Value| {
            asked.check(target, pod)?;
            Ok(disrupted(pod))
        };
        let options = WriteOptions::default();
        let update = Update { target, subresource: "status", change: &change, uid_is_precondition: false, options };
        let written = registry.update(&update).await?;
        if !asked.resource_version.is_empty() {
            asked.resource_version = written.entry.modified.to_string();
        }
    }
    registry.delete(target, &asked).await.map(drop)
}

async fn is_finished(registry: &Registry, target: &Target) -> Result<bool, Status> {
    let pod = stored::decode(&*registry.get(target).await?);
    Ok(["Succeeded", "Failed"].contains(&text(&pod["status"], "phase")))
}

fn disrupted(pod: &Value) -> Value {
    let mut new = pod.clone();
    let condition = json!({"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI",
        "message": "Eviction API: evicting", "lastTransitionTime": rfc3339(now()),
        "observedGeneration": pod["metadata"]["generation"]});
    let status = object(&mut new, "status");
    let mut conditions = items(status, "conditions").to_vec();
    match conditions.iter_mut().find(|one| text(one, "type") == "DisruptionTarget") {
        Some(present) if text(present, "reason") == "EvictionByEvictionAPI" => return new,
        Some(present) => *present = condition,
        None => conditions.push(condition),
    }
    set(status, "conditions", conditions);
    new
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_are_read() {
        let selector = json!({"matchLabels": {"app": "web"}, "matchExpressions": [
            {"key": "tier", "operator": "In", "values": ["a", "b"]}, {"key": "old", "operator": "DoesNotExist"}]});
        let parsed = LabelSelector::from_object(&selector).unwrap();
        let labels = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        assert!(parsed.matches(&labels(&[("app", "web"), ("tier", "b")])));
        assert!(!parsed.matches(&labels(&[("app", "web"), ("tier", "c")])));
        assert!(!parsed.matches(&labels(&[("app", "web"), ("tier", "a"), ("old", "")])));
        assert!(LabelSelector::from_object(&json!({})).unwrap().matches(&labels(&[])));
    }

    #[test]
    fn who_is_yet_to_run_goes_only_as_seen() {
        let version = |asked: &str, phase: &str, ending: Value| {
            let asked = DeleteOptions { resource_version: asked.to_owned(), ..DeleteOptions::default() };
            let pod = json!({"metadata": {"deletionTimestamp": ending}, "status": {"phase": phase}});
            as_seen(&asked, &pod, Revision(7)).resource_version
        };
        assert_eq!(version("", "Pending", Value::Null), "7");
        assert_eq!(version("5", "Pending", Value::Null), "5", "who evicts says which one is meant");
        assert_eq!(version("", "Failed", Value::Null), "", "what has ended does not come back");
        assert_eq!(version("", "Pending", json!("2026-01-01T00:00:00Z")), "");
    }

    #[test]
    fn a_budget_says_why_it_refuses() {
        let budget = |status: Value| json!({"metadata": {"generation": 1}, "status": status});
        for (status, code, cause) in [
            (json!({"observedGeneration": 1, "disruptionsAllowed": 1}), 0, ""),
            (json!({}), 429, "The disruption budget b is still being processed by the server."),
            (
                json!({"observedGeneration": 1, "currentHealthy": 2, "desiredHealthy": 2}),
                429,
                "The disruption budget b needs 2 healthy pods and has 2 currently",
            ),
            (
                json!({"observedGeneration": 1, "currentHealthy": 3, "desiredHealthy": 2}),
                429,
                "The disruption budget b does not allow evicting pods currently",
            ),
            (
                json!({"observedGeneration": 1, "disruptionsAllowed": -1}),
                403,
                "The disruption budget b does not allow evicting pods currently: pdb disruptions allowed is negative",
            ),
            (
                json!({"observedGeneration": 1, "conditions": [{"type": "DisruptionAllowed", "status": "False",
                "reason": "SyncFailed", "message": "found no controllers"}]}),
                429,
                "The disruption budget b does not allow evicting pods currently because it failed sync: found no controllers",
            ),
        ] {
            match check(&budget(status), "b") {
                Ok(()) => assert_eq!(code, 0, "{cause}"),
                Err(told) => {
                    assert_eq!(told.code, code, "{cause}");
                    assert_eq!(told.details.unwrap().causes[0].message, cause);
                }
            }
        }
    }
}
