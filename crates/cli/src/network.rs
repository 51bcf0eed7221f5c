//! `network`: which blocks of addresses each node has, how it reaches the others and how good that is, and what is in the way.

mod why;

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::Value;
use tokio::time::timeout;

use crate::failure::Failure;
use crate::print::{self, table::Table};
use crate::session::{Call, Connection, Session};
use crate::target;

/// A node that measures needs a few seconds; one that is silent for longer has gone.
const PATIENCE: Duration = Duration::from_secs(10);

/// The options of `network`.
#[derive(clap::Args, Debug)]
pub struct Options {
    #[command(subcommand)]
    question: Option<Question>,
    #[command(flatten)]
    connection: Connection,
    /// A table, or a picture: dot, mermaid [default: table]
    #[arg(short, long, value_name = "FORMAT")]
    output: Option<Format>,
}

#[derive(clap::Subcommand, Debug)]
enum Question {
    /// Walk from one pod to a port of another, and say where the way ends
    Why(why::Options),
}

#[derive(clap::ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Table,
    Dot,
    Mermaid,
}

/// A node, as others see it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Machine {
    name: String,
    addresses: Vec<String>,
    blocks: Vec<String>,
    pods: usize,
    /// What the node says; an error if it cannot be asked.
    ways: Result<Vec<Way>, String>,
    /// What of others drops what the node forwards.
    obstacles: Vec<Obstacle>,
}

/// A chain of somebody else's.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Obstacle {
    /// Family, table and name.
    chain: String,
    cure: Vec<String>,
}

/// How one node reaches another.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Way {
    peer: String,
    /// `IPv4`, `IPv6`: of the packets that go this way.
    families: Vec<String>,
    /// `route`, `vxlan`, `wireguard`, `nowhere`.
    kind: String,
    link: String,
    mtu: u64,
    /// None: nobody answered, or nobody asked.
    latency_us: Option<u64>,
    /// Questions without an answer, of how many.
    lost: Option<(u64, u64)>,
    problems: Vec<String>,
}

/// Shows the ways.
pub(crate) async fn run(options: Options) -> Result<(), Failure> {
    let session = options.connection.open()?;
    match options.question {
        Some(_) if options.output.is_some() => return Err(Failure::text("a walk is no picture: leave out --output")),
        Some(Question::Why(question)) => return why::run(&session, &question).await,
        None => {}
    }
    let machines = machines(&session).await?;
    let text = match options.output.unwrap_or(Format::Table) {
        Format::Table => table(&machines),
        Format::Dot => dot(&machines),
        Format::Mermaid => mermaid(&machines),
    };
    print::out(&text);
    Ok(())
}

async fn machines(session: &Session) -> Result<Vec<Machine>, Failure> {
    let nodes = session.list(&session.collection(target::core("nodes"), true), &[]).await?;
    let pods = session.list(&session.collection(target::core("pods"), true), &[]).await?;
    let ask = async |node: &Value| {
        let name = api::meta::name(node);
        let answer = ask(session, name, "network").await;
        let on_node = |pod: &&Value| pod["spec"]["nodeName"] == name && pod["spec"]["hostNetwork"] != true;
        let obstacles = answer.as_ref().map(obstacles).unwrap_or_default();
        Machine {
            pods: pods.iter().filter(on_node).count(),
            ways: answer.map(|answer| ways(&answer)),
            obstacles,
            ..machine(node)
        }
    };
    // All at once: each needs a moment to measure.
    Ok(join_all(nodes.iter().map(ask)).await)
}

/// What a node says.
async fn ask(session: &Session, node: &str, what: &str) -> Result<Value, String> {
    let path = format!("{}/proxy/{what}", session.object(target::core("nodes"), node));
    match timeout(PATIENCE, session.call(Call::get(path))).await {
        Ok(answer) => answer.map_err(|failure| failure.lines()),
        Err(_) => Err(format!("no answer within {} s", PATIENCE.as_secs())),
    }
}

fn obstacles(answer: &Value) -> Vec<Obstacle> {
    let read = |found: &Value| Obstacle {
        chain: ["family", "table", "chain"].map(|part| text(&found[part])).join(" "),
        cure: found["cure"].as_array().into_iter().flatten().map(text).collect(),
    };
    answer["obstacles"].as_array().into_iter().flatten().map(read).collect()
}

