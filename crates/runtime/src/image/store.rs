//! The store: images by name and digest over layers by the digest of their content.
//!
//! On disk: `layers/HEX/` (unpacked), `configs/HEX` (configuration documents), `index.json` (names, written whole), `lock`. Several
//! processes share it: each reads the index anew when the file has changed, and changes it under the lock.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use super::manifest::{Config, ConfigDocument, digest_of};
use super::registry::Registries;
use super::{Error, Reference, unpack};

/// An image, ready to be run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// The digest of its configuration.
    pub id: String,
    /// Its names.
    pub names: Vec<String>,
    /// Its names in registries, by the digest of its manifest.
    pub digests: Vec<String>,
    /// What it runs and how.
    pub config: Config,
    /// Its layers, the topmost first.
    pub layers: Vec<PathBuf>,
    /// Bytes of all files.
    pub size_bytes: u64,
    /// The name it was found by was given by a person, not by a registry.
    pub is_loaded_by_hand: bool,
}

impl Image {
    /// The name a status shows: the one that was asked for, complete.
    pub fn name_for_status(&self, asked: &str) -> String {
        Reference::parse(asked).map_or_else(|_| asked.to_owned(), |reference| reference.to_string())
    }

    /// The digest a status shows: the registry's if there is one.
    pub fn id_for_status(&self) -> String {
        self.digests.first().unwrap_or(&self.id).clone()
    }
}

/// A line of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// A name; `<none>` for an image without one.
    pub name: String,
    /// The digest of its configuration.
    pub id: String,
    /// Bytes of all files.
    pub size_bytes: u64,
    /// Given by a person.
    pub is_loaded_by_hand: bool,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
