//! The cluster's certificate authority: one key that vouches for servers, nodes and people.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use time::OffsetDateTime;

use crate::identity::{Credential, Identity};
use crate::{Error, request};

const AUTHORITY_LIFE: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
const LEAF_LIFE: Duration = Duration::from_secs(365 * 24 * 3600);
/// Clocks of other machines may be behind by this much: certificates begin so long before they are made.
pub const CLOCK_SKEW: Duration = Duration::from_secs(3600);

/// What a signed certificate is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Usage {
    /// Dialling others.
    Client,
    /// Being dialled.
    Server,
}

/// A certificate authority with its key in memory.
pub struct Authority {
    certificate_pem: String,
    issuer: Issuer<'static, KeyPair>,
    life: Duration,
}

impl Authority {
    /// Makes a new authority, named `name`.
    ///
    /// # Errors
    /// [`Error::Failed`] when the key cannot be made.
    pub fn create(name: &str) -> Result<(Self, Credential), Error> {
        let key = new_key()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = subject(name, &[]);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages =
            vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::CrlSign];
        set_life(&mut params, AUTHORITY_LIFE);
        let certificate = params.self_signed(&key).map_err(|e| Error::failed("signing the authority", e))?;
        let credential = Credential { certificate_pem: certificate.pem(), key_pem: key.serialize_pem() };
        let (certificate_pem, issuer) = (credential.certificate_pem.clone(), Issuer::new(params, key));
        Ok((Self { certificate_pem, issuer, life: LEAF_LIFE }, credential))
    }

    /// Takes up an authority that was made before.
    ///
    /// # Errors
    /// [`Error::Failed`] when key or certificate cannot be parsed.
    pub fn load(credential: &Credential) -> Result<Self, Error> {
        let failed = |e| Error::failed("loading the certificate authority", e);
        let key = KeyPair::from_pem(&credential.key_pem).map_err(failed)?;
        let issuer = Issuer::from_ca_cert_pem(&credential.certificate_pem, key).map_err(failed)?;
        Ok(Self { certificate_pem: credential.certificate_pem.clone(), issuer, life: LEAF_LIFE })
    }

    /// Loads the authority from `ca.crt` and `ca.key` in `directory`, or makes one and writes them there.
    ///
    /// # Errors
    /// [`Error::Failed`] naming the file that cannot be read or written.
    pub fn open(directory: &Path, name: &str) -> Result<Self, Error> {
        let (certificate, key) = (directory.join("ca.crt"), directory.join("ca.key"));
        if key.exists() {
            return Self::load(&Credential::read(&certificate, &key)?);
        }
        let (authority, credential) = Self::create(name)?;
        write_private(&certificate, credential.certificate_pem.as_bytes())?;
        write_private(&key, credential.key_pem.as_bytes())?;
        Ok(authority)
    }

    /// Issues certificates that hold for so long, instead of a year.
    #[must_use]
    pub fn with_life(self, life: Duration) -> Self {
        Self { life, ..self }
    }

    /// How long the certificates hold that it issues.
    pub fn life(&self) -> Duration {
        self.life
    }

    /// The authority's own certificate, which clients trust.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// A certificate with which `identity` dials others.
    ///
    /// # Errors
    /// [`Error::Failed`] when signing fails.
    pub fn client(&self, identity: &Identity) -> Result<Credential, Error> {
        self.issue(identity, &[], &[ExtendedKeyUsagePurpose::ClientAuth])
    }

    /// A certificate for a listener that is reached under `names` (DNS names and IP addresses).
    ///
    /// # Errors
    /// [`Error::Failed`] when a name is not valid or signing fails.
    pub fn server(&self, identity: &Identity, names: &[String]) -> Result<Credential, Error> {
        let mut credential =
            self.issue(identity, names, &[ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth])?;
        // A client that knows only the authority's digest finds the authority beside the leaf.
        credential.certificate_pem.push_str(&self.certificate_pem);
        Ok(credential)
    }

    /// Signs a request (PEM) as it is, for dialling others or for listening. Whoever calls has decided that it may be signed.
    ///
    /// # Errors
    /// [`Error::Failed`] when the request cannot be read, names several organizations, or signing fails.
    pub fn sign(&self, request_pem: &str, usage: Usage, life: Duration) -> Result<String, Error> {
        let asked = request::read(request_pem)?;
        let doing = || format!("signing the request of {}", asked.identity.user);
        if asked.identity.groups.len() > 1 || asked.has_others {
            return Err(Error::failed(doing(), "it asks for more than an authority of this kind vouches for"));
        }
        let failed = |e| Error::failed(doing(), e);
        let key = CertificateSigningRequestParams::from_der(&request::der(request_pem)?).map_err(failed)?.public_key;
        let usage = match usage {
            Usage::Client => ExtendedKeyUsagePurpose::ClientAuth,
            Usage::Server => ExtendedKeyUsagePurpose::ServerAuth,
        };
        let params = leaf(&asked.identity, &asked.all_names(), &[usage], life).map_err(failed)?;
        Ok(params.signed_by(&key, &self.issuer).map_err(failed)?.pem())
    }

    fn issue(
        &self,
        identity: &Identity,
        names: &[String],
        usages: &[ExtendedKeyUsagePurpose],
    ) -> Result<Credential, Error> {
        let failed = |e| Error::failed(format!("issuing a certificate for {}", identity.user), e);
        let key = new_key()?;
        let params = leaf(identity, names, usages, self.life).map_err(failed)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(failed)?;
        Ok(Credential { certificate_pem: certificate.pem(), key_pem: key.serialize_pem() })
    }
}

