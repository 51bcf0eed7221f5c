//! Rules for a whole Pod.

use std::collections::BTreeSet;

use api::field::{FieldError, Path};
use serde_json::{Value, json};

use super::container::{self, Surroundings};
use super::{affinity, resources, spread, volume};
use crate::kinds::check::{self, one_of, report, report_number};
use crate::kinds::meta;
use crate::tree::{entries, integer, is_set, items, present, text};

/// What is wrong with a new pod.
pub(super) fn create(pod: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let (spec, path) = (&pod["spec"], Path::new("spec"));
    validate_spec(&mut errors, spec, &path);
    if !items(spec, "ephemeralContainers").is_empty() {
        errors.push(FieldError::forbidden(&path.child("ephemeralContainers"), "cannot be set on create"));
    }
    if !text(spec, "nodeName").is_empty() && !items(spec, "schedulingGates").is_empty() {
        let detail = "cannot be set until all schedulingGates have been cleared";
        errors.push(FieldError::forbidden(&path.child("nodeName"), detail));
    }
    errors
}

/// What is wrong with the spec of any pod, new or changed.
pub(super) fn validate_spec(errors: &mut Vec<FieldError>, spec: &Value, path: &Path) {
    let around = Surroundings {
        volumes: volume::validate(errors, spec, &path.child("volumes")),
        claims: items(spec, "resourceClaims").iter().map(|claim| text(claim, "name")).collect(),
        own_users: spec.get("hostUsers").is_some_and(|value| value == false),
        grace: integer(spec, "terminationGracePeriodSeconds"),
    };
    containers(errors, spec, &path.child("containers"), &around);
    init_containers(errors, spec, &path.child("initContainers"), &around);
    ephemeral_containers(errors, spec, &path.child("ephemeralContainers"), &around);
    if let Some(resources) = present(spec, "resources") {
        resources::validate(errors, resources, &around.claims, &path.child("resources"));
    }
    host_ports(errors, spec, path);
    one_of(errors, &path.child("restartPolicy"), text(spec, "restartPolicy"), &["Always", "OnFailure", "Never"]);
    let policies = ["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
    one_of(errors, &path.child("dnsPolicy"), text(spec, "dnsPolicy"), &policies);
    meta::labels(errors, spec, "nodeSelector", &path.child("nodeSelector"));
    affinity::validate(errors, spec, path);
    security_context(errors, spec, &path.child("securityContext"));
    if is_set(spec, "shareProcessNamespace") && is_set(spec, "hostPID") {
        let detail = "ShareProcessNamespace and HostPID cannot both be enabled";
        errors.push(FieldError::invalid(&path.child("shareProcessNamespace"), true, detail));
    }
    dns(errors, spec, &path.child("dnsConfig"));
    gates(errors, spec, path);
    spread::validate(errors, spec, &path.child("topologySpreadConstraints"));
    own_users(errors, spec, path, &around);
    hostname_override(errors, spec, path);
    name(errors, spec, path, "serviceAccountName", check::dns_subdomain);
    same_account(errors, spec, path);
    name(errors, spec, path, "nodeName", check::dns_subdomain);
    if let Some(value) = integer(spec, "activeDeadlineSeconds") {
        let wrongs = check::in_range(value, 1, i64::from(i32::MAX));
        report_number(errors, &path.child("activeDeadlineSeconds"), value, wrongs);
    }
    name(errors, spec, path, "hostname", check::dns_label);
    name(errors, spec, path, "subdomain", check::dns_label);
    tolerations(errors, spec, &path.child("tolerations"));
    host_aliases(errors, spec, &path.child("hostAliases"));
    name(errors, spec, path, "priorityClassName", check::dns_subdomain);
    name(errors, spec, path, "runtimeClassName", check::dns_subdomain);
    if let Some(policy) = present(spec, "preemptionPolicy").and_then(Value::as_str) {
        one_of(errors, &path.child("preemptionPolicy"), policy, &["PreemptLowerPriority", "Never"]);
    }
    if let Some(os) = present(spec, "os") {
        one_of(errors, &path.child("os"), text(os, "name"), &["linux", "windows"]);
    }
    meta::not_negative(errors, spec, "terminationGracePeriodSeconds", path);
    untrimmed_images(errors, spec, path);
}

fn containers(errors: &mut Vec<FieldError>, spec: &Value, path: &Path, around: &Surroundings<'_>) {
    let list = items(spec, "containers");
    if list.is_empty() {
        return errors.push(FieldError::required(path, ""));
    }
    let mut names = BTreeSet::new();
    for (number, item) in list.iter().enumerate() {
        let path = path.index(number);
        container::common(errors, item, &path, around);
        if !names.insert(text(item, "name")) {
            errors.push(FieldError::duplicate(&path.child("name"), text(item, "name")));
        }
        container::probes_and_hooks(errors, item, &path, around.grace);
        restart_policy(errors, item, &path);
    }
    container::host_port_conflicts(errors, list.iter().enumerate().map(|(number, item)| (item, path.index(number))));
}

fn restart_policy(errors: &mut Vec<FieldError>, item: &Value, path: &Path) {
    let policy = text(item, "restartPolicy");
    if !policy.is_empty() && !["Always", "OnFailure", "Never"].contains(&policy) {
        let words = ["Always", "Never", "OnFailure"];
        errors.push(FieldError::not_supported(&path.child("restartPolicy"), policy, &words));
    }
    if policy.is_empty() && !items(item, "restartPolicyRules").is_empty() {
        let detail = "must specify restartPolicy when restart rules are used";
        errors.push(FieldError::required(&path.child("restartPolicy"), detail));
    }
}

fn init_containers(errors: &mut Vec<FieldError>, spec: &Value, path: &Path, around: &Surroundings<'_>) {
    let mut taken: BTreeSet<_> = items(spec, "containers").iter().map(|item| text(item, "name")).collect();
    for (number, item) in items(spec, "initContainers").iter().enumerate() {
        let here = path.index(number);
        container::common(errors, item, &here, around);
        restart_policy(errors, item, &here);
        let name = text(item, "name");
        if !taken.insert(name) {
            errors.push(FieldError::duplicate(&here.child("name"), name));
        }
        container::host_port_conflicts(errors, [(item, path.index(0))]);
        if text(item, "restartPolicy") == "Always" {
            container::probes_and_hooks(errors, item, &here, around.grace);
            continue;
        }
        for name in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
            if present(item, name).is_some() {
                let detail = "may not be set for init containers without restartPolicy=Always";
                errors.push(FieldError::forbidden(&here.child(name), detail));
            }
        }
    }
}

