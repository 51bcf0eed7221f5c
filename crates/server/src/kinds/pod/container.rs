//! Rules for one container of a Pod.

use std::collections::BTreeSet;

use api::field::{FieldError, Path};
use serde_json::Value;

use super::resources;
use crate::kinds::check::{self, one_of, report, report_number};
use crate::kinds::meta::not_negative;
use crate::tree::{at, integer, is_set, items, present, text};

/// What the rules of a container need to know of its pod.
pub(super) struct Surroundings<'a> {
    /// The volumes that are all right.
    pub(super) volumes: BTreeSet<&'a str>,
    /// The pod's claims of devices.
    pub(super) claims: BTreeSet<&'a str>,
    /// Whether the pod has its own user namespace.
    pub(super) own_users: bool,
    /// The pod's grace period.
    pub(super) grace: Option<i64>,
}

/// What holds for containers of every sort.
pub(super) fn common(errors: &mut Vec<FieldError>, container: &Value, path: &Path, around: &Surroundings<'_>) {
    let name = text(container, "name");
    if name.is_empty() {
        errors.push(FieldError::required(&path.child("name"), ""));
    } else {
        report(errors, &path.child("name"), name, check::dns_label(name));
    }
    if text(container, "image").is_empty() {
        errors.push(FieldError::required(&path.child("image"), ""));
    }
    let policy = text(container, "terminationMessagePolicy");
    one_of(errors, &path.child("terminationMessagePolicy"), policy, &["File", "FallbackToLogsOnError"]);
    ports(errors, container, &path.child("ports"));
    env(errors, container, &path.child("env"));
    env_from(errors, container, &path.child("envFrom"));
    mounts(errors, container, &path.child("volumeMounts"), around);
    devices(errors, container, &path.child("volumeDevices"));
    let words = ["Always", "IfNotPresent", "Never"];
    one_of(errors, &path.child("imagePullPolicy"), text(container, "imagePullPolicy"), &words);
    if let Some(resources) = present(container, "resources") {
        resources::validate(errors, resources, &around.claims, &path.child("resources"));
    }
    resize_policy(errors, container, &path.child("resizePolicy"));
    if let Some(context) = present(container, "securityContext") {
        security_context(errors, context, &path.child("securityContext"), around.own_users);
    }
}

fn ports(errors: &mut Vec<FieldError>, container: &Value, path: &Path) {
    let mut names = BTreeSet::new();
    for (number, port) in items(container, "ports").iter().enumerate() {
        let path = path.index(number);
        let name = text(port, "name");
        if !name.is_empty() {
            let wrongs = check::port_name(name);
            if wrongs.is_empty() && !names.insert(name) {
                errors.push(FieldError::duplicate(&path.child("name"), name));
            }
            report(errors, &path.child("name"), name, wrongs);
        }
        match integer(port, "containerPort").unwrap_or_default() {
            0 => errors.push(FieldError::required(&path.child("containerPort"), "")),
            value => report_number(errors, &path.child("containerPort"), value, check::port_number(value)),
        }
        let host = integer(port, "hostPort").unwrap_or_default();
        if host != 0 {
            report_number(errors, &path.child("hostPort"), host, check::port_number(host));
        }
        one_of(errors, &path.child("protocol"), text(port, "protocol"), &["SCTP", "TCP", "UDP"]);
    }
}

/// Host ports must differ among the containers that run at the same time.
pub(super) fn host_port_conflicts<'a>(
    errors: &mut Vec<FieldError>,
    containers: impl IntoIterator<Item = (&'a Value, Path)>,
) {
    let mut taken = BTreeSet::new();
    for (container, path) in containers {
        for (number, port) in items(container, "ports").iter().enumerate() {
            let host = integer(port, "hostPort").unwrap_or_default();
            let id = format!("{}/{}/{host}", text(port, "protocol"), text(port, "hostIP"));
            if host != 0 && !taken.insert(id.clone()) {
                errors.push(FieldError::duplicate(&path.child("ports").index(number).child("hostPort"), id));
            }
        }
    }
}

fn env(errors: &mut Vec<FieldError>, container: &Value, path: &Path) {
    for (number, variable) in items(container, "env").iter().enumerate() {
        let path = path.index(number);
        match text(variable, "name") {
            "" => errors.push(FieldError::required(&path.child("name"), "")),
            name => report(errors, &path.child("name"), name, check::env_name(name)),
        }
        if let Some(from) = present(variable, "valueFrom") {
            value_from(errors, from, !text(variable, "value").is_empty(), &path.child("valueFrom"));
        }
    }
}

