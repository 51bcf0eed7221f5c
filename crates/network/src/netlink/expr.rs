//! The packet filter's vocabulary: tables, chains, sets and rules as messages, and the expressions that rules are made of.

use std::net::IpAddr;

use super::message::{APPEND, Attributes, CREATE, Message, Received};
use crate::family::{Family, octets};

const NETFILTER_TABLES: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NEW_TABLE: u16 = 0;
const DELETE_TABLE: u16 = 2;
const NEW_CHAIN: u16 = 3;
const NEW_RULE: u16 = 6;
const NEW_SET: u16 = 9;
const NEW_ELEMENTS: u16 = 12;
/// The family of tables that meet packets of both.
pub(crate) const BOTH: u8 = 1;

const LIST_ELEMENT: u16 = 1;
const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;
const MAP: u32 = 8;

/// A table: each family has names of its own.
#[derive(Clone, Copy)]
pub(crate) struct Table<'a> {
    pub(crate) family: Family,
    pub(crate) name: &'a str,
}

impl Table<'_> {
    fn message(self, kind: u16, flags: u16) -> Message {
        Message::new(NETFILTER_TABLES << 8 | kind, flags, &[self.family.number(), 0, 0, 0]).text(1, self.name)
    }
}

fn bracket(kind: u16) -> Message {
    let [high, low] = NETFILTER_TABLES.to_be_bytes();
    Message::new(kind, 0, &[0, 0, high, low])
}

pub(crate) fn begin() -> Message {
    bracket(BATCH_BEGIN)
}

pub(crate) fn end() -> Message {
    bracket(BATCH_END)
}

pub(crate) fn new_table(table: Table<'_>) -> Message {
    table.message(NEW_TABLE, CREATE)
}

pub(crate) fn delete_table(table: Table<'_>) -> Message {
    table.message(DELETE_TABLE, 0)
}

/// Where packets are met.
pub(crate) struct Hook {
    /// `filter` or `nat`.
    pub(crate) kind: &'static str,
    pub(crate) number: u32,
    pub(crate) priority: i32,
}

pub(crate) fn new_chain(table: Table<'_>, name: &str, hook: &Hook) -> Message {
    table
        .message(NEW_CHAIN, CREATE)
        .text(3, name)
        .nest(4, |inner| inner.be32(1, hook.number).be32(2, hook.priority as u32))
        .text(7, hook.kind)
}

/// How many chains and rules a batch makes.
pub(crate) fn size(batch: &[Message]) -> (usize, usize) {
    let count = |kind: u16| batch.iter().filter(|message| message.kind() == NETFILTER_TABLES << 8 | kind).count();
    (count(NEW_CHAIN), count(NEW_RULE))
}

/// Every chain of every table, of all families.
pub(crate) fn all_chains() -> Message {
    Message::new(NETFILTER_TABLES << 8 | 4, 0, &[0; HEADER])
}

/// Every rule of every table, of all families.
pub(crate) fn all_rules() -> Message {
    Message::new(NETFILTER_TABLES << 8 | 7, 0, &[0; HEADER])
}

/// The table from which a notification says that a table, a chain or a rule was taken away.
pub(crate) fn removed_from(received: &Received) -> Option<String> {
    const DELETED: [u16; 3] = [DELETE_TABLE, 5, 8];
    let is_ours = received.kind >> 8 == NETFILTER_TABLES && DELETED.contains(&(received.kind & 0xff));
    is_ours.then(|| received.find_text(HEADER, 1)).flatten()
}

/// Whether a chain or rule of a dump is in this table of ours.
pub(crate) fn is_in(received: &Received, table: Table<'_>) -> bool {
    let is_of_family = received.body.first() == Some(&table.family.number());
    is_of_family && received.find_text(HEADER, 1).as_deref() == Some(table.name)
}

const HEADER: usize = 4;
const HOOK_FORWARD: u32 = 2;
const POLICY_DROP: u32 = 0;

/// A chain in the kernel that meets forwarded packets.
pub(crate) struct Chain {
    pub(crate) family: u8,
    pub(crate) table: String,
    pub(crate) name: String,
    /// What no rule of it decides is dropped.
    pub(crate) drops: bool,
}

impl Chain {
    /// None if it meets others, or none.
    pub(crate) fn read(received: &Received) -> Option<Chain> {
        let be32 = |bytes: &[u8]| bytes.try_into().ok().map(u32::from_be_bytes);
        let (_, number) = Attributes(received.find(HEADER, 4)?).find(|(kind, _)| *kind == 1)?;
        let family = *received.body.first()?;
        if be32(number)? != HOOK_FORWARD || (family != BOTH && Family::numbered(family).is_none()) {
            return None;
        }
        Some(Chain {
            family,
            table: received.find_text(HEADER, 1)?,
            name: received.find_text(HEADER, 3)?,
            drops: received.find(HEADER, 5).and_then(be32) == Some(POLICY_DROP),
        })
    }

