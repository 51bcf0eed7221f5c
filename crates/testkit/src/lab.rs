//! Machines on one machine: network namespaces on wires (a bridge in a namespace of its own), each wire behind a router, all routers on
//! one backbone. The namespaces have no names: only open files hold them, so they vanish with the process, however it ends.
//!
//! The caller's own network is never touched. `ip` does the plumbing, since this is for tests only.

mod relay;

use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, bail, ensure};
pub use relay::Impairment;
use relay::Relay;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// The link of every machine to its wire.
pub const LINK: &str = "eth0";

/// The most that the kernel cuts one packet into, if nobody says less.
const SEGMENTS: u32 = 65_535;

/// Why there can be no lab here, if so.
pub fn obstacle() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("a lab needs root".into());
    }
    let is_missing = |tool: &&str| {
        !["/usr/sbin", "/usr/bin", "/sbin", "/bin"].iter().any(|place| std::path::Path::new(place).join(tool).exists())
    };
    ["unshare", "ip"].into_iter().find(is_missing).map(|tool| format!("a lab needs {tool}"))
}

/// A network namespace.
#[derive(Clone, Debug)]
pub struct Namespace(Arc<File>);

impl Namespace {
    /// A fresh one, with loopback up.
    ///
    /// # Errors
    /// When the kernel makes none.
    pub fn new() -> Result<Self> {
        let mut holder = Command::new("unshare");
        let holder = holder.args(["--net", "sh", "-c", "ip link set lo up && echo made && read line"]);
        let mut process = holder.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("starting unshare")?;
        let namespace = Self::of_ready(&mut process);
        drop(process.stdin.take());
        process.wait().context("waiting for unshare")?;
        namespace
    }

    fn of_ready(process: &mut Child) -> Result<Self> {
        let mut line = String::new();
        BufReader::new(process.stdout.as_mut().context("no output")?).read_line(&mut line)?;
        ensure!(line == "made\n", "unshare made no network namespace");
        let path = format!("/proc/{}/ns/net", process.id());
        Ok(Self(Arc::new(File::open(&path).with_context(|| format!("opening {path}"))?)))
    }

    /// Runs in a thread that moved there: what it opens and starts belongs there.
    ///
    /// # Panics
    /// When `work` does.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let moved = || {
                let there = Some(LinkNameSpaceType::Network);
                move_into_link_name_space(self.0.as_fd(), there).expect("an open namespace can be entered");
                work()
            };
            scope.spawn(moved).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Starts a program there.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(&self, command: &mut Command) -> Result<Child> {
        let program = command.get_program().to_owned();
        self.inside(|| command.spawn()).with_context(|| format!("starting {}", program.display()))
    }

    /// What a program there prints.
    ///
    /// # Errors
    /// When it fails.
    pub fn run(&self, line: &str) -> Result<String> {
        let words = line.split_whitespace().map(OsStr::new).collect::<Vec<_>>();
        let (program, arguments) = words.split_first().context("no program")?;
        let output = self.inside(|| Command::new(program).args(arguments).output()).with_context(|| line.to_owned())?;
        if !output.status.success() {
            bail!("{line}: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// A path that leads here, for programs that take one.
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }
}

/// All wires, and the routers between them.
pub struct Lab {
    backbone: Namespace,
    wires: Vec<Wire>,
    families: Families,
}

/// Which addresses machines have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Families {
    /// 198.18.WIRE.NUMBER
    V4,
    /// Those, and fd12:WIRE::NUMBER.
    Both,
    /// fd12:WIRE::NUMBER
    V6,
}

impl Families {
    fn has_v4(self) -> bool {
        self != Families::V6
    }

    fn has_v6(self) -> bool {
        self != Families::V4
    }
}

/// What machines share: whoever is on it reaches the others without a router, which has the first address.
#[derive(Clone)]
pub struct Wire {
    number: u8,
    switch: Namespace,
    router: Namespace,
    machines: Arc<AtomicU32>,
    families: Families,
}

/// A machine on a wire.
#[derive(Clone)]
pub struct Machine {
    namespace: Namespace,
    wire: Wire,
    /// Name of its port in the switch.
    port: String,
    address: Ipv4Addr,
    /// What stands between the port and the switch, if its cable was made worse.
    relay: Arc<Mutex<Option<Relay>>>,
}

impl Lab {
    /// With a backbone only.
    ///
    /// # Errors
    /// When the kernel does not give what it needs; see [`obstacle`].
    pub fn new() -> Result<Self> {
        Self::of(Families::V4)
    }

