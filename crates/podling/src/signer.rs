//! The cluster's key, in the form in which the controllers may use it.

use std::sync::Arc;
use std::time::Duration;

use control::signing::{Asked, Signer, Usage};
use wire::authority::Authority;

/// Signs with the authority of this process.
pub(crate) struct KeyHolder(pub(crate) Arc<Authority>);

impl Signer for KeyHolder {
    fn read(&self, request_pem: &str) -> Result<Asked, String> {
        let asked = wire::request::read(request_pem).map_err(told)?;
        Ok(Asked {
            user: asked.identity.user,
            groups: asked.identity.groups,
            names: asked.names,
            addresses: asked.addresses,
            has_others: asked.has_others,
        })
    }

    fn sign(&self, request_pem: &str, usage: Usage, life: Duration) -> Result<String, String> {
        let usage = match usage {
            Usage::Client => wire::authority::Usage::Client,
            Usage::Serving => wire::authority::Usage::Server,
        };
        self.0.sign(request_pem, usage, life).map_err(told)
    }
}

fn told(error: wire::Error) -> String {
    format!("{:#}", anyhow::Error::from(error))
}
