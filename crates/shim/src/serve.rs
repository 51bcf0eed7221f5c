//! The loop: children, streams and agents, one event at a time.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{SocketFlags, accept_with};

use crate::container::{Progress, Running, Start, exit_of};
use crate::log::Log;
use crate::packet;
use crate::protocol::{Failure, Message, Reply, Request};
use crate::sandbox::{Sandbox, drain};
use crate::spec;
use crate::stdio::READ_BYTES;
use crate::sys;

/// Output that comes in larger pieces than this is a burst.
const BURST: usize = 4096;
/// A burst is over when nothing came for so long.
const QUIET: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

/// A further process of a container.
#[derive(Debug)]
pub(crate) struct Extra {
    pub(crate) pid: u32,
    pub(crate) start: Option<Start>,
}

/// Everything there is.
pub(crate) struct Shim {
    /// The containers see the machine's processes.
    pub(crate) host_pid: bool,
    /// They see each other's.
    pub(crate) share_process: bool,
    pub(crate) sandbox: Sandbox,
    pub(crate) containers: BTreeMap<String, Running>,
    pub(crate) extras: BTreeMap<u64, Extra>,
    pub(crate) next_extra: u64,
    /// Who waits for the end.
    pub(crate) shutdown: Option<(u64, u64)>,
    signals: OwnedFd,
    agents: BTreeMap<u64, OwnedFd>,
    next_agent: u64,
    buffer: Vec<u8>,
    /// Whether more pages of the buffers were touched than a quiet sandbox should hold.
    is_warm: bool,
}

/// What a descriptor of the poll list stands for.
#[derive(Clone, Debug)]
enum Source {
    Signals,
    Listener,
    Agent(u64),
    Start(String),
    ExtraStart(u64),
    Output(String, usize),
    /// Of a container's output.
    Client(String, usize, u64),
}

impl Shim {
    pub(crate) fn new(spec: &spec::Sandbox, sandbox: Sandbox, signals: OwnedFd, first_agent: OwnedFd) -> Shim {
        Shim {
            host_pid: spec.host_pid,
            share_process: spec.share_process,
            sandbox,
            containers: BTreeMap::new(),
            extras: BTreeMap::new(),
            next_extra: 1,
            shutdown: None,
            signals,
            agents: BTreeMap::from([(0, first_agent)]),
            next_agent: 1,
            buffer: vec![0; READ_BYTES],
            is_warm: false,
        }
    }

    /// Until an agent says `Shutdown`.
    pub(crate) fn run(mut self) -> io::Result<()> {
        loop {
            let ready = self.wait()?;
            // What a child said about its start must be known before its end is.
            for (source, flags) in ready {
                self.serve(source, flags);
            }
            if self.is_over() {
                return Ok(());
            }
        }
    }

    fn wait(&mut self) -> io::Result<Vec<(Source, PollFlags)>> {
        let ready = self.poll(self.is_warm.then_some(&QUIET))?;
        if !ready.is_empty() || !self.is_warm {
            return Ok(ready);
        }
        self.cool_down();
        self.poll(None)
    }

    /// Gives back what a burst of output needed: a sandbox is idle nearly all its life, and there may be many.
    fn cool_down(&mut self) {
        self.is_warm = false;
        self.buffer = Vec::new();
        self.buffer = vec![0; READ_BYTES];
        self.containers.values_mut().filter_map(|container| container.log.as_mut()).for_each(Log::rest);
        sys::give_memory_back();
    }

    fn poll(&self, patience: Option<&Timespec>) -> io::Result<Vec<(Source, PollFlags)>> {
        let sources = self.sources();
        let mut polled: Vec<PollFd<'_>> =
            sources.iter().map(|(_, fd, flags)| PollFd::from_borrowed_fd(*fd, *flags)).collect();
        match poll(&mut polled, patience) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let ready = sources.iter().zip(&polled).filter(|(_, polled)| !polled.revents().is_empty());
        Ok(ready.map(|((source, ..), polled)| (source.clone(), polled.revents())).collect())
    }