fn value_from(errors: &mut Vec<FieldError>, from: &Value, has_value: bool, path: &Path) {
    let mut sources = 0;
    let mut source = |name: &str, rule: &dyn Fn(&mut Vec<FieldError>, &Value, &Path), errors: &mut Vec<FieldError>| {
        if let Some(source) = present(from, name) {
            sources += 1;
            rule(errors, source, &path.child(name));
        }
    };
    source("fieldRef", &field_ref, errors);
    source("resourceFieldRef", &resources::field_ref, errors);
    source("configMapKeyRef", &key_ref, errors);
    source("secretKeyRef", &key_ref, errors);
    source("fileKeyRef", &file_ref, errors);
    if sources == 0 {
        let detail =
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`";
        errors.push(FieldError::invalid(path, "", detail));
    } else if has_value {
        errors.push(FieldError::invalid(path, "", "may not be specified when `value` is not empty"));
    } else if sources > 1 {
        errors.push(FieldError::invalid(path, "", "may not have more than one field specified at a time"));
    }
}

const ENV_FIELDS: [&str; 8] = [
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
];

fn field_ref(errors: &mut Vec<FieldError>, source: &Value, path: &Path) {
    if text(source, "apiVersion") != "v1" {
        let version = text(source, "apiVersion");
        let detail = format!("error converting fieldPath: unsupported pod version: {version}");
        return errors.push(FieldError::invalid(&path.child("fieldPath"), text(source, "fieldPath"), detail));
    }
    let field = text(source, "fieldPath");
    if field.is_empty() {
        return errors.push(FieldError::required(&path.child("fieldPath"), ""));
    }
    if let Some((map, key)) = field.strip_suffix("']").and_then(|rest| rest.split_once("['")) {
        return match map {
            "metadata.annotations" => report(errors, path, &key.to_lowercase(), check::label_key(&key.to_lowercase())),
            "metadata.labels" => report(errors, path, key, check::label_key(key)),
            _ => {
                let detail = format!("error converting fieldPath: field label does not support subscript: {map}");
                errors.push(FieldError::invalid(&path.child("fieldPath"), field, detail));
            }
        };
    }
    let supported = [&ENV_FIELDS[..], &["status.podIPs"]].concat();
    let convertible =
        ["metadata.annotations", "metadata.labels", "spec.restartPolicy", "spec.schedulerName", "status.phase"];
    if supported.contains(&field) {
        return;
    }
    if convertible.contains(&field) {
        errors.push(FieldError::not_supported(&path.child("fieldPath"), field, &supported));
    } else {
        let detail = format!("error converting fieldPath: field label not supported: {field}");
        errors.push(FieldError::invalid(&path.child("fieldPath"), field, detail));
    }
}

fn key_ref(errors: &mut Vec<FieldError>, source: &Value, path: &Path) {
    let name = text(source, "name");
    report(errors, &path.child("name"), name, check::dns_subdomain(name));
    match text(source, "key") {
        "" => errors.push(FieldError::required(&path.child("key"), "")),
        key => report(errors, &path.child("key"), key, check::config_key(key)),
    }
}

fn file_ref(errors: &mut Vec<FieldError>, source: &Value, path: &Path) {
    for name in ["volumeName", "path", "key"] {
        if text(source, name).is_empty() {
            errors.push(FieldError::required(&path.child(name), ""));
        }
    }
}

fn env_from(errors: &mut Vec<FieldError>, container: &Value, path: &Path) {
    for (number, source) in items(container, "envFrom").iter().enumerate() {
        let here = path.index(number);
        let prefix = text(source, "prefix");
        if !prefix.is_empty() {
            report(errors, &here.child("prefix"), prefix, check::env_name(prefix));
        }
        let mut sources = 0;
        for name in ["configMapRef", "secretRef"] {
            let Some(reference) = present(source, name) else { continue };
            sources += 1;
            let path = here.child(name).child("name");
            match text(reference, "name") {
                "" => errors.push(FieldError::required(&path, "")),
                value => report(errors, &path, value, check::dns_subdomain(value)),
            }
        }
        if sources == 0 {
            errors.push(FieldError::invalid(path, "", "must specify one of: `configMapRef` or `secretRef`"));
        } else if sources > 1 {
            errors.push(FieldError::invalid(path, "", "may not have more than one field specified at a time"));
        }
    }
}

fn mounts(errors: &mut Vec<FieldError>, container: &Value, path: &Path, around: &Surroundings<'_>) {
    let mut points = BTreeSet::new();
    for (number, mount) in items(container, "volumeMounts").iter().enumerate() {
        let here = path.index(number);
        let (name, point) = (text(mount, "name"), text(mount, "mountPath"));
        if name.is_empty() {
            errors.push(FieldError::required(&here.child("name"), ""));
        }
        if !around.volumes.contains(name) {
            errors.push(FieldError::not_found(&here.child("name"), name));
        }
        if point.is_empty() {
            errors.push(FieldError::required(&here.child("mountPath"), ""));
        }
        if !points.insert(point) {
            errors.push(FieldError::invalid(&here.child("mountPath"), point, "must be unique"));
        }
        device_overlap(errors, container, mount, &here);
        // Upstream names the list here, not its element.
        for field in ["subPath", "subPathExpr"] {
            descending(errors, text(mount, field), &path.child(field));
        }
        if !text(mount, "subPathExpr").is_empty() && !text(mount, "subPath").is_empty() {
            let detail = "subPathExpr and subPath are mutually exclusive";
            errors.push(FieldError::invalid(&here.child("subPathExpr"), text(mount, "subPathExpr"), detail));
        }
        propagation(errors, container, mount, &path.child("mountPropagation"));
    }
}

fn device_overlap(errors: &mut Vec<FieldError>, container: &Value, mount: &Value, path: &Path) {
    for device in items(container, "volumeDevices") {
        if text(device, "name") == text(mount, "name") {
            let detail = "must not already exist in volumeDevices";
            errors.push(FieldError::invalid(&path.child("name"), text(mount, "name"), detail));
        }
        if text(device, "devicePath") == text(mount, "mountPath") {
            let detail = "must not already exist as a path in volumeDevices";
            errors.push(FieldError::invalid(&path.child("mountPath"), text(mount, "mountPath"), detail));
        }
    }
}

/// A path that does not leave where it starts.
pub(super) fn descending(errors: &mut Vec<FieldError>, value: &str, path: &Path) {
    if value.starts_with('/') {
        errors.push(FieldError::invalid(path, value, "must be a relative path"));
    }
    if value.split('/').any(|part| part == "..") {
        errors.push(FieldError::invalid(path, value, "must not contain '..'"));
    }
}

fn propagation(errors: &mut Vec<FieldError>, container: &Value, mount: &Value, path: &Path) {
    let Some(mode) = present(mount, "mountPropagation").and_then(Value::as_str) else { return };
    let words = ["Bidirectional", "HostToContainer", "None"];
    if !words.contains(&mode) {
        errors.push(FieldError::not_supported(path, mode, &words));
    }
    let privileged = at(container, &["securityContext", "privileged"]).is_some_and(|value| value == true);
    if mode == "Bidirectional" && !privileged {
        let detail = "Bidirectional mount propagation is available only to privileged containers";
        errors.push(FieldError::forbidden(path, detail));
    }
}

fn devices(errors: &mut Vec<FieldError>, container: &Value, path: &Path) {
    let mut paths = BTreeSet::new();
    for (number, device) in items(container, "volumeDevices").iter().enumerate() {
        let path = path.index(number);
        if text(device, "name").is_empty() {
            errors.push(FieldError::required(&path.child("name"), ""));
        }
        match text(device, "devicePath") {
            "" => errors.push(FieldError::required(&path.child("devicePath"), "")),
            value if !paths.insert(value) => {
                errors.push(FieldError::invalid(&path.child("devicePath"), value, "must be unique"));
            }
            _ => {}
        }
    }
}

/// Upstream names the list, not its element.
fn resize_policy(errors: &mut Vec<FieldError>, container: &Value, path: &Path) {
    for policy in items(container, "resizePolicy") {
        one_of(errors, path, text(policy, "resourceName"), &["cpu", "memory"]);
        one_of(errors, path, text(policy, "restartPolicy"), &["NotRequired", "RestartContainer"]);
    }
}

fn security_context(errors: &mut Vec<FieldError>, context: &Value, path: &Path, own_users: bool) {
    for name in ["runAsUser", "runAsGroup"] {
        if let Some(id) = integer(context, name) {
            report_number(errors, &path.child(name), id, check::user_id(id));
        }
    }
    if let Some(mount) = present(context, "procMount").and_then(Value::as_str) {
        if !["Default", "Unmasked"].contains(&mount) {
            errors.push(FieldError::not_supported(&path.child("procMount"), mount, &["Default", "Unmasked"]));
        }
        if mount == "Unmasked" && !own_users {
            let detail = "`hostUsers` must be false to use `Unmasked`";
            errors.push(FieldError::invalid(&path.child("procMount"), mount, detail));
        }
    }
    seccomp(errors, context, &path.child("seccompProfile"));
    if context.get("allowPrivilegeEscalation").is_some_and(|value| value == false) {
        if is_set(context, "privileged") {
            let detail = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
            errors.push(FieldError::invalid(path, context.clone(), detail));
        }
        let added = at(context, &["capabilities", "add"]).and_then(Value::as_array);
        if added.into_iter().flatten().any(|name| name == "CAP_SYS_ADMIN") {
            let detail = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
            errors.push(FieldError::invalid(path, context.clone(), detail));
        }
    }
}

/// A seccomp profile, if there is one.
pub(super) fn seccomp(errors: &mut Vec<FieldError>, context: &Value, path: &Path) {
    let Some(profile) = present(context, "seccompProfile") else { return };
    let local = present(profile, "localhostProfile").and_then(Value::as_str);
    let kind = text(profile, "type");
    one_of(errors, &path.child("type"), kind, &["Localhost", "RuntimeDefault", "Unconfined"]);
    let path = path.child("localhostProfile");
    match (kind, local) {
        ("Localhost", None | Some("")) => {
            errors.push(FieldError::required(&path, "must be set when seccomp type is Localhost"));
        }
        ("Localhost", Some(local)) => descending(errors, local, &path),
        (_, Some(local)) => {
            errors.push(FieldError::invalid(&path, local, "can only be set when seccomp type is Localhost"));
        }
        (_, None) => {}
    }
}

/// Probes and hooks, for containers that may have them.
pub(super) fn probes_and_hooks(errors: &mut Vec<FieldError>, container: &Value, path: &Path, grace: Option<i64>) {
    if let Some(lifecycle) = present(container, "lifecycle") {
        for name in ["postStart", "preStop"] {
            if let Some(hook) = present(lifecycle, name) {
                handler(errors, hook, &path.child("lifecycle").child(name), grace);
            }
        }
    }
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let Some(probe) = present(container, name) else { continue };
        let path = path.child(name);
        check_probe(errors, probe, &path, grace);
        let success = integer(probe, "successThreshold").unwrap_or_default();
        if name != "readinessProbe" && success != 1 {
            errors.push(FieldError::invalid(&path.child("successThreshold"), success, "must be 1"));
        }
        let own = present(probe, "terminationGracePeriodSeconds");
        if let (true, Some(own)) = (name == "readinessProbe", own) {
            let detail = "must not be set for readinessProbes";
            errors.push(FieldError::invalid(&path.child("terminationGracePeriodSeconds"), own.clone(), detail));
        }
    }
}

fn check_probe(errors: &mut Vec<FieldError>, probe: &Value, path: &Path, grace: Option<i64>) {
    handler(errors, probe, path, grace);
    for name in ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"] {
        not_negative(errors, probe, name, path);
    }
    if let Some(own) = integer(probe, "terminationGracePeriodSeconds").filter(|own| *own <= 0) {
        errors.push(FieldError::invalid(&path.child("terminationGracePeriodSeconds"), own, "must be greater than 0"));
    }
}

fn handler(errors: &mut Vec<FieldError>, handler: &Value, path: &Path, grace: Option<i64>) {
    let mut found = 0;
    for name in ["exec", "httpGet", "tcpSocket", "grpc", "sleep"] {
        let Some(action) = present(handler, name) else { continue };
        found += 1;
        let path = path.child(name);
        if found > 1 {
            errors.push(FieldError::forbidden(&path, "may not specify more than 1 handler type"));
            continue;
        }
        match name {
            "exec" if items(action, "command").is_empty() => {
                errors.push(FieldError::required(&path.child("command"), ""));
            }
            "httpGet" => http_get(errors, action, &path),
            "tcpSocket" => port(errors, action, &path.child("port")),
            "grpc" => {
                let value = integer(action, "port").unwrap_or_default();
                report_number(errors, &path.child("port"), value, check::port_number(value));
            }
            "sleep" => sleep(errors, action, &path, grace),
            _ => {}
        }
    }
    if found == 0 {
        errors.push(FieldError::required(path, "must specify a handler type"));
    }
}

fn sleep(errors: &mut Vec<FieldError>, action: &Value, path: &Path, grace: Option<i64>) {
    let seconds = integer(action, "seconds").unwrap_or_default();
    let most = grace.unwrap_or(i64::MAX);
    if seconds < 0 || seconds > most {
        let detail = format!("must be non-negative and less than terminationGracePeriodSeconds ({most})");
        errors.push(FieldError::invalid(path, seconds, detail));
    }
}

fn http_get(errors: &mut Vec<FieldError>, action: &Value, path: &Path) {
    if text(action, "path").is_empty() {
        errors.push(FieldError::required(&path.child("path"), ""));
    }
    port(errors, action, &path.child("port"));
    let scheme = text(action, "scheme");
    if !["HTTP", "HTTPS"].contains(&scheme) {
        errors.push(FieldError::not_supported(&path.child("scheme"), scheme, &["HTTP", "HTTPS"]));
    }
    for header in items(action, "httpHeaders") {
        let name = text(header, "name");
        report(errors, &path.child("httpHeaders"), name, check::header_name(name));
    }
}

fn port(errors: &mut Vec<FieldError>, action: &Value, path: &Path) {
    match action.get("port") {
        Some(Value::String(name)) => report(errors, path, name, check::port_name(name)),
        number => {
            let value = number.and_then(Value::as_i64).unwrap_or_default();
            report_number(errors, path, value, check::port_number(value));
        }
    }
}
