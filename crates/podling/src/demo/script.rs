//! The play: each command with what it must answer.

use super::stage::Stage;
use super::stage::Want::{Nothing, Refusal, Rows, Text};

/// Plays all scenes.
pub(super) async fn play(stage: &mut Stage) -> anyhow::Result<()> {
    cluster(stage).await?;
    first_pod(stage).await?;
    labels(stage).await?;
    selectors(stage).await?;
    shared(stage).await?;
    separate(stage).await?;
    end(stage).await
}

async fn cluster(stage: &mut Stage) -> anyhow::Result<()> {
    stage.title("A cluster, and an image made of this very program");
    let up = ["up", "--detach", "--data-dir", "data", "--kubeconfig", "kubeconfig", "--listen", "127.0.0.1:0"];
    stage.must(&up, &Text(&["is Ready"])).await?;
    stage.make_image()?;
    let import = ["image", "--data-dir", "data", "import", "kubia.tar", "luksa/kubia", "--entrypoint", "/kubia"];
    stage.must(&import, &Text(&["docker.io/luksa/kubia:latest"])).await?;
    stage.step(&["get", "nodes"], &Text(&["Ready"])).await?;
    Ok(())
}

async fn first_pod(stage: &mut Stage) -> anyhow::Result<()> {
    stage.title("A pod from a manifest");
    stage.must(&["create", "-f", "kubia-manual.yaml"], &Text(&["pod/kubia-manual created\n"])).await?;
    let ready = ["wait", "--for=condition=Ready", "pod/kubia-manual", "--timeout=30s"];
    stage.must(&ready, &Text(&["pod/kubia-manual condition met\n"])).await?;
    let yaml = ["kind: Pod", "  name: kubia-manual\n", "  - image: luksa/kubia\n", "  phase: Running\n"];
    stage.step(&["get", "po", "kubia-manual", "-o", "yaml"], &Text(&yaml)).await?;
    stage.step(&["get", "pods"], &Text(&["NAME ", "kubia-manual ", "1/1 ", "Running "])).await?;
    stage.step(&["logs", "kubia-manual"], &Text(&["Kubia server starting...\n"])).await?;
    stage.step(&["logs", "kubia-manual", "-c", "kubia"], &Text(&["Kubia server starting...\n"])).await?;
    stage.forward("kubia-manual", 8080, "You've hit kubia-manual\n").await?;
    stage.step(&["logs", "kubia-manual"], &Text(&["Received request from "])).await?;
    Ok(())
}

async fn labels(stage: &mut Stage) -> anyhow::Result<()> {
    stage.title("Labels");
    stage.must(&["create", "-f", "kubia-manual-v2.yaml"], &Text(&["pod/kubia-manual-v2 created\n"])).await?;
    stage
        .step(&["get", "po", "--show-labels"], &Text(&["LABELS\n", "<none>\n", "creation_method=manual,env=prod\n"]))
        .await?;
    stage
        .step(
            &["get", "po", "-L", "creation_method,env"],
            &Text(&["CREATION_METHOD   ENV\n", "manual            prod\n"]),
        )
        .await?;
    let set = ["label", "po", "kubia-manual", "creation_method=manual"];
    stage.step(&set, &Text(&["pod/kubia-manual labeled\n"])).await?;
    let refused = Refusal("error: 'env' already has a value (prod), and --overwrite is false\n");
    stage.step(&["label", "po", "kubia-manual-v2", "env=debug"], &refused).await?;
    let overwrite = ["label", "po", "kubia-manual-v2", "env=debug", "--overwrite"];
    stage.step(&overwrite, &Text(&["pod/kubia-manual-v2 labeled\n"])).await?;
    stage.step(&["get", "po", "-L", "creation_method,env"], &Text(&["manual            debug\n"])).await?;
    Ok(())
}