    fn sources(&self) -> Vec<(Source, BorrowedFd<'_>, PollFlags)> {
        let mut sources = Vec::with_capacity(16);
        for (id, container) in &self.containers {
            if let Some(start) = &container.start {
                sources.push((Source::Start(id.clone()), start.report.as_fd(), PollFlags::IN));
            }
            for (number, output) in container.outputs.iter().enumerate() {
                if let Some(fd) = output.readable() {
                    sources.push((Source::Output(id.clone(), number), fd.as_fd(), PollFlags::IN));
                }
                for (client, fd, is_behind) in output.sinks() {
                    let flags = if is_behind { PollFlags::OUT } else { PollFlags::empty() };
                    sources.push((Source::Client(id.clone(), number, client), fd.as_fd(), flags));
                }
            }
        }
        for (id, extra) in &self.extras {
            if let Some(start) = &extra.start {
                sources.push((Source::ExtraStart(*id), start.report.as_fd(), PollFlags::IN));
            }
        }
        sources.push((Source::Signals, self.signals.as_fd(), PollFlags::IN));
        sources.push((Source::Listener, self.sandbox.listener.as_fd(), PollFlags::IN));
        sources.extend(self.agents.iter().map(|(id, fd)| (Source::Agent(*id), fd.as_fd(), PollFlags::IN)));
        sources
    }

    fn serve(&mut self, source: Source, flags: PollFlags) {
        match source {
            Source::Signals => {
                drain(&self.signals);
                self.reap();
            }
            Source::Listener => self.accept(),
            Source::Agent(id) => self.listen_to(id),
            Source::Start(id) => self.advance_container(&id),
            Source::ExtraStart(id) => self.advance_extra(id),
            Source::Output(id, number) => self.pump(&id, number),
            Source::Client(id, number, client) => self.attend(&id, number, client, flags),
        }
    }

    fn accept(&mut self) {
        if let Ok(socket) = accept_with(&self.sandbox.listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
            self.agents.insert(self.next_agent, socket);
            self.next_agent += 1;
        }
    }

    fn listen_to(&mut self, id: u64) {
        let Some(socket) = self.agents.get(&id) else {
            return;
        };
        match packet::receive::<Request>(socket) {
            Ok(Some((request, fds))) => self.answer(id, request, fds),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Ok(None) => drop(self.agents.remove(&id)),
            Err(error) => {
                crate::complain(&format!("an agent said what is no request: {error}"));
                self.agents.remove(&id);
            }
        }
    }