struct Index {
    names: BTreeMap<String, Name>,
    images: BTreeMap<String, Record>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Name {
    id: String,
    by_hand: bool,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Record {
    /// The lowest first.
    layers: Vec<String>,
    size: u64,
    digests: Vec<String>,
    config: Config,
}

/// A directory of images.
#[derive(Debug)]
pub struct Store {
    root: PathBuf,
    /// Where sandboxes keep what they use, to know what is in use.
    users: PathBuf,
    pub(super) registries: Registries,
    index: Mutex<(Stamp, Arc<Index>)>,
}

/// What tells that the index was written anew: inode and time.
type Stamp = Option<(u64, i64, i64)>;

impl Store {
    /// Opens the store below `root` (the directory that [`crate::Host`] also uses) and makes it if it is missing.
    ///
    /// # Errors
    /// [`Error::Failed`] naming the directory.
    pub fn open(root: &Path, registries: Registries) -> Result<Self, Error> {
        let own = root.join("images");
        for part in ["layers", "configs", "incoming"] {
            let path = own.join(part);
            fs::create_dir_all(&path).map_err(|e| Error::failed(format!("making {}", path.display()), e))?;
        }
        Ok(Self { root: own, users: root.join("sandboxes"), registries, index: Mutex::default() })
    }

    /// The image of this name or digest, if it is here.
    pub fn find(&self, reference: &Reference) -> Option<Image> {
        let index = self.read().ok()?;
        if let Some(digest) = reference.digest() {
            let wanted = reference.with_digest(digest);
            let found = index.images.iter().find(|(id, record)| *id == digest || record.digests.contains(&wanted));
            return found.map(|(id, _)| self.image(&index, id, false));
        }
        let name = index.names.get(&reference.to_string())?;
        Some(self.image(&index, &name.id, name.by_hand))
    }

    /// The image whose id begins with `prefix` (`sha256:…` or the bare digits), if there is exactly one.
    pub fn find_by_id(&self, prefix: &str) -> Option<Image> {
        let index = self.read().ok()?;
        let digits = prefix.strip_prefix("sha256:").unwrap_or(prefix);
        let mut found = index.images.keys().filter(|id| id.trim_start_matches("sha256:").starts_with(digits));
        match (found.next(), found.next()) {
            (Some(id), None) if digits.len() >= 4 => Some(self.image(&index, id, false)),
            _ => None,
        }
    }

    fn image(&self, index: &Index, id: &str, by_hand: bool) -> Image {
        let record = index.images.get(id).cloned().unwrap_or_default();
        let names = index.names.iter().filter(|(_, name)| name.id == id).map(|(text, _)| text.clone());
        Image {
            id: id.to_owned(),
            names: names.collect(),
            layers: record.layers.iter().rev().map(|digest| self.layer_path(digest)).collect(),
            digests: record.digests,
            config: record.config,
            size_bytes: record.size,
            is_loaded_by_hand: by_hand,
        }
    }

    /// The largest images, at most so many, the largest first.
    ///
    /// # Errors
    /// [`Error::Failed`] when the index cannot be read.
    pub fn largest(&self, count: usize) -> Result<Vec<Image>, Error> {
        let index = self.read()?;
        let mut sizes: Vec<(&String, u64)> = index.images.iter().map(|(id, record)| (id, record.size)).collect();
        sizes.sort_by(|(one, small), (other, large)| large.cmp(small).then_with(|| one.cmp(other)));
        Ok(sizes.into_iter().take(count).map(|(id, _)| self.image(&index, id, false)).collect())
    }

    /// All images, one line for each name.
    ///
    /// # Errors
    /// [`Error::Failed`] when the index cannot be read.
    pub fn list(&self) -> Result<Vec<Summary>, Error> {
        let index = self.read()?;
        let line = |name: &str, id: &str, by_hand: bool| Summary {
            name: name.to_owned(),
            id: id.to_owned(),
            size_bytes: index.images.get(id).map_or(0, |record| record.size),
            is_loaded_by_hand: by_hand,
        };
        let mut lines: Vec<Summary> =
            index.names.iter().map(|(text, name)| line(text, &name.id, name.by_hand)).collect();
        let named: BTreeSet<&str> = index.names.values().map(|name| name.id.as_str()).collect();
        lines.extend(index.images.keys().filter(|id| !named.contains(id.as_str())).map(|id| line("<none>", id, false)));
        Ok(lines)
    }

    /// Takes a name away; with its last name an image goes, and with their last image its layers.
    ///
    /// # Errors
    /// [`Error::NotFound`], or [`Error::InUse`] when a container uses the image and this is its last name.
    pub fn remove(&self, text: &str) -> Result<(), Error> {
        let by_name = Reference::parse(text).ok().filter(|reference| self.find(reference).is_some());
        let image = match &by_name {
            Some(reference) => self.find(reference),
            None => self.find_by_id(text),
        };
        let image = image.ok_or_else(|| Error::NotFound(text.to_owned()))?;
        let goes = by_name.is_none() || image.names.len() <= 1;
        if goes && image.layers.iter().any(|layer| self.is_used(layer)) {
            return Err(Error::InUse(text.to_owned()));
        }
        self.change(|index| {
            match &by_name {
                Some(reference) => drop(index.names.remove(&reference.to_string())),
                None => index.names.retain(|_, name| name.id != image.id),
            }
            if goes {
                index.images.remove(&image.id);
            }
        })?;
        self.collect_garbage()
    }

    /// Whether a container's records name a layer.
    fn is_used(&self, layer: &Path) -> bool {
        let Some(digits) = layer.file_name().and_then(|name| name.to_str()) else { return false };
        names_text(&self.users, digits, 4)
    }

    /// Removes layers and configurations that no image has.
    ///
    /// # Errors
    /// [`Error::Failed`] naming what could not be removed.
    pub fn collect_garbage(&self) -> Result<(), Error> {
        let _lock = self.lock()?;
        let index = self.read()?;
        let layers: BTreeSet<&str> = index.images.values().flat_map(|r| &r.layers).map(|d| digits(d)).collect();
        let configs: BTreeSet<&str> = index.images.keys().map(|id| digits(id)).collect();
        for (part, kept) in [("layers", &layers), ("configs", &configs)] {
            for entry in fs::read_dir(self.root.join(part)).into_iter().flatten().flatten() {
                let name = entry.file_name();
                if name.to_str().is_some_and(|name| kept.contains(name)) || self.is_used(&entry.path()) {
                    continue;
                }
                remove(&entry.path())?;
            }
        }
        Ok(())
    }

    /// Writes a layer into the store, unless it is there. Returns the bytes of its files.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when the content is not what `diff_id` promises.
    pub(super) fn add_layer(&self, diff_id: &str, source: impl Read) -> Result<(), Error> {
        let path = self.layer_path(diff_id);
        if path.exists() {
            return Ok(());
        }
        let draft = self.draft()?;
        let (digest, bytes) = unpack::unpack(source, &draft.path)?;
        if digest != diff_id {
            let what = "an image layer".to_owned();
            return Err(Error::Corrupt { what, expected: diff_id.to_owned(), got: digest });
        }
        self.keep_layer(draft, diff_id, bytes)
    }

    /// Writes a layer whose digest only its content tells.
    pub(super) fn add_unknown_layer(&self, source: impl Read) -> Result<String, Error> {
        let draft = self.draft()?;
        let (digest, bytes) = unpack::unpack(source, &draft.path)?;
        if !self.layer_path(&digest).exists() {
            self.keep_layer(draft, &digest, bytes)?;
        }
        Ok(digest)
    }

    fn keep_layer(&self, draft: Draft, digest: &str, bytes: u64) -> Result<(), Error> {
        let failed = |e: io::Error| Error::failed(format!("keeping layer {digest}"), e);
        fs::write(self.size_path(digest), bytes.to_string()).map_err(failed)?;
        match fs::rename(&draft.path, self.layer_path(digest)) {
            Ok(()) => Ok(()),
            // Another process was faster.
            Err(_) if self.layer_path(digest).exists() => Ok(()),
            Err(error) => Err(failed(error)),
        }
    }

    pub(super) fn has_layer(&self, diff_id: &str) -> bool {
        self.layer_path(diff_id).exists()
    }

    /// Enters an image whose layers are all here. Returns its id.
    ///
    /// # Errors
    /// [`Error::Malformed`] when the configuration does not fit its layers, [`Error::Architecture`] when it is for another machine.
    pub(super) fn add_image(&self, config: &[u8], entry: &NewNames) -> Result<String, Error> {
        let document = ConfigDocument::parse(config)?;
        let id = digest_of(config);
        if let Some(missing) = document.diff_ids().iter().find(|diff_id| !self.has_layer(diff_id)) {
            return Err(Error::malformed("image", format!("its layer {missing} is missing")));
        }
        let sizes = document.diff_ids().iter().map(|diff_id| self.layer_size(diff_id));
        let size = sizes.sum();
        let path = self.root.join("configs").join(digits(&id));
        fs::write(&path, config).map_err(|e| Error::failed(format!("writing {}", path.display()), e))?;
        self.change(|index| {
            let record = index.images.entry(id.clone()).or_default();
            record.layers = document.diff_ids().to_vec();
            record.size = size;
            record.config = document.config();
            for digest in &entry.digests {
                if !record.digests.contains(digest) {
                    record.digests.insert(0, digest.clone());
                }
            }
            for name in &entry.names {
                index.names.insert(name.clone(), Name { id: id.clone(), by_hand: entry.by_hand });
            }
        })?;
        Ok(id)
    }

    fn layer_size(&self, diff_id: &str) -> u64 {
        fs::read_to_string(self.size_path(diff_id)).ok().and_then(|text| text.parse().ok()).unwrap_or(0)
    }

    fn layer_path(&self, diff_id: &str) -> PathBuf {
        self.root.join("layers").join(digits(diff_id))
    }

    fn size_path(&self, diff_id: &str) -> PathBuf {
        self.root.join("configs").join(format!("{}.size", digits(diff_id)))
    }

    /// A fresh directory that vanishes unless it is kept.
    pub(super) fn draft(&self) -> Result<Draft, Error> {
        let mut random = [0u8; 8];
        getrandom::fill(&mut random)
            .map_err(|e| Error::failed("naming a directory", io::Error::other(e.to_string())))?;
        let path = self.root.join("incoming").join(format!("{:016x}", u64::from_ne_bytes(random)));
        fs::create_dir(&path).map_err(|e| Error::failed(format!("making {}", path.display()), e))?;
        Ok(Draft { path })
    }

    // === The index ===

    fn read(&self) -> Result<Arc<Index>, Error> {
        let mut cached = self.index.lock().unwrap_or_else(PoisonError::into_inner);
        let stamp = self.stamp();
        if cached.0 != stamp || stamp.is_none() {
            *cached = (stamp, Arc::new(self.load()?));
        }
        Ok(cached.1.clone())
    }

    fn stamp(&self) -> Stamp {
        let data = fs::metadata(self.index_path()).ok()?;
        Some((data.ino(), data.mtime(), data.mtime_nsec()))
    }

    fn load(&self) -> Result<Index, Error> {
        let path = self.index_path();
        let doing = || format!("reading {}", path.display());
        match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|e| Error::failed(doing(), e)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Index::default()),
            Err(error) => Err(Error::failed(doing(), error)),
        }
    }

