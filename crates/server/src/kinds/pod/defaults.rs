//! What a Pod that does not say gets.

use serde_json::{Value, json};

use crate::tree::{at, default, default_text, integer, is_set, items, items_mut, object, present, set, text};

const CONTAINERS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];

/// Fills in a pod.
pub(super) fn pod(pod: &mut Value) {
    if pod.get("status").is_some() {
        one_address(object(pod, "status"));
    }
    let spec = object(pod, "spec");
    if integer(spec, "terminationGracePeriodSeconds").is_some_and(|seconds| seconds < 0) {
        set(spec, "terminationGracePeriodSeconds", 1);
    }
    limits_are_requests(spec);
    default(spec, "enableServiceLinks", true);
    if is_set(spec, "hostNetwork") {
        host_ports(spec);
    }
    pod_spec(spec);
}

/// `podIP` is the old name of the first of `podIPs`, and wins where they differ.
fn one_address(status: &mut Value) {
    let (old, first) =
        (text(status, "podIP").to_owned(), items(status, "podIPs").first().map(|ip| text(ip, "ip").to_owned()));
    match (old.as_str(), first) {
        ("", Some(first)) => set(status, "podIP", first),
        ("", None) => {}
        (old, first) if first.as_deref() != Some(old) => set(status, "podIPs", json!([{"ip": old}])),
        _ => {}
    }
}

/// A limit without a request is a request too.
fn limits_are_requests(spec: &mut Value) {
    for list in ["initContainers", "containers"] {
        for container in items_mut(spec, list) {
            let Some(limits) = at(container, &["resources", "limits"]).and_then(Value::as_object).cloned() else {
                continue;
            };
            let requests = object(object(container, "resources"), "requests");
            for (name, quantity) in limits {
                default(requests, &name, quantity);
            }
        }
    }
}

fn host_ports(spec: &mut Value) {
    for list in ["initContainers", "containers"] {
        for container in items_mut(spec, list) {
            for port in items_mut(container, "ports") {
                if integer(port, "hostPort").unwrap_or_default() == 0 {
                    let same = port.get("containerPort").cloned().unwrap_or_default();
                    set(port, "hostPort", same);
                }
            }
        }
    }
}

pub(super) fn pod_spec(spec: &mut Value) {
    default_text(spec, "dnsPolicy", "ClusterFirst");
    default_text(spec, "restartPolicy", "Always");
    default_text(spec, "schedulerName", "default-scheduler");
    default(spec, "terminationGracePeriodSeconds", 30);
    default(spec, "securityContext", json!({}));
    service_account(spec);
    for list in CONTAINERS {
        for item in items_mut(spec, list) {
            container(item);
        }
    }
    for item in items_mut(spec, "volumes") {
        volume(item);
    }
}

/// `serviceAccount` is the old name of `serviceAccountName`; each stands in for the other.
fn service_account(spec: &mut Value) {
    let name =
        [text(spec, "serviceAccountName"), text(spec, "serviceAccount")].into_iter().find(|name| !name.is_empty());
    if let Some(name) = name.map(str::to_owned) {
        set(spec, "serviceAccountName", name.clone());
        set(spec, "serviceAccount", name);
    }
}

fn container(container: &mut Value) {
    let policy = pull_policy(text(container, "image"));
    default_text(container, "imagePullPolicy", policy);
    default_text(container, "terminationMessagePath", "/dev/termination-log");
    default_text(container, "terminationMessagePolicy", "File");
    default(container, "resources", json!({}));
    for port in items_mut(container, "ports") {
        default_text(port, "protocol", "TCP");
    }
    for variable in items_mut(container, "env") {
        env(variable);
    }
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = container.get_mut(name).filter(|probe| probe.is_object()) {
            fill_probe(probe);
        }
    }
    for name in ["postStart", "preStop"] {
        if let Some(hook) = container.get_mut("lifecycle").and_then(|lifecycle| lifecycle.get_mut(name)) {
            http_get(hook);
        }
    }
    if let Some(context) = container.get_mut("securityContext").filter(|context| context.is_object())
        && present(context, "procMount").is_some_and(|mount| mount == "")
    {
        set(context, "procMount", "Default");
    }
}

fn env(variable: &mut Value) {
    let Some(from) = variable.get_mut("valueFrom") else { return };
    if let Some(field) = from.get_mut("fieldRef").filter(|field| field.is_object()) {
        default_text(field, "apiVersion", "v1");
    }
    if let Some(file) = from.get_mut("fileKeyRef").filter(|file| file.is_object()) {
        default(file, "optional", false);
    }
    if let Some(resource) = from.get_mut("resourceFieldRef").filter(|resource| resource.is_object()) {
        default(resource, "divisor", "0");
    }
}

/// An image without a tag, or with `latest`, is looked for each time.
fn pull_policy(image: &str) -> &'static str {
    let (name, digest) = image.split_once('@').map_or((image, None), |(name, digest)| (name, Some(digest)));
    let last = name.rsplit('/').next().unwrap_or(name);
    match last.split_once(':') {
        Some((_, "latest")) => "Always",
        None if digest.is_none() => "Always",
        _ => "IfNotPresent",
    }
}

