//! What makes a cable worse: a thread that takes each frame at one end, holds it for a while, and sends it at the other. The kernel's own
//! netem does the same, but many kernels are built without it.
//!
//! Frames keep their order. A frame whose checksum is not filled in yet goes over as it is, together with the kernel's note about that.

use std::cmp::max;
use std::collections::VecDeque;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::{Errno, write};
use rustix::net::addr::{SocketAddrArg, SocketAddrLen, SocketAddrOpaque};
use rustix::net::netdevice::name_to_index;
use rustix::net::sockopt::set_socket_recv_buffer_size_force;
use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, send, socket_with,
};

use super::Namespace;

/// The largest frame with what the kernel notes about it.
const FRAME_BYTES: usize = 64 * 1024 + 64;
/// So many frames wait in each direction; what comes on top is lost, as in a router.
const LIMIT: usize = 20_000;
/// So many are taken before the other direction has its turn.
const BATCH: usize = 64;
/// What the kernel keeps for us while this thread does not run.
const BUFFER_BYTES: usize = 16 << 20;

/// How bad a cable is, in each direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Impairment {
    /// Each frame is this long on its way.
    pub delay: Duration,
    /// At most so much longer, as chance has it; nobody overtakes.
    pub jitter: Duration,
    /// So many in a thousand are lost.
    pub loss: u32,
    /// What chance begins with: the same gives the same losses.
    pub seed: u64,
}

impl Impairment {
    /// Delay only.
    pub fn delay(delay: Duration) -> Self {
        Self { delay, ..Self::default() }
    }
}

/// A thread between two links. It ends with this value.
pub(super) struct Relay {
    stop: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Relay {
    /// Between two links of a namespace that have nobody else to talk to.
    pub(super) fn start(namespace: &Namespace, links: [&str; 2], how: Impairment) -> Result<Self> {
        let sockets = namespace.inside(|| Ok::<_, anyhow::Error>([open(links[0])?, open(links[1])?]))?;
        let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC).context("making an eventfd")?);
        let stopped = Arc::clone(&stop);
        let thread = std::thread::Builder::new().name("relay".into());
        let thread = thread.spawn(move || run(&sockets, &stopped, how)).context("starting a relay")?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        write(&*self.stop, &1u64.to_ne_bytes()).expect("an eventfd takes a one");
        if let Some(thread) = self.thread.take() {
            // What it panicked with has been printed already.
            drop(thread.join());
        }
    }
}

fn run(sockets: &[OwnedFd; 2], stop: &OwnedFd, how: Impairment) {
    let mut ways = [Way::new(how, 1), Way::new(how, 2)];
    let mut buffer = vec![0; FRAME_BYTES];
    loop {
        let due = ways.iter().filter_map(Way::next_due).min();
        let rest = due.map(|due| due.saturating_duration_since(Instant::now()));
        let rest = rest.map(|rest| Timespec { tv_sec: rest.as_secs() as i64, tv_nsec: rest.subsec_nanos().into() });
        let mut waited = [stop.as_fd(), sockets[0].as_fd(), sockets[1].as_fd()]
            .map(|file| PollFd::from_borrowed_fd(file, PollFlags::IN));
        match poll(&mut waited, rest.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => panic!("a relay cannot wait: {error}"),
        }
        if !waited[0].revents().is_empty() {
            return;
        }
        for (from, way) in ways.iter_mut().enumerate() {
            for _ in 0..BATCH {
                // An error is a link that is down, or one that is going.
                let Ok((_, count)) = recv(&sockets[from], &mut buffer[..], RecvFlags::DONTWAIT) else { break };
                way.take(&buffer[..count.min(FRAME_BYTES)], Instant::now());
            }
            while let Some(frame) = way.release(Instant::now()) {
                // Who cannot send loses, as a cable does.
                let _ = send(&sockets[1 - from], &frame, SendFlags::DONTWAIT);
            }
        }
    }
}

/// One direction.
struct Way {
    how: Impairment,
    chance: u64,
    waiting: VecDeque<(Instant, Vec<u8>)>,
}

impl Way {
    fn new(how: Impairment, number: u64) -> Self {
        // Zero would stay zero for ever.
        let chance = how.seed.wrapping_mul(2).wrapping_add(number).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        Self { how, chance, waiting: VecDeque::new() }
    }

    fn next_due(&self) -> Option<Instant> {
        self.waiting.front().map(|(due, _)| *due)
    }

