//! Tells people at a terminal that something takes its time.

use std::io::{IsTerminal, Write};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Progress is shown for whatever takes longer.
const PATIENCE: Duration = Duration::from_millis(500);

/// As long as this is kept, what is going on and for how long stands on the terminal.
pub(crate) struct Progress {
    end: Option<Sender<()>>,
    display: Option<JoinHandle<()>>,
}

impl Progress {
    /// Shows `what` is going on, if it takes a while and somebody can see it.
    pub(crate) fn of(what: &'static str) -> Self {
        if !std::io::stderr().is_terminal() {
            return Self { end: None, display: None };
        }
        let (end, ended) = mpsc::channel();
        let display = std::thread::spawn(move || {
            // Progress that cannot be shown is not missed.
            drop(show(what, &ended, PATIENCE, &mut std::io::stderr()));
        });
        Self { end: Some(end), display: Some(display) }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(display) = self.display.take() {
            drop(display.join());
        }
    }
}

/// Shows and counts until the sender has gone, then wipes the line away.
fn show(what: &str, ended: &Receiver<()>, patience: Duration, out: &mut impl Write) -> std::io::Result<()> {
    let begun = Instant::now();
    let mut wipe = "";
    while ended.recv_timeout(patience) == Err(RecvTimeoutError::Timeout) {
        write!(out, "\r{what} … {} s", begun.elapsed().as_secs())?;
        out.flush()?;
        wipe = "\r\x1b[K";
    }
    out.write_all(wipe.as_bytes())?;
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_over_at_once_shows_nothing() {
        let (end, ended) = mpsc::channel();
        drop(end);
        let mut out = Vec::new();
        show("starting", &ended, Duration::from_secs(60), &mut out).unwrap();
        assert!(out.is_empty());
    }

    #[test]
    fn what_takes_longer_is_shown_and_wiped_away() {
        /// Ends the wait as soon as something was shown.
        struct Screen(Vec<u8>, Option<Sender<()>>);
        impl Write for Screen {
            fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
                self.0.write(bytes)
            }
            fn flush(&mut self) -> std::io::Result<()> {
                self.1.take();
                Ok(())
            }
        }
        let (end, ended) = mpsc::channel();
        let mut screen = Screen(Vec::new(), Some(end));
        show("starting", &ended, Duration::ZERO, &mut screen).unwrap();
        assert_eq!(String::from_utf8(screen.0).unwrap(), "\rstarting … 0 s\r\x1b[K");
    }
}
