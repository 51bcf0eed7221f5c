//! Watches: the changes of the selected objects, from a revision on, each as ADDED, MODIFIED or DELETED as the selectors
//! see it.

use std::sync::Arc;

use api::status::Status;
use store::{Batch, Event, Revision, Store, Watch};

use super::hub::{self, Hubs, Seat};
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
    source: Source,
    /// What is told before the first change.
    pub(crate) initial: Vec<Item>,
}

/// Where the changes come from.
enum Source {
    /// A watch of the store.
    Own(Box<dyn Watch>),
    /// A hub, which tells only what may concern.
    Shared(Shared),
}

struct Shared {
    store: Arc<dyn Store>,
    hubs: Arc<Hubs>,
    seat: Seat,
    /// All up to here has been told.
    cursor: Revision,
}

impl Registry {
    /// Begins a watch.
    pub(crate) async fn watch(&self, selection: &Selection, options: &WatchOptions) -> Result<Feed, Status> {
        let prefix = selection.prefix();
        let (after, initial) = match options.after {
            Some(after) => (Revision(after), Vec::new()),
            None => self.initial(selection, options).await?,
        };
        let too_old = |error| match error {
            store::Error::Compacted { oldest } => Status::too_old_resource_version(after.0, oldest.0),
            error => error::of_store(error),
        };
        let (source, missed) = match hub::index(selection) {
            Some(index) => {
                let (shared, missed) =
                    Shared::begin(&self.store, &self.hubs, selection, index, after).await.map_err(too_old)?;
                (Source::Shared(shared), Some(missed))
            }
            None => (Source::Own(self.store.watch(&prefix, after).await.map_err(too_old)?), None),
        };
        let mut feed = Feed { selection: selection.clone(), source, initial };
        let missed = missed.map(|batch| feed.select(&batch.events)).unwrap_or_default();
        feed.initial.extend(missed);
        Ok(feed)
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

impl Shared {
    /// Takes a seat first, then reads up to a revision what was before: together nothing is missed.
    async fn begin(
        store: &Arc<dyn Store>,
        hubs: &Arc<Hubs>,
        selection: &Selection,
        index: (&'static str, &str),
        after: Revision,
    ) -> store::Result<(Self, Batch)> {
        let seat = hubs.sit(selection, index).await?;
        let missed = store.watch(&selection.prefix(), after).await?.progress().await?;
        let cursor = missed.revision;
        Ok((Self { store: store.clone(), hubs: hubs.clone(), seat, cursor }, missed))
    }

    /// The seat is lost: begins again where it was.
    async fn resume(&mut self, selection: &Selection) -> store::Result<Batch> {
        let Some(index) = hub::index(selection) else { return Err(store::Error::Closed) };
        let (fresh, missed) = Self::begin(&self.store, &self.hubs, selection, index, self.cursor).await?;
        *self = fresh;
        Ok(missed)
    }

    async fn next(&mut self, selection: &Selection) -> Option<store::Result<Batch>> {
        let Some(events) = self.seat.next().await else {
            return match self.resume(selection).await {
                Err(store::Error::Closed) => None,
                resumed => Some(resumed),
            };
        };
        Some(Ok(self.fresh(events, None)))
    }

    async fn progress(&mut self, selection: &Selection) -> store::Result<Batch> {
        match self.seat.all().await {
            Some((events, revision)) => Ok(self.fresh(events, Some(revision))),
            None => self.resume(selection).await,
        }
    }

    /// Leaves out what was told from the history.
    fn fresh(&mut self, mut events: Vec<Arc<Event>>, revision: Option<Revision>) -> Batch {
        events.retain(|event| event.revision() > self.cursor);
        let last = events.last().map(|event| event.revision());
        self.cursor = self.cursor.max(last.max(revision).unwrap_or(self.cursor));
        Batch { events, revision: self.cursor }
    }
}

impl Feed {
    /// The next changes. Nothing when the store closes; a Status when the history has left the watch behind.
    pub(crate) async fn next(&mut self) -> Option<Result<Vec<Item>, Status>> {
        let batch = match &mut self.source {
            Source::Own(watch) => watch.next().await?,
            Source::Shared(shared) => shared.next(&self.selection).await?,
        };
        Some(batch.map(|batch| self.select(&batch.events)).map_err(error::of_watch))
    }

    /// All changes up to now, and a bookmark behind them.
    pub(crate) async fn bookmark(&mut self) -> Result<Vec<Item>, Status> {
        let batch = match &mut self.source {
            Source::Own(watch) => watch.progress().await,
            Source::Shared(shared) => shared.progress(&self.selection).await,
        };
        let batch = batch.map_err(error::of_watch)?;
        let mut items = self.select(&batch.events);
        items.push(Item::Bookmark { revision: batch.revision, initial: false });
        Ok(items)
    }

    fn select(&self, events: &[Arc<Event>]) -> Vec<Item> {
        events.iter().filter_map(|event| self.see(event)).collect()
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