fn fill_probe(probe: &mut Value) {
    for (name, value) in
        [("timeoutSeconds", 1), ("periodSeconds", 10), ("successThreshold", 1), ("failureThreshold", 3)]
    {
        if integer(probe, name).unwrap_or_default() == 0 {
            set(probe, name, value);
        }
    }
    http_get(probe);
    if let Some(grpc) = probe.get_mut("grpc").filter(|grpc| grpc.is_object()) {
        default(grpc, "service", "");
    }
}

fn http_get(handler: &mut Value) {
    if let Some(get) = handler.get_mut("httpGet").filter(|get| get.is_object()) {
        default_text(get, "path", "/");
        default_text(get, "scheme", "HTTP");
    }
}

fn volume(volume: &mut Value) {
    let sources =
        volume.as_object().map_or(0, |fields| fields.iter().filter(|(k, v)| *k != "name" && !v.is_null()).count());
    if sources == 0 {
        set(volume, "emptyDir", json!({}));
    }
    for name in ["secret", "configMap", "downwardAPI", "projected"] {
        if let Some(source) = volume.get_mut(name).filter(|source| source.is_object()) {
            default(source, "defaultMode", 0o644);
        }
    }
    if let Some(path) = volume.get_mut("hostPath").filter(|path| path.is_object()) {
        default(path, "type", "");
    }
    if let Some(image) = volume.get_mut("image").filter(|image| image.is_object()) {
        let policy = pull_policy(text(image, "reference"));
        default_text(image, "pullPolicy", policy);
    }
    projected(volume);
}

fn projected(volume: &mut Value) {
    let downward = |source: &mut Value| {
        for item in items_mut(source, "items") {
            if let Some(field) = item.get_mut("fieldRef").filter(|field| field.is_object()) {
                default_text(field, "apiVersion", "v1");
            }
        }
    };
    if let Some(source) = volume.get_mut("downwardAPI") {
        downward(source);
    }
    let Some(projection) = volume.get_mut("projected") else { return };
    for source in items_mut(projection, "sources") {
        if let Some(source) = source.get_mut("downwardAPI") {
            downward(source);
        }
        if let Some(token) = source.get_mut("serviceAccountToken").filter(|token| token.is_object()) {
            default(token, "expirationSeconds", 3600);
        }
    }
}

/// The pod's quality of service: Guaranteed, Burstable or BestEffort.
pub(super) fn qos_class(spec: &Value) -> &'static str {
    let containers = || items(spec, "initContainers").iter().chain(items(spec, "containers"));
    let quantity = |container: &Value, list: &str, name: &str| {
        let text = at(container, &["resources", list, name]).map(plain)?;
        api::quantity::Quantity::parse(&text).ok().filter(|quantity| !quantity.is_zero())
    };
    let mut guaranteed = true;
    let mut any = false;
    for container in containers() {
        for name in ["cpu", "memory"] {
            let (request, limit) = (quantity(container, "requests", name), quantity(container, "limits", name));
            any |= request.is_some() || limit.is_some();
            guaranteed &= limit.is_some() && request == limit;
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

/// A quantity as text, however it was written.
pub(super) fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pull_policies() {
        for image in ["a", "a:latest", "r:5000/a", "r:5000/a:latest"] {
            assert_eq!(pull_policy(image), "Always", "{image}");
        }
        for image in ["a:1", "r:5000/a:1", "a@sha256:00", "a:1@sha256:00"] {
            assert_eq!(pull_policy(image), "IfNotPresent", "{image}");
        }
    }

    #[test]
    fn qos() {
        let pod = |resources: Value| json!({"containers": [{"resources": resources}]});
        assert_eq!(qos_class(&pod(json!({}))), "BestEffort");
        assert_eq!(qos_class(&pod(json!({"requests": {"cpu": "1"}}))), "Burstable");
        let both = json!({"cpu": "1", "memory": "1Gi"});
        assert_eq!(
            qos_class(&pod(json!({"requests": both, "limits": {"cpu": "1000m", "memory": "1Gi"}}))),
            "Guaranteed"
        );
    }

    #[test]
    fn fills_a_small_pod() {
        let mut small = json!({"spec": {"containers": [{"name": "a", "image": "x", "ports": [{"containerPort": 1}],
            "resources": {"limits": {"cpu": "1"}}}], "serviceAccount": "s", "volumes": [{"name": "v"}]}});
        pod(&mut small);
        let expected = json!({"spec": {
            "containers": [{"name": "a", "image": "x", "imagePullPolicy": "Always",
                "ports": [{"containerPort": 1, "protocol": "TCP"}],
                "resources": {"limits": {"cpu": "1"}, "requests": {"cpu": "1"}},
                "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File"}],
            "dnsPolicy": "ClusterFirst", "enableServiceLinks": true, "restartPolicy": "Always",
            "schedulerName": "default-scheduler", "securityContext": {}, "serviceAccount": "s", "serviceAccountName": "s",
            "terminationGracePeriodSeconds": 30, "volumes": [{"name": "v", "emptyDir": {}}]}});
        assert_eq!(small, expected);
    }
}
