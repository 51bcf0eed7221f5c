//! Throughput between attachments on different machines, beside the same path made by hand: plain veth and routes, or a VXLAN link of
//! `ip`'s making, with no table of rules. Both are measured in turn, in the same lab. Beside the rates, which other work on the machine
//! changes from second to second, stands what a megabyte costs this process in processor time, both ends and the kernel's part included.
#![expect(clippy::print_stdout, reason = "figures are for people")]

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use ipnet::IpNet;
use network::mesh::vni;
use network::{Backend, Config, Host, Own, Peer, Socket};
use rustix::time::{ClockId, clock_gettime};
use testkit::lab::{self, Lab, Machine, Namespace};

const ROUNDS: usize = 15;
const SPAN: Duration = Duration::from_millis(500);

fn main() -> Result<()> {
    if let Some(reason) = lab::obstacle() {
        println!("SKIPPED: {reason}");
        return Ok(());
    }
    for (name, backend, target) in [("routes", Backend::Route, "≥ 95 %"), ("VXLAN", Backend::Vxlan, "≥ 90 %")] {
        let mut lab = Lab::new()?;
        let wire = lab.wire()?;
        let ours = Path::ours([wire.machine()?, wire.machine()?], backend)?;
        let by_hand = Path::by_hand([wire.machine()?, wire.machine()?], backend)?;
        let (mut own, mut reference) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            own.push(ours.measure()?);
            reference.push(by_hand.measure()?);
        }
        let middle = |figures: &[Figure], of: fn(&Figure) -> f64| median(figures.iter().map(of).collect());
        let (rate, rate_there) = (middle(&own, |it| it.rate), middle(&reference, |it| it.rate));
        let (cost, cost_there) = (middle(&own, |it| it.cost), middle(&reference, |it| it.cost));
        // Of neighbouring measurements, so that what else the machine does weighs on both.
        let share = median(own.iter().zip(&reference).map(|(own, there)| own.rate / there.rate * 100.0).collect());
        println!(
            "pod to pod, {name:<8} {rate:.2} Gbit/s at {cost:.0} µs/MB   by hand {rate_there:.2} Gbit/s at {cost_there:.0} µs/MB   \
             {share:.0} %   {target}"
        );
    }
    Ok(())
}

/// What one connection gave.
struct Figure {
    /// Gbit/s.
    rate: f64,
    /// Processor time in µs for a megabyte.
    cost: f64,
}

/// Two attachments, each on its machine.
struct Path {
    from: Namespace,
    to: Namespace,
    goal: IpAddr,
    /// Held, since their namespaces end with them.
    _machines: [Machine; 2],
}

fn block(number: usize) -> Result<IpNet> {
    Ok(format!("10.42.{number}.0/26").parse()?)
}

fn pod(number: usize) -> IpAddr {
    [10, 42, number as u8, 1].into()
}

impl Path {
    fn ours(machines: [Machine; 2], backend: Backend) -> Result<Path> {
        let mut pods = Vec::new();
        for (number, machine) in machines.iter().enumerate() {
            let other = 1 - number;
            let range: IpNet = "10.42.0.0/16".parse()?;
            let config = Config { prefix: "plt".into(), table: "podling".into(), ranges: range.into() };
            let (addresses, blocks) = (vec![machine.address().into()], vec![block(number)?]);
            let own = Own { addresses, blocks, vni: vni("bench"), secret: None };
            let peer = Peer {
                name: "peer".into(),
                addresses: vec![machines[other].address().into()],
                blocks: vec![block(other)?],
                path_mtu: None,
                key: None,
            };
            let (host, states, attachment, outer) = machine.namespace().inside(|| -> Result<_> {
                let host = Host::open(config)?;
                host.apply(&[])?;
                let states = host.mesh(&own, &[peer], backend)?;
                let attachment = host.attachment("pod", &[pod(number)])?;
                Ok((host, states, attachment, Socket::route()?))
            })?;
            let namespace = Namespace::new()?;
            namespace.inside(|| network::attach::perform(&outer, &attachment))?;
            machine.namespace().inside(|| host.offload(&states))?;
            pods.push(namespace);
        }
        Path::between(pods, machines)
    }

    fn by_hand(machines: [Machine; 2], backend: Backend) -> Result<Path> {
        let mut pods = Vec::new();
        for (number, machine) in machines.iter().enumerate() {
            let (host, inside, other) = (machine.namespace(), Namespace::new()?, 1 - number);
            let (peer, there, own) = (machines[other].address(), block(other)?, pod(number));
            host.inside(|| std::fs::write("/proc/sys/net/ipv4/ip_forward", "1"))?;
            let mtu = if backend == Backend::Vxlan { 1450 } else { 1500 };
            host.run(&format!(
                "ip link add veth0 mtu {mtu} type veth peer name eth0 mtu {mtu} netns {}",
                inside.path()
            ))?;
            host.run("ip link set veth0 up")?;
            host.run("ip address add 169.254.1.1/32 dev veth0")?;
            host.run(&format!("ip route add {own}/32 dev veth0"))?;
            inside.run(&format!("ip address add {own}/32 dev eth0"))?;
            inside.run("ip link set eth0 up")?;
            inside.run("ip route add default via 169.254.1.1 dev eth0 onlink")?;
            if backend == Backend::Vxlan {
                let local = machine.address();
                host.run(&format!("ip link add vx0 type vxlan id 77 local {local} dstport 8472 nolearning"))?;
                host.run(&format!("ip link set vx0 address 0a:00:00:00:00:0{number} mtu 1450 up"))?;
                let mac = format!("0a:00:00:00:00:0{other}");
                host.run(&format!("ip neigh add {} lladdr {mac} dev vx0 nud permanent", there.network()))?;
                host.run(&format!("bridge fdb add {mac} dev vx0 dst {peer}"))?;
                host.run(&format!("ip route add {there} via {} dev vx0 onlink", there.network()))?;
            } else {
                host.run(&format!("ip route add {there} via {peer}"))?;
            }
            pods.push(inside);
        }
        Path::between(pods, machines)
    }

    fn between(pods: Vec<Namespace>, machines: [Machine; 2]) -> Result<Path> {
        let [from, to] = <[Namespace; 2]>::try_from(pods).ok().context("two attachments")?;
        Ok(Path { from, to, goal: pod(1), _machines: machines })
    }

    /// One TCP connection.
    fn measure(&self) -> Result<Figure> {
        let used = processor_time();
        let listener = self.to.inside(|| TcpListener::bind("0.0.0.0:5001"))?;
        let receiver = std::thread::spawn(move || -> Result<(usize, f64)> {
            let (mut stream, _) = listener.accept()?;
            let (mut buffer, mut bytes, start) = (vec![0; 256 << 10], 0usize, Instant::now());
            loop {
                match stream.read(&mut buffer)? {
                    0 => return Ok((bytes, start.elapsed().as_secs_f64())),
                    count => bytes += count,
                }
            }
        });
        let goal = SocketAddr::from((self.goal, 5001));
        let mut stream = self.from.inside(|| TcpStream::connect_timeout(&goal, Duration::from_secs(5)))?;
        let (data, end) = (vec![7; 256 << 10], Instant::now() + SPAN);
        while Instant::now() < end {
            stream.write_all(&data)?;
        }
        drop(stream);
        let (bytes, seconds) = receiver.join().ok().context("the receiver panicked")??;
        let megabytes = bytes as f64 * 1e-6;
        Ok(Figure { rate: megabytes * 8e-3 / seconds, cost: (processor_time() - used) * 1e6 / megabytes })
    }
}

/// In seconds, of this process.
fn processor_time() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}
