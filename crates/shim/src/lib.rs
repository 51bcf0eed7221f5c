//! The process that is a sandbox: it holds the namespaces, is parent of the containers, pumps their output and records how they ended.
//!
//! A library, so that the agent shares the wire's types, and a tiny static program around it. Single-threaded on purpose: it forks,
//! and it changes its own namespaces. Read `spec` and `protocol` first, then `serve` (the loop), `answer`, `sandbox`, `container`, `init`.

mod answer;
pub mod container;
mod init;
pub mod log;
pub mod packet;
pub mod protocol;
mod sandbox;
mod serve;
pub mod spec;
mod stdio;
mod sys;

use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::net::sockopt::set_socket_send_buffer_size_force;

use protocol::{Failure, Message, Request};

/// Turns this process into a sandbox. Its stdin is a socket on which the spec comes first and requests follow.
pub fn run() -> i32 {
    sys::keep_memory_small();
    let agent = sys::take_stdin();
    match begin(agent) {
        Ok(()) => 0,
        Err(error) => fail(error),
    }
}

fn fail(error: io::Error) -> i32 {
    complain(&error.to_string());
    1
}

fn begin(agent: OwnedFd) -> io::Result<()> {
    let null = openat(CWD, "/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    // The descriptor moves away from 0, which must be a harmless one when containers are forked.
    let socket = agent.try_clone()?;
    drop(agent);
    sys::set_stdio(&null, 0)?;
    // A script of an image may name /proc/self/exe as its interpreter.
    let sole = |error| io::Error::other(format!("this program is podling's shim and only podling starts it: {error}"));
    rustix::process::setsid().map_err(sole)?;
    // It was executed by a number, which is no name for lists of processes.
    rustix::thread::set_name(c"podling-shim")?;
    let (spec, _) = packet::receive::<spec::Sandbox>(&socket)?.ok_or(io::ErrorKind::UnexpectedEof)?;
    sys::ignore_termination();
    match spec.birth_cgroup.clone() {
        Some(group) => move_into(&group, || serve(spec, socket)),
        None => serve(spec, socket),
    }
}

/// Goes on as a child that is born in a version 2 cgroup: to move there would wait for a grace period of the whole machine.
fn move_into(group: &std::path::Path, go_on: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    let directory = openat(CWD, group, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let child = || go_on().map_or_else(fail, |()| 0);
    sys::clone_child(0, Some(directory.as_fd()), child).map(|_| ())
}

fn serve(spec: spec::Sandbox, socket: OwnedFd) -> io::Result<()> {
    let signals = sys::child_signals()?;
    let sandbox = match sandbox::Sandbox::set_up(&spec) {
        Ok(sandbox) => sandbox,
        Err(error) => return refuse(&socket, error),
    };
    answer::prepare_agent(&socket)?;
    // Best effort: a larger buffer only makes it less likely that a slow agent is dropped.
    set_socket_send_buffer_size_force(&socket, 1 << 20).unwrap_or_default();
    let shim = serve::Shim::new(&spec, sandbox, signals, socket);
    drop(spec);
    shim.run()
}

/// Answers the first request with what went wrong.
fn refuse(socket: &OwnedFd, error: io::Error) -> io::Result<()> {
    if let Some((request, _)) = packet::receive::<Request>(socket)? {
        packet::send(socket, &Message::Reply { seq: request.seq, result: Err(Failure::from(error)) }, &[])?;
    }
    Ok(())
}

/// Says something in the shim's own log, its stderr.
fn complain(text: &str) {
    // There is nowhere else to complain about a complaint.
    writeln!(io::stderr(), "{text}").unwrap_or_default();
}