fn leaf(
    identity: &Identity,
    names: &[String],
    usages: &[ExtendedKeyUsagePurpose],
    life: Duration,
) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name = subject(&identity.user, &identity.groups);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    params.extended_key_usages = usages.to_vec();
    params.use_authority_key_identifier_extension = true;
    set_life(&mut params, life);
    Ok(params)
}

pub(crate) fn new_key() -> Result<KeyPair, Error> {
    KeyPair::generate().map_err(|e| Error::failed("making a key", e))
}

pub(crate) fn subject(common_name: &str, organizations: &[String]) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    // A distinguished name of this library holds one value for each type, so several organizations need types of their own; podling's own
    // identities have at most one.
    if let Some(organization) = organizations.first() {
        name.push(DnType::OrganizationName, organization.as_str());
    }
    name.push(DnType::CommonName, common_name);
    name
}

fn set_life(params: &mut CertificateParams, life: Duration) {
    let now = OffsetDateTime::now_utc();
    params.not_before = now - CLOCK_SKEW;
    params.not_after = now + life;
}

/// Writes a file that only its owner can read, whole or not at all.
///
/// # Errors
/// [`Error::Failed`] naming the file.
pub fn write_private(path: &Path, content: &[u8]) -> Result<(), Error> {
    let failed = |e| Error::failed(format!("writing {}", path.display()), e);
    let draft = path.with_extension("new");
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft).map_err(failed)?;
    file.write_all(content).and_then(|()| file.sync_all()).map_err(failed)?;
    std::fs::rename(&draft, path).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_certificate_carries_user_and_group() {
        let (authority, _) = Authority::create("test").unwrap();
        let admin = Identity::new("admin", &["system:masters"]);
        let credential = authority.client(&admin).unwrap();
        assert_eq!(Identity::of_certificate(&credential.chain().unwrap()[0]).unwrap(), admin);
    }

    #[test]
    fn a_request_is_signed_as_it_is() {
        let (authority, _) = Authority::create("test").unwrap();
        let node = Identity::new("system:node:n1", &["system:nodes"]);
        let (request, key_pem) = request::create(&node, &["n1".into()]).unwrap();
        let certificate_pem = authority.sign(&request, Usage::Client, Duration::from_secs(600)).unwrap();
        let credential = Credential { certificate_pem, key_pem };
        assert_eq!(Identity::of_certificate(&credential.chain().unwrap()[0]).unwrap(), node);
        crate::keys::Keys::new(&credential).unwrap();
        let (from, until) = credential.validity().unwrap();
        assert_eq!(until.duration_since(from).unwrap().as_secs(), 3600 + 600);
    }

    #[test]
    fn an_authority_is_taken_up_again() {
        let dir = tempfile::tempdir().unwrap();
        let first = Authority::open(dir.path(), "test").unwrap();
        let second = Authority::open(dir.path(), "test").unwrap();
        assert_eq!(first.certificate_pem(), second.certificate_pem());
        second.server(&Identity::new("server", &[]), &["localhost".into(), "127.0.0.1".into()]).unwrap();
    }
}
