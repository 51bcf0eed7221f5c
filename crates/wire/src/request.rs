//! Requests for certificates (PKCS#10): made by who wants one, read by who decides, signed by an authority.

use std::net::IpAddr;

use rcgen::{CertificateParams, CertificateSigningRequestParams, KeyPair};
use rustls_pki_types::CertificateSigningRequestDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer;

use crate::authority::{new_key, subject};
use crate::identity::{address_of, of_subject};
use crate::{Error, Identity};

/// What a request asks a certificate for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The subject.
    pub identity: Identity,
    /// DNS names.
    pub names: Vec<String>,
    /// Addresses.
    pub addresses: Vec<IpAddr>,
    /// Whether it asks for names of other kinds too (URLs, mail addresses), which no authority of ours vouches for.
    pub has_others: bool,
}

/// Makes a key and a request for it; both as PEM: the request, then the key.
///
/// # Errors
/// [`Error::Failed`] when a name is not valid or the key cannot be made.
pub fn create(identity: &Identity, names: &[String]) -> Result<(String, String), Error> {
    let failed = |e| Error::failed(format!("making a certificate request for {}", identity.user), e);
    let key = new_key()?;
    let mut params = CertificateParams::new(names).map_err(failed)?;
    params.distinguished_name = subject(&identity.user, &identity.groups);
    let request = params.serialize_request(&key).and_then(|request| request.pem()).map_err(failed)?;
    Ok((request, KeyPair::serialize_pem(&key)))
}

/// Reads a request in PEM form; its signature must be that of its own key.
///
/// # Errors
/// [`Error::Failed`] when it is none.
pub fn read(pem: &str) -> Result<Request, Error> {
    let doing = "reading a certificate request";
    let der = der(pem)?;
    // Proves that who asks has the key.
    CertificateSigningRequestParams::from_der(&der).map_err(|e| Error::failed(doing, e))?;
    let (_, parsed) = X509CertificationRequest::from_der(&der).map_err(|e| Error::failed(doing, e))?;
    let identity = of_subject(&parsed.certification_request_info.subject)?;
    let mut request = Request { identity, names: Vec::new(), addresses: Vec::new(), has_others: false };
    for extension in parsed.requested_extensions().into_iter().flatten() {
        if let ParsedExtension::SubjectAlternativeName(all) = extension {
            all.general_names.iter().for_each(|name| request.note(name));
        }
    }
    Ok(request)
}

impl Request {
    fn note(&mut self, name: &GeneralName<'_>) {
        match name {
            GeneralName::DNSName(name) => self.names.push((*name).to_owned()),
            GeneralName::IPAddress(bytes) => match address_of(bytes) {
                Some(address) => self.addresses.push(address),
                None => self.has_others = true,
            },
            _ => self.has_others = true,
        }
    }

    /// All names, as text.
    pub fn all_names(&self) -> Vec<String> {
        self.names.iter().cloned().chain(self.addresses.iter().map(ToString::to_string)).collect()
    }
}

/// The bytes of a request in PEM form.
pub(crate) fn der(pem: &str) -> Result<CertificateSigningRequestDer<'static>, Error> {
    CertificateSigningRequestDer::from_pem_slice(pem.as_bytes())
        .map_err(|e| Error::failed("reading a certificate request", e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_tells_what_it_asks_for() {
        let node = Identity::new("system:node:n1", &["system:nodes"]);
        let (pem, _) = create(&node, &["n1".into(), "192.0.2.1".into()]).unwrap();
        let request = read(&pem).unwrap();
        assert_eq!((request.identity.clone(), request.has_others), (node, false));
        assert_eq!(request.all_names(), ["n1", "192.0.2.1"]);
        assert!(read("-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n").is_err());
    }

    #[test]
    fn a_request_that_was_changed_is_refused() {
        let (pem, _) = create(&Identity::new("system:node:n1", &[]), &[]).unwrap();
        let mut bytes = der(&pem).unwrap().as_ref().to_vec();
        let at = bytes.windows(2).position(|pair| pair == b"n1").unwrap();
        bytes[at + 1] = b'2';
        assert!(CertificateSigningRequestParams::from_der(&bytes.into()).is_err());
    }
}