async fn selectors(stage: &mut Stage) -> anyhow::Result<()> {
    stage.title("Selectors");
    let both = Rows(&["kubia-manual", "kubia-manual-v2"]);
    let nothing = Nothing("No resources found in default namespace.\n");
    stage.step(&["get", "po", "-l", "creation_method=manual"], &both).await?;
    stage.step(&["get", "po", "-l", "env"], &Rows(&["kubia-manual-v2"])).await?;
    stage.step(&["get", "po", "-l", "!env"], &Rows(&["kubia-manual"])).await?;
    stage.step(&["get", "po", "-l", "creation_method!=manual"], &nothing).await?;
    stage.step(&["get", "po", "-l", "env in (prod,devel)"], &nothing).await?;
    stage.step(&["get", "po", "-l", "env in (prod,debug)"], &Rows(&["kubia-manual-v2"])).await?;
    stage.step(&["get", "po", "-l", "env notin (prod,devel)"], &both).await?;
    Ok(())
}

/// What the containers of a pod share.
async fn shared(stage: &mut Stage) -> anyhow::Result<()> {
    stage.title("Three containers in one pod: what they share");
    stage.must(&["create", "-f", "three.yaml"], &Text(&["pod/three created\n"])).await?;
    let ready = ["wait", "--for=condition=Ready", "pod/three", "--timeout=30s"];
    stage.must(&ready, &Text(&["pod/three condition met\n"])).await?;
    stage.step(&["get", "po", "three"], &Text(&["3/3 "])).await?;
    for container in ["web", "neighbour", "third"] {
        stage.step(&inside(container, &["hostname"]), &Text(&["three\n"])).await?;
    }
    stage.step(&inside("neighbour", &["fetch", "localhost:8080"]), &Text(&["You've hit three\n"])).await?;
    stage.step(&inside("third", &["listen", "8080"]), &Refusal("Address already in use")).await?;
    stage.step(&inside("web", &["write", "/shared/note", "hello"]), &Text(&[])).await?;
    stage.step(&inside("neighbour", &["read", "/shared/note"]), &Text(&["hello\n"])).await?;
    Ok(())
}

/// What they have for themselves, and what another pod has.
async fn separate(stage: &mut Stage) -> anyhow::Result<()> {
    stage.title("What they do not share, and what another pod has for itself");
    stage.step(&inside("web", &["write", "/mine", "secret"]), &Text(&[])).await?;
    stage.step(&inside("web", &["read", "/mine"]), &Text(&["secret\n"])).await?;
    stage.step(&inside("neighbour", &["read", "/mine"]), &Refusal("No such file or directory")).await?;
    stage.step(&inside("third", &["read", "/shared/note"]), &Refusal("No such file or directory")).await?;
    let other = ["exec", "kubia-manual", "--", "/kubia", "hostname"];
    stage.step(&other, &Text(&["kubia-manual\n"])).await?;
    let ip = ["get", "po", "kubia-manual", "-o", "jsonpath={.status.podIP}"];
    let address = stage.step(&ip, &Text(&["."])).await?.stdout;
    let elsewhere = format!("{}:8080", address.trim());
    stage.step(&inside("neighbour", &["fetch", &elsewhere]), &Text(&["You've hit kubia-manual\n"])).await?;
    Ok(())
}

async fn end(stage: &mut Stage) -> anyhow::Result<()> {
    stage.title("Away with the pods");
    let gone = ["kubia-manual", "kubia-manual-v2", "three"];
    let gone = gone.map(|name| format!("pod \"{name}\" deleted from default namespace\n"));
    stage.step(&["delete", "po", "--all"], &Text(&gone.each_ref().map(String::as_str))).await?;
    stage.step(&["get", "pods"], &Nothing("No resources found in default namespace.\n")).await?;
    Ok(())
}

/// A helper of the image, run in a container of the pod of three.
fn inside<'a>(container: &'a str, words: &[&'a str]) -> Vec<&'a str> {
    let mut command = vec!["exec", "three", "-c", container, "--", "/kubia"];
    command.extend(words);
    command
}
