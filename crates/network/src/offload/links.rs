//! Which links have the programs: the outer end of each attachment, the tunnel, and the links by which other machines are reached without one.

use std::collections::BTreeSet;
use std::sync::{MutexGuard, PoisonError};
use std::{fs, io};

use super::{Offload, uncover};
use crate::attach::number;
use crate::error::{Doing, Result};
use crate::hash;
use crate::host::{Host, route as open};
use crate::mesh::{Carrier, PeerState, Reach};
use crate::netlink::{Socket, route};

/// What this process knows of its short ways.
#[derive(Debug, Default)]
pub(crate) struct Short {
    /// None before they are wanted, and where the kernel refuses them.
    offload: Option<Offload>,
    is_refused: bool,
    /// The kernel's numbers of the links to other machines that have the programs.
    wires: BTreeSet<u32>,
}

/// Connections of which part went the short way look to connection tracking as if packets of theirs were lost; without this it would take their
/// last packets for others' and keep them for days.
const LIBERAL: &str = "/proc/sys/net/netfilter/nf_conntrack_tcp_be_liberal";

impl Host {
    /// Lets known flows go the short way to these peers, and among the attachments that are there; see docs/decisions/0008. Call it again when the
    /// ways to others change. Without a peer that is reached nothing is done. An error is said once: where the kernel refuses the programs,
    /// further calls do nothing.
    pub fn offload(&self, peers: &[PeerState]) -> Result<()> {
        let mut short = self.short();
        let is_wanted = short.offload.is_some() || peers.iter().any(|peer| !peer.is_lost());
        if short.is_refused || !is_wanted {
            return Ok(());
        }
        if short.offload.is_none() {
            short.load(self)?;
        }
        let (socket, owner) = (open()?, self.owner());
        let wires = self.wires(&socket, peers)?;
        let Short { offload: Some(offload), wires: covered, .. } = &mut *short else { return Ok(()) };
        for link in wires.difference(covered) {
            tell(offload.cover_wire(&socket, *link, owner), *link)?;
        }
        // Attachments come and go: those that have the programs get them once more.
        for link in self.links()? {
            tell(offload.cover_pair(&socket, link.index, owner), link.index)?;
        }
        for link in covered.difference(&wires) {
            tell(uncover(&socket, *link, owner), *link)?;
        }
        *covered = wires;
        Ok(())
    }

    /// The links by which these peers are reached.
    fn wires(&self, socket: &Socket, peers: &[PeerState]) -> Result<BTreeSet<u32>> {
        let mut wires = BTreeSet::new();
        for way in peers.iter().flat_map(|peer| &peer.ways) {
            if let Reach::Route { link } = &way.reach {
                wires.insert(number(socket, link)?);
            }
        }
        // Not that of WireGuard: what comes and goes there are packets without a frame around them.
        wires.extend(self.link_of(socket, Carrier::Vxlan)?.as_ref().map(route::link_index));
        Ok(wires)
    }

    /// The same for the attachment of this sandbox, that was made since. Nothing is done where no flow goes the short way yet.
    pub fn offload_attachment(&self, sandbox: &str) -> Result<()> {
        let short = self.short();
        let Some(offload) = &short.offload else { return Ok(()) };
        let socket = open()?;
        let link = number(&socket, &self.link_name(sandbox))?;
        tell(offload.cover_pair(&socket, link, self.owner()), link)
    }

    /// How many flows go the short way, of each direction of a connection one.
    pub fn offloaded(&self) -> Result<usize> {
        let flows = self.short().offload.as_ref().map_or(Ok(0), Offload::flows);
        flows.doing(|| "count the flows that are offloaded".into())
    }

    /// Takes the programs from all links.
    pub(crate) fn remove_offload(&self) -> Result<()> {
        let socket = open()?;
        let all = socket.dump(route::all_links()).doing(|| "list links".into())?;
        for link in all.iter().map(route::link_index) {
            tell(uncover(&socket, link, self.owner()), link)?;
        }
        *self.short() = Short::default();
        Ok(())
    }

    /// By which this cluster's programs are told from another's on the same link.
    fn owner(&self) -> u32 {
        hash::in_32_bits(self.config().prefix.bytes()).max(1)
    }

    fn short(&self) -> MutexGuard<'_, Short> {
        // At worst a link is covered once more.
        self.short.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Short {
    fn load(&mut self, host: &Host) -> Result<()> {
        let loaded = Offload::load(&host.config().ranges.iter().collect::<Vec<_>>());
        self.is_refused = loaded.is_err();
        self.offload = Some(loaded.doing(|| "load the programs that offload flows".into())?);
        match fs::write(LIBERAL, "1") {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error).doing(|| format!("write {LIBERAL}")),
            _ => Ok(()),
        }
    }
}

/// A link may vanish at any time; then there is nothing to do.
fn tell(done: io::Result<()>, link: u32) -> Result<()> {
    let done = done.or_else(|error| match error.raw_os_error() {
        Some(libc::ENODEV) => Ok(()),
        _ => Err(error),
    });
    done.doing(|| format!("change the programs of link {link}"))
}
