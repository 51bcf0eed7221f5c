//! One connection to one party, over which many requests go at once. It is made when it is needed, and made again when it has died. Unlike a
//! [`Dialer`](crate::dial::Dialer) it knows of a failed request whether it was sent: what was not may be sent to somebody else.

use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::dial::{Trust, client_config};
use crate::{Body, Error, body};

/// A peer that vanished without a word is known after these two.
const PING_INTERVAL: Duration = Duration::from_secs(2);
const PING_DEADLINE: Duration = Duration::from_secs(5);
const WINDOW_BYTES: u32 = 1 << 20;

/// A way to one party over HTTP/2 and TLS.
pub struct Link {
    tls: TlsConnector,
    name: ServerName<'static>,
    host: String,
    port: u16,
    open: Mutex<Option<SendRequest<Body>>>,
}

/// A request without an answer.
#[derive(Debug)]
pub struct Unanswered {
    /// Why.
    pub error: Error,
    /// The request itself, if nothing of it was sent.
    pub unsent: Option<Box<Request<Body>>>,
}

impl Link {
    /// A way to `host`; connects when it is used.
    ///
    /// # Errors
    /// [`Error::Failed`] when the trust cannot be used, or the host is no name.
    pub fn new(host: &str, port: u16, trust: &Trust) -> Result<Self, Error> {
        let mut config = client_config(trust)?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        let host = host.trim_matches(['[', ']']).to_owned();
        let name = ServerName::try_from(host.clone()).map_err(|e| Error::failed(format!("dialling \"{host}\""), e))?;
        Ok(Self { tls: TlsConnector::from(Arc::new(config)), name, host, port, open: Mutex::default() })
    }

    /// Sends a request whose URI is absolute, and waits for the head of the answer. Connecting may take `limit`.
    ///
    /// # Errors
    /// [`Unanswered`], with [`Error::Unreachable`] when no connection can be made and [`Error::Failed`] when it breaks.
    pub async fn send(&self, mut request: Request<Body>, limit: Duration) -> Result<Response<Body>, Unanswered> {
        loop {
            let (mut sender, is_new) = match self.opened(limit).await {
                Ok(opened) => opened,
                Err(error) => return Err(Unanswered { error, unsent: Some(Box::new(request)) }),
            };
            let mut failure = match sender.try_send_request(request).await {
                Ok(response) => return Ok(response.map(body::boxed)),
                Err(failure) => failure,
            };
            match failure.take_message() {
                // The old connection had ended before.
                Some(unsent) if !is_new => request = unsent,
                unsent => {
                    let error = Error::failed(format!("talking to {}", self.address()), failure.into_error());
                    return Err(Unanswered { error, unsent: unsent.map(Box::new) });
                }
            }
        }
    }

    /// Connects, unless there is a connection.
    ///
    /// # Errors
    /// [`Error::Unreachable`] when that fails.
    pub async fn connect(&self, limit: Duration) -> Result<(), Error> {
        self.opened(limit).await.map(drop)
    }

    /// The connection, and whether it was made just now. The limit holds for waiting until another request has tried, too: else many
    /// would try one after another.
    async fn opened(&self, limit: Duration) -> Result<(SendRequest<Body>, bool), Error> {
        let unreachable = |source| Error::Unreachable { address: self.address(), source };
        match timeout(limit, self.opened_some_time()).await {
            Ok(opened) => opened.map_err(unreachable),
            Err(_) => Err(unreachable(format!("no connection within {limit:?}").into())),
        }
    }

    async fn opened_some_time(&self) -> Result<(SendRequest<Body>, bool), Box<dyn std::error::Error + Send + Sync>> {
        let mut open = self.open.lock().await;
        if let Some(sender) = open.as_ref().filter(|sender| !sender.is_closed()) {
            return Ok((sender.clone(), false));
        }
        let sender = self.dial().await?;
        *open = Some(sender.clone());
        Ok((sender, true))
    }

    async fn dial(&self) -> Result<SendRequest<Body>, Box<dyn std::error::Error + Send + Sync>> {
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await?;
        stream.set_nodelay(true)?;
        let stream = self.tls.connect(self.name.clone(), stream).await?;
        if stream.get_ref().1.alpn_protocol() != Some(b"h2") {
            return Err("it does not speak HTTP/2".into());
        }
        Ok(over(stream).await?)
    }

    fn address(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }
}

/// Speaks HTTP/2 as the client over a stream that is there already.
pub(crate) async fn over(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) -> Result<SendRequest<Body>, hyper::Error> {
    let (sender, connection) = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(4 * WINDOW_BYTES)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_DEADLINE)
        .handshake(TokioIo::new(stream))
        .await?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection ended");
        }
    });
    Ok(sender)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_silent_party_keeps_many_requests_no_longer_than_one() {
        let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = silent.local_addr().expect("its address").port();
        let link = Link::new("127.0.0.1", port, &Trust::default()).expect("a link");
        let limit = Duration::from_millis(300);
        let begin = tokio::time::Instant::now();
        let all = tokio::join!(link.connect(limit), link.connect(limit), link.connect(limit), link.connect(limit));
        let took = begin.elapsed();
        assert!(all.0.is_err() && all.1.is_err() && all.2.is_err() && all.3.is_err());
        assert!(took < 3 * limit, "one after another: {took:?}");
    }
}
