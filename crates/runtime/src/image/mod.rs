//! Images: names, a content-addressed store of unpacked layers, and the ways into it (archives, root file systems, registries).
//!
//! An image is a configuration and a stack of layers. The store keeps each layer once, unpacked and ready to be a lower directory of an
//! overlay mount, under the digest of its content; nothing is kept compressed. Archives and registries are hostile: digests are checked,
//! paths never leave the layer, links are never followed out of it.
//!
//! In reading order: [`reference`] names images, [`manifest`] is what archives and registries say of them, [`store`] keeps them, [`unpack`]
//! writes a layer, [`load`] and [`import`] read files, [`registry`] pulls.

mod error;
mod import;
mod load;
pub mod manifest;
pub mod reference;
mod registry;
mod store;
mod unpack;

pub use error::Error;
pub use import::Overrides;
pub use manifest::Config;
pub use reference::Reference;
pub use registry::{Auth, Progress, Registries};
pub use store::{Image, Store, Summary};

/// The architecture of this machine, as images name it.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
