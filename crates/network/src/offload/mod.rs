//! The short way: packets of flows that are known go from link to link without the machine's rules, its connection tracking and its queues.
//!
//! It does what the packet filter's own flow table does (`flow offload` in nft), which many kernels are built without, and by the same terms.
//! What begins a connection goes the long way, where all rules see it, ours and others'. Only a flow whose packet came out of that as it went
//! in, with the same addresses and ports, is known from then on: what is translated never is, and what a rule drops never is. What ends a
//! connection goes the long way again. For each packet the kernel is asked for its present route and neighbour, so that the
//! short way is never another than the long one. See docs/decisions/0008.
//!
//! The programs stay on the links when this process ends: nothing in them needs it.

mod code;
mod links;
mod program;
mod sys;

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use ipnet::IpNet;

use crate::netlink::Socket;
use crate::netlink::traffic::{self, Direction};
pub(crate) use links::Short;
use program::Kind;

/// How many flows are known at most, of each direction of a connection one; about 100 bytes of the kernel's memory each.
const FLOWS: u32 = 16 * 1024;

/// The programs and what they know.
#[derive(Debug)]
pub(crate) struct Offload {
    table: OwnedFd,
    arrival: OwnedFd,
    to_wire: OwnedFd,
    to_pair: OwnedFd,
}

impl Offload {
    /// For what these ranges, at most one for each family, say among themselves. The kernel refuses where it is older than Linux 5.10, or was
    /// built without BPF, or does not let this process load programs.
    pub(crate) fn load(ranges: &[IpNet]) -> io::Result<Offload> {
        let table = sys::table(program::KEY_BYTES, program::VALUE_BYTES, FLOWS)?;
        let load = |code: Vec<u8>| sys::program(&code, program::LICENSE);
        let number = table.as_raw_fd();
        Ok(Offload {
            arrival: load(program::arrival(number, ranges))?,
            to_wire: load(program::departure(number, ranges, Kind::Wire))?,
            to_pair: load(program::departure(number, ranges, Kind::Pair))?,
            table,
        })
    }

    /// Puts the programs on one end of a pair that leads to another namespace, in place of those of the same owner that are there.
    pub(crate) fn cover_pair(&self, socket: &Socket, link: u32, owner: u32) -> io::Result<()> {
        self.cover(socket, link, owner, &self.to_pair)
    }

    /// The same for a link that leads to other machines.
    pub(crate) fn cover_wire(&self, socket: &Socket, link: u32, owner: u32) -> io::Result<()> {
        self.cover(socket, link, owner, &self.to_wire)
    }

    fn cover(&self, socket: &Socket, link: u32, owner: u32, departure: &OwnedFd) -> io::Result<()> {
        socket.request(vec![traffic::new_classifier(link)]).or_else(|error| match error.raw_os_error() {
            Some(libc::EEXIST) => Ok(()),
            _ => Err(error),
        })?;
        // First where flows end: an arrival must never be noted that no departure can make known.
        socket.request(vec![
            traffic::new_program(link, Direction::Out, owner, departure.as_raw_fd()),
            traffic::new_program(link, Direction::In, owner, self.arrival.as_raw_fd()),
        ])
    }

    /// How many flows are known, of each direction of a connection one.
    pub(crate) fn flows(&self) -> io::Result<usize> {
        let values = sys::values(&self.table, program::KEY_BYTES as usize)?;
        Ok(values.iter().filter(|value| **value != 0).count())
    }
}

/// Takes an owner's programs from a link, if there are any, and the classifier with them unless somebody else uses it.
pub(crate) fn uncover(socket: &Socket, link: u32, owner: u32) -> io::Result<()> {
    let both = [Direction::In, Direction::Out];
    let gone = |direction| socket.request(vec![traffic::delete_program(link, direction, owner)]);
    let removed: Vec<io::Result<()>> = both.into_iter().map(gone).collect();
    if removed.iter().all(Result::is_err) {
        return removed.into_iter().try_for_each(|result| result.or_else(ignore_absent));
    }
    let others = |direction| socket.dump(traffic::all_programs(link, direction)).map(|found| found.len());
    if both.into_iter().map(others).sum::<io::Result<usize>>()? > 0 {
        return Ok(());
    }
    socket.request(vec![traffic::delete_classifier(link)]).or_else(ignore_absent)
}

/// Without a classifier the kernel takes the question itself for wrong.
fn ignore_absent(error: io::Error) -> io::Result<()> {
    match error.raw_os_error() {
        Some(libc::ENOENT | libc::EINVAL | libc::ENODEV | libc::EOPNOTSUPP) => Ok(()),
        _ => Err(error),
    }
}
