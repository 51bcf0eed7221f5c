//! The containers of a pod.

use api::quantity::Quantity;
use serde_json::Value;

use super::super::Page;
use super::super::page::{date, items, plain};

pub(super) fn describe(page: &mut Page, pod: &Value, containers: &[Value], statuses: &[Value]) {
    for container in containers {
        let status = statuses.iter().find(|status| status["name"] == container["name"]);
        page.line(1, format!("{}:", plain(&container["name"])));
        basics(page, container, status);
        words(page, "Command", &container["command"]);
        words(page, "Args", &container["args"]);
        if let Some(status) = status {
            states(page, status);
        }
        for (title, field) in [("Limits", "limits"), ("Requests", "requests")] {
            amounts(page, title, &container["resources"][field]);
        }
        for (title, field) in
            [("Liveness", "livenessProbe"), ("Readiness", "readinessProbe"), ("Startup", "startupProbe")]
        {
            if container[field].is_object() {
                page.pair(2, title, probe(&container[field]));
            }
        }
        sources(page, items(&container["envFrom"]));
        environment(page, pod, container);
        mounts(page, items(&container["volumeMounts"]));
    }
}

fn basics(page: &mut Page, container: &Value, status: Option<&Value>) {
    if let Some(status) = status {
        page.pair(2, "Container ID", plain(&status["containerID"]));
    }
    page.pair(2, "Image", plain(&container["image"]));
    if let Some(status) = status {
        page.pair(2, "Image ID", plain(&status["imageID"]));
    }
    let ports = |field: &str, with_name: bool| {
        let one = |port: &Value| {
            let number = port[field].as_i64().unwrap_or(0);
            let name =
                port["name"].as_str().filter(|_| with_name).map_or_else(String::new, |name| format!(" ({name})"));
            format!("{number}/{}{name}", port["protocol"].as_str().unwrap_or("TCP"))
        };
        items(&container["ports"]).iter().map(one).collect::<Vec<_>>()
    };
    for (title, field) in [("Port", "containerPort"), ("Host Port", "hostPort")] {
        let list = ports(field, true);
        match list.len() {
            0 => page.pair(2, title, "<none>"),
            1 => page.pair(2, title, &list[0]),
            _ => page.pair(2, &format!("{title}s"), list.join(", ")),
        }
    }
    page.pair_if(2, "SeccompProfile", &container["securityContext"]["seccompProfile"]["type"]);
}

fn words(page: &mut Page, title: &str, words: &Value) {
    if items(words).is_empty() {
        return;
    }
    page.line(2, format!("{title}:"));
    for line in items(words).iter().map(plain).flat_map(|word| word.split('\n').map(str::to_owned).collect::<Vec<_>>())
    {
        page.line(3, line);
    }
}

fn states(page: &mut Page, status: &Value) {
    state(page, "State", &status["state"]);
    if status["lastState"]["terminated"].is_object() {
        state(page, "Last State", &status["lastState"]);
    }
    page.pair(2, "Ready", if status["ready"] == true { "True" } else { "False" });
    page.pair(2, "Restart Count", status["restartCount"].as_i64().unwrap_or(0));
}

fn state(page: &mut Page, title: &str, state: &Value) {
    if let Some(running) = state.get("running") {
        page.pair(2, title, "Running");
        return page.pair(3, "Started", date(&running["startedAt"]));
    }
    let Some(ended) = state.get("terminated") else {
        page.pair(2, title, "Waiting");
        return page.pair_if(3, "Reason", &state["waiting"]["reason"]);
    };
    page.pair(2, title, "Terminated");
    page.pair_if(3, "Reason", &ended["reason"]);
    page.pair_if(3, "Message", &ended["message"]);
    page.pair(3, "Exit Code", ended["exitCode"].as_i64().unwrap_or(0));
    if ended["signal"].as_i64().unwrap_or(0) > 0 {
        page.pair(3, "Signal", plain(&ended["signal"]));
    }
    page.pair(3, "Started", date(&ended["startedAt"]));
    page.pair(3, "Finished", date(&ended["finishedAt"]));
}

fn amounts(page: &mut Page, title: &str, list: &Value) {
    let Some(list) = list.as_object().filter(|list| !list.is_empty()) else { return };
    page.line(2, format!("{title}:"));
    for (name, amount) in list {
        page.pair(3, name, plain(amount));
    }
}

