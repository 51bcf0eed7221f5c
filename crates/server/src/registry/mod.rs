//! The registry: the only opener of the store. It creates, reads, changes and removes objects of all kinds alike; what is
//! particular to a kind it asks of `kinds`.
//!
//! Reading order: `object` (bytes and trees), `write`, `delete`, `list`, `watch`, `hub` (many watchers of one field).

mod delete;
mod hub;
mod list;
pub(crate) mod object;
mod select;
mod token;
mod watch;
mod write;

use std::sync::Arc;

use api::field::FieldError;
use api::status::{self, Status};
use jiff::Timestamp;
use serde_json::Value;

use crate::error;
use crate::kinds::{self, Behaviour};

pub(crate) use delete::DeleteOptions;
pub(crate) use list::{At, ListOptions, Page};
pub(crate) use object::Change;
pub(crate) use select::{Selection, check_fields};
pub(crate) use watch::{Feed, Item, WatchOptions};
pub(crate) use write::{Update, WriteOptions, Written, uid};

/// How often a change is tried again when others change the object at the same time.
pub(crate) const TRIES: usize = 16;

/// How objects that are served in one version and stored in another go there and back.
pub(crate) struct Conversion {
    pub(crate) to_storage: fn(&mut Value),
    pub(crate) from_storage: fn(&mut Value),
    /// What is wrong beside what the kind itself says: new, old if there is one; both as stored.
    pub(crate) validate: fn(&Value, Option<&Value>) -> Vec<FieldError>,
}

/// A kind with all that is known of it.
#[derive(Clone, Copy)]
pub(crate) struct Resource {
    pub(crate) kind: &'static api::kind::Kind,
    pub(crate) behaviour: &'static Behaviour,
    pub(crate) conversion: Option<&'static Conversion>,
}

impl Resource {
    pub(crate) fn new(kind: &'static api::kind::Kind) -> Self {
        let conversion = (kind.group == "events.k8s.io").then_some(&kinds::EVENT_CONVERSION);
        Self { kind, behaviour: kinds::behaviour(kind.kind), conversion }
    }

    /// A kind that is known to exist.
    pub(crate) fn known(group: &str, plural: &str) -> Self {
        Self::new(api::kind::by_resource(group, "v1", plural).expect("a row of the table"))
    }

    /// The resource as messages name it.
    pub(crate) fn named(&self) -> status::Resource<'static> {
        status::Resource { group: self.kind.group, name: self.kind.plural }
    }

    /// The kind as messages name it.
    pub(crate) fn kind_named(&self) -> status::Resource<'static> {
        let group = if self.conversion.is_some() { "" } else { self.kind.group };
        status::Resource { group, name: self.kind.kind }
    }

    /// What all keys of the kind start with, or those of one namespace.
    pub(crate) fn prefix(&self, namespace: Option<&str>) -> String {
        let storage = self.kind.storage.unwrap_or(self.kind.plural);
        namespace.map_or_else(|| format!("/{storage}/"), |name| format!("/{storage}/{name}/"))
    }

    /// The tree of a stored version, in the version in which it is served.
    pub(crate) fn tree(&self, entry: &store::Entry) -> Value {
        let mut tree = object::decode(entry);
        if let Some(conversion) = self.conversion {
            (conversion.from_storage)(&mut tree);
        }
        tree
    }
}

/// One object's place.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) resource: Resource,
    /// Empty for kinds without namespaces.
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl Target {
    pub(crate) fn new(resource: Resource, namespace: &str, name: &str) -> Self {
        Self { resource, namespace: namespace.to_owned(), name: name.to_owned() }
    }

    pub(crate) fn key(&self) -> store::Key {
        let namespace = self.resource.kind.is_namespaced().then_some(self.namespace.as_str());
        format!("{}{}", self.resource.prefix(namespace), self.name).into()
    }

    pub(crate) fn not_found(&self) -> Status {
        Status::not_found(self.resource.named(), &self.name)
    }
}

/// All objects.
pub(crate) struct Registry {
    store: Arc<dyn store::Store>,
    hubs: Arc<hub::Hubs>,
    recent: object::Recent,
}

impl Registry {
    pub(crate) fn new(store: Arc<dyn store::Store>) -> Self {
        let hubs = hub::Hubs::new(store.clone());
        Self { store, hubs, recent: object::Recent::default() }
    }

    /// One object.
    pub(crate) async fn get(&self, target: &Target) -> Result<Arc<store::Entry>, Status> {
        self.find(target).await?.ok_or_else(|| target.not_found())
    }

    /// One object, if it exists.
    pub(crate) async fn find(&self, target: &Target) -> Result<Option<Arc<store::Entry>>, Status> {
        let key = target.key();
        Ok(self.store.get(&key).await.map_err(error::of_store)?.entry)
    }

    /// One object at no earlier than a revision.
    pub(crate) async fn get_at_least(&self, target: &Target, revision: u64) -> Result<Arc<store::Entry>, Status> {
        let current = self.revision().await?;
        if revision > current.0 {
            return Err(Status::too_large_resource_version(revision, current.0));
        }
        self.get(target).await
    }

    /// The latest revision.
    pub(crate) async fn revision(&self) -> Result<store::Revision, Status> {
        Ok(self.store.progress().await.map_err(error::of_store)?.revision)
    }
}

/// The present moment.
pub(crate) fn now() -> Timestamp {
    Timestamp::now()
}
