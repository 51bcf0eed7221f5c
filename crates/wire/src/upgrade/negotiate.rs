//! Which protocol a request asks for, and the `101` that grants it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::{Body, Error, body};

pub(super) const STREAM_PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");

/// What a client wants to speak after the upgrade.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    /// SPDY/3.1 frames on the bare connection; the chosen stream protocol.
    Spdy(String),
    /// WebSocket; the chosen subprotocol.
    WebSocket(String),
}

/// Reads a request's headers. `spdy` and `websocket` list the protocols that are served, the best first.
pub(super) fn choose(headers: &HeaderMap, spdy: &[&str], websocket: &[&str]) -> Result<Protocol, Error> {
    let upgrade = headers.get(UPGRADE).and_then(|value| value.to_str().ok()).unwrap_or_default().to_ascii_lowercase();
    match upgrade.as_str() {
        "spdy/3.1" => {
            let offered = listed(headers, &STREAM_PROTOCOL);
            if offered.is_empty() {
                return Err(Error::BadUpgrade("unable to upgrade: x-stream-protocol-version is required".into()));
            }
            pick(spdy, &offered).map(Protocol::Spdy)
        }
        "websocket" => {
            if !headers.contains_key(SEC_WEBSOCKET_KEY) {
                return Err(Error::BadUpgrade("unable to upgrade: sec-websocket-key is required".into()));
            }
            pick(websocket, &listed(headers, &SEC_WEBSOCKET_PROTOCOL)).map(Protocol::WebSocket)
        }
        _ => Err(Error::BadUpgrade("Upgrade request required".into())),
    }
}

fn listed(headers: &HeaderMap, name: &HeaderName) -> Vec<String> {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(|part| part.trim().to_owned()).filter(|p| !p.is_empty()).collect()
}

fn pick(served: &[&str], offered: &[String]) -> Result<String, Error> {
    let is_offered =
        |name: &&&str| if offered.is_empty() { name.is_empty() } else { offered.iter().any(|o| o == **name) };
    let found = served.iter().find(is_offered);
    found.map(ToString::to_string).ok_or_else(|| {
        let (offered, served) = (offered.join(" "), served.join(" "));
        Error::BadUpgrade(format!(
            "unable to negotiate protocol: client supports [{offered}], server accepts [{served}]"
        ))
    })
}

/// The answer that grants `protocol`.
pub(super) fn grant(headers: &HeaderMap, protocol: &Protocol) -> Response<Body> {
    let mut response = Response::new(body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let out = response.headers_mut();
    out.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    match protocol {
        Protocol::Spdy(name) => {
            out.insert(UPGRADE, HeaderValue::from_static("SPDY/3.1"));
            insert(out, STREAM_PROTOCOL, name);
        }
        Protocol::WebSocket(name) => {
            out.insert(UPGRADE, HeaderValue::from_static("websocket"));
            let key = headers.get(SEC_WEBSOCKET_KEY).map(HeaderValue::as_bytes).unwrap_or_default();
            insert(out, SEC_WEBSOCKET_ACCEPT, &derive_accept_key(key));
            if !name.is_empty() {
                insert(out, SEC_WEBSOCKET_PROTOCOL, name);
            }
        }
    }
    response
}

fn insert(headers: &mut HeaderMap, name: HeaderName, text: &str) {
    if let Ok(value) = HeaderValue::from_str(text) {
        headers.insert(name, value);
    }
}

/// A fresh `Sec-WebSocket-Key`.
pub(super) fn new_key() -> String {
    let mut bytes = [0u8; 16];
    // A key that were not random would still work: it only keeps caches from answering.
    if let Err(error) = getrandom::fill(&mut bytes) {
        tracing::debug!(%error, "no randomness for a WebSocket key");
    }
    STANDARD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(list: &[(&str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in list {
            map.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        }
        map
    }

    #[test]
    fn the_best_served_protocol_wins() {
        let request = headers(&[
            ("upgrade", "SPDY/3.1"),
            ("x-stream-protocol-version", "v3.channel.k8s.io"),
            ("x-stream-protocol-version", "v4.channel.k8s.io"),
        ]);
        let served = ["v4.channel.k8s.io", "v3.channel.k8s.io"];
        assert_eq!(choose(&request, &served, &[]).unwrap(), Protocol::Spdy("v4.channel.k8s.io".into()));
    }

    #[test]
    fn a_plain_request_is_refused() {
        assert_eq!(choose(&HeaderMap::new(), &[], &[]).unwrap_err().to_string(), "Upgrade request required");
    }

    #[test]
    fn a_list_in_one_header_is_split() {
        let request = headers(&[
            ("upgrade", "websocket"),
            ("sec-websocket-key", "x"),
            ("sec-websocket-protocol", "v5.channel.k8s.io, v4.channel.k8s.io"),
        ]);
        let chosen = choose(&request, &[], &["v4.channel.k8s.io"]).unwrap();
        assert_eq!(chosen, Protocol::WebSocket("v4.channel.k8s.io".into()));
    }
}