    /// The same, for machines with such addresses.
    ///
    /// # Errors
    /// As [`Lab::new`].
    pub fn of(families: Families) -> Result<Self> {
        Ok(Self { backbone: switch()?, wires: Vec::new(), families })
    }

    /// A further wire: the first has 198.18.1.0/24, the second 198.18.2.0/24 and so on.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn wire(&mut self) -> Result<Wire> {
        let number = u8::try_from(self.wires.len() + 1).context("too many wires")?;
        let (switch, router) = (switch()?, Namespace::new()?);
        router.inside(|| std::fs::write("/proc/sys/net/ipv4/ip_forward", "1"))?;
        plug(&router, LINK, &switch, "router")?;
        plug(&router, "backbone", &self.backbone, &format!("wire{number}"))?;
        router.run(&format!("ip address add 198.18.{number}.1/24 dev {LINK}"))?;
        router.run(&format!("ip address add 198.18.0.{number}/24 dev backbone"))?;
        for other in &self.wires {
            let there = other.number;
            router.run(&format!("ip route add 198.18.{there}.0/24 via 198.18.0.{there}"))?;
            other.router.run(&format!("ip route add 198.18.{number}.0/24 via 198.18.0.{number}"))?;
        }
        let wire = Wire { number, switch, router, machines: Arc::default(), families: self.families };
        if self.families.has_v6() {
            self.lead_v6(&wire)?;
        }
        self.wires.push(wire.clone());
        Ok(wire)
    }

    /// The wire's router has fd12:WIRE::1, and fd12::WIRE on the backbone.
    fn lead_v6(&self, wire: &Wire) -> Result<()> {
        let (router, number) = (&wire.router, wire.number);
        router.inside(|| std::fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1"))?;
        router.run(&format!("ip address add fd12:{number}::1/64 dev {LINK} nodad"))?;
        router.run(&format!("ip address add fd12::{number}/64 dev backbone nodad"))?;
        for other in &self.wires {
            let there = other.number;
            router.run(&format!("ip route add fd12:{there}::/64 via fd12::{there}"))?;
            other.router.run(&format!("ip route add fd12:{number}::/64 via fd12::{number}"))?;
        }
        Ok(())
    }

    /// The largest packet between routers; they tell senders of larger ones.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn set_backbone_mtu(&self, mtu: u32) -> Result<()> {
        for wire in &self.wires {
            wire.router.run(&format!("ip link set backbone mtu {mtu}"))?;
            self.backbone.run(&format!("ip link set wire{} mtu {mtu}", wire.number))?;
        }
        Ok(())
    }
}

impl Wire {
    /// A further machine, with the router as its way to other wires.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn machine(&self) -> Result<Machine> {
        let number = self.machines.fetch_add(1, Ordering::Relaxed) + 10;
        let namespace = Namespace::new()?;
        let port = format!("m{number}");
        plug(&namespace, LINK, &self.switch, &port)?;
        let (wire, relay) = (self.clone(), Arc::default());
        let mut machine = Machine { namespace, wire, port, address: Ipv4Addr::UNSPECIFIED, relay };
        machine.readdress(u8::try_from(number).context("too many machines")?)?;
        Ok(machine)
    }

    /// The largest packet between machines of the wire; nobody tells senders of larger ones.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn set_mtu(&self, mtu: u32) -> Result<()> {
        for number in 10..10 + self.machines.load(Ordering::Relaxed) {
            self.switch.run(&format!("ip link set m{number} mtu {mtu}"))?;
        }
        Ok(())
    }

    /// The router of this wire.
    pub fn router(&self) -> &Namespace {
        &self.router
    }
}

impl Machine {
    /// By which others reach it.
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// By which others reach it, the one of IPv4 first, of those families that the lab has.
    pub fn addresses(&self) -> Vec<IpAddr> {
        let (families, number) = (self.wire.families, u16::from(self.address.octets()[3]));
        let v6 = Ipv6Addr::new(0xfd12, decimal(u16::from(self.wire.number)), 0, 0, 0, 0, 0, decimal(number));
        let v4 = families.has_v4().then_some(self.address.into());
        v4.into_iter().chain(families.has_v6().then_some(v6.into())).collect()
    }

    /// What it is plugged into.
    pub fn wire(&self) -> &Wire {
        &self.wire
    }

