//! Who a peer is: the names in its verified certificate.

use std::path::Path;

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::prelude::{FromDer, X509Certificate, X509Name};

use crate::Error;

/// The user and groups that a certificate speaks for: its subject's common name and organizations.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Identity {
    /// The common name.
    pub user: String,
    /// The organizations, in the certificate's order.
    pub groups: Vec<String>,
}

impl Identity {
    /// An identity from its parts.
    pub fn new(user: impl Into<String>, groups: &[&str]) -> Self {
        Self { user: user.into(), groups: groups.iter().map(ToString::to_string).collect() }
    }

    /// Reads the subject of a certificate in DER form.
    ///
    /// # Errors
    /// [`Error::Failed`] when the bytes are no X.509 certificate or its subject has no common name.
    pub fn of_certificate(der: &[u8]) -> Result<Self, Error> {
        let (_, certificate) = X509Certificate::from_der(der).map_err(|e| Error::failed("parsing a certificate", e))?;
        let subject = certificate.subject();
        let user = texts(subject, |name| name.iter_common_name().collect()).into_iter().next();
        let user = user.ok_or_else(|| Error::failed("parsing a certificate", "its subject has no common name"))?;
        Ok(Self { user, groups: texts(subject, |name| name.iter_organization().collect()) })
    }
}

fn texts<'a>(
    name: &'a X509Name<'a>,
    pick: impl Fn(&'a X509Name<'a>) -> Vec<&'a x509_parser::x509::AttributeTypeAndValue<'a>>,
) -> Vec<String> {
    pick(name).into_iter().filter_map(|attribute| attribute.as_str().ok()).map(str::to_owned).collect()
}

/// A certificate with its private key, both as PEM text.
#[derive(Clone)]
pub struct Credential {
    /// The certificate, perhaps followed by those that vouch for it.
    pub certificate_pem: String,
    /// The private key (PKCS#8).
    pub key_pem: String,
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credential")
    }
}

impl Credential {
    /// Reads both files.
    ///
    /// # Errors
    /// [`Error::Failed`] naming the file that cannot be read.
    pub fn read(certificate: &Path, key: &Path) -> Result<Self, Error> {
        Ok(Self { certificate_pem: read(certificate)?, key_pem: read(key)? })
    }

    pub(crate) fn chain(&self) -> Result<Vec<CertificateDer<'static>>, Error> {
        certificates(&self.certificate_pem)
    }

    pub(crate) fn key(&self) -> Result<PrivateKeyDer<'static>, Error> {
        PrivateKeyDer::from_pem_slice(self.key_pem.as_bytes()).map_err(|e| Error::failed("parsing a private key", e))
    }
}

/// The certificates in a PEM text.
///
/// # Errors
/// [`Error::Failed`] when there is none or one is broken.
pub fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, Error> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    match found {
        Ok(list) if list.is_empty() => Err(Error::failed("parsing certificates", "there is none in this text")),
        Ok(list) => Ok(list),
        Err(e) => Err(Error::failed("parsing certificates", e)),
    }
}

fn read(path: &Path) -> Result<String, Error> {
    std::fs::read_to_string(path).map_err(|e| Error::failed(format!("reading {}", path.display()), e))
}
