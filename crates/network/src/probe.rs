//! What a path to another machine takes, found by asking and not by guessing: ICMP echoes that nobody on the way may cut into pieces. The
//! kernel over there answers them, so it needs no program of ours. Where nobody answers, nothing is claimed.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt::{
    Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery, set_ip_mtu_discover, set_ipv6_mtu_discover, set_socket_recv_buffer_size,
};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, ipproto, recvfrom, sendto, socket_with,
};
use serde::Serialize;

use crate::error::{Doing, Result};
use crate::family::Family;
use crate::host::{mtu, route};
use crate::mesh::look_up;

/// What every path takes.
fn least(family: Family) -> u32 {
    match family {
        Family::V4 => 576,
        Family::V6 => 1280,
    }
}

/// A small echo with its headers.
const SMALL: u32 = 64;
/// So many machines are asked at a time, or their answers would overrun the socket.
const BATCH: usize = 16;
/// Answers that come later than this are lost.
const PATIENCE: Duration = Duration::from_secs(1);
/// The same while a size is sought, for machines that answered much sooner before.
const LEAST_PATIENCE: Duration = Duration::from_millis(100);
/// One may be lost without anybody meaning it.
const COPIES: u32 = 2;
/// So many small ones tell how a path is.
const PINGS: u32 = 5;

const ECHO_HEADER: usize = 8;

fn ip_header(family: Family) -> u32 {
    match family {
        Family::V4 => 20,
        Family::V6 => 40,
    }
}

/// The numbers of the question and of the answer.
fn echo_types(family: Family) -> (u8, u8) {
    match family {
        Family::V4 => (8, 0),
        Family::V6 => (128, 129),
    }
}

/// How a path is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Quality {
    /// The shortest time from question to answer, in microseconds; None: nobody answers.
    pub latency_us: Option<u64>,
    /// Questions.
    pub sent: u32,
    /// Questions without an answer.
    pub lost: u32,
}

/// How the paths to these machines are, in their order. Takes a second at most for every 16 machines.
pub fn quality(machines: &[IpAddr]) -> Result<Vec<Quality>> {
    let prober = Prober::open(machines)?;
    let mut all = Vec::new();
    for batch in machines.chunks(BATCH) {
        let asked: Vec<(IpAddr, u32)> = batch.iter().map(|machine| (*machine, SMALL)).collect();
        let answers = prober.exchange(&asked, PINGS, PATIENCE)?;
        all.extend(answers.iter().map(|times| Quality {
            latency_us: times.iter().min().and_then(|least| u64::try_from(least.as_micros()).ok()),
            sent: PINGS,
            lost: PINGS - times.len() as u32,
        }));
    }
    Ok(all)
}

/// The largest packet that gets to each of these machines in one piece; None where nobody answers, or no way leads.
pub fn largest(machines: &[IpAddr]) -> Result<Vec<Option<u32>>> {
    let (prober, socket) = (Prober::open(machines)?, route()?);
    let mut all = Vec::new();
    for batch in machines.chunks(BATCH) {
        let link_mtu = |machine: &IpAddr| match look_up(&socket, *machine)? {
            Some(way) => mtu(&socket, way.link),
            None => Ok(least(Family::of(*machine))),
        };
        let links: Vec<u32> = batch.iter().map(link_mtu).collect::<Result<_>>()?;
        // What routers have said meanwhile is a good guess.
        let told = |machine| look_up(&socket, machine).ok().flatten().map(|way| way.mtu);
        all.extend(prober.search(batch, &links, told)?);
    }
    Ok(all)
}

/// Between the largest size that got through and the smallest that did not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Search {
    good: u32,
    bad: u32,
}

impl Search {
    /// What to try next, if there is something between. What somebody `told` is tried first, and then whether one more gets through.
    fn next(self, told: Option<u32>) -> Option<u32> {
        if self.good + 1 >= self.bad {
            return None;
        }
        match told {
            Some(told) if told > self.good && told < self.bad => Some(told),
            Some(told) if told == self.good => Some(told + 1),
            _ => Some(self.good.midpoint(self.bad)),
        }
    }

    fn note(&mut self, size: u32, got_through: bool) {
        if got_through {
            self.good = self.good.max(size);
        } else {
            self.bad = self.bad.min(size);
        }
    }
}

/// One socket for each family that is asked for.
struct Prober(Vec<(Family, OwnedFd)>);

