//! The API server's way to the agent in the same process.

use std::sync::{Arc, OnceLock};

use futures_util::future::BoxFuture;
use http::{Request, Response};
use server::{NodeDoor, NodeDoorError};
use wire::{Body, Identity, Peer, Service};

/// Leads to the one node of this process, once its agent is there.
#[derive(Default)]
pub(crate) struct LocalDoor {
    agent: OnceLock<(String, Arc<dyn Service>)>,
}

impl LocalDoor {
    /// The agent of this node answers from now on.
    pub(crate) fn open(&self, node: &str, service: Arc<dyn Service>) {
        if self.agent.set((node.to_owned(), service)).is_err() {
            tracing::error!("the agent of this process was started twice");
        }
    }
}

impl NodeDoor for LocalDoor {
    fn send<'a>(
        &'a self,
        node: &'a str,
        mut request: Request<Body>,
    ) -> BoxFuture<'a, Result<Response<Body>, NodeDoorError>> {
        Box::pin(async move {
            let Some((_, service)) = self.agent.get().filter(|(name, _)| name == node) else {
                return Err(NodeDoorError::Unknown(node.to_owned()));
            };
            request.extensions_mut().insert(Peer::local(Identity::new("kube-apiserver", &["system:masters"])));
            Ok(service.call(request).await)
        })
    }
}
