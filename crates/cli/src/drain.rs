//! `cordon`, `uncordon`, `drain`: keep pods away from a node, and make those on it leave.

use std::time::Duration;

use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::delete::gone;
use crate::failure::Failure;
use crate::print;
use crate::session::{Call, Connection, Session, object};
use crate::target;

/// An eviction that would break a disruption budget is tried again after this time.
const AGAIN: Duration = Duration::from_secs(5);

/// The options of `cordon` and `uncordon`.
#[derive(clap::Args, Debug)]
pub struct CordonOptions {
    #[command(flatten)]
    connection: Connection,
    /// The nodes
    #[arg(value_name = "NODE", required = true)]
    nodes: Vec<String>,
}

/// The options of `drain`.
#[derive(clap::Args, Debug)]
pub struct DrainOptions {
    #[command(flatten)]
    nodes: CordonOptions,
    /// Also end pods that no controller would make anew
    #[arg(long)]
    force: bool,
    /// Leave pods of daemon sets where they are
    #[arg(long)]
    ignore_daemonsets: bool,
    /// Also end pods with emptyDir volumes, whose data is lost
    #[arg(long)]
    delete_emptydir_data: bool,
    /// Seconds that containers have to end
    #[arg(long, value_name = "SECONDS", default_value_t = -1, allow_hyphen_values = true)]
    grace_period: i64,
    /// How long to wait; 0 is as long as it takes
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = crate::session::duration)]
    timeout: Duration,
}

/// Lets no more pods onto nodes, or lets them on again.
pub(crate) async fn cordon(options: CordonOptions, is_shut: bool) -> Result<(), Failure> {
    let session = options.connection.open()?;
    let mut failures = Vec::new();
    for name in &options.nodes {
        failures.extend(shut(&session, name, is_shut).await.err());
    }
    Failure::of(failures)
}

/// Lets no more pods onto nodes and makes those on them leave.
pub(crate) async fn drain(options: DrainOptions) -> Result<(), Failure> {
    let session = options.nodes.connection.open()?;
    let mut failures = Vec::new();
    for name in &options.nodes.nodes {
        failures.extend(options.node(&session, name).await.err());
    }
    Failure::of(failures)
}

async fn shut(session: &Session, name: &str, is_shut: bool) -> Result<(), Failure> {
    let path = session.object(target::core("nodes"), name);
    let node = session.get(&path).await?;
    let word = if is_shut { "cordoned" } else { "uncordoned" };
    if (node["spec"]["unschedulable"] == true) == is_shut {
        print::line(&format!("node/{name} already {word}"));
        return Ok(());
    }
    let said = if is_shut { json!(true) } else { Value::Null };
    let patch = json!({"spec": {"unschedulable": said}});
    let call = Call::write(Method::PATCH, path, &patch).media("application/merge-patch+json");
    session.call(call).await?;
    print::line(&format!("node/{name} {word}"));
    Ok(())
}

/// What becomes of one of a node's pods.
#[derive(Debug, PartialEq, Eq)]
enum Fate {
    Leaves,
    /// It leaves, and people should know this.
    LeavesWith(&'static str),
    Stays,
    /// It must not be ended without being asked for.
    Refused(&'static str),
}

impl DrainOptions {
    async fn node(&self, session: &Session, name: &str) -> Result<(), Failure> {
        shut(session, name, true).await?;
        let on_node = format!("spec.nodeName={name}");
        let pods =
            session.list(&session.collection(target::core("pods"), true), &[("fieldSelector", &on_node)]).await?;
        let leaving = self.sort(name, &pods)?;
        let all = async {
            for pod in &leaving {
                print::complain(&format!("evicting pod {}", shown(pod)));
                self.evict(session, pod).await?;
            }
            for pod in &leaving {
                let (namespace, pod_name) = (api::meta::namespace(pod), api::meta::name(pod));
                let uid = pod["metadata"]["uid"].as_str().unwrap_or_default();
                gone(session, target::core("pods"), namespace, pod_name, uid).await?;
                print::line(&format!("pod/{pod_name} evicted"));
            }
            Ok::<(), Failure>(())
        };
        if self.timeout.is_zero() {
            all.await?;
        } else {
            let late = |_| Failure::text(format!("drain did not complete within {:?}", self.timeout));
            tokio::time::timeout(self.timeout, all).await.map_err(late)??;
        }
        print::line(&format!("node/{name} drained"));
        Ok(())
    }

    /// The pods that have to leave; refused if one may not be ended.
    fn sort<'a>(&self, node: &str, pods: &'a [Value]) -> Result<Vec<&'a Value>, Failure> {
        let (mut leaving, mut refusals) = (Vec::new(), Vec::new());
        for pod in pods {
            match self.fate(pod) {
                Fate::Stays => {}
                Fate::Leaves => leaving.push(pod),
                Fate::LeavesWith(warning) => {
                    print::complain(&format!("Warning: {warning}: {}", shown(pod)));
                    leaving.push(pod);
                }
                Fate::Refused(why) => refusals.push(format!("cannot delete {why}: {}", shown(pod))),
            }
        }
        if refusals.is_empty() {
            return Ok(leaving);
        }
        Err(Failure::text(format!("unable to drain node \"{node}\" due to error: [{}]", refusals.join(", "))))
    }