impl Prober {
    fn open(machines: &[IpAddr]) -> Result<Self> {
        let is_wanted = |family: &Family| family.first(machines).is_some();
        let open = |family| Ok((family, socket(family).doing(|| format!("open an ICMP socket of {family}"))?));
        Ok(Self(Family::ALL.into_iter().filter(is_wanted).map(open).collect::<Result<_>>()?))
    }

    fn search(
        &self,
        machines: &[IpAddr],
        links: &[u32],
        told: impl Fn(IpAddr) -> Option<u32>,
    ) -> Result<Vec<Option<u32>>> {
        let first =
            |sizes: &mut dyn Iterator<Item = u32>| machines.iter().copied().zip(sizes).collect::<Vec<(IpAddr, u32)>>();
        let sure = |number: usize| least(Family::of(machines[number])).min(links[number]);
        let mut asked = first(&mut (0..machines.len()).map(sure));
        asked.extend(first(&mut links.iter().copied()));
        let answers = self.exchange(&asked, COPIES + 1, PATIENCE)?;
        let (small, large) = answers.split_at(machines.len());
        let slowest = small.iter().filter_map(|times| times.iter().min()).max().copied().unwrap_or(PATIENCE);
        let patience = (slowest * 4).clamp(LEAST_PATIENCE, PATIENCE);
        let begin = |number: usize| Search {
            good: if large[number].is_empty() { sure(number) } else { links[number] },
            bad: if large[number].is_empty() { links[number] } else { links[number] + 1 },
        };
        let mut searches: Vec<Search> = (0..machines.len()).map(begin).collect();
        loop {
            let is_there = |number: &usize| !small[*number].is_empty();
            let open = (0..machines.len()).filter(is_there).filter_map(|number| {
                let size = searches[number].next(told(machines[number]))?;
                Some((number, size))
            });
            let open: Vec<(usize, u32)> = open.collect();
            if open.is_empty() {
                break;
            }
            let asked: Vec<(IpAddr, u32)> = open.iter().map(|(number, size)| (machines[*number], *size)).collect();
            let answers = self.exchange(&asked, COPIES, patience)?;
            for ((number, size), times) in open.iter().zip(&answers) {
                searches[*number].note(*size, !times.is_empty());
            }
        }
        let found = searches.iter().zip(small).map(|(search, small)| (!small.is_empty()).then_some(search.good));
        Ok(found.collect())
    }

    /// Sends each packet so many times and gathers how long the answers took, until all are there or patience is over.
    fn exchange(&self, asked: &[(IpAddr, u32)], copies: u32, patience: Duration) -> Result<Vec<Vec<Duration>>> {
        static EXCHANGES: AtomicU16 = AtomicU16::new(0);
        // Who else asks, and what was asked before, must not be taken for this.
        let turn = EXCHANGES.fetch_add(1, Ordering::Relaxed);
        let id = (std::process::id() as u16).wrapping_mul(251).wrapping_add(turn);
        let mut sent = Vec::new();
        for copy in 0..copies {
            for (number, (machine, size)) in asked.iter().enumerate() {
                let sequence = (copy as usize * asked.len() + number) as u16;
                sent.push(Instant::now());
                // One that cannot leave is one that does not arrive.
                let family = Family::of(*machine);
                let (packet, goal) = (echo(family, id, sequence, *size), SocketAddr::new(*machine, 0));
                if let Some((_, socket)) = self.0.iter().find(|(its, _)| *its == family) {
                    let _ = sendto(socket, &packet, SendFlags::empty(), &goal);
                }
            }
        }
        let mut answers = vec![Vec::new(); asked.len()];
        let (mut missing, deadline) = (sent.len(), Instant::now() + patience);
        while missing > 0 {
            let Some((from, sequence)) = self.receive(id, deadline).doing(|| "receive answers to echoes".into())?
            else {
                break;
            };
            let number = usize::from(sequence) % asked.len();
            if let Some(then) = sent.get(usize::from(sequence)).filter(|_| asked[number].0 == from) {
                answers[number].push(then.elapsed());
                missing -= 1;
            }
        }
        Ok(answers)
    }

