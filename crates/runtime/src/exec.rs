//! Joining a container: further processes in it, and the streams of the first.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::pipe::{PipeFlags, pipe_with};
use shim::protocol::{Call, Exit, Reply};
use tokio::sync::watch;

use crate::container::process;
use crate::error::{Doing, Error, Result};
use crate::sandbox::Sandbox;
use crate::spec::{ExecSpec, WindowSize};
use crate::stdio::{Input, Output, Terminal};

/// A process started by [`Sandbox::exec`].
#[derive(Debug)]
pub struct Exec {
    /// What was asked for; closes the process's stdin when dropped.
    pub stdin: Option<Input>,
    /// Everything, if it has a terminal.
    pub stdout: Option<Output>,
    /// None with a terminal.
    pub stderr: Option<Output>,
    /// Of the process.
    pub pid: u32,
    number: u64,
    terminal: Option<Terminal>,
    exit: watch::Receiver<Option<Exit>>,
    sandbox: Arc<Sandbox>,
}

/// The stdio of a running container.
#[derive(Debug)]
pub struct Attached {
    /// If it was asked for and the container has one that is still open.
    pub stdin: Option<Input>,
    /// Everything, if it is a terminal.
    pub stdout: Output,
    /// None with a terminal.
    pub stderr: Option<Output>,
    /// It is a terminal.
    pub tty: bool,
}

impl Sandbox {
    /// Starts a further process in a container.
    pub async fn exec(self: &Arc<Sandbox>, spec: ExecSpec) -> Result<Exec> {
        let container = self.container_spec(&spec.container).ok_or_else(|| self.unknown(&spec.container))?;
        let pipes = Pipes::new(&spec).doing(|| "make pipes".into())?;
        let call = shim::protocol::Exec {
            container: spec.container.clone(),
            process: process(&container, Some(&spec)),
            tty: spec.tty,
        };
        let theirs: Vec<_> = pipes.theirs.iter().map(|fd| fd.as_fd()).collect();
        let (reply, answer) = self.link()?.call(Call::Exec(Box::new(call)), &theirs).await?;
        drop(theirs);
        let (Reply::Exec { exec: number, pid }, Some(exit)) = (reply, answer.exit) else {
            return Err(self.dead_error());
        };
        let mut exec = Exec {
            stdin: None,
            stdout: None,
            stderr: None,
            pid,
            number,
            terminal: None,
            exit,
            sandbox: Arc::clone(self),
        };
        match answer.fds.into_iter().next() {
            Some(terminal) => exec.use_terminal(terminal, spec.stdin)?,
            None => exec.use_pipes(pipes)?,
        }
        Ok(exec)
    }

    /// Joins the stdio of a running container.
    pub async fn attach(&self, id: &str, stdin: bool) -> Result<Attached> {
        let (reply, answer) = self.link()?.call(Call::Attach { container: id.to_owned(), stdin }, &[]).await?;
        let Reply::Attached { stdin, tty } = reply else {
            return Err(self.dead_error());
        };
        let mut fds = answer.fds.into_iter();
        let stdin = if stdin { fds.next().map(Input::new).transpose()? } else { None };
        let stdout =
            fds.next().map(Output::new).transpose()?.ok_or_else(|| Error::NotRunning { container: id.to_owned() })?;
        Ok(Attached { stdin, stdout, stderr: fds.next().map(Output::new).transpose()?, tty })
    }
}

/// Both ends of a further process's streams.
struct Pipes {
    theirs: Vec<OwnedFd>,
    stdin: Option<OwnedFd>,
    outputs: Option<(OwnedFd, OwnedFd)>,
}

impl Pipes {
    fn new(spec: &ExecSpec) -> io::Result<Pipes> {
        if spec.tty.is_some() {
            return Ok(Pipes { theirs: Vec::new(), stdin: None, outputs: None });
        }
        let pipe = || pipe_with(PipeFlags::CLOEXEC);
        let (their_stdin, stdin) = match spec.stdin {
            true => pipe().map(|(theirs, ours)| (theirs, Some(ours)))?,
            false => (OwnedFd::from(fs::File::open("/dev/null")?), None),
        };
        let ((stdout, their_stdout), (stderr, their_stderr)) = (pipe()?, pipe()?);
        Ok(Pipes { theirs: vec![their_stdin, their_stdout, their_stderr], stdin, outputs: Some((stdout, stderr)) })
    }
}

impl Exec {
    fn use_pipes(&mut self, pipes: Pipes) -> Result<()> {
        // Dropping our copies of its ends lets us see when it closed them.
        drop(pipes.theirs);
        self.stdin = pipes.stdin.map(Input::new).transpose()?;
        if let Some((stdout, stderr)) = pipes.outputs {
            (self.stdout, self.stderr) = (Some(Output::new(stdout)?), Some(Output::new(stderr)?));
        }
        Ok(())
    }

    fn use_terminal(&mut self, terminal: OwnedFd, stdin: bool) -> Result<()> {
        let copy = || terminal.try_clone().doing(|| "copy a terminal".into());
        self.stdin = if stdin { Some(Input::new(copy()?)?) } else { None };
        self.stdout = Some(Output::new(copy()?)?);
        self.terminal = Some(Terminal::new(terminal));
        Ok(())
    }

    /// Waits for the end of the process.
    pub async fn wait(&mut self) -> Result<Exit> {
        match self.exit.wait_for(Option::is_some).await {
            Ok(exit) => exit.ok_or_else(|| self.sandbox.dead_error()),
            Err(_) => Err(self.sandbox.dead_error()),
        }
    }

    /// Changes the size of its terminal, if it has one.
    pub fn resize(&self, size: WindowSize) -> Result<()> {
        self.terminal.as_ref().map_or(Ok(()), |terminal| terminal.resize(size))
    }

    /// Something that changes the size of its terminal and may be kept apart from the streams.
    pub fn resizer(&self) -> Option<Terminal> {
        self.terminal.clone()
    }

    /// Sends it a signal.
    pub async fn signal(&self, signal: i32) -> Result<()> {
        self.sandbox.link()?.call(Call::SignalExec { exec: self.number, signal }, &[]).await.map(|_| ())
    }
}
