//! Creating and changing objects.

use std::sync::Arc;

use api::field::{FieldError, Path};
use api::status::Status;
use serde_json::{Value, json};
use store::{Error, Revision, Txn};

use super::object::{set_revision, tree, unstored};
use super::{Registry, Resource, TRIES, Target, now};
use crate::error;
use crate::kinds::{self, meta};
use crate::table::rfc3339;
use crate::tree::{at, fields, integer, items, object, put, remove, set, text, text_at};

/// How often another name is made when the one made is taken.
const NAMES: usize = 8;

/// How to write.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct WriteOptions {
    /// Do all but store.
    pub(crate) dry_run: bool,
}

/// What a write came to.
pub(crate) struct Written {
    pub(crate) entry: Arc<store::Entry>,
}

/// Makes the new object out of the present one; may be called several times.
pub(crate) type Changer<'a> = &'a (dyn Fn(&Value) -> Result<Value, Status> + Send + Sync);

/// A change of an object.
pub(crate) struct Update<'a> {
    pub(crate) target: &'a Target,
    /// Empty, or `status`, or another subresource that decides itself what it changes.
    pub(crate) subresource: &'a str,
    pub(crate) change: Changer<'a>,
    /// Whether a uid that the change names is a precondition; otherwise it is a field that may not change.
    pub(crate) uid_is_precondition: bool,
    pub(crate) options: WriteOptions,
}

impl Registry {
    /// Stores a new object. It must have its defaults and have passed admission.
    pub(crate) async fn create(
        &self,
        resource: Resource,
        mut tree: Value,
        options: WriteOptions,
    ) -> Result<Arc<store::Entry>, Status> {
        if !text_at(&tree, &["metadata", "resourceVersion"]).is_empty() {
            return Err(Status::bad_request("resourceVersion should not be set on objects to be created"));
        }
        prepare(&resource, &mut tree);
        let prefix = text_at(&tree, &["metadata", "generateName"]).to_owned();
        let mut name = text_at(&tree, &["metadata", "name"]).to_owned();
        if !name.is_empty() || prefix.is_empty() {
            validate(&resource, &tree)?;
            let stored = self.put_new(&resource, tree, options).await;
            return stored.map_err(|error| match error {
                Error::Conflict { .. } => Status::already_exists(resource.named(), &name),
                error => error::of_store(error),
            });
        }
        for _ in 0..NAMES {
            name = api::meta::generate_name(&prefix, random());
            set(object(&mut tree, "metadata"), "name", name.clone());
            validate(&resource, &tree)?;
            match self.put_new(&resource, tree.clone(), options).await {
                Err(Error::Conflict { .. }) => {}
                result => return result.map_err(error::of_store),
            }
        }
        Err(Status::generate_name_conflict(resource.named(), &name))
    }

    async fn put_new(
        &self,
        resource: &Resource,
        tree: Value,
        options: WriteOptions,
    ) -> store::Result<Arc<store::Entry>> {
        let (namespace, name) = (text_at(&tree, &["metadata", "namespace"]), text_at(&tree, &["metadata", "name"]));
        let key = Target::new(*resource, namespace, name).key();
        if options.dry_run {
            let got = self.store.get(&key).await?;
            return match got.entry {
                Some(current) => Err(Error::Conflict { key, current: Some(current) }),
                None => Ok(unstored(key, &tree, got.revision)),
            };
        }
        let commit = self.store.commit(Txn::create(key, self.recent.encode(resource, tree))).await?;
        Ok(commit.events[0].entry.clone())
    }

    /// Changes an object.
    pub(crate) async fn update(&self, update: &Update<'_>) -> Result<Written, Status> {
        for _ in 0..TRIES {
            let entry = self.get(update.target).await?;
            if let Some(written) = self.try_update(update, &entry).await? {
                return Ok(written);
            }
        }
        Err(Status::modified(update.target.resource.named(), &update.target.name))
    }