    /// The next answer of this exchange; None when time is over.
    fn receive(&self, id: u16, deadline: Instant) -> io::Result<Option<(IpAddr, u16)>> {
        let mut buffer = [0; 128];
        loop {
            let rest = deadline.saturating_duration_since(Instant::now());
            let span = Timespec { tv_sec: rest.as_secs() as i64, tv_nsec: i64::from(rest.subsec_nanos()) };
            let mut waited: Vec<PollFd<'_>> =
                self.0.iter().map(|(_, socket)| PollFd::new(socket, PollFlags::IN)).collect();
            match poll(&mut waited, Some(&span)) {
                Ok(0) => return Ok(None),
                Ok(_) => {}
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            }
            let is_ready = |waited: &PollFd<'_>| !waited.revents().is_empty();
            for (family, socket) in self.0.iter().zip(&waited).filter(|(_, waited)| is_ready(waited)).map(|(it, _)| it)
            {
                let (count, from) = match recvfrom(socket, &mut buffer, RecvFlags::DONTWAIT) {
                    Ok((count, _, from)) => (count.min(buffer.len()), from),
                    Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => continue,
                    Err(error) => return Err(error.into()),
                };
                let from = from.and_then(|from| SocketAddr::try_from(from).ok()).map(|from| from.ip());
                match from.zip(read_reply(*family, &buffer[..count])) {
                    Some((from, (found, sequence))) if found == id => return Ok(Some((from, sequence))),
                    _ => {}
                }
            }
        }
    }
}

fn socket(family: Family) -> io::Result<OwnedFd> {
    let (domain, protocol) = match family {
        Family::V4 => (AddressFamily::INET, ipproto::ICMP),
        Family::V6 => (AddressFamily::INET6, ipproto::ICMPV6),
    };
    let socket = socket_with(domain, SocketType::RAW, SocketFlags::CLOEXEC, Some(protocol))?;
    // Never in pieces, whatever the kernel believes of the path.
    match family {
        Family::V4 => set_ip_mtu_discover(&socket, Ipv4PathMtuDiscovery::PROBE)?,
        Family::V6 => set_ipv6_mtu_discover(&socket, Ipv6PathMtuDiscovery::PROBE)?,
    }
    set_socket_recv_buffer_size(&socket, 1 << 20)?;
    Ok(socket)
}

/// A question of so many bytes with the IP header, which the kernel adds. For IPv6 it also writes the checksum anew.
fn echo(family: Family, id: u16, sequence: u16, size: u32) -> Vec<u8> {
    let mut packet = vec![0; (size.saturating_sub(ip_header(family)) as usize).max(ECHO_HEADER)];
    packet[0] = echo_types(family).0;
    packet[4..6].copy_from_slice(&id.to_be_bytes());
    packet[6..8].copy_from_slice(&sequence.to_be_bytes());
    let sum = checksum(&packet);
    packet[2..4].copy_from_slice(&sum.to_be_bytes());
    packet
}

/// Of 16-bit words in network order, as in all of IP.
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    let sum: u32 = words.sum();
    let folded = (sum >> 16) + (sum & 0xffff);
    !((folded >> 16) + (folded & 0xffff)) as u16
}

/// Which question was answered. Of IPv4 the kernel hands over the whole packet, of IPv6 what the header carries.
fn read_reply(family: Family, packet: &[u8]) -> Option<(u16, u16)> {
    let header = match family {
        Family::V4 => usize::from(packet.first()? & 15) * 4,
        Family::V6 => 0,
    };
    let reply = packet.get(header..header + ECHO_HEADER)?;
    let word = |at: usize| u16::from_be_bytes([reply[at], reply[at + 1]]);
    (reply[0] == echo_types(family).1).then(|| (word(4), word(6)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_search_ends_at_the_largest_that_gets_through() {
        for limit in [577, 1280, 1400, 1499] {
            for told in [None, Some(limit), Some(limit + 40), Some(1500)] {
                let (mut search, mut tries) = (Search { good: 576, bad: 1500 }, 0);
                while let Some(size) = search.next(told) {
                    search.note(size, size <= limit);
                    tries += 1;
                }
                assert_eq!(search.good, limit);
                assert!(tries <= 12 && (told != Some(limit) || tries <= 2), "{limit} {told:?}: {tries}");
            }
        }
    }

    #[test]
    fn what_is_sent_is_what_is_read() {
        for (family, bytes) in [(Family::V4, 557), (Family::V6, 537)] {
            let packet = echo(family, 0x1234, 7, 577);
            assert_eq!(packet.len(), bytes);
            assert_eq!(checksum(&packet), 0);
            let mut reply = if family == Family::V4 { vec![0x45; 20] } else { Vec::new() };
            let header = reply.len();
            reply.extend(&packet);
            assert_eq!(read_reply(family, &reply), None, "a question is no answer");
            reply[header] = echo_types(family).1;
            assert_eq!(read_reply(family, &reply), Some((0x1234, 7)));
            assert_eq!(read_reply(family, &reply[..header + 5]), None);
        }
    }
}