    /// Where it lives.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Gives it the address of this number, instead of the one it has.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn readdress(&mut self, number: u8) -> Result<()> {
        let (wire, families) = (self.wire.number, self.wire.families);
        self.namespace.run(&format!("ip address flush dev {LINK} scope global"))?;
        if families.has_v4() {
            self.namespace.run(&format!("ip address add 198.18.{wire}.{number}/24 dev {LINK}"))?;
            self.namespace.run(&format!("ip route replace default via 198.18.{wire}.1"))?;
        }
        if families.has_v6() {
            self.namespace.run(&format!("ip address add fd12:{wire}::{number}/64 dev {LINK} nodad"))?;
            self.namespace.run(&format!("ip route replace default via fd12:{wire}::1"))?;
        }
        self.address = Ipv4Addr::new(198, 18, wire, number);
        Ok(())
    }

    /// Nothing comes through any more; the machine does not see that.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn cut(&self) -> Result<()> {
        let port = self.plugged();
        self.wire.switch.run(&format!("ip link set {port} nomaster")).map(drop)
    }

    /// Everything comes through again.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn restore(&self) -> Result<()> {
        let port = self.plugged();
        self.wire.switch.run(&format!("ip link set {port} master switch")).map(drop)
    }

    /// Delay and loss of all that it sends and gets; None takes them away. A cable that was cut is whole then.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn impair(&self, how: Option<Impairment>) -> Result<()> {
        let (switch, port) = (&self.wire.switch, &self.port);
        let mut relay = self.relay.lock().unwrap_or_else(PoisonError::into_inner);
        if relay.take().is_some() {
            switch.run(&format!("ip link delete {port}-near"))?;
            switch.run(&format!("ip link set {port} master switch"))?;
            self.namespace.run(&format!("ip link set {LINK} gso_max_segs {SEGMENTS}"))?;
        }
        let Some(how) = how else { return Ok(()) };
        // No segments larger than the cable: nobody behind it could send those on.
        self.namespace.run(&format!("ip link set {LINK} gso_max_segs 1"))?;
        let segments = "gso_max_segs 1 type veth peer name";
        switch.run(&format!("ip link add {port}-far {segments} {port}-near"))?;
        for link in [port.clone(), format!("{port}-near"), format!("{port}-far")] {
            // The switch's machine has nothing to say itself.
            switch.run(&format!("ip link set {link} addrgenmode none"))?;
        }
        switch.run(&format!("ip link set {port} nomaster"))?;
        switch.run(&format!("ip link set {port}-near up"))?;
        *relay = Some(Relay::start(switch, [port, &format!("{port}-near")], how)?);
        switch.run(&format!("ip link set {port}-far master switch up"))?;
        switch.run(&format!("ip link show {port}-far")).map(drop)
    }

    /// The name of the link that is a port of the switch.
    fn plugged(&self) -> String {
        let relay = self.relay.lock().unwrap_or_else(PoisonError::into_inner);
        if relay.is_some() { format!("{}-far", self.port) } else { self.port.clone() }
    }
}

/// The number whose hexadecimal digits are these decimal ones: addresses show what people count.
fn decimal(number: u16) -> u16 {
    number / 100 * 0x100 + number / 10 % 10 * 0x10 + number % 10
}

/// A namespace with a bridge.
fn switch() -> Result<Namespace> {
    let namespace = Namespace::new()?;
    namespace.run("ip link add switch type bridge forward_delay 0")?;
    namespace.run("ip link set switch up")?;
    Ok(namespace)
}