    /// Tells one agent; one that does not listen is dropped and may come again.
    pub(crate) fn say(&mut self, agent: u64, message: &Message, fds: &[BorrowedFd<'_>]) {
        let Some(socket) = self.agents.get(&agent) else {
            return;
        };
        if let Err(error) = packet::send(socket, message, fds) {
            crate::complain(&format!("an agent is not listening: {error}"));
            self.agents.remove(&agent);
        }
    }

    pub(crate) fn reply(&mut self, agent: u64, seq: u64, result: Result<Reply, Failure>) {
        self.say(agent, &Message::Reply { seq, result }, &[]);
    }

    pub(crate) fn tell_all(&mut self, message: &Message) {
        let agents: Vec<u64> = self.agents.keys().copied().collect();
        for agent in agents {
            self.say(agent, message, &[]);
        }
    }

    fn pump(&mut self, id: &str, number: usize) {
        let Some(container) = self.containers.get_mut(id) else {
            return;
        };
        let Some(output) = container.outputs.get_mut(number) else {
            return;
        };
        self.is_warm |= output.pump(&mut container.log, &mut self.buffer) > BURST;
    }

    fn attend(&mut self, id: &str, number: usize, client: u64, flags: PollFlags) {
        let Some(output) = self.containers.get_mut(id).and_then(|container| container.outputs.get_mut(number)) else {
            return;
        };
        if flags.contains(PollFlags::ERR) {
            output.forget(client);
        } else {
            output.catch_up();
        }
    }

    /// What a container's child says about its start.
    fn advance_container(&mut self, id: &str) {
        let Some(container) = self.containers.get_mut(id) else {
            return;
        };
        let Some(start) = &mut container.start else {
            return;
        };
        let progress = start.advance();
        if let Some(terminal) = start.terminal.take()
            && let Err(error) = container.adopt_terminal(terminal)
        {
            crate::complain(&format!("watch a terminal: {error}"));
        }
        let Some(start) = container.start.take_if(|_| !matches!(progress, Progress::Pending)) else {
            return;
        };
        match progress {
            Progress::Pending => {}
            Progress::Executed => {
                container.save();
                let record = container.record.clone();
                self.reply(start.agent, start.seq, Ok(Reply::Started(record.clone())));
                self.tell_all(&Message::Started(record));
                sys::give_memory_back();
            }
            Progress::Refused(failure) => {
                // Its child is about to exit and will be reaped as nobody's.
                self.containers.remove(id);
                self.reply(start.agent, start.seq, Err(failure));
            }
        }
    }

    fn advance_extra(&mut self, id: u64) {
        let Some(extra) = self.extras.get_mut(&id) else {
            return;
        };
        let Some(start) = &mut extra.start else {
            return;
        };
        let progress = start.advance();
        let pid = extra.pid;
        let Some(start) = extra.start.take_if(|_| !matches!(progress, Progress::Pending)) else {
            return;
        };
        match progress {
            Progress::Pending => {}
            Progress::Executed => {
                let reply = Message::Reply { seq: start.seq, result: Ok(Reply::Exec { exec: id, pid }) };
                let fds: Vec<BorrowedFd<'_>> = start.terminal.iter().map(|fd| fd.as_fd()).collect();
                self.say(start.agent, &reply, &fds);
            }
            Progress::Refused(failure) => {
                self.extras.remove(&id);
                self.reply(start.agent, start.seq, Err(failure));
            }
        }
    }

    fn reap(&mut self) {
        while let Some((pid, status)) = sys::reap(false) {
            let container =
                self.containers.iter().find(|(_, container)| container.pid == Some(pid)).map(|(id, _)| id.clone());
            if let Some(id) = container {
                self.end_container(&id, status);
                continue;
            }
            let extra = self.extras.iter().find(|(_, extra)| extra.pid == pid).map(|(id, _)| *id);
            if let Some(id) = extra {
                self.end_extra(id, status);
            }
        }
    }

    fn end_container(&mut self, id: &str, status: i32) {
        self.advance_container(id);
        let shares_pids = self.host_pid || self.share_process;
        let Some(container) = self.containers.get_mut(id) else {
            return;
        };
        container.pid = None;
        container.record.exit = Some(container.exit_of(status));
        if shares_pids {
            container.kill_all();
        }
        for output in &mut container.outputs {
            output.drain(&mut container.log, &mut self.buffer);
        }
        (container.stdin, container.terminal, container.log) = (None, None, None);
        container.save();
        let record = container.record.clone();
        self.tell_all(&Message::Exited(record));
    }

    fn end_extra(&mut self, id: u64, status: i32) {
        self.advance_extra(id);
        if self.extras.remove(&id).is_some() {
            self.tell_all(&Message::ExecExited { exec: id, exit: exit_of(status) });
        }
    }

    /// After `Shutdown`: when nothing runs any more.
    fn is_over(&mut self) -> bool {
        let Some((agent, seq)) = self.shutdown else {
            return false;
        };
        if self.containers.values().any(|container| container.pid.is_some()) || !self.extras.is_empty() {
            return false;
        }
        self.reply(agent, seq, Ok(Reply::Done));
        true
    }
}
