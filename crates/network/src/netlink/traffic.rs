//! Messages about what looks at a link's packets as they come and go: the classifier that can have programs, and those programs.

use super::message::{CREATE, EXCLUSIVE, Message, REPLACE};

const RTM_NEWQDISC: u16 = 36;
const RTM_DELQDISC: u16 = 37;
const RTM_NEWTFILTER: u16 = 44;
const RTM_DELTFILTER: u16 = 45;
const RTM_GETTFILTER: u16 = 46;

const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_BPF_FD: u16 = 6;
const TCA_BPF_NAME: u16 = 7;
const TCA_BPF_FLAGS: u16 = 8;
/// What the program returns is done; otherwise it would be the number of a class.
const DIRECT_ACTION: u32 = 1;

const CLSACT: u32 = 0xffff_fff1;
const CLSACT_HANDLE: u32 = 0xffff_0000;
/// Early among those of others, who most often count from 1 or down from 0xc000.
const PRIORITY: u32 = 0x0b0d;
const ALL_PROTOCOLS: u16 = 0x0003;

/// Where a program looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    /// At what comes in by the link.
    In,
    /// At what goes out by it.
    Out,
}

impl Direction {
    fn parent(self) -> u32 {
        match self {
            Direction::In => 0xffff_fff2,
            Direction::Out => 0xffff_fff3,
        }
    }
}

fn header(link: u32, handle: u32, parent: u32, info: u32) -> [u8; 20] {
    let mut fixed = [0; 20];
    fixed[4..8].copy_from_slice(&link.to_ne_bytes());
    fixed[8..12].copy_from_slice(&handle.to_ne_bytes());
    fixed[12..16].copy_from_slice(&parent.to_ne_bytes());
    fixed[16..20].copy_from_slice(&info.to_ne_bytes());
    fixed
}

/// Makes the link able to have programs. Refused where it is already.
pub(crate) fn new_classifier(link: u32) -> Message {
    let fixed = header(link, CLSACT_HANDLE, CLSACT, 0);
    Message::new(RTM_NEWQDISC, CREATE | EXCLUSIVE, &fixed).text(TCA_KIND, "clsact")
}

pub(crate) fn delete_classifier(link: u32) -> Message {
    Message::new(RTM_DELQDISC, 0, &header(link, CLSACT_HANDLE, CLSACT, 0)).text(TCA_KIND, "clsact")
}

/// Puts an open program on a link, in place of the one of the same owner that may be there.
pub(crate) fn new_program(link: u32, direction: Direction, owner: u32, program: i32) -> Message {
    about(RTM_NEWTFILTER, CREATE | REPLACE, link, direction, owner).nest(TCA_OPTIONS, |options| {
        options.u32(TCA_BPF_FD, program as u32).text(TCA_BPF_NAME, "podling").u32(TCA_BPF_FLAGS, DIRECT_ACTION)
    })
}

pub(crate) fn delete_program(link: u32, direction: Direction, owner: u32) -> Message {
    about(RTM_DELTFILTER, 0, link, direction, owner)
}

/// Whatever looks there, no matter whose it is.
pub(crate) fn all_programs(link: u32, direction: Direction) -> Message {
    Message::new(RTM_GETTFILTER, 0, &header(link, 0, direction.parent(), 0))
}

fn about(kind: u16, flags: u16, link: u32, direction: Direction, owner: u32) -> Message {
    let info = PRIORITY << 16 | u32::from(ALL_PROTOCOLS.to_be());
    Message::new(kind, flags, &header(link, owner, direction.parent(), info)).text(TCA_KIND, "bpf")
}
