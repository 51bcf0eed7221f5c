//! `network why`: walks from one pod to a port of another and says where the way ends: pods, nodes, blocks, ways, rules of others, the
//! link, the largest packet, and whether anybody listens. What is asked for is in [`Facts`]; what it means is in [`walk`].

use std::net::IpAddr;

use futures_util::future::join;
use serde_json::Value;

use super::{Obstacle, Way, ask, obstacles, text, told, ways};
use crate::failure::Failure;
use crate::print;
use crate::session::Session;
use crate::target;

/// The options of `network why`.
#[derive(clap::Args, Debug)]
pub(crate) struct Options {
    /// The pod that asks: [NAMESPACE/]NAME
    #[arg(value_name = "POD")]
    from: String,
    /// The pod that is asked: [NAMESPACE/]NAME[:PORT]; without a port the first one that it declares
    #[arg(value_name = "POD:PORT")]
    to: String,
}

/// All that could be learned.
#[derive(Debug)]
struct Facts {
    from: Side,
    to: Side,
    /// The address that is asked for, and its port.
    goal: String,
    port: u16,
    /// What came of connecting from the one to the other.
    reach: Result<Value, String>,
    /// The same from the asked pod to its own loopback.
    own: Option<Value>,
}

/// A pod, its node, and what that says.
#[derive(Debug)]
struct Side {
    pod: Value,
    /// Null: the pod has none, or it is gone.
    node: Value,
    ways: Result<Vec<Way>, String>,
    obstacles: Vec<Obstacle>,
}

impl Default for Side {
    fn default() -> Self {
        Self { pod: Value::Null, node: Value::Null, ways: Ok(Vec::new()), obstacles: Vec::new() }
    }
}

/// One line of the walk.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Step {
    mark: Mark,
    what: &'static str,
    told: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mark {
    Good,
    /// It may be the cause, if there is anything to explain.
    Doubt,
    /// Here it ends.
    End,
    /// It arrives, and is sent back.
    Refused,
}

/// Walks, and fails where the walk does.
pub(crate) async fn run(session: &Session, options: &Options) -> Result<(), Failure> {
    let (to, port) = match options.to.rsplit_once(':') {
        Some((name, port)) => (name, Some(port.parse().map_err(|_| Failure::text(format!("\"{port}\" is no port")))?)),
        None => (options.to.as_str(), None),
    };
    let (from, to) = (pod(session, &options.from).await?, pod(session, to).await?);
    let port = port
        .or_else(|| declared(&to))
        .ok_or_else(|| Failure::text(format!("pod {} declares no port: name one as POD:PORT", api::meta::name(&to))))?;
    let goals = goals(&to);
    let mut ended = None;
    for goal in &goals {
        if goals.len() > 1 {
            print::out(&format!("by {}:\n", family(goal)));
        }
        let steps = walk(&facts(session, from.clone(), to.clone(), goal.clone(), port).await);
        print::out(&steps.iter().map(line).collect::<String>());
        if steps.last().is_none_or(|last| last.mark != Mark::Good) {
            ended = ended.or(Some(Failure::text(verdict(&steps))));
        }
    }
    ended.map_or(Ok(()), Err)
}

/// The addresses of a pod; nothing where it has none yet, which ends the walk.
fn goals(pod: &Value) -> Vec<String> {
    let all: Vec<String> = pod["status"]["podIPs"].as_array().into_iter().flatten().map(|ip| text(&ip["ip"])).collect();
    if all.is_empty() { vec![text(&pod["status"]["podIP"])] } else { all }
}

fn family(address: &str) -> &'static str {
    if address.contains(':') { "IPv6" } else { "IPv4" }
}

/// The address of a side's pod that is of the same family as the one that is asked for, or else what it has.
fn own_address(side: &Side, goal: &str) -> String {
    let all = goals(&side.pod);
    let fitting = all.iter().find(|address| family(address) == family(goal)).or(all.first());
    fitting.cloned().unwrap_or_default()
}

async fn pod(session: &Session, name: &str) -> Result<Value, Failure> {
    let (namespace, name) = name.split_once('/').unwrap_or((&session.namespace, name));
    session.get(&client::resource::PODS.object(Some(namespace), name)).await
}