    fn fate(&self, pod: &Value) -> Fate {
        let is_mirror = !pod["metadata"]["annotations"]["kubernetes.io/config.mirror"].is_null();
        let owners = pod["metadata"]["ownerReferences"].as_array();
        let controller = owners.into_iter().flatten().find(|owner| owner["controller"] == true);
        if is_mirror {
            return Fate::Stays;
        }
        if matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed")) {
            return Fate::Leaves;
        }
        if controller.is_some_and(|owner| owner["kind"] == "DaemonSet") {
            let why = "DaemonSet-managed Pods (use --ignore-daemonsets to ignore)";
            return if self.ignore_daemonsets { Fate::Stays } else { Fate::Refused(why) };
        }
        let mut volumes = pod["spec"]["volumes"].as_array().into_iter().flatten();
        if volumes.any(|volume| !volume["emptyDir"].is_null()) && !self.delete_emptydir_data {
            return Fate::Refused("Pods with local storage (use --delete-emptydir-data to override)");
        }
        match (controller, self.force) {
            (Some(_), _) => Fate::Leaves,
            (None, true) => Fate::LeavesWith("deleting Pods that declare no controller"),
            (None, false) => Fate::Refused("Pods that declare no controller (use --force to override)"),
        }
    }

    async fn evict(&self, session: &Session, pod: &Value) -> Result<(), Failure> {
        let (namespace, name) = (api::meta::namespace(pod), api::meta::name(pod));
        let mut how = json!({"preconditions": {"uid": pod["metadata"]["uid"]}});
        if self.grace_period >= 0 {
            how["gracePeriodSeconds"] = self.grace_period.into();
        }
        let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name, "namespace": namespace},
            "deleteOptions": how});
        let path = format!("{}/eviction", object(target::core("pods"), namespace, name));
        loop {
            match session.call(Call::write(Method::POST, path.clone(), &eviction)).await {
                Err(Failure::Api(status)) if status.code == StatusCode::TOO_MANY_REQUESTS.as_u16() => {
                    let why = &status.message;
                    print::complain(&format!(
                        "error when evicting pods/\"{name}\" -n \"{namespace}\" (will retry after 5s): {why}"
                    ));
                    tokio::time::sleep(AGAIN).await;
                }
                // It has gone by itself, or is another by now.
                Err(failure) if failure.is_not_found() => return Ok(()),
                Err(Failure::Api(status)) if status.code == StatusCode::CONFLICT.as_u16() => return Ok(()),
                other => return other.map(drop),
            }
        }
    }
}

fn shown(pod: &Value) -> String {
    format!("{}/{}", api::meta::namespace(pod), api::meta::name(pod))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: DrainOptions,
    }

    fn fate(flags: &[&str], pod: &Value) -> Fate {
        Line::parse_from(["drain", "n"].iter().chain(flags)).options.fate(pod)
    }

    #[test]
    fn pods_that_would_be_lost_are_kept() {
        let bare = json!({"spec": {}});
        assert!(matches!(fate(&[], &bare), Fate::Refused(why) if why.contains("--force")));
        assert!(matches!(fate(&["--force"], &bare), Fate::LeavesWith(_)));
        let owned = |kind: &str| json!({"metadata": {"ownerReferences": [{"kind": kind, "controller": true}]}});
        assert_eq!(fate(&[], &owned("ReplicaSet")), Fate::Leaves);
        assert!(matches!(fate(&["--force"], &owned("DaemonSet")), Fate::Refused(_)));
        assert_eq!(fate(&["--ignore-daemonsets"], &owned("DaemonSet")), Fate::Stays);
        let mut stores = owned("ReplicaSet");
        stores["spec"] = json!({"volumes": [{"emptyDir": {}}]});
        assert!(matches!(fate(&["--force"], &stores), Fate::Refused(why) if why.contains("local storage")));
        assert_eq!(fate(&["--delete-emptydir-data"], &stores), Fate::Leaves);
        assert_eq!(fate(&[], &json!({"status": {"phase": "Failed"}})), Fate::Leaves);
    }
}
