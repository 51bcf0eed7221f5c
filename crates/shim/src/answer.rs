//! What agents ask for, one function per request.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, ipproto, socket_with};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::container::{Running, Start, clone_into, report_channel};
use crate::init;
use crate::protocol::{Call, Exec, Failure, FailureClass, Message, Reply, Request, VERSION};
use crate::serve::{Extra, Shim};
use crate::spec::{Container, WindowSize};
use crate::stdio::set_nonblocking;
use crate::sys;

impl Failure {
    fn not_found(container: &str) -> Failure {
        Failure { class: FailureClass::NotFound, message: format!("container {container} not found") }
    }

    fn not_running(container: &str) -> Failure {
        Failure { class: FailureClass::NotRunning, message: format!("container {container} is not running") }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        Failure { class: FailureClass::Os(error.raw_os_error().unwrap_or(libc::EIO)), message: error.to_string() }
    }
}

impl From<rustix::io::Errno> for Failure {
    fn from(error: rustix::io::Errno) -> Failure {
        io::Error::from(error).into()
    }
}

type Answer = Result<Reply, Failure>;

impl Shim {
    pub(crate) fn answer(&mut self, agent: u64, request: Request, fds: Vec<OwnedFd>) {
        let seq = request.seq;
        let answer = match request.call {
            Call::Hello => Ok(self.hello()),
            Call::Start(spec) => return self.start(agent, seq, *spec),
            Call::Exec(exec) => return self.exec(agent, seq, *exec, fds),
            Call::Attach { container, stdin } => return self.attach(agent, seq, &container, stdin),
            Call::Connect { port, ipv6 } => return self.connect(agent, seq, port, ipv6),
            Call::Shutdown => return self.shut_down(agent, seq),
            Call::Signal { container, signal, all } => self.signal(&container, signal, all),
            Call::SignalExec { exec, signal } => self.signal_exec(exec, signal),
            Call::Resize { container, size } => self.resize(&container, size),
            Call::Forget { container } => self.forget(&container),
        };
        self.reply(agent, seq, answer);
    }

    fn hello(&self) -> Reply {
        let containers = self.containers.values().map(|container| container.record.clone()).collect();
        Reply::Hello { version: VERSION, pid: std::process::id(), containers }
    }

    fn start(&mut self, agent: u64, seq: u64, spec: Container) {
        let id = spec.id.clone();
        if self.containers.contains_key(&id) || self.shutdown.is_some() {
            let message = format!("container {id} cannot be started twice");
            return self.reply(agent, seq, Err(Failure { class: FailureClass::Os(libc::EEXIST), message }));
        }
        match Running::start(spec, &self.sandbox, self.host_pid, agent, seq) {
            Ok(running) => drop(self.containers.insert(id, running)),
            Err(error) => self.reply(agent, seq, Err(error.into())),
        }
    }

    fn exec(&mut self, agent: u64, seq: u64, exec: Exec, fds: Vec<OwnedFd>) {
        match self.fork_extra(agent, seq, &exec, fds) {
            Ok(extra) => {
                self.extras.insert(self.next_extra, extra);
                self.next_extra += 1;
            }
            Err(failure) => self.reply(agent, seq, Err(failure)),
        }
    }

