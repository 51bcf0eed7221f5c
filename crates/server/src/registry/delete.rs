//! Removing objects: at once, or after the time they are given to end, or when their last finalizer goes.

use std::sync::Arc;

use api::status::Status;
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use store::{Error, Txn};

use super::object::{decode, encode, unstored};
use super::write::{check_uid, is_finished};
use super::{ListOptions, Registry, Selection, Target, now};
use crate::error;
use crate::table::{rfc3339, timestamp};
use crate::tree::{at, integer, items, object, set, text, text_at};

const TRIES: usize = 16;

/// How to delete.
#[derive(Clone, Debug, Default)]
pub(crate) struct DeleteOptions {
    pub(crate) grace: Option<i64>,
    pub(crate) uid: String,
    pub(crate) resource_version: String,
    pub(crate) dry_run: bool,
}

/// What a deletion came to.
pub(crate) struct Deleted {
    /// The object as it was last, or as it is while it ends.
    pub(crate) entry: Arc<store::Entry>,
    /// Whether it is gone.
    pub(crate) gone: bool,
}

/// What is to happen to an object.
enum Step {
    /// It is already ending as asked.
    Wait,
    /// It ends, as this object says.
    Mark(Value),
    /// It goes now.
    Remove,
}

impl Registry {
    /// Deletes an object, or begins to.
    pub(crate) async fn delete(&self, target: &Target, options: &DeleteOptions) -> Result<Deleted, Status> {
        for _ in 0..TRIES {
            let entry = self.get(target).await?;
            if let Some(deleted) = self.try_delete(target, options, entry).await? {
                return Ok(deleted);
            }
        }
        Err(Status::modified(target.resource.named(), &target.name))
    }

    async fn try_delete(
        &self,
        target: &Target,
        options: &DeleteOptions,
        entry: Arc<store::Entry>,
    ) -> Result<Option<Deleted>, Status> {
        let old = decode(&entry);
        check_uid(target, &options.uid, &old)?;
        check_version(target, &options.resource_version, &entry)?;
        let (txn, shown) = match plan(target, &old, options.grace, now()) {
            Step::Wait => return Ok(Some(Deleted { entry, gone: false })),
            Step::Remove => (Txn::delete(entry.key.clone(), entry.modified), None),
            Step::Mark(new) => {
                let shown = new.clone();
                (Txn::update(entry.key.clone(), entry.modified, encode(&new)), Some(shown))
            }
        };
        if options.dry_run {
            let gone = shown.is_none();
            let entry = shown.map_or(entry.clone(), |tree| unstored(entry.key.clone(), &tree, entry.modified));
            return Ok(Some(Deleted { entry, gone }));
        }
        match self.store.commit(txn).await {
            Ok(commit) => {
                let event = &commit.events[0];
                Ok(Some(Deleted { entry: event.entry.clone(), gone: event.deleted }))
            }
            Err(Error::Conflict { .. }) => Ok(None),
            Err(error) => Err(error::of_store(error)),
        }
    }

    /// Deletes all selected objects. Answers what was deleted.
    pub(crate) async fn delete_all(
        &self,
        selection: &Selection,
        list: &ListOptions,
        options: &DeleteOptions,
    ) -> Result<Vec<Arc<store::Entry>>, Status> {
        let page = self.list(selection, list).await?;
        let mut deleted = Vec::with_capacity(page.entries.len());
        for entry in page.entries {
            let head = &super::object::derived(&entry).head;
            let target = Target::new(selection.resource, &head.namespace, &head.name);
            match self.delete(&target, options).await {
                Ok(_) => deleted.push(entry),
                Err(status) if status.code == 404 => {}
                Err(status) => return Err(status),
            }
        }
        Ok(deleted)
    }
}

fn check_version(target: &Target, wanted: &str, entry: &store::Entry) -> Result<(), Status> {
    let modified = entry.modified.to_string();
    if wanted.is_empty() || wanted == modified {
        return Ok(());
    }
    let cause = format!(
        "Precondition failed: ResourceVersion in precondition: {wanted}, ResourceVersion in object meta: {modified}"
    );
    Err(Status::conflict(target.resource.named(), &target.name, &cause))
}

fn plan(target: &Target, old: &Value, asked: Option<i64>, now: Timestamp) -> Step {
    let meta = &old["metadata"];
    let Some(deleted) = at(meta, &["deletionTimestamp"]) else {
        return begin(target, old, asked, now);
    };
    let given = integer(meta, "deletionGracePeriodSeconds").unwrap_or_default();
    let wanted = asked.map(|_| grace(target, old, asked));
    match wanted.filter(|wanted| *wanted < given) {
        // Only a shorter time can be asked for.
        None if is_finished(old) => Step::Remove,
        None => Step::Wait,
        Some(wanted) => {
            let mut new = old.clone();
            let earlier = timestamp(deleted).unwrap_or(now) - SignedDuration::from_secs(given - wanted);
            let meta = object(&mut new, "metadata");
            set(meta, "deletionTimestamp", rfc3339(earlier));
            set(meta, "deletionGracePeriodSeconds", wanted);
            if is_finished(&new) { Step::Remove } else { Step::Mark(new) }
        }
    }
}

fn grace(target: &Target, old: &Value, asked: Option<i64>) -> i64 {
    target.resource.behaviour.grace.map_or(0, |grace| grace(old, asked))
}

fn begin(target: &Target, old: &Value, asked: Option<i64>, now: Timestamp) -> Step {
    let grace = grace(target, old, asked);
    let mut new = old.clone();
    let meta = object(&mut new, "metadata");
    set(meta, "deletionTimestamp", rfc3339(now + SignedDuration::from_secs(grace)));
    set(meta, "deletionGracePeriodSeconds", grace);
    if let Some(generation) = integer(meta, "generation").filter(|generation| *generation > 0) {
        set(meta, "generation", generation + 1);
    }
    if text(old, "kind") == "Namespace" && !items(&old["spec"], "finalizers").is_empty() {
        set(object(&mut new, "status"), "phase", "Terminating");
        return Step::Mark(new);
    }
    if is_finished(&new) { Step::Remove } else { Step::Mark(new) }
}

impl Registry {
    /// Takes a namespace's own finalizers as the request says; without any, and being deleted, it goes.
    pub(crate) async fn finalize_namespace(
        &self,
        target: &Target,
        finalizers: Value,
    ) -> Result<super::write::Written, Status> {
        let change = |old: &Value| {
            let mut new = old.clone();
            set(object(&mut new, "spec"), "finalizers", finalizers.clone());
            if finalizers.as_array().is_some_and(Vec::is_empty) {
                crate::tree::remove(object(&mut new, "spec"), "finalizers");
            }
            Ok(new)
        };
        let options = super::WriteOptions::default();
        self.update(&super::write::Update { target, subresource: "finalize", change: &change, options }).await
    }

    /// Whether a namespace exists and takes new objects.
    pub(crate) async fn admit_namespace(&self, name: &str) -> Result<Option<bool>, Status> {
        let target = Target::new(super::Resource::known("", "namespaces"), "", name);
        let entry = self.find(&target).await?;
        Ok(entry.map(|entry| {
            let tree = decode(&entry);
            text_at(&tree, &["metadata", "deletionTimestamp"]).is_empty()
        }))
    }
}
