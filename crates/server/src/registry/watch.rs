//! Watches: the changes of the selected objects, from a revision on, each as ADDED, MODIFIED or DELETED as the selectors
//! see it.

use std::sync::Arc;

use api::status::Status;
use store::{Batch, Event, Revision, Watch};

use super::object::Change;
use super::{ListOptions, Registry, Selection};
use crate::error;

/// How to watch.
#[derive(Clone, Debug)]
pub(crate) struct WatchOptions {
    /// Changes after this revision; without it, first all that is there.
    pub(crate) after: Option<u64>,
    /// The revision that the start may not be before.
    pub(crate) at_least: u64,
    /// Tell when all that is there has been told.
    pub(crate) announce_end: bool,
}

/// What a watcher is told.
#[derive(Debug)]
pub(crate) enum Item {
    /// An object's change.
    Change(Change, Arc<store::Entry>),
    /// The object no longer matches: its last version that did, as of the revision of the change.
    Left(Arc<store::Entry>, Revision),
    /// All up to this revision has been told; `initial` after what was there at the start.
    Bookmark { revision: Revision, initial: bool },
}

/// A running watch.
pub(crate) struct Feed {
    selection: Selection,
    watch: Box<dyn Watch>,
    /// What is told before the first change.
    pub(crate) initial: Vec<Item>,
}

impl Registry {
    /// Begins a watch.
    pub(crate) async fn watch(&self, selection: &Selection, options: &WatchOptions) -> Result<Feed, Status> {
        let prefix = selection.prefix();
        let (after, initial) = match options.after {
            Some(after) => (Revision(after), Vec::new()),
            None => self.initial(selection, options).await?,
        };
        let watch = self.store.watch(&prefix, after).await.map_err(|error| match error {
            store::Error::Compacted { oldest } => Status::too_old_resource_version(after.0, oldest.0),
            error => error::of_store(error),
        })?;
        Ok(Feed { selection: selection.clone(), watch, initial })
    }

    async fn initial(&self, selection: &Selection, options: &WatchOptions) -> Result<(Revision, Vec<Item>), Status> {
        let current = self.revision().await?.0;
        if options.at_least > current {
            return Err(Status::too_large_resource_version(options.at_least, current));
        }
        let page = self.list(selection, &ListOptions::ALL).await?;
        let mut items: Vec<_> = page.entries.into_iter().map(|entry| Item::Change(Change::Added, entry)).collect();
        if options.announce_end {
            items.push(Item::Bookmark { revision: page.revision, initial: true });
        }
        Ok((page.revision, items))
    }
}

impl Feed {
    /// The next changes. Nothing when the store closes; a Status when the history has left the watch behind.
    pub(crate) async fn next(&mut self) -> Option<Result<Vec<Item>, Status>> {
        Some(self.watch.next().await?.map(|batch| self.select(&batch)).map_err(error::of_watch))
    }

    /// All changes up to now, and a bookmark behind them.
    pub(crate) async fn bookmark(&mut self) -> Result<Vec<Item>, Status> {
        let batch = self.watch.progress().await.map_err(error::of_watch)?;
        let mut items = self.select(&batch);
        items.push(Item::Bookmark { revision: batch.revision, initial: false });
        Ok(items)
    }

    fn select(&self, batch: &Batch) -> Vec<Item> {
        batch.events.iter().filter_map(|event| self.see(event)).collect()
    }

    /// The change as the selectors see it.
    fn see(&self, event: &Event) -> Option<Item> {
        let before = event.previous.as_ref().filter(|entry| self.selection.matches(entry));
        if event.deleted {
            return before.map(|_| Item::Change(Change::Deleted, event.entry.clone()));
        }
        let after = self.selection.matches(&event.entry).then(|| event.entry.clone());
        match (before, after) {
            (Some(_), Some(after)) => Some(Item::Change(Change::Modified, after)),
            (None, Some(after)) => Some(Item::Change(Change::Added, after)),
            (Some(before), None) => Some(Item::Left(before.clone(), event.revision())),
            (None, None) => None,
        }
    }
}