    fn change(&self, edit: impl FnOnce(&mut Index)) -> Result<(), Error> {
        let _lock = self.lock()?;
        let mut index = self.load()?;
        edit(&mut index);
        let (path, draft) = (self.index_path(), self.root.join("index.new"));
        let failed = |e: io::Error| Error::failed(format!("writing {}", path.display()), e);
        let bytes = serde_json::to_vec_pretty(&index).map_err(|e| failed(e.into()))?;
        fs::write(&draft, bytes).map_err(failed)?;
        File::open(&draft).and_then(|file| file.sync_all()).map_err(failed)?;
        fs::rename(&draft, &path).map_err(failed)
    }

    fn index_path(&self) -> PathBuf {
        self.root.join("index.json")
    }

    fn lock(&self) -> Result<File, Error> {
        let path = self.root.join("lock");
        let failed = |e: io::Error| Error::failed(format!("locking {}", path.display()), e);
        let file = File::create(&path).map_err(failed)?;
        flock(&file, FlockOperation::LockExclusive).map_err(|e| failed(e.into()))?;
        Ok(file)
    }
}

/// Under what an image is entered.
#[derive(Debug, Default)]
pub(super) struct NewNames {
    pub(super) names: Vec<String>,
    pub(super) digests: Vec<String>,
    pub(super) by_hand: bool,
}