fn machine(node: &Value) -> Machine {
    let addresses = node["status"]["addresses"].as_array();
    let internal = addresses.into_iter().flatten().filter(|address| address["type"] == "InternalIP");
    let internal: Vec<String> = internal.map(|address| text(&address["address"])).collect();
    Machine {
        name: api::meta::name(node).to_owned(),
        addresses: internal,
        blocks: node["spec"]["podCIDRs"].as_array().into_iter().flatten().map(text).collect(),
        pods: 0,
        ways: Ok(Vec::new()),
        obstacles: Vec::new(),
    }
}

fn ways(answer: &Value) -> Vec<Way> {
    let peers = answer["peers"].as_array().into_iter().flatten().enumerate();
    peers.flat_map(|(number, state)| ways_to(state, &answer["quality"][number])).collect()
}

/// One for each family, or one for both where they go the same way.
fn ways_to(state: &Value, quality: &Value) -> Vec<Way> {
    let mut all: Vec<Way> = Vec::new();
    for led in state["ways"].as_array().into_iter().flatten() {
        // A word, or a word with what it needs.
        let (kind, link) = match &led["reach"] {
            Value::Object(reach) => {
                let (kind, how) = reach.iter().next().map_or(("", &Value::Null), |(kind, how)| (kind, how));
                (kind.to_owned(), text(&how["link"]))
            }
            word => (text(word), String::new()),
        };
        let mtu = led["mtu"].as_u64().unwrap_or(0);
        let family = text(&led["family"]);
        if let Some(same) = all.iter_mut().find(|way| (&way.kind, &way.link, way.mtu) == (&kind, &link, mtu)) {
            same.families.push(family);
            continue;
        }
        all.push(Way {
            peer: text(&state["peer"]["name"]),
            families: vec![family],
            kind,
            link,
            mtu,
            latency_us: quality["latency_us"].as_u64(),
            lost: quality["lost"].as_u64().zip(quality["sent"].as_u64()),
            problems: state["problems"].as_array().into_iter().flatten().map(text).collect(),
        });
    }
    all
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

const HEADER: [&str; 11] =
    ["NODE", "ADDRESS", "BLOCKS", "PODS", "PEER", "WAY", "LINK", "MTU", "LATENCY", "LOST", "PROBLEM"];

/// Each node with a line for each way, and what is in the way below.
fn table(machines: &[Machine]) -> String {
    let mut rows = vec![HEADER.map(str::to_owned).to_vec()];
    for machine in machines {
        let own =
            [machine.name.clone(), machine.addresses.join(","), machine.blocks.join(","), machine.pods.to_string()];
        let blank = ["", "", "", ""].map(str::to_owned);
        let lines = match &machine.ways {
            Ok(ways) if ways.is_empty() => vec![["-", "-", "-", "-", "-", "-", ""].map(str::to_owned)],
            Ok(ways) => ways.iter().map(|way| cells(way, ways)).collect(),
            Err(why) => vec![["?", "?", "?", "?", "?", "?", why].map(str::to_owned)],
        };
        for (number, line) in lines.into_iter().enumerate() {
            rows.push(if number == 0 { &own } else { &blank }.iter().cloned().chain(line).collect());
        }
    }
    let found = machines.iter().flat_map(|machine| machine.obstacles.iter().map(move |it| told(&machine.name, it)));
    Table::default().lines(&rows) + &found.collect::<String>()
}

fn told(node: &str, obstacle: &Obstacle) -> String {
    let chain = &obstacle.chain;
    let cure: String = obstacle.cure.iter().map(|line| format!("  {line}\n")).collect();
    format!(
        "\nnode {node} drops what its pods send further: chain {chain} is another program's; until that writes it anew, this helps:\n{cure}"
    )
}

/// `all` are those of the same node: where a peer is reached in two ways, it is told of what each is.
fn cells(way: &Way, all: &[Way]) -> [String; 7] {
    let is_one = all.iter().filter(|other| other.peer == way.peer).count() == 1;
    let kind = if is_one { way.kind.clone() } else { format!("{} ({})", way.kind, way.families.join(",")) };
    let known = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let link = known(Some(way.link.clone()).filter(|link| !link.is_empty()));
    let latency = known(way.latency_us.map(|us| format!("{}.{:02} ms", us / 1000, us % 1000 / 10)));
    let lost = known(way.lost.map(|(lost, sent)| format!("{lost}/{sent}")));
    [way.peer.clone(), kind, link, way.mtu.to_string(), latency, lost, way.problems.join("; ")]
}

/// Pairs of nodes with how the one reaches the other; both directions as one where they are the same.
fn edges(machines: &[Machine]) -> Vec<(String, String, String)> {
    let mut edges: Vec<(String, String, String)> = Vec::new();
    for machine in machines {
        for way in machine.ways.iter().flatten() {
            let is_drawn =
                edges.iter().any(|(from, to, kind)| *from == way.peer && *to == machine.name && *kind == way.kind);
            if !is_drawn {
                edges.push((machine.name.clone(), way.peer.clone(), way.kind.clone()));
            }
        }
    }
    edges
}

fn label(machine: &Machine, line: &str) -> String {
    format!("{}{line}{}{line}{}", machine.name, machine.addresses.join(line), machine.blocks.join(line))
}

fn dot(machines: &[Machine]) -> String {
    let mut out = String::from("graph network {\n  node [shape=box]\n");
    for machine in machines {
        out.push_str(&format!("  \"{}\" [label=\"{}\"]\n", machine.name, label(machine, "\\n")));
    }
    for (from, to, kind) in edges(machines) {
        let style = if kind == "route" { "solid" } else { "dashed" };
        out.push_str(&format!("  \"{from}\" -- \"{to}\" [label=\"{kind}\", style={style}]\n"));
    }
    out.push_str("}\n");
    out
}

/// Names in the picture are numbers, since nodes' names may have dots.
fn mermaid(machines: &[Machine]) -> String {
    let number = |name: &str| machines.iter().position(|machine| machine.name == name);
    let mut out = String::from("graph TD\n");
    for (number, machine) in machines.iter().enumerate() {
        out.push_str(&format!("  n{number}[\"{}\"]\n", label(machine, "<br>")));
    }
    for (from, to, kind) in edges(machines) {
        let (Some(from), Some(to)) = (number(&from), number(&to)) else { continue };
        let line = if kind == "route" { "---" } else { "-.-" };
        out.push_str(&format!("  n{from} {line}|{kind}| n{to}\n"));
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn three() -> Vec<Machine> {
        let node = |name: &str, block: &str| {
            let addresses = json!([{"type": "InternalIP", "address": "192.0.2.1"}]);
            machine(
                &json!({"metadata": {"name": name}, "spec": {"podCIDRs": [block]}, "status": {"addresses": addresses}}),
            )
        };
        let said = |peer: &str, reach: Value| {
            json!({"peer": {"name": peer}, "problems": [],
                "ways": [{"family": "IPv4", "reach": reach, "mtu": 1450}, {"family": "IPv6", "reach": reach, "mtu": 1450}]})
        };
        let mut all = vec![node("a", "10.0.0.0/26"), node("b.x", "10.0.0.64/26")];
        let quality = json!([{"latency_us": 1234, "sent": 5, "lost": 1}]);
        let peers = json!([said("b.x", json!({"vxlan": {"link": "eth0"}}))]);
        all[0].ways = Ok(ways(&json!({"peers": peers, "quality": quality})));
        let found = json!([{"family": "ip", "table": "filter", "chain": "FORWARD", "cure": ["nft insert"]}]);
        all[0].obstacles = obstacles(&json!({"obstacles": found}));
        all[1].ways = Ok(ways(
            &json!({"peers": [said("a", json!({"vxlan": {"link": "eth0"}})), said("gone", json!("nowhere"))]}),
        ));
        all
    }

    #[test]
    fn ways_are_lines_of_their_node() {
        let shown = table(&three());
        let lines: Vec<Vec<&str>> = shown.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(
            lines[1],
            ["a", "192.0.2.1", "10.0.0.0/26", "0", "b.x", "vxlan", "eth0", "1450", "1.23", "ms", "1/5"]
        );
        assert_eq!(lines[3], ["gone", "nowhere", "-", "1450", "-", "-"]);
        assert!(shown.ends_with("this helps:\n  nft insert\n"), "{shown}");
    }

    #[test]
    fn families_that_part_have_a_line_each() {
        let mut nodes = three();
        let route = json!({"route": {"link": "eth0"}});
        let led =
            json!([{"family": "IPv4", "reach": route, "mtu": 1500}, {"family": "IPv6", "reach": "nowhere", "mtu": 0}]);
        nodes[0].ways = Ok(ways(&json!({"peers": [{"peer": {"name": "c"}, "ways": led, "problems": []}]})));
        let shown = table(&nodes);
        assert!(shown.contains("route (IPv4)") && shown.contains("nowhere (IPv6)"), "{shown}");
    }

    #[test]
    fn pictures_have_each_pair_once() {
        let picture = mermaid(&three());
        assert!(picture.contains("n0[\"a<br>192.0.2.1<br>10.0.0.0/26\"]"), "{picture}");
        assert_eq!(picture.matches("-.-|vxlan|").count(), 1, "{picture}");
        assert!(dot(&three()).contains("\"a\" -- \"b.x\" [label=\"vxlan\", style=dashed]"));
    }
}