/// A cable from a new link to a new port of a switch.
fn plug(machine: &Namespace, link: &str, switch: &Namespace, port: &str) -> Result<()> {
    switch.run(&format!("ip link add {port} type veth peer name {link} netns {}", machine.path()))?;
    switch.run(&format!("ip link set {port} master switch up"))?;
    machine.run(&format!("ip link set {link} up"))?;
    // Asking makes the kernel notice at once that both ends are up.
    switch.run(&format!("ip link show {port}"))?;
    machine.run(&format!("ip link show {link}"))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{Shutdown, TcpListener, TcpStream, UdpSocket};
    use std::time::{Duration, Instant};

    use super::*;

    fn reaches(from: &Machine, to: &Machine) -> bool {
        let socket = to.namespace().inside(|| UdpSocket::bind("0.0.0.0:9")).expect("bind");
        socket.set_read_timeout(Some(Duration::from_millis(500))).expect("time-out");
        let goal = (to.address(), 9);
        from.namespace().inside(|| UdpSocket::bind("0.0.0.0:0").and_then(|own| own.send_to(b"?", goal))).expect("send");
        socket.recv(&mut [0; 1]).is_ok()
    }

    #[test]
    fn machines_reach_each_other_until_a_cable_is_cut() {
        if let Some(reason) = obstacle() {
            eprintln!("SKIPPED: {reason}");
            return;
        }
        let mut lab = Lab::new().expect("a lab");
        let (here, there) = (lab.wire().expect("a wire"), lab.wire().expect("a wire"));
        let [a, b] = [here.machine(), here.machine()].map(|made| made.expect("a machine"));
        let mut c = there.machine().expect("a machine");
        assert!(reaches(&a, &b) && reaches(&a, &c) && reaches(&c, &b));
        b.cut().expect("cut");
        assert!(!reaches(&a, &b) && reaches(&a, &c));
        b.restore().expect("restore");
        c.readdress(99).expect("a new address");
        assert_eq!(c.address(), Ipv4Addr::new(198, 18, 2, 99));
        assert!(reaches(&a, &b) && reaches(&a, &c));
    }

    /// How long a question and its answer take.
    fn round_trip(from: &Machine, to: &Machine, bytes: usize) -> Option<Duration> {
        let listener = to.namespace().inside(|| TcpListener::bind("0.0.0.0:9")).expect("bind");
        let goal = (to.address(), 9);
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let (mut stream, _) = listener.accept().expect("accept");
                let mut got = Vec::new();
                stream.read_to_end(&mut got).expect("read");
                assert!(got.iter().all(|byte| *byte == 7));
                stream.write_all(&got.len().to_ne_bytes()).expect("write");
            });
            let mut stream = from.namespace().inside(|| TcpStream::connect(goal)).ok()?;
            let start = Instant::now();
            stream.write_all(&vec![7; bytes]).ok()?;
            stream.shutdown(Shutdown::Write).ok()?;
            let mut answer = [0; size_of::<usize>()];
            stream.read_exact(&mut answer).ok()?;
            assert_eq!(usize::from_ne_bytes(answer), bytes);
            Some(start.elapsed())
        })
    }

    #[test]
    fn a_cable_can_be_made_worse_and_better_again() {
        if let Some(reason) = obstacle() {
            eprintln!("SKIPPED: {reason}");
            return;
        }
        let mut lab = Lab::new().expect("a lab");
        let (here, there) = (lab.wire().expect("a wire"), lab.wire().expect("a wire"));
        let [a, b] = [here.machine(), here.machine()].map(|made| made.expect("a machine"));
        let c = there.machine().expect("a machine");
        let each_way = Duration::from_millis(40);
        b.impair(Some(Impairment::delay(each_way))).expect("delay");
        for (one, other) in [(&a, &b), (&b, &a), (&c, &b), (&b, &c)] {
            let took = round_trip(one, other, 1).expect("an answer");
            assert!(took >= each_way * 2 && took < each_way * 4, "{took:?}");
        }
        assert!(round_trip(&a, &c, 1).expect("an answer") < each_way);
        // Large segments are cut before they get to the relay, and their checksums are right behind it.
        assert!(round_trip(&a, &b, 1 << 20).is_some() && round_trip(&b, &c, 1 << 20).is_some());
        b.cut().expect("cut");
        assert!(!reaches(&a, &b));
        b.restore().expect("restore");
        assert!(reaches(&a, &b));
        b.impair(Some(Impairment { loss: 1000, ..Impairment::default() })).expect("loss");
        assert!(!reaches(&a, &b) && reaches(&a, &c));
        b.impair(None).expect("a good cable");
        assert!(round_trip(&a, &b, 1).expect("an answer") < each_way);
    }

    #[test]
    fn nothing_is_left_also_after_a_panic() {
        if let Some(reason) = obstacle() {
            eprintln!("SKIPPED: {reason}");
            return;
        }
        let namespace = Namespace::new().expect("a namespace");
        let path = namespace.path();
        let panicked =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| namespace.inside(|| panic!("as meant"))));
        assert!(panicked.is_err());
        let own = std::fs::read_link("/proc/self/ns/net").expect("own namespace");
        let its = std::fs::read_link(&path).expect("its namespace");
        assert_ne!(own, its);
        drop(namespace);
        assert!(std::fs::read_link(&path).map_or(true, |link| link != its), "it is still open");
    }
}