fn declared(pod: &Value) -> Option<u16> {
    let containers = pod["spec"]["containers"].as_array()?;
    let mut ports = containers.iter().flat_map(|container| container["ports"].as_array().into_iter().flatten());
    u16::try_from(ports.next()?["containerPort"].as_u64()?).ok()
}

async fn facts(session: &Session, from: Value, to: Value, goal: String, port: u16) -> Facts {
    let loopback = if family(&goal) == "IPv4" { "127.0.0.1" } else { "::1" };
    let tried = join(reach(session, &from, &goal, port), reach(session, &to, loopback, port));
    let sides = join(side(session, from.clone()), side(session, to.clone()));
    let ((reach, own), (from, to)) = join(tried, sides).await;
    let own = own.ok();
    Facts { from, to, goal, port, reach, own }
}

async fn reach(session: &Session, pod: &Value, address: &str, port: u16) -> Result<Value, String> {
    let query = format!(
        "namespace={}&pod={}&address={address}&port={port}",
        text(&pod["metadata"]["namespace"]),
        api::meta::name(pod)
    );
    ask(session, &text(&pod["spec"]["nodeName"]), &format!("reach?{query}")).await
}

async fn side(session: &Session, pod: Value) -> Side {
    let name = text(&pod["spec"]["nodeName"]);
    if name.is_empty() {
        return Side { pod, ..Side::default() };
    }
    let node = session.get(&session.object(target::core("nodes"), &name)).await.unwrap_or_default();
    let answer = ask(session, &name, "network").await;
    let obstacles = answer.as_ref().map(obstacles).unwrap_or_default();
    Side { pod, node, ways: answer.map(|answer| ways(&answer)), obstacles }
}

/// What the facts mean, in the order in which a packet meets it; the last step is whether it arrives.
fn walk(facts: &Facts) -> Vec<Step> {
    let mut steps = Vec::new();
    for side in [&facts.from, &facts.to] {
        let address = own_address(side, &facts.goal);
        steps.extend([pod_step(side, &address), node_step(side)]);
        steps.extend(block_step(side, &address));
    }
    if name(&facts.from.node) == name(&facts.to.node) {
        let told = format!("both are on node {}: its own routes lead there", name(&facts.to.node));
        steps.push(Step { mark: Mark::Good, what: "way", told });
    } else {
        steps.extend([
            way_step("way", &facts.from, &facts.to, &facts.goal),
            way_step("way back", &facts.to, &facts.from, &facts.goal),
        ]);
    }
    steps.extend(obstacle_steps(&facts.from));
    if name(&facts.from.node) != name(&facts.to.node) {
        steps.extend(obstacle_steps(&facts.to));
    }
    let policies = "no network policies: this cluster enforces none".to_owned();
    steps.push(Step { mark: Mark::Good, what: "policies", told: policies });
    steps.extend(packet_step(facts));
    steps.push(listener_step(facts));
    steps
}

fn name(object: &Value) -> &str {
    api::meta::name(object)
}

fn pod_step(side: &Side, address: &str) -> Step {
    let (pod, phase) = (&side.pod, text(&side.pod["status"]["phase"]));
    let told = format!("{} is {phase} on node {} with address {address}", name(pod), name(&side.node));
    match () {
        () if side.node.is_null() => {
            let told = format!("{} is {phase} and on no node{}", name(pod), condition(pod, "PodScheduled"));
            Step { mark: Mark::End, what: "pod", told }
        }
        () if phase != "Running" || address.is_empty() => {
            Step { mark: Mark::End, what: "pod", told: format!("{told}{}", condition(pod, "Ready")) }
        }
        () if is(pod, "Ready") => Step { mark: Mark::Good, what: "pod", told },
        () => Step { mark: Mark::Doubt, what: "pod", told: format!("{told}{}", condition(pod, "Ready")) },
    }
}

