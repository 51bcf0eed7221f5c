//! The machine's address may change while its node runs, as when a lease of DHCP ends: the node takes the one that it would take if it
//! started now, and goes on as what it is.

use std::net::Ipv4Addr;
use std::time::Duration;

use node::Upheaval;
use tokio::sync::watch;
use tokio::task::block_in_place;

/// A machine that has lost its address may get the next one, or the way to it, a moment later.
const RETRY: Duration = Duration::from_secs(1);

/// Follows it until the shutdown. `choose` gives the address that is right now.
pub(crate) async fn follow(
    host: network::Host,
    address: watch::Sender<Ipv4Addr>,
    choose: impl Fn() -> anyhow::Result<Ipv4Addr>,
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
        let before = *address.borrow();
        // Choosing may ask for the address of a name.
        let own = network::addresses().unwrap_or_default();
        let next = block_in_place(|| next(&own, before, &choose));
        is_missing = next.is_none();
        if let Some(next) = next.filter(|next| *next != before) {
            tracing::warn!(%before, %next, "the machine has another address now: the node takes it");
            address.send_replace(next);
        }
    }
}

/// The one it had, for as long as the machine has it; else the right one, if the machine has it already.
fn next(own: &[Ipv4Addr], before: Ipv4Addr, choose: impl Fn() -> anyhow::Result<Ipv4Addr>) -> Option<Ipv4Addr> {
    if own.contains(&before) {
        return Some(before);
    }
    choose().ok().filter(|next| own.contains(next) && !next.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_kept_while_the_machine_has_it() {
        let [one, two, three] = [1, 2, 3].map(|number| Ipv4Addr::new(192, 0, 2, number));
        let own = [Ipv4Addr::LOCALHOST, one, two];
        assert_eq!(next(&own, one, || Ok(two)), Some(one));
        assert_eq!(next(&own, three, || Ok(two)), Some(two));
        assert_eq!(next(&own[..2], three, || Ok(two)), None, "the machine does not have that one yet");
        assert_eq!(next(&own, three, || Ok(Ipv4Addr::LOCALHOST)), None, "nobody else reaches that one");
        assert_eq!(next(&own, three, || anyhow::bail!("no way")), None);
    }
}