/// A directory that vanishes when it is dropped, unless it was renamed.
pub(super) struct Draft {
    pub(super) path: PathBuf,
}

impl Drop for Draft {
    fn drop(&mut self) {
        if self.path.exists()
            && let Err(error) = remove(&self.path)
        {
            tracing::warn!(%error, "removing an unfinished layer");
        }
    }
}

fn digits(digest: &str) -> &str {
    digest.strip_prefix("sha256:").unwrap_or(digest)
}

fn remove(path: &Path) -> Result<(), Error> {
    let result = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match result {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::failed(format!("removing {}", path.display()), error))
        }
        _ => Ok(()),
    }
}

/// Whether a file below a directory, not deeper than `depth`, holds a text. Only small files are records.
fn names_text(directory: &Path, text: &str, depth: usize) -> bool {
    const RECORD_BYTES: u64 = 1 << 20;
    fs::read_dir(directory).into_iter().flatten().flatten().any(|entry| match entry.file_type() {
        Ok(kind) if kind.is_dir() && depth > 0 => names_text(&entry.path(), text, depth - 1),
        Ok(kind) if kind.is_file() && entry.file_name().to_string_lossy().ends_with(".json") => {
            let is_small = entry.metadata().is_ok_and(|data| data.len() <= RECORD_BYTES);
            is_small && fs::read_to_string(entry.path()).is_ok_and(|content| content.contains(text))
        }
        _ => false,
    })
}
