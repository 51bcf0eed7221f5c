//! Loads images from files: Docker's archives and OCI layouts, as a tar or as a directory.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;
use tar::Archive;

use super::manifest::{ConfigDocument, Document, digest_of};
use super::reference::is_digest;
use super::store::{Draft, NewNames, Store};
use super::{Error, Reference};

/// Documents longer than this are not read.
const DOCUMENT_BYTES: u64 = 16 << 20;
const NAME_ANNOTATIONS: [&str; 2] = ["io.containerd.image.name", "org.opencontainers.image.ref.name"];

impl Store {
    /// Loads all images of an archive (from a stream, which is kept on disk meanwhile), named as it names them. Returns their names.
    ///
    /// # Errors
    /// [`Error::Malformed`] when it is neither a Docker archive nor an OCI layout, and what [`Store::load_directory`] says.
    pub fn load_archive(&self, source: impl Read) -> Result<Vec<String>, Error> {
        let draft = self.draft()?;
        let source = unzip(source)?;
        let files = spool(source, &draft)?;
        self.load_from(&files)
    }

    /// Loads all images of an OCI layout, or of an unpacked Docker archive.
    ///
    /// # Errors
    /// [`Error::Corrupt`], [`Error::Malformed`], [`Error::Architecture`].
    pub fn load_directory(&self, directory: &Path) -> Result<Vec<String>, Error> {
        self.load_from(&Files { root: directory.to_owned(), names: None })
    }

    fn load_from(&self, files: &Files) -> Result<Vec<String>, Error> {
        if files.has("manifest.json") {
            return self.load_docker(files);
        }
        if files.has("index.json") {
            return self.load_layout(files);
        }
        Err(Error::malformed("archive", "it holds neither manifest.json nor index.json, so it is no image archive"))
    }

    fn load_docker(&self, files: &Files) -> Result<Vec<String>, Error> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Entry {
            config: String,
            #[serde(default)]
            repo_tags: Option<Vec<String>>,
            layers: Vec<String>,
        }
        let entries: Vec<Entry> = serde_json::from_slice(&files.document("manifest.json")?)
            .map_err(|e| Error::malformed("manifest.json", e))?;
        let mut loaded = Vec::new();
        for entry in entries {
            let config = files.document(&entry.config)?;
            let document = ConfigDocument::parse(&config)?;
            if document.diff_ids().len() != entry.layers.len() {
                return Err(Error::malformed(
                    "manifest.json",
                    "it names another number of layers than the configuration",
                ));
            }
            for (diff_id, layer) in document.diff_ids().iter().zip(&entry.layers) {
                self.add_layer(diff_id, files.open(layer)?)?;
            }
            let names = complete(entry.repo_tags.unwrap_or_default())?;
            loaded.push(self.enter(&config, names, Vec::new())?);
        }
        Ok(loaded.concat())
    }

    fn load_layout(&self, files: &Files) -> Result<Vec<String>, Error> {
        let index = Document::parse(&files.document("index.json")?)?;
        let mut loaded = Vec::new();
        for entry in &index.manifests {
            let names = NAME_ANNOTATIONS.iter().find_map(|key| entry.annotations.get(*key)).cloned();
            // A bare tag is a name only beside a repository, which the layout does not tell.
            let names = complete(names.into_iter().filter(|name| name.contains(['/', ':'])).collect())?;
            let mut document = files.blob(&entry.digest)?;
            let mut manifest = Document::parse(&document)?;
            if !manifest.manifests.is_empty() {
                let chosen = manifest.for_this_machine()?.digest.clone();
                document = files.blob(&chosen)?;
                manifest = Document::parse(&document)?;
            }
            let digest = digest_of(&document);
            loaded.push(self.load_manifest(files, &manifest, names, &digest)?);
        }
        Ok(loaded.concat())
    }

    fn load_manifest(
        &self,
        files: &Files,
        manifest: &Document,
        names: Vec<String>,
        digest: &str,
    ) -> Result<Vec<String>, Error> {
        let config = manifest.config.as_ref().ok_or_else(|| Error::malformed("manifest", "it has no configuration"))?;
        let config = files.blob(&config.digest)?;
        let document = ConfigDocument::parse(&config)?;
        if document.diff_ids().len() != manifest.layers.len() {
            return Err(Error::malformed("manifest", "it names another number of layers than the configuration"));
        }
        for (diff_id, layer) in document.diff_ids().iter().zip(&manifest.layers) {
            self.add_layer(diff_id, files.open(&blob_path(&layer.digest)?)?)?;
        }
        let digests =
            names.iter().filter_map(|name| Reference::parse(name).ok()).map(|r| r.with_digest(digest)).collect();
        self.enter(&config, names, digests)
    }

    fn enter(&self, config: &[u8], names: Vec<String>, digests: Vec<String>) -> Result<Vec<String>, Error> {
        let entry = NewNames { names: names.clone(), digests, by_hand: true };
        let id = self.add_image(config, &entry)?;
        Ok(if names.is_empty() { vec![id] } else { names })
    }
}

