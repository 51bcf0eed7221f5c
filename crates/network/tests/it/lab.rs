//! Machines made of network namespaces. The test binary runs itself again inside an own one, so that the real machine is never touched.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use network::{Attachment, Socket};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

const PATIENCE: Duration = Duration::from_secs(10);
const INSIDE: &str = "PODLING_NETWORK_LAB";

/// Runs `test` in a machine of its own, as far as networks go.
pub(crate) fn isolated(name: &str, test: fn()) {
    if std::env::var_os(INSIDE).is_some() {
        return test();
    }
    if !rustix::process::geteuid().is_root() || !["unshare", "ip", "nft"].iter().all(|tool| has(tool)) {
        eprintln!("SKIPPED: needs root, unshare, ip and nft");
        return;
    }
    let own = std::env::current_exe().expect("the test binary");
    let output = Command::new("unshare")
        .args(["--net", "--mount"])
        .arg(own)
        .args(["--exact", name, "--nocapture"])
        .env(INSIDE, "1")
        .output()
        .expect("unshare runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

fn has(tool: &str) -> bool {
    ["/usr/sbin", "/usr/bin", "/sbin", "/bin"]
        .iter()
        .any(|directory| std::path::Path::new(directory).join(tool).exists())
}

/// What a tool says, or what is wrong.
pub(crate) fn run(command: &str) -> String {
    let output = Command::new("sh").args(["-c", command]).output().expect("sh runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{command}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

/// A further network namespace, as long as this lives.
pub(crate) struct Machine {
    process: Child,
}

impl Machine {
    pub(crate) fn new() -> Machine {
        let mut process = Command::new("unshare")
            .args(["--net", "sh", "-c", "ip link set lo up; echo ready; exec sleep 1000"])
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare runs");
        let mut line = String::new();
        BufReader::new(process.stdout.as_mut().expect("stdout")).read_line(&mut line).expect("a line");
        assert_eq!(line, "ready\n");
        Machine { process }
    }

    /// A namespace attached as a sandbox's is.
    pub(crate) fn attached(attachment: &Attachment) -> Machine {
        let machine = Machine::new();
        let host = Socket::route().expect("socket");
        let attachment = attachment.clone();
        machine.inside(move || network::attach::perform(&host, &attachment).expect("attach"));
        machine
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Runs in a thread that moved there; sockets made in it stay there.
    pub(crate) fn inside<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let namespace = File::open(format!("/proc/{}/ns/net", self.pid())).expect("namespace");
        let thread = std::thread::spawn(move || {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).expect("setns");
            work()
        });
        thread.join().expect("it did not panic")
    }

    pub(crate) fn run(&self, command: &str) -> String {
        run(&format!("nsenter --net=/proc/{}/ns/net {command}", self.pid()))
    }

    /// Answers each TCP connection with the address it came from.
    pub(crate) fn serve(&self, port: u16) {
        let listener = self.inside(move || TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).expect("bind"));
        answer(listener);
    }

    pub(crate) fn ask(&self, address: &str) -> std::io::Result<String> {
        let address = address.to_owned();
        self.inside(move || ask(&address))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.process.kill().expect("kill");
        self.process.wait().expect("wait");
    }
}

pub(crate) fn answer(listener: TcpListener) {
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("accept");
            let peer = stream.peer_addr().expect("peer").ip().to_string();
            stream.write_all(peer.as_bytes()).expect("write");
        }
    });
}

/// Which address the other side sees.
pub(crate) fn ask(address: &str) -> std::io::Result<String> {
    let address: SocketAddr = address.parse().expect("an address");
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

/// The same over UDP: the other side must be [`echo_udp`].
pub(crate) fn ask_udp(address: &str) -> std::io::Result<String> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.connect(address)?;
    socket.send(b"?")?;
    let mut buffer = [0; 100];
    let count = socket.recv(&mut buffer)?;
    Ok(String::from_utf8_lossy(&buffer[..count]).into_owned())
}

pub(crate) fn echo_udp(socket: UdpSocket) {
    std::thread::spawn(move || {
        let mut buffer = [0; 100];
        while let Ok((_, peer)) = socket.recv_from(&mut buffer) {
            socket.send_to(peer.ip().to_string().as_bytes(), peer).expect("send");
        }
    });
}