fn ephemeral_containers(errors: &mut Vec<FieldError>, spec: &Value, path: &Path, around: &Surroundings<'_>) {
    let others = || items(spec, "containers").iter().chain(items(spec, "initContainers"));
    let mut taken: BTreeSet<_> = others().map(|item| text(item, "name")).collect();
    for (number, item) in items(spec, "ephemeralContainers").iter().enumerate() {
        let here = path.index(number);
        container::common(errors, item, &here, around);
        let (name, target) = (text(item, "name"), text(item, "targetContainerName"));
        if !taken.insert(name) {
            errors.push(FieldError::duplicate(&here.child("name"), name));
        }
        if !target.is_empty() && !others().any(|other| text(other, "name") == target) {
            errors.push(FieldError::not_found(&here.child("targetContainerName"), target));
        }
        for name in ["ports", "livenessProbe", "readinessProbe", "startupProbe", "lifecycle"] {
            if present(item, name).is_some() {
                errors.push(FieldError::forbidden(&here.child(name), "cannot be set for an Ephemeral Container"));
            }
        }
    }
}

fn host_ports(errors: &mut Vec<FieldError>, spec: &Value, path: &Path) {
    if !is_set(spec, "hostNetwork") {
        return;
    }
    for (number, item) in items(spec, "containers").iter().enumerate() {
        let path = path.child("containers").index(number).child("ports");
        for (number, port) in items(item, "ports").iter().enumerate() {
            let host = integer(port, "hostPort").unwrap_or_default();
            if Some(host) != integer(port, "containerPort") {
                let detail = "must match `containerPort` when `hostNetwork` is true";
                errors.push(FieldError::invalid(&path.index(number).child("hostPort"), host, detail));
            }
        }
    }
}

