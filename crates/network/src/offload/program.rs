//! The two programs. `arrival` runs for what comes in by a link, before the machine's own rules and routing see it: it hands on what belongs
//! to a known flow, and notes what may become one. `departure` runs for what goes out by a link, after all that: a noted flow whose packet
//! comes out as it went in is known from then on.
//!
//! The kernel lends `fib_lookup` only to programs under its own license, so this file is licensed under GPL-2.0-only as well as under
//! Apache-2.0.
// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only

use std::net::IpAddr;

use ipnet::IpNet;

use super::code::{Code, Label, Op, R, Size, When};
use crate::family::octets;

/// What the kernel is told about this file.
pub(super) const LICENSE: &std::ffi::CStr = c"GPL";

// Functions of the kernel (enum bpf_func_id).
const MAP_LOOKUP: i32 = 1;
const MAP_UPDATE: i32 = 2;
const MAP_DELETE: i32 = 3;
const STORE_BYTES: i32 = 9;
const REPLACE_IP_CHECKSUM: i32 = 10;
const REDIRECT: i32 = 23;
const FIB_LOOKUP: i32 = 69;
const REDIRECT_PEER: i32 = 155;

// Flags of STORE_BYTES, about what a network card may have summed up.
const KEEP_SUM: i32 = 0;
const CORRECT_SUM: i32 = 1;

// Results (linux/pkt_cls.h).
/// Whoever comes next decides: other programs on the link, then the machine.
const PASS: i32 = -1;
const DROP: i32 = 2;

// Places in struct __sk_buff.
const LENGTH: i16 = 0;
const CAME_BY: i16 = 36;
const LINK: i16 = 40;
const DATA: i16 = 76;
const DATA_END: i16 = 80;
const SEGMENT: i16 = 176;

// Places in a frame.
const ETHER_TYPE: i16 = 12;
const IP: i16 = 14;
const TCP: u32 = 6;
const TCP_LENGTH: i16 = 20;
/// First FIN, SYN and RST, with which connections begin and end.
const BEGIN_OR_END: u32 = 0b111;
const NEVER_FRAGMENTS: u16 = 0x3fff;

// Places on the stack: the key and the value of the table, what `fib_lookup` is asked, and two things to write.
const KEY: i16 = -40;
const KEY_SOURCE: i16 = KEY + 4;
const KEY_DESTINATION: i16 = KEY + 20;
const KEY_PORTS: i16 = KEY + 36;
const VALUE: i16 = -48;
const QUESTION: i16 = -112;
const QUESTION_BYTES: i16 = 64;
const QUESTION_SOURCE: i16 = QUESTION + 16;
const QUESTION_DESTINATION: i16 = QUESTION + 32;
const HARDWARE: i16 = -128;
const HOPS: i16 = -136;

/// Length of a key: link, two addresses of 16 bytes, two ports.
pub(super) const KEY_BYTES: u32 = 40;
/// Length of a value: the link by which the flow leaves, 0 as long as none was seen, and above that how it is handed over.
pub(super) const VALUE_BYTES: u32 = 8;

/// How a link is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// It is sent on it.
    Wire = 0,
    /// It appears at once at the other end, in another namespace.
    Pair = 1,
}

/// Where the two families differ.
struct Family {
    number: i32,
    ether_type: u16,
    header: i16,
    source: i16,
    destination: i16,
    /// Of an address.
    bytes: i16,
    protocol: i16,
    /// Hops left, and with which 16 bits they are written.
    hops: i16,
    hops_word: i16,
}

const V4: Family = Family {
    number: libc::AF_INET,
    ether_type: 0x0800,
    header: 20,
    source: IP + 12,
    destination: IP + 16,
    bytes: 4,
    protocol: IP + 9,
    hops: IP + 8,
    hops_word: IP + 8,
};

const V6: Family = Family {
    number: libc::AF_INET6,
    ether_type: 0x86dd,
    header: 40,
    source: IP + 8,
    destination: IP + 24,
    bytes: 16,
    protocol: IP + 6,
    hops: IP + 7,
    hops_word: IP + 6,
};

