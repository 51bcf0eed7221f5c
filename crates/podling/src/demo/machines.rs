//! The machines of a demonstration with several nodes: network namespaces on this machine, whose own network is not touched. One further
//! namespace has the wires: bridges, between which it is the router.

use std::net::Ipv4Addr;

use anyhow::Context;
use ipnet::Ipv4Net;
use network::Namespace;
use network::netns::Cable;

/// Ranges that are reserved for documentation, so that nobody waits for answers from there.
const NEAR: [u8; 3] = [192, 0, 2];
const FAR: [u8; 3] = [198, 51, 100];

/// All of them; gone with this value and the programs that run there.
pub(super) struct Machines {
    all: Vec<(Namespace, Ipv4Addr)>,
    _wires: Namespace,
}

impl Machines {
    /// So many; from three on the last is behind a router.
    pub(super) fn new(count: u8) -> anyhow::Result<Self> {
        let wires = Namespace::new()?;
        wires.forward()?;
        wires.add_bridge("near", net(NEAR, 1)?)?;
        wires.add_bridge("far", net(FAR, 1)?)?;
        let mut all = Vec::new();
        for number in 1..=count {
            let is_far = count > 2 && number == count;
            let (subnet, bridge) = if is_far { (FAR, "far") } else { (NEAR, "near") };
            let (address, port) = (net(subnet, 10 + number)?, format!("m{number}"));
            let gateway = net(subnet, 1)?.addr();
            let machine = Namespace::new()?;
            machine.plug(&Cable { link: "eth0", address, gateway, port: &port, bridge }, &wires)?;
            all.push((machine, address.addr()));
        }
        Ok(Self { all, _wires: wires })
    }

    pub(super) fn count(&self) -> usize {
        self.all.len()
    }

    /// By which others reach a machine; the first is number one.
    pub(super) fn address(&self, number: usize) -> anyhow::Result<Ipv4Addr> {
        Ok(self.machine(number)?.1)
    }

    /// Runs something on a machine that starts a program there.
    pub(super) fn on<T: Send>(&self, number: usize, start: impl FnOnce() -> T + Send) -> anyhow::Result<T> {
        let runtime = tokio::runtime::Handle::current();
        let entered = || {
            let _runtime = runtime.enter();
            start()
        };
        Ok(self.machine(number)?.0.inside(entered)?)
    }

    fn machine(&self, number: usize) -> anyhow::Result<&(Namespace, Ipv4Addr)> {
        self.all.get(number - 1).with_context(|| format!("there is no machine {number}"))
    }
}

fn net([a, b, c]: [u8; 3], host: u8) -> anyhow::Result<Ipv4Net> {
    Ok(Ipv4Net::new(Ipv4Addr::new(a, b, c, host), 24)?)
}