fn security_context(errors: &mut Vec<FieldError>, spec: &Value, path: &Path) {
    let Some(context) = present(spec, "securityContext") else { return };
    for name in ["fsGroup", "runAsUser", "runAsGroup"] {
        if let Some(id) = integer(context, name) {
            report_number(errors, &path.child(name), id, check::user_id(id));
        }
    }
    for (number, id) in items(context, "supplementalGroups").iter().filter_map(Value::as_i64).enumerate() {
        report_number(errors, &path.child("supplementalGroups").index(number), id, check::user_id(id));
    }
    sysctls(errors, context, &path.child("sysctls"));
    for (name, words) in [
        ("fsGroupChangePolicy", ["Always", "OnRootMismatch"]),
        ("supplementalGroupsPolicy", ["Merge", "Strict"]),
        ("seLinuxChangePolicy", ["MountOption", "Recursive"]),
    ] {
        if let Some(value) = present(context, name).and_then(Value::as_str).filter(|value| !words.contains(value)) {
            errors.push(FieldError::not_supported(&path.child(name), value, &words));
        }
    }
    container::seccomp(errors, context, &path.child("seccompProfile"));
}

fn sysctls(errors: &mut Vec<FieldError>, context: &Value, path: &Path) {
    let mut taken = BTreeSet::new();
    let segment = |part: &str| {
        let edge = |byte: Option<&u8>| byte.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        let bytes = part.as_bytes();
        edge(bytes.first())
            && edge(bytes.last())
            && bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_".contains(b))
    };
    for (number, item) in items(context, "sysctls").iter().enumerate() {
        let path = path.index(number).child("name");
        let name = text(item, "name");
        if name.is_empty() {
            errors.push(FieldError::required(&path, ""));
        } else if name.len() > 253 || !name.split(['.', '/']).all(segment) {
            let pattern = "([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?";
            let detail = format!("must have at most 253 characters and match regex ^{pattern}$");
            errors.push(FieldError::invalid(&path, name, detail));
        } else if !taken.insert(name) {
            errors.push(FieldError::duplicate(&path, name));
        }
    }
}

fn dns(errors: &mut Vec<FieldError>, spec: &Value, path: &Path) {
    let config = present(spec, "dnsConfig");
    let servers = config.map(|config| items(config, "nameservers")).unwrap_or_default();
    if text(spec, "dnsPolicy") == "None" && servers.is_empty() {
        let error = match config {
            None => FieldError::required(path, "must provide `dnsConfig` when `dnsPolicy` is None"),
            Some(_) => {
                let detail = "must provide at least one DNS nameserver when `dnsPolicy` is None";
                FieldError::required(&path.child("nameservers"), detail)
            }
        };
        return errors.push(error);
    }
    let Some(config) = config else { return };
    if servers.len() > 3 {
        let detail = "must not have more than 3 nameservers";
        errors.push(FieldError::invalid(&path.child("nameservers"), servers.to_vec(), detail));
    }
    for (number, server) in servers.iter().filter_map(Value::as_str).enumerate() {
        report(errors, &path.child("nameservers").index(number), server, check::ip_address(server));
    }
    let searches = items(config, "searches");
    if searches.len() > 32 {
        let detail = "must not have more than 32 search paths";
        errors.push(FieldError::invalid(&path.child("searches"), searches.to_vec(), detail));
    }
    for (number, search) in searches.iter().filter_map(Value::as_str).enumerate().filter(|(_, search)| *search != ".") {
        let search = search.strip_suffix('.').unwrap_or(search);
        report(errors, &path.child("searches").index(number), search, check::search_domain(search));
    }
    for (number, option) in items(config, "options").iter().enumerate() {
        if text(option, "name").is_empty() {
            errors.push(FieldError::required(&path.child("options").index(number), "must not be empty"));
        }
    }
}

fn gates(errors: &mut Vec<FieldError>, spec: &Value, path: &Path) {
    for (number, gate) in items(spec, "readinessGates").iter().enumerate() {
        let condition = text(gate, "conditionType");
        let path = path.child("readinessGates").index(number).child("conditionType");
        report(errors, &path, condition, check::label_key(condition));
    }
    let mut taken = BTreeSet::new();
    for (number, gate) in items(spec, "schedulingGates").iter().enumerate() {
        let (name, path) = (text(gate, "name"), path.child("schedulingGates").index(number));
        report(errors, &path, name, check::label_key(name));
        if !taken.insert(name) {
            errors.push(FieldError::duplicate(&path, name));
        }
    }
}