impl Family {
    fn of(range: &IpNet) -> &'static Family {
        match range {
            IpNet::V4(_) => &V4,
            IpNet::V6(_) => &V6,
        }
    }

    fn tcp(&self) -> i16 {
        IP + self.header
    }
}

/// A number whose bytes in memory are those of `value` in network order.
fn big(value: u16) -> u32 {
    u16::from_ne_bytes(value.to_be_bytes()).into()
}

/// Of what comes in by a link.
pub(super) fn arrival(map: i32, ranges: &[IpNet]) -> Vec<u8> {
    each_family(ranges, |code, family, range, pass| {
        read_key(code, family, range, LINK, pass);
        begin_or_end(code, family, map, pass);
        look_up(code, map);
        let (is_noted, note) = (code.label(), code.label());
        code.jump_if_zero(R::R0, note);
        code.load(Size::Double, R::R9, R::R0, 0);
        code.jump_if(R::R9, When::Different, 0, is_noted);
        code.jump(pass);
        code.place(note);
        write_down(code, map);
        code.jump(pass);
        code.place(is_noted);
        ask_for_the_way(code, family, pass);
        hand_on(code, family);
    })
}

/// Of what goes out by a link of this kind.
pub(super) fn departure(map: i32, ranges: &[IpNet], kind: Kind) -> Vec<u8> {
    each_family(ranges, |code, family, range, pass| {
        read_key(code, family, range, CAME_BY, pass);
        look_up(code, map);
        code.jump_if_zero(R::R0, pass);
        code.set(R::R1, kind as i32);
        code.calculate_number(Op::ShiftLeft, R::R1, 32);
        code.load(Size::Word, R::R2, R::R6, LINK);
        code.calculate(Op::Or, R::R1, R::R2);
        code.load(Size::Double, R::R2, R::R0, 0);
        code.jump_if_register(R::R2, When::Equal, R::R1, pass);
        code.store(Size::Double, R::R0, 0, R::R1);
        code.jump(pass);
    })
}

