//! What the runtime tells of a pod's containers, in the words of plans and statuses.

use std::collections::BTreeMap;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use runtime::{ContainerState, Exit, Phase};

use crate::logs;
use crate::pod::Pod;
use crate::spec::{Paths, annotation, container_id};
use crate::status::{End, Record};

const MESSAGE_BYTES: u64 = 4096;
const FALLBACK_BYTES: usize = 2048;
const FALLBACK_LINES: usize = 80;
/// A process that could not be started is told to have ended with this code.
const START_ERROR: i32 = 128;
/// How a container ended whose end nobody saw.
const UNKNOWN: i32 = 137;

/// The first restart after a crash follows at once, the next ones after 10 s, 20 s, … 5 min.
const FIRST_DELAY: Duration = Duration::from_secs(10);
const LONGEST_DELAY: Duration = Duration::from_secs(300);
/// A container that ran this long has recovered.
const RECOVERED: Duration = Duration::from_secs(600);

/// The number of a container's start.
pub fn attempt(state: &ContainerState) -> u32 {
    state.annotations.get(annotation::ATTEMPT).and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// The containers that the API remembers, for a pod whose sandbox has gone with all its records. What ran then has ended since, unseen.
pub fn reported(pod: &Pod) -> Vec<ContainerState> {
    let Some(status) = pod.status() else { return Vec::new() };
    let all = status.init_container_statuses.iter().chain(&status.container_statuses).flatten();
    all.filter(|status| status.container_id.is_some()).map(remembered).collect()
}

fn remembered(status: &core::ContainerStatus) -> ContainerState {
    let now = SystemTime::now();
    let attempt = u32::try_from(status.restart_count).unwrap_or(0);
    let state = status.state.as_ref();
    let ended = state.and_then(|state| state.terminated.as_ref());
    let began = state.and_then(|state| state.running.as_ref()).and_then(|running| running.started_at.as_ref());
    let time = |time: &Time| SystemTime::from(time.0);
    let annotations = [
        (annotation::ATTEMPT, attempt.to_string()),
        (annotation::IMAGE, status.image.clone()),
        (annotation::IMAGE_ID, status.image_id.clone()),
    ];
    ContainerState {
        id: container_id(&status.name, attempt),
        name: status.name.clone(),
        annotations: annotations.into_iter().map(|(key, text)| (key.to_owned(), text)).collect(),
        phase: Phase::Exited,
        pid: None,
        created: now,
        started: ended.and_then(|ended| ended.started_at.as_ref()).or(began).map(time).or(Some(now)),
        finished: ended.and_then(|ended| ended.finished_at.as_ref()).map(time).or(Some(now)),
        exit: ended.map(|ended| Exit {
            code: ended.exit_code,
            signal: ended.signal.unwrap_or(0),
            oom_killed: false,
            finished_ns: 0,
        }),
        log_path: None,
    }
}

/// The exit code of a container that has ended.
pub fn exit_code(state: &ContainerState) -> Option<i32> {
    match (state.phase, &state.exit) {
        (Phase::Exited, Some(exit)) => Some(exit.code),
        (Phase::Exited, None) if state.started.is_none() => Some(START_ERROR),
        (Phase::Exited, None) => Some(UNKNOWN),
        _ => None,
    }
}

/// A moment of the system's clock.
pub fn timestamp(time: SystemTime) -> Timestamp {
    Timestamp::try_from(time).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// When a container that has ended may start again, and the delay behind it, given how often in a row it has crashed.
pub fn back_off(crashes: u32, finished: Timestamp) -> (Timestamp, Duration) {
    let delay = match crashes {
        0 | 1 => Duration::ZERO,
        more => FIRST_DELAY.saturating_mul(1 << (more - 2).min(6)).min(LONGEST_DELAY),
    };
    (finished.checked_add(delay).unwrap_or(Timestamp::MAX), delay)
}

/// Whether a container ran long enough to have its crashes forgotten.
pub fn has_recovered(state: &ContainerState) -> bool {
    let span = state.started.zip(state.finished).and_then(|(started, finished)| finished.duration_since(started).ok());
    span.is_some_and(|span| span >= RECOVERED)
}

/// The record of one container. `words` keeps last words, which are read once.
pub fn record(
    uid: &str,
    state: &ContainerState,
    container: Option<&core::Container>,
    paths: &Paths,
    start_failures: &BTreeMap<String, String>,
    words: &mut BTreeMap<String, String>,
) -> Record {
    let text = |key: &str| state.annotations.get(key).cloned().unwrap_or_default();
    let end = exit_code(state).map(|code| {
        let failure = start_failures.get(&state.id);
        let message = match (failure, container) {
            (Some(failure), _) => failure.clone(),
            (None, Some(container)) => words
                .entry(state.id.clone())
                .or_insert_with(|| last_words(paths, container, attempt(state), code))
                .clone(),
            (None, None) => String::new(),
        };
        End {
            code,
            signal: state.exit.as_ref().map_or(0, |exit| exit.signal),
            reason: reason(state, code),
            message,
            finished: timestamp(state.finished.unwrap_or(state.created)),
        }
    });
    Record {
        id: format!("podling://{uid}-{}", state.id),
        attempt: attempt(state),
        image: text(annotation::IMAGE),
        image_id: text(annotation::IMAGE_ID),
        started: state.started.map(timestamp),
        end,
    }
}

fn reason(state: &ContainerState, code: i32) -> &'static str {
    match &state.exit {
        None if state.started.is_some() => "ContainerStatusUnknown",
        _ if state.started.is_none() => "StartError",
        Some(exit) if exit.oom_killed && code != 0 => "OOMKilled",
        _ if code == 0 => "Completed",
        _ => "Error",
    }
}

/// What a container wrote to its termination log; or, if it failed silently and its pod wants that, the end of its log.
fn last_words(paths: &Paths, container: &core::Container, attempt: u32, code: i32) -> String {
    let message = read_start(&paths.termination(&container.name, attempt), MESSAGE_BYTES).unwrap_or_default();
    let falls_back = container.termination_message_policy.as_deref() == Some("FallbackToLogsOnError");
    if !message.is_empty() || code == 0 || !falls_back {
        return message;
    }
    log_end(&paths.log(&container.name, attempt)).unwrap_or_default()
}

fn read_start(path: &Path, limit: u64) -> std::io::Result<String> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(limit).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn log_end(path: &Path) -> std::io::Result<String> {
    let mut file = std::fs::File::open(path)?;
    // Each line of the log carries some 40 bytes of its own beside the text.
    let want = (FALLBACK_BYTES + FALLBACK_LINES * 64) as u64;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(want)))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    let mut lines: Vec<&[u8]> = bytes.split_inclusive(|byte| *byte == b'\n').collect();
    if length > want && !lines.is_empty() {
        lines.remove(0);
    }
    let start = lines.len().saturating_sub(FALLBACK_LINES);
    let text: Vec<u8> = lines[start..].iter().filter_map(|line| logs::parse(line)).flat_map(logs::Line::text).collect();
    let start = text.len().saturating_sub(FALLBACK_BYTES);
    Ok(String::from_utf8_lossy(&text[start..]).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crashes_delay_the_next_start_ever_longer() {
        let delay = |crashes| back_off(crashes, Timestamp::UNIX_EPOCH).1.as_secs();
        assert_eq!([0, 1, 2, 3, 4, 5, 6, 7, 50].map(delay), [0, 0, 10, 20, 40, 80, 160, 300, 300]);
    }
}
