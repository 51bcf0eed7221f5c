//! The play on several nodes: each command, on which machine, with what it must answer.

use anyhow::{Context, ensure};

use super::stage::Stage;
use super::stage::Want::{Nothing, Text};

/// Plays all scenes.
pub(super) async fn play(stage: &mut Stage) -> anyhow::Result<()> {
    server(stage).await?;
    for number in 2..=stage.machines() {
        join(stage, number).await?;
    }
    let all: Vec<String> = (1..=stage.machines()).map(|number| format!("node{number}")).collect();
    let ready = [&["wait", "--for=condition=Ready", "--timeout=30s", "node"], &words(&all)[..]].concat();
    stage.must(&ready, &Text(&words(&all))).await?;
    stage.step(&["get", "nodes", "-o", "wide"], &Text(&words(&all))).await?;
    pods(stage).await?;
    ways(stage).await?;
    requests(stage).await?;
    stage.title("Away with the pods");
    stage.must(&["delete", "po", "--all"], &Text(&["pod \"on-node1\" deleted"])).await?;
    stage.step(&["get", "pods"], &Nothing("No resources found in default namespace.\n")).await?;
    Ok(())
}

async fn server(stage: &mut Stage) -> anyhow::Result<()> {
    let (count, address) = (stage.machines(), stage.address(1)?);
    stage.title(&format!("{count} machines, which are network namespaces; on the first, {address}, a cluster"));
    stage.make_image()?;
    let up = [
        "up",
        "--detach",
        "--data-dir",
        "data",
        "--kubeconfig",
        "kubeconfig",
        "--listen",
        "0.0.0.0:6443",
        "--node-name",
        "node1",
    ];
    stage.must(&up, &Text(&["is Ready"])).await?;
    import(stage, 1).await
}

/// Makes a further machine a node.
async fn join(stage: &mut Stage, number: usize) -> anyhow::Result<()> {
    let (server, own) = (stage.address(1)?, stage.address(number)?);
    stage.title(&format!("Machine {number}, {own}, joins with a token"));
    let created = stage.must(&["token", "create", "--data-dir", "data"], &Text(&["."])).await?.stdout;
    let token = created.lines().next().context("there is no token")?;
    let (server, data, name) = (format!("https://{server}:6443"), stage.data(number), format!("node{number}"));
    let join = ["join", &server, "--token", token, "--detach", "--data-dir", &data, "--node-name", &name];
    stage.must_on(number, &join, &Text(&["is Ready"])).await?;
    import(stage, number).await
}

async fn import(stage: &mut Stage, number: usize) -> anyhow::Result<()> {
    let data = stage.data(number);
    let words = ["image", "--data-dir", &data, "import", "kubia.tar", "luksa/kubia", "--entrypoint", "/kubia"];
    stage.must_on(number, &words, &Text(&["docker.io/luksa/kubia:latest"])).await?;
    Ok(())
}

async fn pods(stage: &mut Stage) -> anyhow::Result<()> {
    stage.title("A pod on each node, each with an address out of a block of its node");
    let mut addresses = Vec::new();
    for number in 1..=stage.machines() {
        let (file, name) = (format!("on-node{number}.yaml"), format!("pod/on-node{number}"));
        stage.write(&file, &manifest(number))?;
        stage.must(&["create", "-f", &file], &Text(&[&name])).await?;
    }
    let ready = ["wait", "--for=condition=Ready", "pod", "--all", "--timeout=30s"];
    stage.must(&ready, &Text(&["pod/on-node1 condition met\n"])).await?;
    for number in 1..=stage.machines() {
        addresses.push(address(stage, number).await?);
    }
    let mut told = words(&addresses);
    told.push("node1");
    stage.step(&["get", "pods", "-o", "wide"], &Text(&told)).await?;
    let mut blocks = Vec::new();
    for number in 1..=stage.machines() {
        let node = format!("node{number}");
        let get = ["get", "node", &node, "-o", "jsonpath={.spec.podCIDR}"];
        let told = stage.step(&get, &Text(&["/"])).await?.stdout;
        let block: ipnet::Ipv4Net = told.trim().parse().with_context(|| format!("the block of {node}"))?;
        let address: std::net::Ipv4Addr =
            addresses[number - 1].parse().with_context(|| format!("the address on {node}"))?;
        ensure!(block.contains(&address), "{address} is not out of {block} of {node}");
        ensure!(!blocks.contains(&block), "two nodes have {block}");
        blocks.push(block);
    }
    Ok(())
}

async fn ways(stage: &mut Stage) -> anyhow::Result<()> {
    stage.title("How the nodes reach each other's blocks: by routes on the wire, by a tunnel through the router");
    let kinds: &[&str] = if stage.machines() > 2 { &["route", "vxlan", "node2"] } else { &["route", "node2"] };
    stage.step(&["network"], &Text(kinds)).await?;
    stage.step(&["network", "-o", "mermaid"], &Text(&["graph TD\n", "|route|"])).await?;
    Ok(())
}

async fn requests(stage: &mut Stage) -> anyhow::Result<()> {
    stage.title("Requests from node to node: whoever is asked sees the asker's own address");
    let count = stage.machines();
    for from in 1..=count {
        let to = from % count + 1;
        let (asker, asked) = (format!("on-node{from}"), format!("on-node{to}"));
        let goal = format!("{}:8080", address(stage, to).await?);
        let ask = ["exec", &asker, "--", "/kubia", "fetch", &goal];
        stage.step(&ask, &Text(&[&format!("You've hit {asked}\n")])).await?;
        let seen = format!("Received request from ::ffff:{}\n", address(stage, from).await?);
        stage.step(&["logs", &asked], &Text(&[&seen])).await?;
    }
    Ok(())
}

async fn address(stage: &mut Stage, number: usize) -> anyhow::Result<String> {
    let get = ["get", "po", &format!("on-node{number}"), "-o", "jsonpath={.status.podIP}"];
    Ok(stage.step(&get, &Text(&["."])).await?.stdout.trim().to_owned())
}

fn manifest(number: usize) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: on-node{number}\nspec:\n  terminationGracePeriodSeconds: 2\n  \
         nodeSelector:\n    kubernetes.io/hostname: node{number}\n  containers:\n  - name: kubia\n    image: luksa/kubia\n    \
         ports:\n    - containerPort: 8080\n"
    )
}

fn words(texts: &[String]) -> Vec<&str> {
    texts.iter().map(String::as_str).collect()
}