fn node_step(side: &Side) -> Step {
    let node = &side.node;
    match &side.ways {
        Err(why) => {
            let told = format!("{} does not answer{}: {why}", name(node), condition(node, "Ready"));
            Step { mark: Mark::End, what: "node", told }
        }
        Ok(_) if is(node, "Ready") => Step { mark: Mark::Good, what: "node", told: format!("{} is Ready", name(node)) },
        Ok(_) => {
            let told = format!("{} is not Ready{}", name(node), condition(node, "Ready"));
            Step { mark: Mark::Doubt, what: "node", told }
        }
    }
}

fn is(object: &Value, wanted: &str) -> bool {
    found(object, wanted).is_some_and(|condition| condition["status"] == "True")
}

fn found<'a>(object: &'a Value, wanted: &str) -> Option<&'a Value> {
    object["status"]["conditions"].as_array()?.iter().find(|condition| condition["type"] == wanted)
}

/// ` (reason: message)`.
fn condition(object: &Value, wanted: &str) -> String {
    let Some(found) = found(object, wanted).filter(|found| found["status"] != "True") else { return String::new() };
    let said: Vec<String> =
        ["reason", "message"].map(|part| text(&found[part])).into_iter().filter(|it| !it.is_empty()).collect();
    format!(" ({})", said.join(": "))
}

/// None where the pod has its node's own address.
fn block_step(side: &Side, address: &str) -> Option<Step> {
    let address: IpAddr = address.parse().ok()?;
    if side.pod["spec"]["hostNetwork"] == true {
        return None;
    }
    let blocks: Vec<String> = side.node["spec"]["podCIDRs"].as_array().into_iter().flatten().map(text).collect();
    let holds = blocks.iter().find(|block| contains(block, address));
    Some(match holds {
        Some(block) => {
            Step { mark: Mark::Good, what: "address", told: format!("{address} is out of {block}, which the node has") }
        }
        None => {
            let told = format!(
                "{address} is out of none of the node's blocks {}: no other node leads there",
                blocks.join(",")
            );
            Step { mark: Mark::End, what: "address", told }
        }
    })
}

fn contains(block: &str, address: IpAddr) -> bool {
    let Some((base, bits)) = block.split_once('/') else { return false };
    let (Ok(base), Ok(bits)) = (base.parse::<IpAddr>(), bits.parse::<u32>()) else { return false };
    // Those of IPv4 in the upper quarter, so that a prefix begins at the same end.
    let number = |address: IpAddr| match address {
        IpAddr::V4(address) => u128::from(u32::from(address)) << 96,
        IpAddr::V6(address) => address.into(),
    };
    let kept = |address| number(address).checked_shr(128u32.saturating_sub(bits)).unwrap_or(0);
    base.is_ipv4() == address.is_ipv4() && kept(base) == kept(address)
}

/// That of the goal's family, where each has its own.
fn way_to<'a>(ways: &'a [Way], there: &str, goal: &str) -> Option<&'a Way> {
    ways.iter().find(|way| way.peer == there && way.families.iter().any(|it| it == family(goal)))
}

fn way_step(what: &'static str, from: &Side, to: &Side, goal: &str) -> Step {
    let (here, there) = (name(&from.node), name(&to.node));
    let Ok(known) = &from.ways else {
        return Step { mark: Mark::Doubt, what, told: format!("{here} cannot be asked how it reaches {there}") };
    };
    let Some(way) = way_to(known, there, goal) else {
        return Step { mark: Mark::End, what, told: format!("{here} knows no way to {there}") };
    };
    let mut told = format!("{here} reaches {there} by {} through {}, packets up to {}", way.kind, way.link, way.mtu);
    if way.kind == "nowhere" {
        return Step {
            mark: Mark::End,
            what,
            told: format!("{here} does not reach {there}: {}", way.problems.join("; ")),
        };
    }
    let mut mark = Mark::Good;
    match (way.latency_us, way.lost) {
        (Some(latency), Some((lost, sent))) => {
            told.push_str(&format!(
                "; answers after {}.{:02} ms, {lost} of {sent} lost",
                latency / 1000,
                latency % 1000 / 10
            ));
            mark = if lost == 0 { Mark::Good } else { Mark::Doubt };
        }
        (None, Some((_, sent))) => {
            told.push_str(&format!("; no answer to {sent} pings: the link is cut, or something drops them"));
            mark = Mark::Doubt;
        }
        _ => {}
    }
    if !way.problems.is_empty() {
        told.push_str(&format!("; {}", way.problems.join("; ")));
        mark = Mark::Doubt;
    }
    Step { mark, what, told }
}

