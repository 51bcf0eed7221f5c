//! How a dialer checks whom it reached.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::{CertificateError, DigitallySignedStruct, Error as TlsError, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::dial::Expected;
use crate::{Error, Identity};

/// Believes what one of the authorities vouches for; with an expectation, only a certificate of that very user.
pub(crate) fn authorities(
    roots: RootCertStore,
    expected: Option<&Expected>,
) -> Result<Arc<dyn ServerCertVerifier>, Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let algorithms = provider.signature_verification_algorithms;
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build();
    let inner = verifier.map_err(|e| Error::failed("preparing TLS", e))?;
    Ok(match expected {
        Some(expected) => {
            Arc::new(Verifier { algorithms, believes: Believes::OneUser { inner, user: expected.user.clone() } })
        }
        None => inner,
    })
}

/// Believes whoever has the key of the certificate that is shown: for looking at certificates, never for talking.
pub(crate) fn nobody() -> Arc<dyn ServerCertVerifier> {
    let algorithms = rustls::crypto::ring::default_provider().signature_verification_algorithms;
    Arc::new(Verifier { algorithms, believes: Believes::Anybody })
}

#[derive(Debug)]
struct Verifier {
    algorithms: WebPkiSupportedAlgorithms,
    believes: Believes,
}

/// Whose certificates are good; that the peer has the key of the one it shows is checked of everybody.
#[derive(Debug)]
enum Believes {
    OneUser { inner: Arc<WebPkiServerVerifier>, user: String },
    Anybody,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        let Believes::OneUser { inner, user } = &self.believes else { return Ok(ServerCertVerified::assertion()) };
        let verified = inner.verify_server_cert(leaf, intermediates, name, ocsp, now)?;
        match Identity::of_certificate(leaf) {
            Ok(identity) if identity.user == *user => Ok(verified),
            _ => Err(CertificateError::ApplicationVerificationFailure.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        rustls::crypto::verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
