//! The streams of a remote process, tied to those of this one: the terminal is raw while they are open.

use std::future::pending;

use client::resource::with_query;
use rustix::termios::{self, OptionalActions, Termios};
use serde_json::Value;
use tokio::io::AsyncReadExt;
use tokio::signal::unix::{Signal, SignalKind, signal};
use wire::upgrade::{ClientInput, Received, TerminalSize, channels_request, dial_channels};

use crate::failure::Failure;
use crate::print;
use crate::session::Session;

/// What is wanted besides the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wish {
    pub(crate) stdin: bool,
    pub(crate) tty: bool,
}

/// A terminal that gives every key on at once, until this is dropped.
struct Raw(Termios);

impl Raw {
    fn new() -> Result<Self, Failure> {
        let fail = |error| Failure::text(format!("setting up the terminal: {error}"));
        let before = termios::tcgetattr(std::io::stdin()).map_err(fail)?;
        let mut raw = before.clone();
        raw.make_raw();
        termios::tcsetattr(std::io::stdin(), OptionalActions::Now, &raw).map_err(fail)?;
        Ok(Self(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // A terminal that has gone needs no restoring.
        let _restored = termios::tcsetattr(std::io::stdin(), OptionalActions::Now, &self.0);
    }
}

/// Runs the streams at `path` until the server ends them; the exit code of the process becomes ours.
pub(crate) async fn run(session: &Session, path: &str, wish: Wish) -> Result<(), Failure> {
    let flags = [("stdin", wish.stdin), ("stdout", true), ("stderr", !wish.tty), ("tty", wish.tty)];
    let flags: Vec<(&str, &str)> =
        flags.iter().filter(|(_, is_set)| *is_set).map(|(name, _)| (*name, "true")).collect();
    let path = with_query(path, &flags);
    let uri = path.parse().map_err(|error| Failure::text(format!("{error}: \"{path}\"")))?;
    let response = session.client.upgrade(channels_request(uri)?).await.map_err(|error| refused(session, error))?;
    let (mut input, mut output) = dial_channels(response).await?.split();
    let raw = if wish.tty && wish.stdin { Some(Raw::new()?) } else { None };
    let mut resized = if wish.tty { Some(signal(SignalKind::window_change())?) } else { None };
    if wish.tty {
        resize(&mut input).await;
    }
    let mut stdin = wish.stdin.then(tokio::io::stdin);
    let mut buffer = vec![0; 32 << 10];
    let mut status = None;
    loop {
        tokio::select! {
            received = output.next() => match received {
                Some(Received::Stdout(bytes)) => print::bytes(&bytes),
                Some(Received::Stderr(bytes)) => print::error_bytes(&bytes),
                Some(Received::Status(bytes)) => status = Some(bytes),
                None => break,
            },
            read = read(&mut stdin, &mut buffer) => match read {
                Ok(0) | Err(_) => {
                    stdin = None;
                    // A server that has gone is noticed by its output.
                    drop(input.end_stdin().await);
                }
                Ok(length) => drop(input.stdin(&buffer[..length]).await),
            },
            () = changed(&mut resized) => resize(&mut input).await,
        }
    }
    drop(raw);
    match status {
        Some(status) => outcome(&status),
        None => Err(Failure::text("unexpected EOF")),
    }
}

async fn read(stdin: &mut Option<tokio::io::Stdin>, buffer: &mut [u8]) -> std::io::Result<usize> {
    match stdin {
        Some(stdin) => stdin.read(buffer).await,
        None => pending().await,
    }
}

async fn changed(resized: &mut Option<Signal>) {
    match resized {
        Some(resized) => {
            resized.recv().await;
        }
        None => pending().await,
    }
}

async fn resize(input: &mut ClientInput) {
    if let Ok(size) = termios::tcgetwinsize(std::io::stdin()) {
        // A size that does not arrive leaves the one before.
        drop(input.resize(TerminalSize { width: size.ws_col, height: size.ws_row }).await);
    }
}

fn refused(session: &Session, error: client::Error) -> Failure {
    match error {
        client::Error::Api(status) => Failure::text(format!("unable to upgrade connection: {}", status.message)),
        other => session.failure(other),
    }
}

/// What the final status means for our exit code.
fn outcome(status: &[u8]) -> Result<(), Failure> {
    let status: Value =
        serde_json::from_slice(status).map_err(|_| Failure::text("error stream protocol error: unknown error"))?;
    if status["status"] == "Success" {
        return Ok(());
    }
    let message = status["message"].as_str().unwrap_or_default();
    if status["reason"] != "NonZeroExitCode" {
        return Err(Failure::text(message));
    }
    let causes = status["details"]["causes"].as_array().into_iter().flatten();
    let code = causes.clone().find(|cause| cause["reason"] == "ExitCode").and_then(|cause| cause["message"].as_str());
    let code = code.and_then(|text| text.parse::<i32>().ok()).unwrap_or(1);
    print::complain(&format!("command terminated with exit code {code}"));
    Err(Failure::Exit(u8::try_from(code).unwrap_or(1)))
}

#[cfg(test)]
mod tests {
    use super::outcome;
    use crate::failure::Failure;

    #[test]
    fn the_exit_code_becomes_ours() {
        assert!(outcome(br#"{"status":"Success"}"#).is_ok());
        let three = br#"{"status":"Failure","reason":"NonZeroExitCode","details":{"causes":[{"reason":"ExitCode","message":"3"}]}}"#;
        assert!(matches!(outcome(three), Err(Failure::Exit(3))));
        let other = outcome(br#"{"status":"Failure","reason":"InternalError","message":"boom"}"#).unwrap_err();
        assert_eq!(other.lines(), "error: boom");
    }
}