fn obstacle_steps(side: &Side) -> impl Iterator<Item = Step> {
    // Another rule of its owner may let these packets through; the last step knows.
    side.obstacles.iter().map(|obstacle| Step {
        mark: Mark::Doubt,
        what: "rules",
        told: told(name(&side.node), obstacle).trim().to_owned(),
    })
}

fn packet_step(facts: &Facts) -> Option<Step> {
    let reach = facts.reach.as_ref().ok()?;
    let carries = || way_to(facts.from.ways.as_ref().ok()?, name(&facts.to.node), &facts.goal).map(|way| way.mtu);
    Some(match (reach["mtu"].as_u64(), carries()) {
        (Some(mtu), Some(way)) if mtu < way => {
            let told = format!("packets up to {mtu} arrive in one piece, less than the {way} of the way");
            Step { mark: Mark::Doubt, what: "packets", told }
        }
        (Some(mtu), _) => {
            Step { mark: Mark::Good, what: "packets", told: format!("packets up to {mtu} arrive in one piece") }
        }
        (None, _) => Step { mark: Mark::Doubt, what: "packets", told: "the pod answers no pings".into() },
    })
}

fn listener_step(facts: &Facts) -> Step {
    let (from, to) = (name(&facts.from.pod), name(&facts.to.pod));
    let goal = match family(&facts.goal) {
        "IPv4" => format!("{}:{}", facts.goal, facts.port),
        _ => format!("[{}]:{}", facts.goal, facts.port),
    };
    let reach = match &facts.reach {
        Ok(reach) => reach,
        Err(why) => {
            return Step { mark: Mark::End, what: "port", told: format!("{from} could not try {goal}: {why}") };
        }
    };
    let is_open_inside = facts.own.as_ref().is_some_and(|own| own["connection"] == "open");
    let (mark, told) = match reach["connection"].as_str().unwrap_or_default() {
        "open" => {
            let took = reach["took_us"].as_u64().unwrap_or(0);
            (Mark::Good, format!("{from} reaches {to} at {goal} in {}.{:02} ms", took / 1000, took % 1000 / 10))
        }
        "refused" if is_open_inside => {
            (Mark::Refused, format!("{to} listens on port {} of its loopback only, not on {goal}", facts.port))
        }
        "refused" => (Mark::Refused, format!("nobody listens on port {} in {to}", facts.port)),
        "silent" if is_open_inside => {
            (Mark::End, format!("{goal} is silent, though {to} listens: packets get lost on the way"))
        }
        "silent" => (Mark::End, format!("{goal} is silent")),
        _ => (Mark::End, format!("{goal} is not reached: {}", text(&reach["error"]))),
    };
    Step { mark, what: "port", told }
}

fn line(step: &Step) -> String {
    let mark = match step.mark {
        Mark::Good => "ok",
        Mark::Doubt => "?",
        Mark::End | Mark::Refused => "NO",
    };
    format!("{mark:<3} {:<9} {}\n", step.what, step.told)
}