fn own_users(errors: &mut Vec<FieldError>, spec: &Value, path: &Path, around: &Surroundings<'_>) {
    if !around.own_users {
        return;
    }
    for (name, shown) in [("hostNetwork", "hostNetwork"), ("hostPID", "HostPID"), ("hostIPC", "HostIPC")] {
        if is_set(spec, name) {
            errors.push(FieldError::forbidden(&path.child(shown), "when `hostUsers` is false"));
        }
    }
}

fn name(errors: &mut Vec<FieldError>, spec: &Value, path: &Path, field: &str, rule: check::Rule) {
    let value = text(spec, field);
    if !value.is_empty() {
        report(errors, &path.child(field), value, rule(value));
    }
}

fn same_account(errors: &mut Vec<FieldError>, spec: &Value, path: &Path) {
    let (account, old) = (text(spec, "serviceAccountName"), text(spec, "serviceAccount"));
    if account != old {
        let detail = format!("must be the same as serviceAccountName: {}", api::field::quote(account));
        errors.push(FieldError::invalid(&path.child("deprecatedServiceAccount"), old, detail));
    }
}

fn hostname_override(errors: &mut Vec<FieldError>, spec: &Value, path: &Path) {
    let Some(hostname) = present(spec, "hostnameOverride").and_then(Value::as_str) else { return };
    let path = path.child("hostnameOverride");
    for (other, shown) in [("setHostnameAsFQDN", "setHostnameAsFQDN"), ("hostNetwork", "hostNetwork")] {
        if is_set(spec, other) {
            errors.push(FieldError::forbidden(&path, format!("may not be specified when {shown} is true")));
        }
    }
    if hostname.len() > 64 {
        errors.push(FieldError::too_long(&path, 64));
    }
    report(errors, &path, hostname, check::dns_subdomain(hostname));
}

/// The tolerations of a pod.
pub(super) fn tolerations(errors: &mut Vec<FieldError>, spec: &Value, path: &Path) {
    for (number, toleration) in items(spec, "tolerations").iter().enumerate() {
        let path = path.index(number);
        let [key, operator, value, effect] = ["key", "operator", "value", "effect"].map(|name| text(toleration, name));
        if !key.is_empty() {
            report(errors, &path.child("key"), key, check::label_key(key));
        } else if operator != "Exists" {
            let detail = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
            errors.push(FieldError::invalid(&path.child("operator"), operator, detail));
        }
        if present(toleration, "tolerationSeconds").is_some() && effect != "NoExecute" {
            let detail = "effect must be 'NoExecute' when `tolerationSeconds` is set";
            errors.push(FieldError::invalid(&path.child("effect"), effect, detail));
        }
        match operator {
            "" | "Equal" => {
                let wrongs = check::label_value(value);
                if !wrongs.is_empty() {
                    errors.push(FieldError::invalid(&path.child("operator"), value, wrongs.join(";")));
                }
            }
            "Exists" if value.is_empty() => {}
            "Exists" => {
                let detail = "value must be empty when `operator` is 'Exists'";
                errors.push(FieldError::invalid(&path.child("operator"), value, detail));
            }
            other => errors.push(FieldError::not_supported(&path.child("operator"), other, &["Equal", "Exists"])),
        }
        if !effect.is_empty() {
            one_of(errors, &path.child("effect"), effect, &["NoSchedule", "PreferNoSchedule", "NoExecute"]);
        }
    }
}

fn host_aliases(errors: &mut Vec<FieldError>, spec: &Value, path: &Path) {
    for (number, alias) in items(spec, "hostAliases").iter().enumerate() {
        let path = path.index(number);
        report(errors, &path.child("ip"), text(alias, "ip"), check::ip_address(text(alias, "ip")));
        for (number, name) in items(alias, "hostnames").iter().filter_map(Value::as_str).enumerate() {
            report(errors, &path.child("hostnames").index(number), name, check::dns_subdomain(name));
        }
    }
}