    /// Whether a rule is of the same table: what it says may be reached from here.
    pub(crate) fn is_beside(&self, rule: &Received) -> bool {
        rule.body.first() == Some(&self.family) && rule.find_text(HEADER, 1).as_ref() == Some(&self.table)
    }
}

/// The user-space numbers of the types, six bits each, and the length in bytes.
#[derive(Clone, Copy)]
pub(crate) struct Type {
    pub(crate) code: u32,
    pub(crate) bytes: u32,
}

/// An address.
pub(crate) fn address_type(family: Family) -> Type {
    match family {
        Family::V4 => Type { code: 7, bytes: 4 },
        Family::V6 => Type { code: 8, bytes: 16 },
    }
}

pub(crate) const PROTOCOL: Type = Type { code: 12, bytes: 4 };
pub(crate) const PORT: Type = Type { code: 13, bytes: 4 };

/// One after the other.
pub(crate) fn concat(types: &[Type]) -> Type {
    types.iter().fold(Type { code: 0, bytes: 0 }, |all, one| Type {
        code: all.code << 6 | one.code,
        bytes: all.bytes + one.bytes,
    })
}

pub(crate) fn new_set(table: Table<'_>, name: &str, id: u32, key: Type, data: Option<Type>) -> Message {
    let flags = if data.is_some() { MAP } else { 0 };
    let set =
        table.message(NEW_SET, CREATE).text(2, name).be32(3, flags).be32(4, key.code).be32(5, key.bytes).be32(10, id);
    match data {
        Some(data) => set.be32(6, data.code).be32(7, data.bytes),
        None => set,
    }
}

/// Keys, each with what it maps to, if it is a map.
pub(crate) fn new_elements(table: Table<'_>, set: &str, elements: &[(Vec<u8>, Option<Vec<u8>>)]) -> Message {
    table.message(NEW_ELEMENTS, CREATE).text(2, set).nest(3, |list| {
        elements.iter().fold(list, |list, (key, data)| {
            list.nest(LIST_ELEMENT, |element| {
                let element = element.nest(1, |inner| inner.attr(DATA_VALUE, key));
                match data {
                    Some(data) => element.nest(2, |inner| inner.attr(DATA_VALUE, data)),
                    None => element,
                }
            })
        })
    })
}

/// A rule: each expression in turn, until one does not hold.
pub(crate) fn new_rule(table: Table<'_>, chain: &str, expressions: &[Expression<'_>]) -> Message {
    let rule = table.message(NEW_RULE, CREATE | APPEND).text(2, chain);
    rule.nest(4, |list| expressions.iter().fold(list, |list, one| one.write(list, table.family)))
}

/// Registers are numbered in words of four bytes: a concatenation lies in neighbouring ones.
const WORD: u32 = 8;
const VERDICT: u32 = 0;

/// How many registers of four bytes an address takes.
pub(crate) fn words_of_address(family: Family) -> u32 {
    u32::from(family.bits()) / 32
}

/// Where what a map gives is put, behind every key that there is.
const MAPPED: u32 = WORD + 8;

