//! Several servers' controllers, one of which works.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use control::leader::{self, Election};
use testkit::{Cluster, eventually};
use tokio::sync::watch;
use tokio::task::JoinHandle;

struct Candidate {
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

fn candidate(cluster: &Cluster, identity: &str, working: &Arc<AtomicUsize>, terms: &Arc<AtomicUsize>) -> Candidate {
    let (stop, shutdown) = watch::channel(false);
    let election = Election { client: cluster.admin(), identity: identity.to_owned() };
    let (working, terms) = (working.clone(), terms.clone());
    let work = move |mut over: watch::Receiver<bool>| {
        let (working, terms) = (working.clone(), terms.clone());
        async move {
            assert_eq!(working.fetch_add(1, Ordering::SeqCst), 0, "two work at once");
            terms.fetch_add(1, Ordering::SeqCst);
            client::stopped(&mut over).await;
            working.fetch_sub(1, Ordering::SeqCst);
        }
    };
    Candidate { stop, task: tokio::spawn(leader::run(election, shutdown, work)) }
}

#[tokio::test]
async fn one_works_and_another_takes_over_at_once() {
    let cluster = Cluster::start().await.expect("a cluster");
    let (working, terms) = (Arc::default(), Arc::default());
    let candidates: Vec<_> = ["a", "b", "c"].iter().map(|name| candidate(&cluster, name, &working, &terms)).collect();
    let reached = |wanted: usize| {
        let (working, terms) = (working.clone(), terms.clone());
        let is_reached = move || terms.load(Ordering::SeqCst) == wanted && working.load(Ordering::SeqCst) == 1;
        async move { eventually("a term", || async { is_reached().then_some(()) }).await.expect("a term") }
    };
    reached(1).await;
    let lease =
        cluster.admin().get("/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/podling-controllers").await;
    let holder = lease.expect("a lease")["spec"]["holderIdentity"].as_str().expect("a holder").to_owned();
    let (mut elected, others): (Vec<_>, Vec<_>) =
        ["a", "b", "c"].into_iter().zip(candidates).partition(|(name, _)| *name == holder);
    let (_, elected) = elected.pop().expect("one of them");
    elected.stop.send_replace(true);
    elected.task.await.expect("it ends");
    reached(2).await;
    for (_, other) in &others {
        other.stop.send_replace(true);
    }
    for (_, other) in others {
        other.task.await.expect("it ends");
    }
    assert_eq!(working.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn who_died_is_followed_when_its_lease_is_over() {
    let cluster = Cluster::start().await.expect("a cluster");
    let (working, terms) = (Arc::default(), Arc::default());
    let first = candidate(&cluster, "a", &working, &terms);
    eventually("a term", || async { (terms.load(Ordering::SeqCst) == 1).then_some(()) }).await.expect("a term");
    first.task.abort();
    assert!(first.task.await.expect_err("killed").is_cancelled());
    working.store(0, Ordering::SeqCst);
    let second = candidate(&cluster, "b", &working, &terms);
    eventually("a second term", || async { (terms.load(Ordering::SeqCst) == 2).then_some(()) }).await.expect("a term");
    second.stop.send_replace(true);
    second.task.await.expect("it ends");
}