    /// One try; nothing if someone else was faster.
    async fn try_update(&self, update: &Update<'_>, entry: &Arc<store::Entry>) -> Result<Option<Written>, Status> {
        let resource = &update.target.resource;
        let old = tree(entry);
        let mut new = (update.change)(&old)?;
        check_version(update.target, &new, entry.modified)?;
        if update.uid_is_precondition {
            check_uid(update.target, text_at(&new, &["metadata", "uid"]), &old)?;
        }
        keep_identity(&mut new, &old);
        match update.subresource {
            "" => (resource.behaviour.prepare_update)(&mut new, &old),
            "status" => {
                keep_all_but_status(&mut new, &old);
                (resource.behaviour.prepare_status)(&mut new, &old);
            }
            "approval" => {
                keep_all_but_status(&mut new, &old);
                kinds::certificate_signing_request::prepare_approval(&mut new, &old, now());
            }
            _ => {}
        }
        if update.subresource.is_empty() {
            count_generation(resource, &mut new, &old);
        }
        let errors = check(resource, update.subresource, &new, &old);
        if !errors.is_empty() {
            return Err(Status::invalid(resource.kind_named(), &update.target.name, &errors));
        }
        self.store_change(resource, entry, &old, new, update.options).await
    }

    async fn store_change(
        &self,
        resource: &Resource,
        entry: &Arc<store::Entry>,
        old: &Value,
        mut new: Value,
        options: WriteOptions,
    ) -> Result<Option<Written>, Status> {
        set_revision(&mut new, entry.modified);
        if &new == old {
            return Ok(Some(Written { entry: entry.clone() }));
        }
        if options.dry_run {
            return Ok(Some(Written { entry: unstored(entry.key.clone(), &new, entry.modified) }));
        }
        // If the last finalizer went with this change, the object goes too.
        let (txn, last) = if is_finished(&new) {
            let last = unstored(entry.key.clone(), &new, entry.modified);
            (Txn::delete(entry.key.clone(), entry.modified), Some(last))
        } else {
            (Txn::update(entry.key.clone(), entry.modified, self.recent.encode(resource, new)), None)
        };
        match self.store.commit(txn).await {
            Ok(commit) => Ok(Some(Written { entry: last.unwrap_or_else(|| commit.events[0].entry.clone()) })),
            Err(Error::Conflict { .. }) => Ok(None),
            Err(error) => Err(error::of_store(error)),
        }
    }
}

/// What is wrong with a change.
fn check(resource: &Resource, part: &str, new: &Value, old: &Value) -> Vec<FieldError> {
    let behaviour = resource.behaviour;
    let mut errors = meta::validate_update(resource.kind, new, old);
    match part {
        "" => errors.extend((behaviour.validate_update)(new, old)),
        "status" => errors.extend((behaviour.validate_status)(new, old)),
        "approval" => errors.extend(kinds::certificate_signing_request::validate_approval(new, old)),
        _ => return Vec::new(),
    }
    errors.extend(resource.conversion.iter().flat_map(|conversion| (conversion.validate)(new, Some(old))));
    errors
}

/// Whether nothing holds an object any more that is being deleted.
pub(super) fn is_finished(tree: &Value) -> bool {
    let meta = &tree["metadata"];
    let held = !items(meta, "finalizers").is_empty()
        || (text(tree, "kind") == "Namespace" && !items(&tree["spec"], "finalizers").is_empty());
    at(meta, &["deletionTimestamp"]).is_some()
        && integer(meta, "deletionGracePeriodSeconds").unwrap_or_default() == 0
        && !held
}

/// What every new object gets, and what no creator may say.
fn prepare(resource: &Resource, tree: &mut Value) {
    let now = now();
    (resource.behaviour.prepare_create)(tree, now);
    let meta = object(tree, "metadata");
    for name in ["selfLink", "deletionTimestamp", "deletionGracePeriodSeconds", "resourceVersion", "managedFields"] {
        remove(meta, name);
    }
    set(meta, "uid", uid());
    set(meta, "creationTimestamp", rfc3339(now));
    if resource.behaviour.has_generation {
        set(meta, "generation", 1);
    }
}

fn validate(resource: &Resource, tree: &Value) -> Result<(), Status> {
    let behaviour = resource.behaviour;
    let mut errors = meta::validate(tree, resource.kind, behaviour.name);
    errors.extend((behaviour.validate)(tree));
    errors.extend(resource.conversion.iter().flat_map(|conversion| (conversion.validate)(tree, None)));
    if errors.is_empty() {
        return Ok(());
    }
    Err(Status::invalid(resource.kind_named(), text(&tree["metadata"], "name"), &errors))
}