    fn fork_extra(&self, agent: u64, seq: u64, exec: &Exec, fds: Vec<OwnedFd>) -> Result<Extra, Failure> {
        let container = self.containers.get(&exec.container).ok_or_else(|| Failure::not_found(&exec.container))?;
        let pid =
            container.pid.filter(|_| container.start.is_none()).ok_or_else(|| Failure::not_running(&exec.container))?;
        let pid = rustix::process::Pid::from_raw(pid as i32).ok_or_else(|| Failure::not_running(&exec.container))?;
        let target = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())?;
        let stdio: init::Stdio = match exec.tty {
            Some(_) => None,
            None => Some(fds.try_into().map_err(|_| Failure::from(io::Error::from_raw_os_error(libc::EBADF)))?),
        };
        let (report, theirs) = report_channel()?;
        let cgroup = &container.spec.cgroup;
        let pid = clone_into(Some(target.as_fd()), &self.sandbox.own_pids, 0, cgroup.unified.as_deref(), || {
            init::run_exec(&exec.process, &cgroup.tasks, &target, stdio, &theirs, exec.tty)
        })?;
        Ok(Extra { pid, start: Some(Start { report, agent, seq, terminal: None }) })
    }

    fn attach(&mut self, agent: u64, seq: u64, id: &str, stdin: bool) {
        match self.join(id, stdin) {
            Ok((reply, fds)) => {
                let fds: Vec<BorrowedFd<'_>> = fds.iter().map(|fd| fd.as_fd()).collect();
                self.say(agent, &Message::Reply { seq, result: Ok(reply) }, &fds);
            }
            Err(failure) => self.reply(agent, seq, Err(failure)),
        }
    }

    fn join(&mut self, id: &str, wants_stdin: bool) -> Result<(Reply, Vec<OwnedFd>), Failure> {
        let container = self.containers.get_mut(id).ok_or_else(|| Failure::not_found(id))?;
        if container.pid.is_none() {
            return Err(Failure::not_running(id));
        }
        let mut fds = Vec::new();
        if wants_stdin {
            let stdin = match &container.terminal {
                Some(terminal) if container.spec.stdin => Some(terminal.try_clone()?),
                Some(_) => None,
                // The only copy goes away, so the end of this client is the end of stdin.
                None if container.spec.stdin_once => container.stdin.take(),
                None => container.stdin.as_ref().map(OwnedFd::try_clone).transpose()?,
            };
            fds.extend(stdin);
        }
        let reply = Reply::Attached { stdin: !fds.is_empty(), tty: container.spec.tty };
        for output in &mut container.outputs {
            fds.push(output.join()?);
        }
        Ok((reply, fds))
    }

    fn connect(&mut self, agent: u64, seq: u64, port: u16, ipv6: bool) {
        match open_connection(port, ipv6) {
            Ok(socket) => self.say(agent, &Message::Reply { seq, result: Ok(Reply::Done) }, &[socket.as_fd()]),
            Err(error) => self.reply(agent, seq, Err(error.into())),
        }
    }

    fn signal(&self, id: &str, signal: i32, all: bool) -> Answer {
        let container = self.containers.get(id).ok_or_else(|| Failure::not_found(id))?;
        let pid = container.pid.ok_or_else(|| Failure::not_running(id))?;
        if all {
            container.kill_all();
        } else {
            sys::kill(pid as i32, signal)?;
        }
        Ok(Reply::Done)
    }

    fn signal_exec(&self, exec: u64, signal: i32) -> Answer {
        let not_found = || Failure { class: FailureClass::NotFound, message: format!("exec {exec} not found") };
        let extra = self.extras.get(&exec).ok_or_else(not_found)?;
        sys::kill(extra.pid as i32, signal)?;
        Ok(Reply::Done)
    }

    fn resize(&self, id: &str, size: WindowSize) -> Answer {
        let container = self.containers.get(id).ok_or_else(|| Failure::not_found(id))?;
        let terminal = container.terminal.as_ref().ok_or_else(|| Failure::not_running(id))?;
        tcsetwinsize(terminal, Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 })?;
        Ok(Reply::Done)
    }

    fn forget(&mut self, id: &str) -> Answer {
        match self.containers.get(id) {
            Some(container) if container.pid.is_some() => {
                Err(Failure { class: FailureClass::Os(libc::EBUSY), message: format!("container {id} is running") })
            }
            _ => {
                self.containers.remove(id);
                Ok(Reply::Done)
            }
        }
    }

    fn shut_down(&mut self, agent: u64, seq: u64) {
        self.shutdown = Some((agent, seq));
        for container in self.containers.values() {
            container.kill_all();
        }
        for extra in self.extras.values() {
            // One that is gone is reaped soon.
            sys::kill(extra.pid as i32, libc::SIGKILL).unwrap_or_default();
        }
    }
}

/// Begun, not awaited: the agent sees by the socket how it ends.
fn open_connection(port: u16, ipv6: bool) -> io::Result<OwnedFd> {
    let family = if ipv6 { AddressFamily::INET6 } else { AddressFamily::INET };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(family, SocketType::STREAM, flags, Some(ipproto::TCP))?;
    let result = if ipv6 {
        connect(&socket, &std::net::SocketAddrV6::new(std::net::Ipv6Addr::LOCALHOST, port, 0, 0))
    } else {
        connect(&socket, &std::net::SocketAddrV4::new(std::net::Ipv4Addr::LOCALHOST, port))
    };
    match result {
        Ok(()) | Err(rustix::io::Errno::INPROGRESS) => Ok(socket),
        Err(error) => Err(error.into()),
    }
}

/// A socket that this process only answers on must never make it wait.
pub(crate) fn prepare_agent(socket: &OwnedFd) -> io::Result<()> {
    set_nonblocking(socket)
}