fn complete(names: Vec<String>) -> Result<Vec<String>, Error> {
    names.iter().map(|name| Reference::parse(name).map(|reference| reference.to_string())).collect()
}

fn blob_path(digest: &str) -> Result<String, Error> {
    if !is_digest(digest) {
        return Err(Error::malformed("manifest", format!("\"{digest}\" is no sha256 digest")));
    }
    Ok(digest.replace(':', "/")).map(|path| format!("blobs/{path}"))
}

/// The files of an archive: in a directory, or spooled from a stream under numbers.
struct Files {
    root: PathBuf,
    names: Option<BTreeMap<String, String>>,
}

impl Files {
    fn path(&self, name: &str) -> Option<PathBuf> {
        match &self.names {
            Some(names) => names.get(&normal(Path::new(name))?).map(|number| self.root.join(number)),
            None => Some(self.root.join(normal(Path::new(name))?)),
        }
    }

    fn has(&self, name: &str) -> bool {
        self.path(name).is_some_and(|path| path.is_file())
    }

    fn open(&self, name: &str) -> Result<BufReader<File>, Error> {
        let path = self.path(name).ok_or_else(|| Error::malformed("archive", format!("{name} is missing")))?;
        let file = File::open(&path).map_err(|e| Error::failed(format!("reading {name} of the archive"), e))?;
        Ok(BufReader::with_capacity(1 << 20, file))
    }

    fn document(&self, name: &str) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        let read = self.open(name)?.take(DOCUMENT_BYTES).read_to_end(&mut bytes);
        read.map_err(|e| Error::failed(format!("reading {name} of the archive"), e))?;
        Ok(bytes)
    }

    /// A document by its digest, checked.
    fn blob(&self, digest: &str) -> Result<Vec<u8>, Error> {
        let bytes = self.document(&blob_path(digest)?)?;
        let got = digest_of(&bytes);
        if got != digest {
            return Err(Error::Corrupt { what: "a blob of the archive".into(), expected: digest.to_owned(), got });
        }
        Ok(bytes)
    }
}

/// A path without `.`; one that leads outside is none.
fn normal(path: &Path) -> Option<String> {
    let mut parts = Vec::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => parts.push(name.to_str()?),
            Component::CurDir => {}
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(parts.join("/"))
}

/// Archives may be gzipped as a whole.
fn unzip<'a>(source: impl Read + 'a) -> Result<Box<dyn Read + 'a>, Error> {
    let mut source = BufReader::with_capacity(1 << 20, source);
    let head = std::io::BufRead::fill_buf(&mut source).map_err(|e| Error::failed("reading an archive", e))?;
    if head.starts_with(&[0x1f, 0x8b]) {
        Ok(Box::new(flate2::read::MultiGzDecoder::new(source)))
    } else {
        Ok(Box::new(source))
    }
}

/// Writes the regular files of a stream under numbers, so that no name of the archive touches the disk.
fn spool(source: impl Read, draft: &Draft) -> Result<Files, Error> {
    let failed = |e: std::io::Error| Error::malformed("archive", e);
    let mut archive = Archive::new(source);
    let (mut names, mut links) = (BTreeMap::new(), Vec::new());
    for entry in archive.entries().map_err(failed)? {
        let mut entry = entry.map_err(failed)?;
        let Some(name) = normal(&entry.path().map_err(failed)?) else { continue };
        let kind = entry.header().entry_type();
        if kind.is_file() {
            let number = names.len().to_string();
            let mut file =
                File::create(draft.path.join(&number)).map_err(|e| Error::failed("keeping an archive", e))?;
            std::io::copy(&mut entry, &mut file).map_err(failed)?;
            names.insert(name, number);
        } else if kind.is_symlink() || kind.is_hard_link() {
            // Docker's archives link layers that several images share.
            let target = entry.link_name().map_err(failed)?.map(|target| target.into_owned());
            links.push((name, kind.is_symlink(), target.unwrap_or_default()));
        }
    }
    for (name, is_relative, target) in links {
        let target = if is_relative { beside(&name, &target) } else { normal(&target) };
        if let Some(number) = target.and_then(|target| names.get(&target)).cloned() {
            names.insert(name, number);
        }
    }
    Ok(Files { root: draft.path.clone(), names: Some(names) })
}

/// The target of a relative link inside the archive.
fn beside(name: &str, target: &Path) -> Option<String> {
    let mut parts: Vec<&str> = name.split('/').collect();
    parts.pop();
    for part in target.components() {
        match part {
            Component::Normal(name) => parts.push(name.to_str()?),
            Component::ParentDir => drop(parts.pop()?),
            Component::CurDir => {}
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(parts.join("/"))
}

/// Rewinds a file that was written and is to be read.
pub(super) fn rewind(file: &mut File) -> Result<(), Error> {
    file.seek(SeekFrom::Start(0)).map(drop).map_err(|e| Error::failed("reading a download", e))
}