/// A random UUID.
pub(crate) fn uid() -> String {
    let mut bytes = random::<16>();
    bytes[6] = bytes[6] & 0x0F | 0x40;
    bytes[8] = bytes[8] & 0x3F | 0x80;
    let mut text = String::with_capacity(36);
    for (number, byte) in bytes.into_iter().enumerate() {
        if [4, 6, 8, 10].contains(&number) {
            text.push('-');
        }
        let digit = |value: u8| char::from(b"0123456789abcdef"[usize::from(value)]);
        text.extend([digit(byte >> 4), digit(byte & 15)]);
    }
    text
}

/// Randomness is fetched from the kernel for many at once, and no byte of it is used twice.
fn random<const N: usize>() -> [u8; N] {
    thread_local! {
        static POOL: std::cell::RefCell<Vec<u8>> = const { std::cell::RefCell::new(Vec::new()) };
    }
    POOL.with_borrow_mut(|pool| {
        if pool.len() < N {
            pool.resize(1024, 0);
            getrandom::fill(pool).expect("the kernel has randomness");
        }
        let taken = pool.split_off(pool.len() - N);
        taken.try_into().expect("so many were taken")
    })
}

/// The version that a change names must be the object's.
fn check_version(target: &Target, new: &Value, modified: Revision) -> Result<(), Status> {
    let resource = target.resource.named();
    let wanted = text_at(new, &["metadata", "resourceVersion"]);
    if wanted.is_empty() {
        if !target.resource.behaviour.unconditional_update {
            let path = Path::new("metadata").child("resourceVersion");
            let errors = [FieldError::invalid(&path, 0, "must be specified for an update")];
            return Err(Status::invalid(target.resource.named(), &target.name, &errors));
        }
    } else if wanted != modified.to_string() {
        if wanted.parse::<u64>().is_err() {
            let message = format!("invalid resourceVersion {}", api::field::quote(wanted));
            return Err(Status::bad_request(message));
        }
        return Err(Status::modified(resource, &target.name));
    }
    Ok(())
}

/// A uid that is named must be the object's.
fn check_uid(target: &Target, wanted: &str, old: &Value) -> Result<(), Status> {
    let uid = text_at(old, &["metadata", "uid"]);
    if wanted.is_empty() || wanted == uid {
        return Ok(());
    }
    let cause = format!("Precondition failed: UID in precondition: {wanted}, UID in object meta: {uid}");
    Err(Status::conflict(target.resource.named(), &target.name, &cause))
}

/// Puts back what identifies an object and what only the server sets.
fn keep_identity(new: &mut Value, old: &Value) {
    let before = &old["metadata"];
    let meta = object(new, "metadata");
    for name in ["creationTimestamp", "generation"] {
        put(meta, name, before.get(name).cloned());
    }
    // What is being deleted stays so; what is not must be told that it cannot be deleted like this.
    for name in ["deletionTimestamp", "deletionGracePeriodSeconds"] {
        if let Some(value) = before.get(name) {
            set(meta, name, value.clone());
        }
    }
    if text(meta, "uid").is_empty() {
        put(meta, "uid", before.get("uid").cloned());
    }
    for name in ["selfLink", "managedFields"] {
        remove(meta, name);
    }
}

/// An update of the status takes from the request the status, labels, annotations and finalizers, and nothing else.
fn keep_all_but_status(new: &mut Value, old: &Value) {
    for (name, value) in old.as_object().into_iter().flatten() {
        if !["status", "metadata"].contains(&name.as_str()) && new.get(name) != Some(value) {
            set(new, name, value.clone());
        }
    }
    fields(new).retain(|name, _| ["status", "metadata"].contains(&name.as_str()) || old.get(name).is_some());
}

/// What an object is about: neither what it is, nor what is known of it.
fn content(tree: &Value) -> impl Iterator<Item = (&String, &Value)> {
    let is_content =
        |(name, _): &(&String, &Value)| !["metadata", "status", "apiVersion", "kind"].contains(&name.as_str());
    tree.as_object().into_iter().flatten().filter(is_content)
}

/// Counts a change of anything but metadata and status.
fn count_generation(resource: &Resource, new: &mut Value, old: &Value) {
    if !resource.behaviour.has_generation {
        return;
    }
    if !content(new).eq(content(old)) {
        let generation = integer(&old["metadata"], "generation").unwrap_or_default() + 1;
        set(object(new, "metadata"), "generation", json!(generation));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uids_differ() {
        assert_ne!(uid(), uid());
        assert_eq!(uid().len(), 36);
    }
}