/// What a rule does or asks, in registers of four bytes.
pub(crate) enum Expression<'a> {
    /// Name of the link it came in by, in register 0 and following.
    InName,
    /// Name of the link it leaves by.
    OutName,
    /// Its transport protocol, in this register.
    TransportProtocol(u32),
    /// Its source address.
    Source(u32),
    /// Its destination address.
    Destination(u32),
    /// Its destination port.
    DestinationPort(u32),
    /// Keep only these bits of register 0.
    Mask(&'a [u8]),
    /// The flags of its TCP header, in register 0.
    TcpFlags,
    /// Lower the largest segment that its TCP header announces to what the way takes.
    ClampSegments,
    /// Go on only if register 0 and following hold this.
    Equal(&'a [u8]),
    /// Go on only if not.
    Different(&'a [u8]),
    /// The kind of the destination address (2 is local), in register 0.
    DestinationKind,
    /// The link by which the source would be reached, if it is that by which it came, else 0: in register 0.
    ReversePath,
    /// Go on only if register 0 and following are a key of this set.
    Contained(&'a str),
    /// Go on only if so, and put aside what it maps to: an address and a port.
    Mapped(&'a str),
    /// Send it to the address and the port that were put aside.
    DestinationNat,
    /// Give it this machine's address and a random port.
    Masquerade,
    /// No further rule of this chain.
    Accept,
    /// Away with it.
    Drop,
}

impl Expression<'_> {
    fn write(&self, element: Message, family: Family) -> Message {
        let (source, bytes) = match family {
            Family::V4 => (12, 4),
            Family::V6 => (8, 16),
        };
        match self {
            Expression::InName => meta(element, 6, 0),
            Expression::OutName => meta(element, 7, 0),
            Expression::TransportProtocol(register) => meta(element, 16, *register),
            Expression::Source(register) => payload(element, *register, 1, source, bytes),
            Expression::Destination(register) => payload(element, *register, 1, source + bytes, bytes),
            Expression::DestinationPort(register) => payload(element, *register, 2, 2, 2),
            Expression::Mask(mask) => named(element, "bitwise", |data| {
                let data = data.be32(1, WORD).be32(2, WORD).be32(3, mask.len() as u32);
                let zeros = vec![0; mask.len()];
                data.nest(4, |inner| inner.attr(DATA_VALUE, mask)).nest(5, |inner| inner.attr(DATA_VALUE, &zeros))
            }),
            Expression::TcpFlags => payload(element, 0, 2, 13, 1),
            Expression::ClampSegments => clamp(element),
            Expression::Equal(value) => compare(element, 0, value),
            Expression::Different(value) => compare(element, 1, value),
            Expression::DestinationKind => named(element, "fib", |data| data.be32(1, WORD).be32(2, 3).be32(3, 2)),
            Expression::ReversePath => named(element, "fib", |data| data.be32(1, WORD).be32(2, 1).be32(3, 1 | 8)),
            Expression::Contained(set) => named(element, "lookup", |data| data.text(1, set).be32(2, WORD)),
            Expression::Mapped(set) => named(element, "lookup", |data| data.text(1, set).be32(2, WORD).be32(3, MAPPED)),
            Expression::DestinationNat => named(element, "nat", |data| {
                let (address, port) = (MAPPED, MAPPED + words_of_address(family));
                let data = data.be32(1, 1).be32(2, u32::from(family.number()));
                data.be32(3, address).be32(4, address).be32(5, port).be32(6, port)
            }),
            Expression::Masquerade => named(element, "masq", |data| data.be32(1, 0x10)),
            Expression::Accept => verdict(element, 1),
            Expression::Drop => verdict(element, 0),
        }
    }
}

fn named(element: Message, name: &str, fill: impl FnOnce(Message) -> Message) -> Message {
    element.nest(LIST_ELEMENT, |element| element.text(1, name).nest(2, fill))
}

/// Three steps: what the way takes, in network order, into the option (kind 2) at its offset.
fn clamp(list: Message) -> Message {
    let list = named(list, "rt", |data| data.be32(1, WORD).be32(2, 3));
    let list = named(list, "byteorder", |data| data.be32(1, WORD).be32(2, WORD).be32(3, 1).be32(4, 2).be32(5, 2));
    named(list, "exthdr", |data| data.attr(2, &[2]).be32(3, 2).be32(4, 2).be32(6, 1).be32(7, WORD))
}

fn meta(element: Message, key: u32, register: u32) -> Message {
    named(element, "meta", |data| data.be32(1, WORD + register).be32(2, key))
}

fn payload(element: Message, register: u32, base: u32, offset: u32, bytes: u32) -> Message {
    named(element, "payload", |data| data.be32(1, WORD + register).be32(2, base).be32(3, offset).be32(4, bytes))
}

fn compare(element: Message, operator: u32, value: &[u8]) -> Message {
    named(element, "cmp", |data| data.be32(1, WORD).be32(2, operator).nest(3, |inner| inner.attr(DATA_VALUE, value)))
}

fn verdict(element: Message, code: u32) -> Message {
    named(element, "immediate", |data| {
        data.be32(1, VERDICT).nest(2, |inner| inner.nest(DATA_VERDICT, |verdict| verdict.be32(1, code)))
    })
}

/// A key or value of several parts, each padded to four bytes.
pub(crate) fn words(parts: &[Word]) -> Vec<u8> {
    parts.iter().flat_map(Word::bytes).collect()
}

/// One part of a key or value.
#[derive(Clone, Copy)]
pub(crate) enum Word {
    Protocol(u8),
    Address(IpAddr),
    Port(u16),
}

impl Word {
    fn bytes(&self) -> Vec<u8> {
        match self {
            Word::Protocol(number) => vec![*number, 0, 0, 0],
            Word::Address(address) => octets(*address),
            Word::Port(port) => {
                let [high, low] = port.to_be_bytes();
                vec![high, low, 0, 0]
            }
        }
    }
}
