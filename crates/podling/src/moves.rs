//! The machine's address may change while its node runs, as when a lease of DHCP ends: the node takes the one that it would take if it
//! started now, and goes on as what it is.

use std::net::IpAddr;
use std::time::Duration;

use network::Family;
use node::Upheaval;
use tokio::sync::watch;
use tokio::task::block_in_place;

/// A machine that has lost its address may get the next one, or the way to it, a moment later.
const RETRY: Duration = Duration::from_secs(1);

/// Follows it until the shutdown. `choose` gives the first address that is right now; beside it the node has one of each of `families`, where
/// the machine has one.
pub(crate) async fn follow(
    host: network::Host,
    addresses: watch::Sender<Vec<IpAddr>>,
    families: Vec<Family>,
    choose: impl Fn() -> anyhow::Result<IpAddr>,
    mut shutdown: watch::Receiver<bool>,
) {
    let upheaval = match Upheaval::of(&host) {
        Ok(upheaval) => upheaval,
        Err(error) => return tracing::warn!(%error, "nobody follows the machine's address"),
    };
    let mut is_missing = false;
    loop {
        let again = async { if is_missing { tokio::time::sleep(RETRY).await } else { std::future::pending().await } };
        tokio::select! {
            () = client::stopped(&mut shutdown) => return,
            () = upheaval.next() => {}
            () = again => {}
        }
        let before = addresses.borrow().clone();
        // Choosing may ask for the address of a name.
        let own = network::addresses().unwrap_or_default();
        let first = block_in_place(|| next(&own, before.first().copied(), &choose));
        is_missing = first.is_none();
        let next = first.map(|first| beside(first, &own, &before, &families));
        if let Some(next) = next.filter(|next| *next != before) {
            tracing::warn!(?before, ?next, "the machine has other addresses now: the node takes them");
            addresses.send_replace(next);
        }
    }
}

/// The first address and, of each further family, the one the node had for as long as the machine has it, or the one that is right now.
pub(crate) fn beside(first: IpAddr, own: &[IpAddr], before: &[IpAddr], families: &[Family]) -> Vec<IpAddr> {
    let others = families.iter().filter(|family| **family != Family::of(first)).filter_map(|family| {
        let kept = family.first(before).filter(|address| own.contains(address));
        kept.or_else(|| network::node_address_of(*family).ok().flatten())
    });
    std::iter::once(first).chain(others).collect()
}

/// The one it had, for as long as the machine has it; else the right one, if the machine has it already.
fn next(own: &[IpAddr], before: Option<IpAddr>, choose: impl Fn() -> anyhow::Result<IpAddr>) -> Option<IpAddr> {
    if let Some(before) = before.filter(|before| own.contains(before)) {
        return Some(before);
    }
    choose().ok().filter(|next| own.contains(next) && !next.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_kept_while_the_machine_has_it() {
        let [one, two, three] = [1, 2, 3].map(|number| IpAddr::from([192, 0, 2, number]));
        let loopback = IpAddr::from([127, 0, 0, 1]);
        let own = [loopback, one, two];
        assert_eq!(next(&own, Some(one), || Ok(two)), Some(one));
        assert_eq!(next(&own, Some(three), || Ok(two)), Some(two));
        assert_eq!(next(&own[..2], Some(three), || Ok(two)), None, "the machine does not have that one yet");
        assert_eq!(next(&own, Some(three), || Ok(loopback)), None, "nobody else reaches that one");
        assert_eq!(next(&own, Some(three), || anyhow::bail!("no way")), None);
    }
}