/// The first step that explains the end: one that ends the way before the last, or else one in doubt, if there was no answer at all.
fn verdict(steps: &[Step]) -> String {
    let Some((last, before)) = steps.split_last() else { return String::new() };
    let is_on_the_way = |step: &&Step| ["node", "way", "way back", "rules"].contains(&step.what);
    let doubtful = || before.iter().filter(is_on_the_way).find(|step| step.mark == Mark::Doubt);
    let cause = match before.iter().find(|step| step.mark == Mark::End) {
        None if last.mark == Mark::End => doubtful(),
        found => found,
    };
    let first = cause.unwrap_or(last);
    format!("it ends at the {}: {}", first.what, first.told.lines().next().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn side(pod: &str, node: &str, number: u8, peer: &str) -> Side {
        let ready = json!([{"type": "Ready", "status": "True"}]);
        let answer = json!({
            "peers": [{"peer": {"name": peer}, "problems": [],
                "ways": [{"family": "IPv4", "reach": {"vxlan": {"link": "eth0"}}, "mtu": 1450}]}],
            "quality": [{"latency_us": 120, "sent": 5, "lost": 0}],
        });
        Side {
            pod: json!({"metadata": {"name": pod, "namespace": "default"}, "spec": {"nodeName": node},
                "status": {"phase": "Running", "podIP": format!("10.42.{number}.1"), "conditions": ready}}),
            node: json!({"metadata": {"name": node}, "spec": {"podCIDRs": [format!("10.42.{number}.0/26")]},
                "status": {"conditions": ready}}),
            ways: Ok(ways(&answer)),
            obstacles: Vec::new(),
        }
    }

    fn facts() -> Facts {
        Facts {
            from: side("a", "one", 1, "two"),
            to: side("b", "two", 2, "one"),
            goal: "10.42.2.1".into(),
            port: 80,
            reach: Ok(json!({"connection": "open", "took_us": 350, "mtu": 1450})),
            own: None,
        }
    }

    fn end(facts: &Facts) -> String {
        verdict(&walk(facts))
    }

    #[test]
    fn a_whole_way_is_good() {
        let steps = walk(&facts());
        assert!(steps.iter().all(|step| step.mark == Mark::Good), "{steps:#?}");
        assert_eq!(steps.last().unwrap().told, "a reaches b at 10.42.2.1:80 in 0.35 ms");
        assert_eq!(line(&steps[0]), "ok  pod       a is Running on node one with address 10.42.1.1\n");
    }

    #[test]
    fn the_end_is_named() {
        let mut refused = facts();
        refused.reach = Ok(json!({"connection": "refused", "mtu": 1450}));
        assert_eq!(end(&refused), "it ends at the port: nobody listens on port 80 in b");
        refused.own = Some(json!({"connection": "open"}));
        assert_eq!(
            end(&refused),
            "it ends at the port: b listens on port 80 of its loopback only, not on 10.42.2.1:80"
        );

        let mut silent = facts();
        silent.reach = Ok(json!({"connection": "silent"}));
        let found = json!([{"family": "ip", "table": "filter", "chain": "FORWARD", "cure": ["nft insert"]}]);
        silent.to.obstacles = obstacles(&json!({"obstacles": found}));
        assert!(end(&silent).starts_with("it ends at the rules: node two drops"), "{}", end(&silent));

        let mut lost = facts();
        lost.reach = Ok(json!({"connection": "silent"}));
        lost.from.ways.as_mut().unwrap()[0].latency_us = None;
        assert!(end(&lost).starts_with("it ends at the way: one reaches two by vxlan"), "{}", end(&lost));

        let mut pending = facts();
        let why = json!([{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "no node"}]);
        pending.to.pod["status"] = json!({"phase": "Pending", "conditions": why});
        pending.to.node = Value::Null;
        pending.reach = Err("no address".into());
        assert_eq!(end(&pending), "it ends at the pod: b is Pending and on no node (Unschedulable: no node)");
    }

    #[test]
    fn an_address_out_of_no_block_is_found() {
        let mut moved = facts();
        moved.reach = Ok(json!({"connection": "unreachable", "error": "no route to host"}));
        moved.to.node["spec"]["podCIDRs"] = json!(["10.42.3.0/26"]);
        assert!(end(&moved).starts_with("it ends at the address: 10.42.2.1 is out of none"), "{}", end(&moved));
        assert!(contains("10.42.2.0/26", "10.42.2.63".parse().unwrap()));
        assert!(!contains("10.42.2.0/26", "10.42.2.64".parse().unwrap()));
        assert!(contains("0.0.0.0/0", "10.42.2.64".parse().unwrap()));
        assert!(!contains("::/0", "10.42.2.64".parse().unwrap()));
        assert!(contains("fd42::40/122", "fd42::7f".parse().unwrap()));
        assert!(!contains("fd42::40/122", "fd42::80".parse().unwrap()));
    }
}
