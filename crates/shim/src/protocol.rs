//! What an agent and a shim say to each other: one JSON message per packet of a SOCK_SEQPACKET socket, descriptors beside it.
//!
//! Shims live as long as their sandbox, so an agent meets shims older than itself: additions only, and [`VERSION`] rises with each.

use serde::{Deserialize, Serialize};

use crate::spec;

/// What this code speaks.
pub const VERSION: u32 = 1;

/// Where a shim listens, within its state directory.
pub const SOCKET: &str = "shim.sock";

/// Where a shim mounts shared memory within its state directory, if the kernel cannot do without a place: to be unmounted afterwards.
pub const SHM: &str = "shm";

/// A packet larger than this travels as a memfd, which is then the last descriptor of an empty packet.
pub const INLINE_BYTES: usize = 32 * 1024;

/// From an agent.
#[derive(Debug, Serialize, Deserialize)]
pub struct Request {
    /// Given back in the reply.
    pub seq: u64,
    /// What to do.
    pub call: Call,
}

/// What an agent may ask for.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Call {
    /// Who are you, and what runs? Answered once the sandbox is complete; from then on events follow.
    Hello,
    /// Start a container.
    Start(Box<spec::Container>),
    /// Start a process in a container. Descriptors: stdin, stdout and stderr, unless it gets a terminal; the terminal comes back.
    Exec(Box<Exec>),
    /// Send a signal to the first process of a container, or to all of them.
    Signal {
        /// Which.
        container: String,
        /// Number.
        signal: i32,
        /// Each process of its cgroup.
        all: bool,
    },
    /// Send a signal to a process started by `Exec`.
    SignalExec {
        /// Which.
        exec: u64,
        /// Number.
        signal: i32,
    },
    /// Join the stdio of a container. Descriptors come back: stdin if asked for and there, stdout, and stderr unless it is a terminal.
    Attach {
        /// Which.
        container: String,
        /// Whether stdin is wanted.
        stdin: bool,
    },
    /// Change the size of a container's terminal.
    Resize {
        /// Which.
        container: String,
        /// To what.
        size: spec::WindowSize,
    },
    /// Connect to a port on the sandbox's loopback. The socket comes back, perhaps before it is connected.
    Connect {
        /// Where.
        port: u16,
        /// On ::1 rather than 127.0.0.1.
        ipv6: bool,
    },
    /// Forget a container that has ended.
    Forget {
        /// Which.
        container: String,
    },
    /// Kill what runs, and end.
    Shutdown,
}

/// A further process.
#[derive(Debug, Serialize, Deserialize)]
pub struct Exec {
    /// In which container.
    pub container: String,
    /// What to run.
    pub process: spec::Process,
    /// A terminal of this size.
    pub tty: Option<spec::WindowSize>,
}

/// From a shim.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Message {
    /// To one request.
    Reply {
        /// Of the request.
        seq: u64,
        /// What came of it.
        result: Result<Reply, Failure>,
    },
    /// A container's process runs.
    Started(Record),
    /// A container's process ended, and its output is written.
    Exited(Record),
    /// A process started by `Exec` ended.
    ExecExited {
        /// Which.
        exec: u64,
        /// How.
        exit: Exit,
    },
}

/// What comes of a request.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reply {
    /// Done.
    Done,
    /// To `Hello`.
    Hello {
        /// Of the shim's code.
        version: u32,
        /// Of the shim itself.
        pid: u32,
        /// All containers that are not forgotten.
        containers: Vec<Record>,
    },
    /// To `Start`.
    Started(Record),
    /// To `Exec`.
    Exec {
        /// The number that names it from now on.
        exec: u64,
        /// Of the process.
        pid: u32,
    },
    /// To `Attach`: which descriptors came.
    Attached {
        /// The first is stdin.
        stdin: bool,
        /// One stream only, a terminal.
        tty: bool,
    },
}

/// What is known of a container; also what is kept on disk, as `record.json` in its directory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Which.
    pub container: String,
    /// Of its first process.
    pub pid: u32,
    /// When it started, in nanoseconds since 1970.
    pub started_ns: u64,
    /// How it ended, if it did.
    pub exit: Option<Exit>,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// As a shell would say: 128 + signal if one killed it.
    pub code: i32,
    /// What killed it, or 0.
    pub signal: i32,
    /// The kernel killed one of its processes for want of memory.
    pub oom_killed: bool,
    /// When, in nanoseconds since 1970.
    pub finished_ns: u64,
}

/// Why a request was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What kind it is.
    pub class: FailureClass,
    /// For people.
    pub message: String,
}

/// What a caller may act on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FailureClass {
    /// There is no such container or process.
    NotFound,
    /// It is not running.
    NotRunning,
    /// It could not be started.
    Start(StartFailure),
    /// The operating system refused, with this error number.
    Os(i32),
}

/// What kind of mistake kept a process from starting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StartFailure {
    /// The program is not there (exit code 127 where one is shown).
    NotFound,
    /// It is there but cannot be executed (126).
    NotExecutable,
    /// The working directory cannot be entered.
    Cwd,
    /// A mount cannot be made.
    Mount,
    /// A part of a volume is not there, or leads out of it. The message begins with the mount's target and a colon.
    Subpath,
    /// Anything else.
    Other,
}