    fn take(&mut self, frame: &[u8], now: Instant) {
        let (lost, late) = (self.draw() % 1000, self.draw() % 1000);
        if lost < u64::from(self.how.loss) || self.waiting.len() >= LIMIT {
            return;
        }
        let due = now + self.how.delay + self.how.jitter * late as u32 / 1000;
        let due = self.waiting.back().map_or(due, |(last, _)| max(*last, due));
        self.waiting.push_back((due, frame.to_vec()));
    }

    fn release(&mut self, now: Instant) -> Option<Vec<u8>> {
        self.waiting.pop_front_if(|(due, _)| *due <= now).map(|(_, frame)| frame)
    }

    /// Marsaglia's xorshift: chance that can be had again.
    fn draw(&mut self) -> u64 {
        self.chance ^= self.chance << 13;
        self.chance ^= self.chance >> 7;
        self.chance ^= self.chance << 17;
        self.chance >> 16
    }
}

/// All that comes in on a link, and a way to send on it. Made in the namespace of the link.
fn open(link: &str) -> Result<OwnedFd> {
    let any = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None).context("a socket")?;
    let index = name_to_index(any, link).with_context(|| format!("finding the link {link}"))?;
    let socket = socket_with(AddressFamily::PACKET, SocketType::RAW, SocketFlags::CLOEXEC, None::<Protocol>);
    let socket = socket.context("opening a packet socket")?;
    // From now on frames come in with the kernel's note in front, and are sent so; own ones do not come back.
    for option in [libc::PACKET_VNET_HDR, libc::PACKET_IGNORE_OUTGOING] {
        switch_on(&socket, libc::SOL_PACKET, option)?;
    }
    set_socket_recv_buffer_size_force(&socket, BUFFER_BYTES).context("making room for frames")?;
    bind(&socket, &LinkLayer { index }).with_context(|| format!("listening on {link}"))?;
    Ok(socket)
}

/// All protocols on one link.
struct LinkLayer {
    index: u32,
}

#[expect(unsafe_code, reason = "rustix knows no addresses of links")]
// SAFETY: `f` is given a whole `sockaddr_ll`, which lives longer than the call.
unsafe impl SocketAddrArg for LinkLayer {
    unsafe fn with_sockaddr<R>(&self, f: impl FnOnce(*const SocketAddrOpaque, SocketAddrLen) -> R) -> R {
        let address = libc::sockaddr_ll {
            sll_family: libc::AF_PACKET as u16,
            sll_protocol: (libc::ETH_P_ALL as u16).to_be(),
            sll_ifindex: self.index as i32,
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 0,
            sll_addr: [0; 8],
        };
        f((&raw const address).cast(), size_of::<libc::sockaddr_ll>() as SocketAddrLen)
    }
}

#[expect(unsafe_code, reason = "rustix knows no options of packet sockets")]
fn switch_on(socket: &OwnedFd, level: i32, option: i32) -> Result<()> {
    let on = 1i32;
    // SAFETY: The kernel reads one number, which lives longer than the call.
    let done = unsafe {
        let value = (&raw const on).cast();
        libc::setsockopt(socket.as_raw_fd(), level, option, value, size_of::<i32>() as libc::socklen_t)
    };
    ensure!(done == 0, "setting option {option} of a packet socket: {}", std::io::Error::last_os_error());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_wait_and_keep_their_order() {
        let how = Impairment { delay: Duration::from_millis(10), jitter: Duration::from_millis(10), loss: 0, seed: 3 };
        let (mut way, start) = (Way::new(how, 1), Instant::now());
        for number in 0..50u8 {
            way.take(&[number], start);
        }
        assert_eq!(way.release(start + Duration::from_millis(9)), None);
        let late = start + Duration::from_millis(20);
        let came: Vec<u8> = std::iter::from_fn(|| way.release(late)).map(|frame| frame[0]).collect();
        assert_eq!(came, (0..50).collect::<Vec<u8>>());
    }

    #[test]
    fn the_same_seed_loses_the_same() {
        let survivors = |seed| {
            let how = Impairment { loss: 100, seed, ..Impairment::default() };
            let (mut way, now) = (Way::new(how, 1), Instant::now());
            for number in 0..1000u32 {
                way.take(&number.to_ne_bytes(), now);
            }
            std::iter::from_fn(|| way.release(now)).collect::<Vec<_>>()
        };
        assert_eq!(survivors(7), survivors(7));
        assert_ne!(survivors(7), survivors(8));
        assert!((850..950).contains(&survivors(7).len()), "{}", survivors(7).len());
    }
}
