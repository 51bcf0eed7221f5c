//! Lists: consistent, in pages, selected.

use std::sync::Arc;

use api::status::Status;
use store::{Range, Revision};

use super::token::Token;
use super::{Registry, Selection, now};
use crate::error;

/// From which revision a list may be, as the request says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum At {
    /// The present.
    Now,
    /// Not before.
    NoEarlier(u64),
    /// Exactly.
    Exactly(u64),
}

/// How to list.
#[derive(Clone, Debug)]
pub(crate) struct ListOptions {
    pub(crate) at: At,
    pub(crate) limit: usize,
    pub(crate) continue_token: String,
}

impl ListOptions {
    /// Everything, now.
    pub(crate) const ALL: Self = Self { at: At::Now, limit: 0, continue_token: String::new() };
}

/// A part of a list, or the whole.
pub(crate) struct Page {
    pub(crate) entries: Vec<Arc<store::Entry>>,
    pub(crate) revision: Revision,
    /// Empty at the end.
    pub(crate) continue_token: String,
    pub(crate) remaining: Option<usize>,
}

impl Registry {
    /// The selected objects.
    pub(crate) async fn list(&self, selection: &Selection, options: &ListOptions) -> Result<Page, Status> {
        let prefix = selection.prefix();
        let token = match options.continue_token.as_str() {
            "" => None,
            text => Some(Token::read(text)?),
        };
        if let Some(token) = token.as_ref().filter(|token| token.is_expired(now().as_second())) {
            return Err(token.expired());
        }
        let at = match (&token, &options.at) {
            (Some(token), _) => (token.revision != 0).then_some(Revision(token.revision)),
            (None, At::Exactly(revision)) => Some(Revision(*revision)),
            (None, At::NoEarlier(revision)) => self.not_beyond(*revision).await.map(|()| None)?,
            (None, At::Now) => None,
        };
        let after = token.as_ref().map(|token| format!("{prefix}{}", token.after));
        // A list that goes on in the present begins anew.
        let begun = token.as_ref().filter(|token| token.revision != 0).map(|token| token.begun);
        let begun = begun.unwrap_or_else(|| now().as_second());
        let range = Range { prefix, after, at, limit: None };
        let page = self.page(selection, range, options.limit, begun).await;
        page.map_err(|error| match (error, &token) {
            (store::Error::Compacted { .. }, Some(token)) => token.expired(),
            (error, _) => error::of_store(error),
        })
    }

    async fn not_beyond(&self, revision: u64) -> Result<(), Status> {
        let current = self.revision().await?.0;
        if revision > current { Err(Status::too_large_resource_version(revision, current)) } else { Ok(()) }
    }

    async fn page(&self, selection: &Selection, range: Range, limit: usize, begun: i64) -> store::Result<Page> {
        if let Some(name) =
            selection.only_name().filter(|_| selection.namespace.is_some() || !selection.resource.kind.is_namespaced())
        {
            return self.by_name(selection, range, &format!("{}{name}", selection.prefix())).await;
        }
        if selection.is_filtered() {
            return self.filtered(selection, range, limit, begun).await;
        }
        let range = Range { limit: (limit > 0).then_some(limit), ..range };
        let prefix = range.prefix.clone();
        let listing = self.store.list(range).await?;
        let more = listing.remaining > 0;
        let token = next_token(more, listing.entries.last(), &prefix, listing.revision, begun);
        let remaining = more.then_some(listing.remaining);
        Ok(Page { entries: listing.entries, revision: listing.revision, continue_token: token, remaining })
    }

    /// With selectors, how many remain cannot be told without looking at all; so it is left out.
    async fn filtered(&self, selection: &Selection, range: Range, limit: usize, begun: i64) -> store::Result<Page> {
        let prefix = range.prefix.clone();
        let listing = self.store.list(range).await?;
        let mut selected = listing.entries.into_iter().filter(|entry| selection.matches(entry));
        let entries: Vec<_> = match limit {
            0 => selected.by_ref().collect(),
            limit => selected.by_ref().take(limit).collect(),
        };
        let more = selected.next().is_some();
        let continue_token = next_token(more, entries.last(), &prefix, listing.revision, begun);
        Ok(Page { entries, revision: listing.revision, continue_token, remaining: None })
    }

    /// One object as a list, without going through the others.
    async fn by_name(&self, selection: &Selection, range: Range, key: &str) -> store::Result<Page> {
        let range = Range { prefix: key.to_owned(), limit: Some(1), ..range };
        let listing = self.store.list(range).await?;
        let found = listing.entries.into_iter().filter(|entry| &*entry.key == key && selection.matches(entry));
        Ok(Page {
            entries: found.collect(),
            revision: listing.revision,
            continue_token: String::new(),
            remaining: None,
        })
    }
}

fn next_token(more: bool, last: Option<&Arc<store::Entry>>, prefix: &str, revision: Revision, begun: i64) -> String {
    match last.filter(|_| more) {
        Some(last) => {
            let after = last.key.strip_prefix(prefix).unwrap_or(&last.key).to_owned();
            Token { revision: revision.0, after, begun }.write()
        }
        None => String::new(),
    }
}
