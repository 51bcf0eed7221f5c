//! The corpus against podling's API server, in this process: every answer must be the real API server's, but where the
//! corpus says why not.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use e2e::oracle;
use futures_util::future::BoxFuture;
use wire::{Body, Identity};

/// There are no nodes here.
struct NoNodes;

impl server::NodeDoor for NoNodes {
    fn send<'a>(
        &'a self,
        node: &'a str,
        _: http::Request<Body>,
    ) -> BoxFuture<'a, Result<http::Response<Body>, server::NodeDoorError>> {
        Box::pin(async move { Err(server::NodeDoorError::Unknown(node.to_owned())) })
    }
}

async fn server(dir: &Path) -> Arc<server::Server> {
    let store = Arc::new(store::Disk::open(store::Config::new(dir)).expect("a store"));
    let cluster = server::Cluster {
        version: "v1.37.2+podling".to_owned(),
        commit: String::new(),
        address: IpAddr::from([127, 0, 0, 1]),
        port: 6443,
        service_address: None,
    };
    let config = server::Config { store, cluster, nodes: Arc::new(NoNodes) };
    server::Server::new(config).await.expect("a server")
}

#[tokio::test]
async fn answers_are_the_oracles() {
    let dir = tempfile::tempdir().expect("a directory");
    let identity = Identity::new("admin", &["system:masters"]);
    let ours = client::transport::Local::new(server(dir.path()).await, identity);
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("oracle");
    let mut found = Vec::new();
    for (topic, path) in oracle::topics(&corpus).expect("a corpus") {
        let steps = oracle::read_steps(&path).expect("steps");
        let recorded = oracle::read_answers(&path).expect("recorded answers");
        let answers = oracle::play(&steps, async |step| oracle::send(&ours, step).await).await.expect("answers");
        let differences = oracle::compare(&steps, &recorded, &answers);
        found.extend(differences.into_iter().map(|line| format!("{topic}: {line}")));
    }
    assert!(found.is_empty(), "{} differences:\n{}", found.len(), found.join("\n"));
}
