//! A certificate with its key that is replaced while it is in use: connections made from then on show the new one.

use std::sync::{Arc, PoisonError, RwLock};

use rustls::client::ResolvesClientCert;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{Error as TlsError, SignatureScheme};

use crate::Error;
use crate::identity::Credential;

/// What is shown at present.
#[derive(Debug)]
pub struct Keys {
    current: RwLock<Arc<CertifiedKey>>,
}

impl Keys {
    /// Shows `credential` until it is replaced.
    ///
    /// # Errors
    /// [`Error::Failed`] when certificate and key cannot be used together.
    pub fn new(credential: &Credential) -> Result<Arc<Self>, Error> {
        Ok(Arc::new(Self { current: RwLock::new(certified(credential)?) }))
    }

    /// Shows `credential` from now on.
    ///
    /// # Errors
    /// As [`Keys::new`]; then the old one stays.
    pub fn replace(&self, credential: &Credential) -> Result<(), Error> {
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = certified(credential)?;
        Ok(())
    }

    fn current(&self) -> Arc<CertifiedKey> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn certified(credential: &Credential) -> Result<Arc<CertifiedKey>, Error> {
    let provider = rustls::crypto::ring::default_provider();
    let key = CertifiedKey::from_der(credential.chain()?, credential.key()?, &provider);
    Ok(Arc::new(key.map_err(|e: TlsError| Error::failed("using a certificate with its key", e))?))
}

impl ResolvesServerCert for Keys {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current())
    }
}

impl ResolvesClientCert for Keys {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.current())
    }

    fn has_certs(&self) -> bool {
        true
    }
}
