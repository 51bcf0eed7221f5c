//! Who a peer is: the names in its verified certificate.

use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::extensions::GeneralName;
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
        of_subject(certificate.subject())
    }
}

pub(crate) fn of_subject(subject: &X509Name<'_>) -> Result<Identity, Error> {
    let user = texts(subject, |name| name.iter_common_name().collect()).into_iter().next();
    let user = user.ok_or_else(|| Error::failed("reading a subject", "it has no common name"))?;
    Ok(Identity { user, groups: texts(subject, |name| name.iter_organization().collect()) })
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

    /// From when until when the certificate holds.
    ///
    /// # Errors
    /// [`Error::Failed`] when it cannot be parsed.
    pub fn validity(&self) -> Result<(SystemTime, SystemTime), Error> {
        let chain = self.chain()?;
        let parsed = X509Certificate::from_der(&chain[0]).map_err(|e| Error::failed("parsing a certificate", e))?;
        let validity = parsed.1.validity();
        let moment = |time: x509_parser::time::ASN1Time| {
            UNIX_EPOCH + Duration::from_secs(u64::try_from(time.timestamp()).unwrap_or(0))
        };
        Ok((moment(validity.not_before), moment(validity.not_after)))
    }

    /// The names and addresses that the certificate holds for, in its order.
    ///
    /// # Errors
    /// [`Error::Failed`] when it cannot be parsed.
    pub fn names(&self) -> Result<Vec<String>, Error> {
        let chain = self.chain()?;
        let failed = |e: Box<dyn std::error::Error + Send + Sync>| Error::failed("parsing a certificate", e);
        let (_, parsed) = X509Certificate::from_der(&chain[0]).map_err(|e| failed(e.into()))?;
        let names = parsed.subject_alternative_name().map_err(|e| failed(e.into()))?;
        let names = names.map(|extension| extension.value.general_names.as_slice()).unwrap_or_default();
        Ok(names.iter().filter_map(text_of).collect())
    }

    pub(crate) fn chain(&self) -> Result<Vec<CertificateDer<'static>>, Error> {
        certificates(&self.certificate_pem)
    }

    pub(crate) fn key(&self) -> Result<PrivateKeyDer<'static>, Error> {
        PrivateKeyDer::from_pem_slice(self.key_pem.as_bytes()).map_err(|e| Error::failed("parsing a private key", e))
    }
}

/// A DNS name or an address; names of other kinds are not known here.
pub(crate) fn text_of(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => address_of(bytes).map(|address| address.to_string()),
        _ => None,
    }
}

pub(crate) fn address_of(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        _ => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
    }
}

/// A certificate as PEM text.
pub fn to_pem(der: &[u8]) -> String {
    let encoded = STANDARD.encode(der);
    let lines = encoded.as_bytes().chunks(64).map(String::from_utf8_lossy).collect::<Vec<_>>().join("\n");
    format!("-----BEGIN CERTIFICATE-----\n{lines}\n-----END CERTIFICATE-----\n")
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
