//! Removing objects: at once, or after the time they are given to end, or when their last finalizer goes.

use std::sync::Arc;

use api::status::Status;
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use store::{Error, Op, Txn};

use super::object::{derived, tree, unstored};
use super::write::is_finished;
use super::{ListOptions, Registry, Selection, TRIES, Target, now};
use crate::error;
use crate::table::{rfc3339, timestamp};
use crate::tree::{at, integer, items, object, put, remove, set, text, text_at};

/// How to delete.
#[derive(Clone, Debug, Default)]
pub(crate) struct DeleteOptions {
    pub(crate) grace: Option<i64>,
    pub(crate) uid: String,
    pub(crate) resource_version: String,
    pub(crate) dry_run: bool,
}

impl DeleteOptions {
    /// Whether an object is the one that is meant.
    pub(crate) fn check(&self, target: &Target, old: &Value) -> Result<(), Status> {
        check_uid(target, &self.uid, old)?;
        check_version(target, &self.resource_version, text_at(old, &["metadata", "resourceVersion"]))
    }
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
    /// It goes now. Whoever deleted it is shown it like this.
    Remove(Value),
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
        let old = tree(&entry);
        options.check(target, &old)?;
        let (txn, shown) = match plan(target, &old, options.grace, now()) {
            Step::Wait => return Ok(Some(Deleted { entry, gone: false })),
            Step::Remove(shown) => {
                let shown = unstored(entry.key.clone(), &shown, entry.modified);
                (Txn::delete(entry.key.clone(), entry.modified), shown)
            }
            Step::Mark(new) => {
                let shown = unstored(entry.key.clone(), &new, entry.modified);
                (Txn::update(entry.key.clone(), entry.modified, self.recent.encode(&target.resource, new)), shown)
            }
        };
        let gone = matches!(txn.ops[0], Op::Delete(_));
        if options.dry_run {
            return Ok(Some(Deleted { entry: shown, gone }));
        }
        match self.store.commit(txn).await {
            Ok(_) if gone => Ok(Some(Deleted { entry: shown, gone })),
            Ok(commit) => Ok(Some(Deleted { entry: commit.events[0].entry.clone(), gone })),
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
            let derived = derived(&entry);
            let head = derived.head(&entry);
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

fn check_version(target: &Target, wanted: &str, modified: &str) -> Result<(), Status> {
    if wanted.is_empty() || wanted == modified {
        return Ok(());
    }
    Err(conflict(
        target,
        &format!(
            "the ResourceVersion in the precondition ({wanted}) does not match the ResourceVersion in record ({modified}). \
             The object might have been modified"
        ),
    ))
}

fn check_uid(target: &Target, wanted: &str, old: &Value) -> Result<(), Status> {
    let uid = text_at(old, &["metadata", "uid"]);
    if wanted.is_empty() || wanted == uid {
        return Ok(());
    }
    Err(conflict(
        target,
        &format!(
            "the UID in the precondition ({wanted}) does not match the UID in record ({uid}). The object might have been \
             deleted and then recreated"
        ),
    ))
}

fn conflict(target: &Target, cause: &str) -> Status {
    Status::conflict(target.resource.kind_named(), &target.name, cause)
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
        None if is_finished(old) => Step::Remove(old.clone()),
        None => Step::Wait,
        Some(wanted) => {
            let mut new = old.clone();
            let earlier = timestamp(deleted).unwrap_or(now) - SignedDuration::from_secs(given - wanted);
            let meta = object(&mut new, "metadata");
            set(meta, "deletionTimestamp", rfc3339(earlier));
            set(meta, "deletionGracePeriodSeconds", wanted);
            if is_finished(&new) { Step::Remove(new) } else { Step::Mark(new) }
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
    if text(old, "kind") != "Namespace" {
        set(meta, "deletionGracePeriodSeconds", grace);
    }
    if let Some(generation) = integer(meta, "generation").filter(|generation| *generation > 0) {
        set(meta, "generation", generation + 1);
    }
    if text(old, "kind") == "Namespace" && !items(&old["spec"], "finalizers").is_empty() {
        set(object(&mut new, "status"), "phase", "Terminating");
        return Step::Mark(new);
    }
    match (is_finished(&new), target.resource.behaviour.grace) {
        (false, _) => Step::Mark(new),
        (true, Some(_)) => Step::Remove(new),
        // What gets no time to end is shown as it was.
        (true, None) => Step::Remove(old.clone()),
    }
}

impl Registry {
    /// Takes a namespace as the request says, its own finalizers included; without any, and being deleted, it goes.
    pub(crate) async fn finalize_namespace(
        &self,
        target: &Target,
        wanted: &Value,
    ) -> Result<super::write::Written, Status> {
        let change = |old: &Value| {
            let mut new = wanted.clone();
            put(&mut new, "status", old.get("status").cloned());
            if items(&new["spec"], "finalizers").is_empty() {
                remove(object(&mut new, "spec"), "finalizers");
            }
            Ok(new)
        };
        let options = super::WriteOptions::default();
        self.update(&super::write::Update {
            target,
            subresource: "finalize",
            change: &change,
            uid_is_precondition: true,
            options,
        })
        .await
    }

    /// Whether a namespace exists and takes new objects.
    pub(crate) async fn admit_namespace(&self, name: &str) -> Result<Option<bool>, Status> {
        let target = Target::new(super::Resource::known("", "namespaces"), "", name);
        let entry = self.find(&target).await?;
        let admits = |entry: &store::Entry| text_at(&tree(entry), &["metadata", "deletionTimestamp"]).is_empty();
        Ok(entry.map(|entry| *derived(&entry).admission.get_or(|| admits(&entry))))
    }
}
