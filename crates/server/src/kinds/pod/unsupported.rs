//! What a Pod may say and podling does not do yet. Such a field is stored as it is, and the answer carries a warning that
//! names it; nothing is ignored in silence. A field that gets its implementation loses its line here.

use serde_json::Value;

use crate::tree::{items, present};

/// Fields of the spec.
const SPEC: [&str; 10] = [
    "affinity",
    "topologySpreadConstraints",
    "resourceClaims",
    "overhead",
    "setHostnameAsFQDN",
    "resources",
    "schedulingGroup",
    "evictionResponders",
    "ephemeralContainers",
    "preemptionPolicy",
];
/// Fields of a container.
const CONTAINER: [&str; 8] = [
    "livenessProbe",
    "readinessProbe",
    "startupProbe",
    "lifecycle",
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
    // Admission gives every pod the default policy, and the default is what podling does.
    let said = |name: &&str| present(spec, name).is_some_and(|value| value != "PreemptLowerPriority");
    found.extend(SPEC.iter().filter(|name| said(name)).map(|name| format!("spec.{name}")));
    if spec.get("hostUsers").is_some_and(|value| value == false) {
        found.push("spec.hostUsers".to_owned());
    }
    for (number, volume) in items(spec, "volumes").iter().enumerate() {
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

fn container(found: &mut Vec<String>, item: &Value, path: &str) {
    push_fields(found, item, path, &CONTAINER);
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
