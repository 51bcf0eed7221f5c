//! Rules for the volumes of a Pod.

use std::collections::BTreeSet;

use api::field::{FieldError, Path};
use api::quantity::Quantity;
use serde_json::Value;

use super::container::descending;
use super::defaults::plain;
use crate::kinds::check::{self, report};
use crate::tree::{integer, items, present, text};

/// The sources in the order in which upstream looks at them.
const SOURCES: [&str; 30] = [
    "emptyDir",
    "hostPath",
    "gitRepo",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "secret",
    "nfs",
    "iscsi",
    "glusterfs",
    "flocker",
    "persistentVolumeClaim",
    "rbd",
    "cinder",
    "cephfs",
    "quobyte",
    "downwardAPI",
    "fc",
    "flexVolume",
    "configMap",
    "azureFile",
    "vsphereVolume",
    "photonPersistentDisk",
    "portworxVolume",
    "azureDisk",
    "storageos",
    "projected",
    "scaleIO",
    "csi",
    "ephemeral",
    "image",
];

/// Checks all volumes. Answers the names of those that are all right: only these can be mounted.
pub(super) fn validate<'a>(errors: &mut Vec<FieldError>, spec: &'a Value, path: &Path) -> BTreeSet<&'a str> {
    let mut good = BTreeSet::new();
    for (number, volume) in items(spec, "volumes").iter().enumerate() {
        let path = path.index(number);
        let name = text(volume, "name");
        let mut wrong = Vec::new();
        sources(&mut wrong, volume, &path);
        if name.is_empty() {
            wrong.push(FieldError::required(&path.child("name"), ""));
        } else {
            report(&mut wrong, &path.child("name"), name, check::dns_label(name));
        }
        if good.contains(name) {
            wrong.push(FieldError::duplicate(&path.child("name"), name));
        }
        if wrong.is_empty() {
            good.insert(name);
        }
        errors.append(&mut wrong);
    }
    good
}

fn sources(errors: &mut Vec<FieldError>, volume: &Value, path: &Path) {
    let mut found = 0;
    for name in SOURCES {
        let Some(source) = present(volume, name) else { continue };
        let path = path.child(name);
        if found > 0 {
            errors.push(FieldError::forbidden(&path, "may not specify more than 1 volume type"));
        } else {
            one(errors, name, source, &path);
        }
        found += 1;
    }
    if found == 0 {
        errors.push(FieldError::required(path, "must specify a volume type"));
    }
}

fn one(errors: &mut Vec<FieldError>, name: &str, source: &Value, path: &Path) {
    let required = |errors: &mut Vec<FieldError>, field: &str| {
        if text(source, field).is_empty() {
            errors.push(FieldError::required(&path.child(field), ""));
        }
    };
    match name {
        "emptyDir" => empty_dir(errors, source, path),
        "hostPath" => {
            required(errors, "path");
            host_path(errors, source, path);
        }
        "secret" => {
            required(errors, "secretName");
            keys(errors, source, path);
        }
        "configMap" => {
            required(errors, "name");
            keys(errors, source, path);
        }
        "persistentVolumeClaim" => required(errors, "claimName"),
        "nfs" => {
            required(errors, "server");
            required(errors, "path");
            if !text(source, "path").starts_with('/') {
                errors.push(FieldError::invalid(&path.child("path"), text(source, "path"), "must be an absolute path"));
            }
        }
        "csi" => required(errors, "driver"),
        "downwardAPI" | "projected" => mode(errors, source, path),
        _ => {}
    }
}

fn empty_dir(errors: &mut Vec<FieldError>, source: &Value, path: &Path) {
    let limit = present(source, "sizeLimit").and_then(|limit| Quantity::parse(&plain(limit)).ok());
    if limit.is_some_and(|limit| limit.is_negative()) {
        let detail = "SizeLimit field must be a valid resource quantity";
        errors.push(FieldError::forbidden(&path.child("sizeLimit"), detail));
    }
}

fn host_path(errors: &mut Vec<FieldError>, source: &Value, path: &Path) {
    let (place, kind) = (text(source, "path"), text(source, "type"));
    if place.split('/').any(|part| part == "..") {
        errors.push(FieldError::invalid(&path.child("path"), place, "must not contain '..'"));
    }
    let words = ["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];
    if !words.contains(&kind) {
        errors.push(FieldError::not_supported(&path.child("type"), kind, &words));
    }
}

fn keys(errors: &mut Vec<FieldError>, source: &Value, path: &Path) {
    mode(errors, source, path);
    for (number, item) in items(source, "items").iter().enumerate() {
        let path = path.child("items").index(number);
        for name in ["key", "path"] {
            if text(item, name).is_empty() {
                errors.push(FieldError::required(&path.child(name), ""));
            }
        }
        descending(errors, text(item, "path"), &path.child("path"));
        if let Some(value) = integer(item, "mode").filter(|value| !(0..=0o777).contains(value)) {
            errors.push(FieldError::invalid(&path.child("mode"), value, MODE));
        }
    }
}

const MODE: &str = "must be a number between 0 and 0777 (octal), both inclusive";

fn mode(errors: &mut Vec<FieldError>, source: &Value, path: &Path) {
    if let Some(value) = integer(source, "defaultMode").filter(|value| !(0..=0o777).contains(value)) {
        errors.push(FieldError::invalid(&path.child("defaultMode"), value, MODE));
    }
}