/// `body` for the packets of each range's family; whatever jumps to the label is left to others. R6 is the packet, R7 its first byte.
fn each_family(ranges: &[IpNet], body: impl Fn(&mut Code, &'static Family, &IpNet, Label)) -> Vec<u8> {
    let mut code = Code::default();
    let pass = code.label();
    code.copy(R::R6, R::R1);
    code.load(Size::Word, R::R7, R::R6, DATA);
    code.load(Size::Word, R::R8, R::R6, DATA_END);
    for range in ranges {
        let (family, next) = (Family::of(range), code.label());
        code.copy(R::R1, R::R7);
        code.calculate_number(Op::Add, R::R1, (family.tcp() + TCP_LENGTH).into());
        code.jump_if_register(R::R1, When::Greater, R::R8, next);
        code.load(Size::Half, R::R1, R::R7, ETHER_TYPE);
        code.jump_if(R::R1, When::Different, big(family.ether_type), next);
        body(&mut code, family, range, pass);
        code.place(next);
    }
    code.place(pass);
    code.set(R::R0, PASS);
    code.exit();
    code.finish()
}

/// Puts the packet's key on the stack. Others than plain TCP between two addresses of the range pass.
fn read_key(code: &mut Code, family: &Family, range: &IpNet, link: i16, pass: Label) {
    code.load(Size::Byte, R::R1, R::R7, family.protocol);
    code.jump_if(R::R1, When::Different, TCP, pass);
    if family.number == libc::AF_INET {
        code.load(Size::Byte, R::R1, R::R7, IP);
        code.jump_if(R::R1, When::Different, 0x45, pass);
        code.load(Size::Half, R::R1, R::R7, IP + 6);
        code.jump_if(R::R1, When::AnyBit, big(NEVER_FRAGMENTS), pass);
    }
    code.load(Size::Word, R::R1, R::R6, link);
    code.jump_if(R::R1, When::Equal, 0, pass);
    code.store(Size::Word, R::R10, KEY, R::R1);
    address(code, family, range, (family.source, KEY_SOURCE), pass);
    address(code, family, range, (family.destination, KEY_DESTINATION), pass);
    code.load(Size::Word, R::R1, R::R7, family.tcp());
    code.store(Size::Word, R::R10, KEY_PORTS, R::R1);
}

/// One address into the key; outside of the range it passes.
fn address(code: &mut Code, family: &Family, range: &IpNet, (from, to): (i16, i16), pass: Label) {
    let (network, mask) = (words(range.network()), words(range.netmask()));
    for number in 0..4i16 {
        let (at, key) = (usize::from(number.unsigned_abs()), to + 4 * number);
        if 4 * number >= family.bytes {
            code.store_number(Size::Word, R::R10, key, 0);
            continue;
        }
        code.load(Size::Word, R::R1, R::R7, from + 4 * number);
        code.store(Size::Word, R::R10, key, R::R1);
        if mask[at] != 0 {
            code.mask(R::R1, mask[at]);
            code.jump_if(R::R1, When::Different, network[at], pass);
        }
    }
}

/// As a program reads an address, four bytes at a time.
fn words(address: IpAddr) -> [u32; 4] {
    let mut bytes = octets(address);
    bytes.resize(16, 0);
    let word = |at: usize| u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    [word(0), word(4), word(8), word(12)]
}

/// The first and the last packets of a connection go by the machine's rules, and what was known of its ports is forgotten: the next connection
/// between them may be translated. So do packets with no hop left, whose sender has to be told.
fn begin_or_end(code: &mut Code, family: &Family, map: i32, pass: Label) {
    let goes_on = code.label();
    code.load(Size::Byte, R::R1, R::R7, family.hops);
    code.jump_if(R::R1, When::Less, 2, pass);
    code.load(Size::Byte, R::R1, R::R7, family.tcp() + 13);
    code.mask(R::R1, BEGIN_OR_END);
    code.jump_if(R::R1, When::Equal, 0, goes_on);
    code.map(R::R1, map);
    code.stack(R::R2, KEY);
    code.call(MAP_DELETE);
    code.jump(pass);
    code.place(goes_on);
}

/// R0 = the address of the value, or 0.
fn look_up(code: &mut Code, map: i32) {
    code.map(R::R1, map);
    code.stack(R::R2, KEY);
    code.call(MAP_LOOKUP);
}

fn write_down(code: &mut Code, map: i32) {
    code.store_number(Size::Double, R::R10, VALUE, 0);
    code.map(R::R1, map);
    code.stack(R::R2, KEY);
    code.stack(R::R3, VALUE);
    code.set(R::R4, 0);
    code.call(MAP_UPDATE);
}

/// Where the machine would send the packet now: the value's link (R9) still, with a neighbour that is known, and large enough? If not, it
/// passes. The hardware addresses are on the stack afterwards.
fn ask_for_the_way(code: &mut Code, family: &Family, pass: Label) {
    for at in (0..QUESTION_BYTES).step_by(8) {
        code.store_number(Size::Double, R::R10, QUESTION + at, 0);
    }
    code.store_number(Size::Byte, R::R10, QUESTION, family.number);
    code.store_number(Size::Byte, R::R10, QUESTION + 1, TCP as i32);
    for at in [0, 2] {
        code.load(Size::Half, R::R1, R::R10, KEY_PORTS + at);
        code.store(Size::Half, R::R10, QUESTION + 2 + at, R::R1);
    }
    code.load(Size::Word, R::R1, R::R6, LINK);
    code.store(Size::Word, R::R10, QUESTION + 8, R::R1);
    traffic_class(code, family);
    for at in (0..family.bytes).step_by(4) {
        for (key, question) in [(KEY_SOURCE, QUESTION_SOURCE), (KEY_DESTINATION, QUESTION_DESTINATION)] {
            code.load(Size::Word, R::R1, R::R10, key + at);
            code.store(Size::Word, R::R10, question + at, R::R1);
        }
    }
    size(code, family);
    code.load(Size::Half, R::R8, R::R7, family.hops_word);
    code.copy(R::R1, R::R6);
    code.stack(R::R2, QUESTION);
    code.set(R::R3, QUESTION_BYTES.into());
    code.set(R::R4, 0);
    code.call(FIB_LOOKUP);
    code.jump_if(R::R0, When::Different, 0, pass);
    code.load(Size::Word, R::R1, R::R10, QUESTION + 8);
    code.copy(R::R2, R::R9);
    code.mask(R::R2, u32::MAX);
    code.jump_if_register(R::R1, When::Different, R::R2, pass);
}

fn traffic_class(code: &mut Code, family: &Family) {
    if family.number == libc::AF_INET {
        code.load(Size::Byte, R::R1, R::R7, IP + 1);
        code.store(Size::Byte, R::R10, QUESTION + 12, R::R1);
    } else {
        code.load(Size::Word, R::R1, R::R7, IP);
        code.mask(R::R1, u32::from_ne_bytes([0x0f, 0xff, 0xff, 0xff]));
        code.store(Size::Word, R::R10, QUESTION + 12, R::R1);
    }
}

/// The length to ask for: of the packet, or of each of the segments that it will be cut into.
fn size(code: &mut Code, family: &Family) {
    let (is_whole, is_known) = (code.label(), code.label());
    code.load(Size::Word, R::R1, R::R6, SEGMENT);
    code.jump_if(R::R1, When::Equal, 0, is_whole);
    code.load(Size::Byte, R::R2, R::R7, family.tcp() + 12);
    code.calculate_number(Op::ShiftRight, R::R2, 4);
    code.calculate_number(Op::ShiftLeft, R::R2, 2);
    code.calculate(Op::Add, R::R1, R::R2);
    code.calculate_number(Op::Add, R::R1, family.header.into());
    code.jump(is_known);
    code.place(is_whole);
    code.load(Size::Word, R::R1, R::R6, LENGTH);
    code.calculate_number(Op::Add, R::R1, (-IP).into());
    code.place(is_known);
    code.store(Size::Half, R::R10, QUESTION + 6, R::R1);
}

/// Writes the hardware addresses and one hop less, and sends it. R8 is the word with the hops, R9 the value.
fn hand_on(code: &mut Code, family: &Family) {
    let (drop, is_pair) = (code.label(), code.label());
    // In the answer the own one comes first, in a frame the other's.
    for (from, to) in [(58, 0), (60, 2), (62, 4), (52, 6), (54, 8), (56, 10)] {
        code.load(Size::Half, R::R1, R::R10, QUESTION + from);
        code.store(Size::Half, R::R10, HARDWARE + to, R::R1);
    }
    store_bytes(code, (0, HARDWARE), 12, KEEP_SUM, drop);
    let first_byte = u16::from_ne_bytes([1, 0]);
    let one_hop = if family.hops == family.hops_word { first_byte } else { first_byte.swap_bytes() };
    code.copy(R::R7, R::R8);
    code.calculate_number(Op::Add, R::R7, -i32::from(one_hop));
    if family.number == libc::AF_INET {
        code.copy(R::R1, R::R6);
        code.set(R::R2, (IP + 10).into());
        code.copy(R::R3, R::R8);
        code.copy(R::R4, R::R7);
        code.set(R::R5, 2);
        code.call(REPLACE_IP_CHECKSUM);
        code.jump_if(R::R0, When::Different, 0, drop);
    }
    code.store(Size::Half, R::R10, HOPS, R::R7);
    // IPv4's own checksum has just made up for the hop in the sum that a network card may have made of the packet; IPv6 has none.
    let sum = if family.number == libc::AF_INET { KEEP_SUM } else { CORRECT_SUM };
    store_bytes(code, (family.hops_word, HOPS), 2, sum, drop);
    code.copy(R::R1, R::R9);
    code.mask(R::R1, u32::MAX);
    code.set(R::R2, 0);
    code.calculate_number(Op::ShiftRight, R::R9, 32);
    code.jump_if(R::R9, When::Equal, Kind::Pair as u32, is_pair);
    code.call(REDIRECT);
    code.exit();
    code.place(is_pair);
    code.call(REDIRECT_PEER);
    code.exit();
    code.place(drop);
    code.set(R::R0, DROP);
    code.exit();
}

fn store_bytes(code: &mut Code, (at, from): (i16, i16), count: i32, flags: i32, drop: Label) {
    code.copy(R::R1, R::R6);
    code.set(R::R2, at.into());
    code.stack(R::R3, from);
    code.set(R::R4, count);
    code.set(R::R5, flags);
    code.call(STORE_BYTES);
    code.jump_if(R::R0, When::Different, 0, drop);
}
