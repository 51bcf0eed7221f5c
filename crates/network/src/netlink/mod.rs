//! The kernel's configuration sockets: send messages, read what comes back. Formats are in `message`; what to say is told by callers.

pub(crate) mod expr;
pub(crate) mod message;
pub(crate) mod route;
pub(crate) mod traffic;
pub(crate) mod tunnel;
pub(crate) mod wireguard;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::sockopt::set_socket_recv_buffer_size;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, send, socket_with};

use message::{ACK, DUMP, Message, Received, messages};

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// Multicast groups of links, and of addresses and routes of both families.
const ROUTE_GROUPS: u32 = 1 | 1 << 4 | 1 << 6 | 1 << 8 | 1 << 10;
/// Of changes to the packet filter's tables.
const FILTER_GROUP: u32 = 1 << 6;
/// Larger than any part of a dump that the kernel makes.
const RECEIVE_BYTES: usize = 64 * 1024;

/// A socket to one subsystem of the kernel, in the network namespace in which it was opened, wherever the thread goes later.
#[derive(Debug)]
pub struct Socket(OwnedFd);

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Socket {
    /// Links, addresses, routes: the protocol of number 0.
    pub fn route() -> io::Result<Socket> {
        Socket::open(None)
    }

    /// Packet filter.
    pub(crate) fn netfilter() -> io::Result<Socket> {
        Socket::open(Some(netlink::NETFILTER))
    }

    /// What has no subsystem's protocol of its own.
    pub(crate) fn generic() -> io::Result<Socket> {
        Socket::open(Some(netlink::GENERIC))
    }

    fn open(protocol: Option<rustix::net::Protocol>) -> io::Result<Socket> {
        Socket::open_with(protocol, SocketFlags::CLOEXEC, 0)
    }

    fn open_with(protocol: Option<rustix::net::Protocol>, flags: SocketFlags, groups: u32) -> io::Result<Socket> {
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, protocol)?;
        bind(&socket, &SocketAddrNetlink::new(0, groups))?;
        Ok(Socket(socket))
    }

    /// Tells of changes to links, addresses and routes; never waits.
    pub(crate) fn watch_route() -> io::Result<Socket> {
        Socket::open_with(None, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, ROUTE_GROUPS)
    }

    /// Tells of changes to the packet filter; never waits.
    pub(crate) fn watch_netfilter() -> io::Result<Socket> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        Socket::open_with(Some(netlink::NETFILTER), flags, FILTER_GROUP)
    }

    /// Sends messages in one go and waits until the kernel has carried out each. The first error is the result.
    pub(crate) fn request(&self, requests: Vec<Message>) -> io::Result<()> {
        let mut bytes = Vec::new();
        let count = requests.len() as u32;
        for (seq, request) in requests.into_iter().enumerate() {
            request.with_flags(ACK).write(seq as u32 + 1, &mut bytes);
        }
        self.send(&bytes)?;
        let (mut first_error, mut answered) = (Ok(()), 0);
        while answered < count {
            for received in messages(&self.receive()?) {
                if received.kind == NLMSG_ERROR {
                    answered += 1;
                    first_error = first_error.and(received.error());
                }
            }
        }
        first_error
    }

    /// Sends a transaction: all or nothing. `batch` ends with the only message that asks for an answer.
    pub(crate) fn commit(&self, batch: Vec<Message>) -> io::Result<()> {
        let mut bytes = Vec::new();
        for (seq, message) in batch.into_iter().enumerate() {
            message.write(seq as u32 + 1, &mut bytes);
        }
        // An error is reported for each refused message; the answers must not be lost, or this would wait for ever.
        set_socket_recv_buffer_size(&self.0, 1 << 20)?;
        self.send(&bytes)?;
        for received in messages(&self.receive()?) {
            if received.kind == NLMSG_ERROR {
                return received.error();
            }
        }
        Err(io::ErrorKind::InvalidData.into())
    }

    /// One message that is answered by one.
    pub(crate) fn query(&self, request: Message) -> io::Result<Received> {
        let mut bytes = Vec::new();
        request.write(1, &mut bytes);
        self.send(&bytes)?;
        let received = messages(&self.receive()?).next().ok_or(io::ErrorKind::InvalidData)?;
        if received.kind == NLMSG_ERROR {
            received.error()?;
        }
        Ok(received)
    }

    /// Everything of one kind.
    pub(crate) fn dump(&self, request: Message) -> io::Result<Vec<Received>> {
        let mut bytes = Vec::new();
        request.with_flags(DUMP).write(1, &mut bytes);
        self.send(&bytes)?;
        let mut all = Vec::new();
        loop {
            for received in messages(&self.receive()?) {
                match received.kind {
                    NLMSG_DONE => return Ok(all),
                    NLMSG_ERROR => received.error()?,
                    _ => all.push(received),
                }
            }
        }
    }

    fn send(&self, bytes: &[u8]) -> io::Result<()> {
        send(&self.0, bytes, SendFlags::empty())?;
        Ok(())
    }

    pub(crate) fn receive(&self) -> io::Result<Vec<u8>> {
        let mut buffer = vec![0; RECEIVE_BYTES];
        loop {
            match recv(&self.0, &mut buffer[..], RecvFlags::empty()) {
                Ok((_, count)) => {
                    buffer.truncate(count);
                    return Ok(buffer);
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}
