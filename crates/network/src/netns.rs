//! Machines within the machine: network namespaces, and the cables between them. A namespace has no name: only open files and processes
//! hold it, so it vanishes with them, and nothing of it is ever seen outside.

use std::fs::File;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;

use ipnet::Ipv4Net;
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

use crate::attach::{notice, number};
use crate::error::{Doing, Error, Result};
use crate::family::Family;
use crate::host::forward;
use crate::netlink::Socket;
use crate::netlink::route::{self, End};

/// What fits through a cable.
const MTU: u32 = 1500;

/// A network namespace.
#[derive(Clone, Debug)]
pub struct Namespace(Arc<File>);

/// A link of a machine: the far end of its cable is in a switch.
#[derive(Clone, Debug)]
pub struct Cable<'a> {
    /// The link's name in the machine.
    pub link: &'a str,
    /// The machine's address on it, with its subnet.
    pub address: Ipv4Net,
    /// Who leads further.
    pub gateway: Ipv4Addr,
    /// The name of the far end.
    pub port: &'a str,
    /// The bridge into which that is plugged.
    pub bridge: &'a str,
}

impl Namespace {
    /// A fresh one, with loopback up.
    pub fn new() -> Result<Self> {
        let made = in_thread(|| {
            unshare_network().doing(|| "make a network namespace".into())?;
            crate::attach::loopback()?;
            let path = "/proc/thread-self/ns/net";
            File::open(path).doing(|| format!("open {path}"))
        })?;
        Ok(Self(Arc::new(made)))
    }

    /// That of a process.
    pub fn of_process(pid: u32) -> Result<Self> {
        let path = format!("/proc/{pid}/ns/net");
        let file = File::open(&path).doing(|| format!("open {path}"))?;
        Ok(Self(Arc::new(file)))
    }

    /// Runs in a thread that moved there: the sockets it opens and the programs it starts belong there.
    ///
    /// # Panics
    /// When `work` does.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        in_thread(|| {
            let entered = move_into_link_name_space(self.0.as_fd(), Some(LinkNameSpaceType::Network));
            entered.doing(|| "enter a network namespace".into())?;
            Ok(work())
        })
    }

    /// Makes a bridge that has this address: a wire with a router on it.
    pub fn add_bridge(&self, name: &str, address: Ipv4Net) -> Result<()> {
        let socket = self.socket()?;
        socket.request(vec![route::new_bridge(name)]).doing(|| format!("make the bridge {name}"))?;
        let index = number(&socket, name)?;
        let steps = vec![route::new_subnet_address(index, address.into()), route::link_up(index)];
        socket.request(steps).doing(|| format!("set up the bridge {name}"))
    }

    /// Makes it hand on packets of others.
    pub fn forward(&self) -> Result<()> {
        self.inside(|| forward(Family::V4))?
    }

    /// Plugs this machine into a bridge of a switch.
    pub fn plug(&self, cable: &Cable<'_>, switch: &Namespace) -> Result<()> {
        let (far, near) = (switch.socket()?, self.socket()?);
        let mac = |kind| {
            let [a, b, c, d] = cable.address.addr().octets();
            [0x0a, kind, a, b, c, d]
        };
        let (outer, inner) = (End { name: cable.port, mac: mac(0x5a) }, End { name: cable.link, mac: mac(0x5b) });
        let pair = route::new_pair(&outer, &inner, self.0.as_raw_fd(), MTU);
        far.request(vec![pair]).doing(|| format!("make the cable {}", cable.port))?;
        let (port, bridge) = (number(&far, cable.port)?, number(&far, cable.bridge)?);
        let steps = vec![route::set_master(port, bridge), route::link_up(port)];
        far.request(steps).doing(|| format!("plug {} into {}", cable.port, cable.bridge))?;
        let link = number(&near, cable.link)?;
        let steps = vec![
            route::new_subnet_address(link, cable.address.into()),
            route::link_up(link),
            route::default_route(link, cable.gateway.into()),
        ];
        near.request(steps).doing(|| format!("set up {}", cable.link))?;
        notice(&far, port)?;
        notice(&near, link)
    }

    fn socket(&self) -> Result<Socket> {
        self.inside(Socket::route)?.doing(|| "open a netlink socket".into())
    }
}

/// A thread that goes elsewhere must end there: nobody else may find itself in another namespace.
fn in_thread<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().spawn_scoped(scope, work);
        let thread = thread.map_err(|source| Error::Failed { doing: "start a thread".into(), source })?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

#[expect(unsafe_code, reason = "the kernel's call, which other flags would make unsafe")]
fn unshare_network() -> io::Result<()> {
    // SAFETY: neither memory nor descriptors are unshared, only the network of a thread that ends soon.
    Ok(unsafe { unshare_unsafe(UnshareFlags::NEWNET) }?)
}
