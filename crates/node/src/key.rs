//! By which key this node speaks WireGuard. The secret half lies in a file that nobody else may read and never leaves the machine; the public one
//! is on the node's object. Where the file is lost, another identity takes its place.

use std::io::ErrorKind;
use std::path::Path;

use network::wireguard::{PublicKey, SecretKey};
use serde_json::Value;
use wire::authority::write_private;

use crate::Error;
use crate::address::Addresses;

/// Where a node says its public key.
pub(crate) const ANNOTATION: &str = "podling.dev/wireguard-key";

const FILE: &str = "wireguard.key";

/// Both halves.
#[derive(Debug)]
pub(crate) struct Identity {
    pub(crate) secret: SecretKey,
    pub(crate) public: PublicKey,
}

impl Identity {
    /// That of the node which keeps its files in this directory.
    ///
    /// # Errors
    /// [`Error::Failed`] when the file cannot be written, or the kernel has no WireGuard.
    pub(crate) fn open(directory: &Path, addresses: &Addresses) -> Result<Self, Error> {
        let secret = read_or_draw(&directory.join(FILE))?;
        let public = addresses.wireguard_key(&secret)?;
        Ok(Self { secret, public })
    }
}

fn read_or_draw(path: &Path) -> Result<SecretKey, Error> {
    let doing = || format!("keeping a WireGuard key in {}", path.display());
    match std::fs::read_to_string(path) {
        Ok(text) => match text.parse() {
            Ok(secret) => return Ok(secret),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "drawing a new key: what the file has is none")
            }
        },
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(Error::failed(doing(), error)),
    }
    let secret = SecretKey::random().map_err(|error| Error::failed("drawing a WireGuard key", error))?;
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory).map_err(|error| Error::failed(doing(), error))?;
    }
    write_private(path, format!("{}\n", secret.to_text()).as_bytes()).map_err(|error| Error::failed(doing(), error))?;
    Ok(secret)
}

/// What a node's object says; `None` also for what is no key.
pub(crate) fn said(node: &Value) -> Option<PublicKey> {
    node.pointer("/metadata/annotations")?.get(ANNOTATION)?.as_str()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use serde_json::json;

    use super::*;

    #[test]
    fn a_key_is_kept_and_replaced_when_it_is_lost() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("node/wireguard.key");
        let first = read_or_draw(&path).expect("a key");
        let mode = std::fs::metadata(&path).expect("a file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(read_or_draw(&path).expect("a key"), first);
        std::fs::remove_file(&path).expect("it is there");
        let second = read_or_draw(&path).expect("a key");
        assert_ne!(second, first);
        std::fs::write(&path, "nonsense").expect("a file");
        let third = read_or_draw(&path).expect("a key");
        assert!(third != second && read_or_draw(&path).expect("a key") == third);
        assert_eq!(std::fs::read_dir(directory.path().join("node")).expect("a directory").count(), 1);
    }

    #[test]
    fn only_a_key_is_taken_for_one() {
        let node = |said: &str| json!({"metadata": {"annotations": {ANNOTATION: said}}});
        let key = format!("{}=", "A".repeat(43));
        assert_eq!(said(&node(&key)).map(|key| key.to_string()), Some(key));
        assert_eq!((said(&node("AAAA")), said(&json!({"metadata": {}}))), (None, None));
    }
}
