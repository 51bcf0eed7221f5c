//! The agent's ends of pipes and terminals as asynchronous streams.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::termios::{Winsize, tcsetwinsize};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::error::{Doing, Result};
use crate::spec::WindowSize;

/// What a process writes. Ends when the process closed it; a terminal that hung up is an end, too.
#[derive(Debug)]
pub struct Output(AsyncFd<std::fs::File>);

/// What a process reads. Dropping it (or shutting it down) closes it.
#[derive(Debug)]
pub struct Input(Option<AsyncFd<std::fs::File>>);

/// The handle to a terminal's size.
#[derive(Clone, Debug)]
pub struct Terminal(Arc<OwnedFd>);

fn nonblocking(fd: OwnedFd) -> Result<AsyncFd<std::fs::File>> {
    let prepare = || -> io::Result<AsyncFd<std::fs::File>> {
        let flags = rustix::fs::fcntl_getfl(&fd)?;
        rustix::fs::fcntl_setfl(&fd, flags | OFlags::NONBLOCK)?;
        crate::sys::register(fd)
    };
    prepare().doing(|| "register a stream".into())
}

impl Output {
    /// Takes over the readable end of a pipe or a terminal.
    pub fn new(fd: OwnedFd) -> Result<Output> {
        Ok(Output(nonblocking(fd)?))
    }
}

impl Input {
    /// Takes over the writable end of a pipe or a terminal.
    pub fn new(fd: OwnedFd) -> Result<Input> {
        Ok(Input(Some(nonblocking(fd)?)))
    }
}

impl Terminal {
    pub(crate) fn new(fd: OwnedFd) -> Terminal {
        Terminal(Arc::new(fd))
    }

    /// Changes the size; the process gets SIGWINCH.
    pub fn resize(&self, size: WindowSize) -> Result<()> {
        let size = Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(self.0.as_fd(), size).doing(|| "resize a terminal".into())
    }
}

impl AsyncRead for Output {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut guard = ready!(self.0.poll_read_ready(context))?;
            let unfilled = buffer.initialize_unfilled();
            match guard.try_io(|inner| inner.get_ref().read(unfilled)) {
                Ok(Ok(count)) => {
                    buffer.advance(count);
                    return Poll::Ready(Ok(()));
                }
                // A terminal whose last process is gone reports an error where a pipe reports its end.
                Ok(Err(error)) if error.raw_os_error() == Some(Errno::IO.raw_os_error()) => {
                    return Poll::Ready(Ok(()));
                }
                Ok(Err(error)) => return Poll::Ready(Err(error)),
                Err(_would_block) => {}
            }
        }
    }
}

impl AsyncWrite for Input {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let Some(inner) = &self.0 else {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        };
        loop {
            let mut guard = ready!(inner.poll_write_ready(context))?;
            if let Ok(result) = guard.try_io(|inner| inner.get_ref().write(bytes)) {
                return Poll::Ready(result);
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0 = None;
        Poll::Ready(Ok(()))
    }
}
