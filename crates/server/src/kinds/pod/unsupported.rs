//! What a Pod may say and podling does not do yet. Such a field is stored as it is, and the answer carries a warning that
//! names it; nothing is ignored in silence. A field that gets its implementation loses its line here.

use serde_json::Value;

use crate::tree::{is_set, items, present, text};

/// Fields of the spec.
const SPEC: [&str; 7] = [
    "resourceClaims",
    "overhead",
    "setHostnameAsFQDN",
    "resources",
    "schedulingGroup",
    "evictionResponders",
    "ephemeralContainers",
];
/// Fields of a container.
const CONTAINER: [&str; 7] = [
    "livenessProbe",
    "readinessProbe",
    "startupProbe",
    "volumeDevices",
    "resizePolicy",
    "restartPolicyRules",
    "restartPolicy",
];
/// Fields of a mount.
const MOUNT: [&str; 2] = ["recursiveReadOnly", "bindMountOptions"];
/// Fields of a pod's security context.
const POD_SECURITY: [&str; 4] = ["seLinuxOptions", "seLinuxChangePolicy", "appArmorProfile", "windowsOptions"];
/// Fields of a container's security context.
const SECURITY: [&str; 3] = ["seLinuxOptions", "appArmorProfile", "windowsOptions"];

/// One sentence per field.
pub(super) fn warnings(pod: &Value) -> Vec<String> {
    let mut found = Vec::new();
    let spec = &pod["spec"];
    let said = |name: &&str| present(spec, name).is_some_and(|value| value != false);
    found.extend(SPEC.iter().filter(|name| said(name)).map(|name| format!("spec.{name}")));
    if spec.get("hostUsers").is_some_and(|value| value == false) {
        found.push("spec.hostUsers".to_owned());
    }
    if is_set(spec, "automountServiceAccountToken") {
        found.push("spec.automountServiceAccountToken".to_owned());
    }
    for (number, volume) in items(spec, "volumes").iter().enumerate() {
        found.extend(empty_dir(&volume["emptyDir"]).map(|name| format!("spec.volumes[{number}].emptyDir.{name}")));
        let sources = volume.as_object().into_iter().flatten().map(|(name, _)| name.as_str());
        let sources = sources.filter(|name| !["name", "emptyDir", "hostPath"].contains(name));
        found.extend(sources.map(|name| format!("spec.volumes[{number}].{name}")));
    }
    push_fields(&mut found, &spec["securityContext"], "spec.securityContext", &POD_SECURITY);
    for list in ["initContainers", "containers"] {
        for (number, item) in items(spec, list).iter().enumerate() {
            container(&mut found, item, &format!("spec.{list}[{number}]"));
        }
    }
    found.into_iter().map(|field| format!("{field}: podling stores this field but does not act on it yet")).collect()
}

/// On disk nothing watches how much a volume takes, and huge pages are not mounted.
fn empty_dir(volume: &Value) -> Option<&'static str> {
    match text(volume, "medium") {
        "Memory" => None,
        "" => present(volume, "sizeLimit").map(|_| "sizeLimit"),
        _ => Some("medium"),
    }
}

fn container(found: &mut Vec<String>, item: &Value, path: &str) {
    push_fields(found, item, path, &CONTAINER);
    push_fields(found, &item["lifecycle"], &format!("{path}.lifecycle"), &["postStart", "preStop"]);
    push_fields(found, &item["resources"], &format!("{path}.resources"), &["claims"]);
    push_fields(found, &item["resources"]["limits"], &format!("{path}.resources.limits"), &["ephemeral-storage"]);
    push_fields(found, &item["securityContext"], &format!("{path}.securityContext"), &SECURITY);
    for (number, mount) in items(item, "volumeMounts").iter().enumerate() {
        push_fields(found, mount, &format!("{path}.volumeMounts[{number}]"), &MOUNT);
    }
    for (number, variable) in items(item, "env").iter().enumerate() {
        push_fields(found, &variable["valueFrom"], &format!("{path}.env[{number}].valueFrom"), &["fileKeyRef"]);
    }
}

fn push_fields(found: &mut Vec<String>, object: &Value, path: &str, names: &[&str]) {
    let said = names.iter().filter(|name| present(object, name).is_some_and(|value| value != "" && value != "None"));
    found.extend(said.map(|name| format!("{path}.{name}")));
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_not_done_is_named_and_what_is_done_is_not() {
        let named = |spec: Value| {
            let all = warnings(&json!({"spec": spec}));
            all.into_iter().map(|line| line.split(": ").next().unwrap_or_default().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(named(json!({"setHostnameAsFQDN": false, "automountServiceAccountToken": false})), [""; 0]);
        assert_eq!(named(json!({"setHostnameAsFQDN": true})), ["spec.setHostnameAsFQDN"]);
        let volumes = json!([{"emptyDir": {"sizeLimit": "1Mi"}}, {"emptyDir": {"sizeLimit": "1Mi", "medium": "Memory"}},
            {"emptyDir": {"medium": "HugePages"}}, {"emptyDir": {}}]);
        let expected = ["spec.volumes[0].emptyDir.sizeLimit", "spec.volumes[2].emptyDir.medium"];
        assert_eq!(named(json!({"volumes": volumes})), expected);
        let hooks = json!({"lifecycle": {"stopSignal": "SIGUSR1", "preStop": {"sleep": {"seconds": 1}}}});
        assert_eq!(named(json!({"containers": [hooks]})), ["spec.containers[0].lifecycle.preStop"]);
        let limits = json!({"resources": {"limits": {"cpu": "1", "ephemeral-storage": "1Gi"}}});
        assert_eq!(named(json!({"containers": [limits]})), ["spec.containers[0].resources.limits.ephemeral-storage"]);
    }
}