fn untrimmed_images(errors: &mut Vec<FieldError>, spec: &Value, path: &Path) {
    for list in ["containers", "initContainers"] {
        for (number, item) in items(spec, list).iter().enumerate() {
            let image = text(item, "image");
            if image.trim() != image {
                let path = path.child(list).index(number).child("image");
                errors.push(FieldError::invalid(&path, image, "must not have leading or trailing whitespace"));
            }
        }
    }
}

/// What is wrong with a pod's status as its node reports it.
pub(super) fn status(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if text(&old["spec"], "nodeName") != text(&new["spec"], "nodeName") {
        errors.push(FieldError::forbidden(&Path::new("spec").child("nodeName"), "may not be changed directly"));
    }
    let path = Path::new("status");
    for list in ["podIPs", "hostIPs"] {
        let all = items(&new["status"], list);
        for (number, ip) in all.iter().enumerate() {
            let ip = text(ip, "ip");
            report(&mut errors, &path.child(list).index(number), ip, check::ip_address(ip));
        }
        let of_newer = all.iter().filter(|ip| text(ip, "ip").contains(':')).count();
        if of_newer > 1 || all.len() - of_newer > 1 {
            // Upstream shows its own form of the field, whose name begins with capitals.
            let shown: Vec<Value> = all.iter().map(|ip| json!({"IP": text(ip, "ip")})).collect();
            let detail = "may specify no more than one IP for each IP family";
            errors.push(FieldError::invalid(&path.child(list), Value::from(shown), detail));
        }
    }
    let (host, first) = (text(&new["status"], "hostIP"), items(&new["status"], "hostIPs").first());
    if let Some(first) = first.map(|ip| text(ip, "ip")).filter(|first| *first != host) {
        let path = path.child("hostIPs").index(0).child("ip");
        errors.push(FieldError::invalid(&path, first, "must be equal to `hostIP`"));
    }
    transitions(&mut errors, new, old, &path.child("containerStatuses"));
    errors
}

/// A container that is not to be restarted does not come back to life.
fn transitions(errors: &mut Vec<FieldError>, new: &Value, old: &Value, path: &Path) {
    let policy = |name: &str| {
        let own = items(&old["spec"], "containers").iter().find(|item| text(item, "name") == name);
        let own = own.map(|item| text(item, "restartPolicy")).filter(|policy| !policy.is_empty());
        own.unwrap_or_else(|| text(&old["spec"], "restartPolicy"))
    };
    let has_rules = items(&old["spec"], "containers").iter().any(|item| !items(item, "restartPolicyRules").is_empty());
    if has_rules {
        return;
    }
    for (number, before) in items(&old["status"], "containerStatuses").iter().enumerate() {
        let Some(end) = crate::tree::at(before, &["state", "terminated"]) else { continue };
        let name = text(before, "name");
        let may = match policy(name) {
            "Always" => true,
            "OnFailure" => integer(end, "exitCode").unwrap_or_default() != 0,
            _ => false,
        };
        let now = items(&new["status"], "containerStatuses").iter().find(|now| text(now, "name") == name);
        if !may && now.is_some_and(|now| crate::tree::at(now, &["state", "terminated"]).is_none()) {
            let detail = "may not be transitioned to non-terminated state";
            errors.push(FieldError::forbidden(&path.index(number).child("state"), detail));
        }
    }
}

/// Whether a map of labels has all entries of another.
pub(super) fn only_additions(new: &Value, old: &Value, name: &str) -> bool {
    entries(old, name).all(|(key, value)| new.get(name).and_then(|map| map.get(key)) == Some(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_has_one_address_of_each_family() {
        let wrong = |ips: &[&str]| -> Vec<String> {
            let listed: Vec<Value> = ips.iter().map(|ip| json!({"ip": ip})).collect();
            let pod = json!({"spec": {}, "status": {"podIPs": listed}});
            status(&pod, &pod).into_iter().map(|error| error.detail).collect()
        };
        for right in [&["10.42.0.1"][..], &["fd42::1", "10.42.0.1"], &["10.42.0.1", "fd42::1"]] {
            assert!(wrong(right).is_empty(), "{right:?}");
        }
        for many in [&["10.42.0.1", "10.42.0.2"][..], &["fd42::1", "10.42.0.1", "fd42::2"]] {
            assert_eq!(wrong(many), ["may specify no more than one IP for each IP family"]);
        }
    }
}