/// A probe in one line.
fn probe(probe: &Value) -> String {
    let number = |field: &str, default: i64| probe[field].as_i64().unwrap_or(default);
    let attributes = format!(
        "delay={}s timeout={}s period={}s #success={} #failure={}",
        number("initialDelaySeconds", 0),
        number("timeoutSeconds", 1),
        number("periodSeconds", 10),
        number("successThreshold", 1),
        number("failureThreshold", 3)
    );
    let text = |value: &Value| plain(value);
    if probe["exec"].is_object() {
        let words: Vec<String> = items(&probe["exec"]["command"]).iter().map(plain).collect();
        return format!("exec [{}] {attributes}", words.join(" "));
    }
    if let Some(get) = probe.get("httpGet") {
        let scheme = get["scheme"].as_str().unwrap_or("HTTP").to_lowercase();
        let path = text(&get["path"]);
        return format!("http-get {scheme}://{}:{}{path} {attributes}", text(&get["host"]), text(&get["port"]));
    }
    if let Some(socket) = probe.get("tcpSocket") {
        return format!("tcp-socket {}:{} {attributes}", text(&socket["host"]), text(&socket["port"]));
    }
    if let Some(grpc) = probe.get("grpc") {
        return format!("grpc <pod>:{} {} {attributes}", text(&grpc["port"]), text(&grpc["service"]));
    }
    format!("unknown {attributes}")
}

fn sources(page: &mut Page, sources: &[Value]) {
    if sources.is_empty() {
        return;
    }
    page.line(2, "Environment Variables from:");
    for source in sources {
        let is_map = source["configMapRef"].is_object();
        let (word, reference) =
            if is_map { ("ConfigMap", &source["configMapRef"]) } else { ("Secret", &source["secretRef"]) };
        let prefix = source["prefix"].as_str().filter(|prefix| !prefix.is_empty());
        let prefix = prefix.map_or_else(String::new, |prefix| format!(" with prefix '{prefix}'"));
        let optional = reference["optional"] == true;
        page.line(3, format!("{}\t{word}{prefix}\tOptional: {optional}", plain(&reference["name"])));
    }
}

fn environment(page: &mut Page, pod: &Value, container: &Value) {
    let variables = items(&container["env"]);
    if variables.is_empty() {
        return page.pair(2, "Environment", "<none>");
    }
    page.line(2, "Environment:");
    for variable in variables {
        let name = plain(&variable["name"]);
        let Some(from) = variable.get("valueFrom") else {
            let value = plain(&variable["value"]);
            let mut lines = value.split('\n');
            page.pair(3, &name, lines.next().unwrap_or_default());
            lines.for_each(|line| page.line(3, format!("\t{line}")));
            continue;
        };
        page.pair(3, &name, origin(pod, container, from));
    }
}

fn origin(pod: &Value, container: &Value, from: &Value) -> String {
    if let Some(field) = from.get("fieldRef") {
        let path = plain(&field["fieldPath"]);
        let value = match path.strip_prefix("metadata.") {
            Some(name) => plain(&pod["metadata"][name]),
            None => String::new(),
        };
        return format!("{value} ({}:{path})", field["apiVersion"].as_str().unwrap_or("v1"));
    }
    if let Some(field) = from.get("resourceFieldRef") {
        let resource = plain(&field["resource"]);
        return format!("{} ({resource})", amount(container, &resource, &plain(&field["divisor"])));
    }
    let (source, text) = match from.get("configMapKeyRef") {
        Some(source) => (source, "of config map"),
        None => (&from["secretKeyRef"], "in secret"),
    };
    let (key, name) = (plain(&source["key"]), plain(&source["name"]));
    format!("<set to the key '{key}' {text} '{name}'>\tOptional: {}", source["optional"] == true)
}

/// What a container may use, counted in the divisor, rounded up.
fn amount(container: &Value, resource: &str, divisor: &str) -> i64 {
    let Some((which, name)) = resource.split_once('.') else { return 0 };
    let parse = |text: &str| Quantity::parse(text).ok();
    let whole = parse(&plain(&container["resources"][which][name])).unwrap_or(Quantity::ZERO);
    let unit = parse(divisor).filter(|unit| !unit.is_zero()).unwrap_or_else(|| Quantity::from_milli(1000));
    match whole.is_integer() && unit.is_integer() {
        true => whole.value().div_euclid(unit.value()) + i64::from(whole.value() % unit.value() != 0),
        false => {
            let (whole, unit) = (whole.milli_value(), unit.milli_value().max(1));
            whole.div_euclid(unit) + i64::from(whole % unit != 0)
        }
    }
}

fn mounts(page: &mut Page, mounts: &[Value]) {
    if mounts.is_empty() {
        return page.pair(2, "Mounts", "<none>");
    }
    page.line(2, "Mounts:");
    let mut lines: Vec<String> = mounts.iter().map(mount).collect();
    lines.sort();
    lines.into_iter().for_each(|line| page.line(3, line));
}

fn mount(mount: &Value) -> String {
    let mut flags = if mount["readOnly"] == true { "ro" } else { "rw" }.to_owned();
    if let Some(path) = mount["subPath"].as_str().filter(|path| !path.is_empty()) {
        flags = format!("{flags},path=\"{path}\"");
    }
    format!("{} from {} ({flags})", plain(&mount["mountPath"]), plain(&mount["name"]))
}
