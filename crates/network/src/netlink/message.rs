//! Netlink's format: a header, a fixed part per kind, and attributes of length, type and value, each padded to four bytes.

use std::io;

pub(crate) const REQUEST: u16 = 1;
pub(crate) const ACK: u16 = 4;
pub(crate) const DUMP: u16 = 0x300;
pub(crate) const REPLACE: u16 = 0x100;
pub(crate) const EXCLUSIVE: u16 = 0x200;
pub(crate) const CREATE: u16 = 0x400;
pub(crate) const APPEND: u16 = 0x800;

const HEADER: usize = 16;
const NESTED: u16 = 0x8000;
const TYPE_MASK: u16 = 0x3fff;

/// A message being written.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    kind: u16,
    flags: u16,
    body: Vec<u8>,
}

impl Message {
    /// The fixed part follows the header.
    pub(crate) fn new(kind: u16, flags: u16, fixed: &[u8]) -> Message {
        Message { kind, flags: flags | REQUEST, body: fixed.to_vec() }
    }

    pub(crate) fn kind(&self) -> u16 {
        self.kind
    }

    pub(crate) fn with_flags(mut self, flags: u16) -> Message {
        self.flags |= flags;
        self
    }

    pub(crate) fn attr(mut self, kind: u16, value: &[u8]) -> Message {
        self.push(kind, value);
        self
    }

    pub(crate) fn text(self, kind: u16, value: &str) -> Message {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.attr(kind, &bytes)
    }

    pub(crate) fn u32(self, kind: u16, value: u32) -> Message {
        self.attr(kind, &value.to_ne_bytes())
    }

    /// The packet filter speaks in network order.
    pub(crate) fn be32(self, kind: u16, value: u32) -> Message {
        self.attr(kind, &value.to_be_bytes())
    }

    /// What `fill` adds becomes the value of one attribute.
    pub(crate) fn nest(mut self, kind: u16, fill: impl FnOnce(Message) -> Message) -> Message {
        let start = self.body.len();
        self.body.extend_from_slice(&[0; 4]);
        let mut filled = fill(self);
        let length = (filled.body.len() - start) as u16;
        filled.body[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        filled.body[start + 2..start + 4].copy_from_slice(&(kind | NESTED).to_ne_bytes());
        filled
    }

    /// Bytes that are no attribute.
    pub(crate) fn raw(mut self, bytes: &[u8]) -> Message {
        self.body.extend_from_slice(bytes);
        self
    }

    fn push(&mut self, kind: u16, value: &[u8]) {
        self.body.extend_from_slice(&(value.len() as u16 + 4).to_ne_bytes());
        self.body.extend_from_slice(&kind.to_ne_bytes());
        self.body.extend_from_slice(value);
        self.body.resize(padded(self.body.len()), 0);
    }

    pub(crate) fn write(self, seq: u32, out: &mut Vec<u8>) {
        let length = (HEADER + self.body.len()) as u32;
        out.extend_from_slice(&length.to_ne_bytes());
        out.extend_from_slice(&self.kind.to_ne_bytes());
        out.extend_from_slice(&self.flags.to_ne_bytes());
        out.extend_from_slice(&seq.to_ne_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&self.body);
        out.resize(padded(out.len()), 0);
    }
}

fn padded(length: usize) -> usize {
    length.next_multiple_of(4)
}

/// A message that came from the kernel.
#[derive(Clone, Debug)]
pub(crate) struct Received {
    pub(crate) kind: u16,
    /// Everything after the header.
    pub(crate) body: Vec<u8>,
}

impl Received {
    /// Of an error message; number 0 is an acknowledgement.
    pub(crate) fn error(&self) -> io::Result<()> {
        match i32_at(&self.body, 0) {
            Some(0) => Ok(()),
            Some(number) => Err(io::Error::from_raw_os_error(-number)),
            None => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    /// Attributes after a fixed part of this length.
    pub(crate) fn attributes(&self, fixed: usize) -> Attributes<'_> {
        Attributes(self.body.get(padded(fixed)..).unwrap_or(&[]))
    }

    /// The value of one.
    pub(crate) fn find(&self, fixed: usize, kind: u16) -> Option<&[u8]> {
        self.attributes(fixed).find(|(found, _)| *found == kind).map(|(_, value)| value)
    }

    pub(crate) fn find_u32(&self, fixed: usize, kind: u16) -> Option<u32> {
        self.find(fixed, kind).and_then(|value| i32_at(value, 0)).map(|value| value as u32)
    }

    pub(crate) fn find_text(&self, fixed: usize, kind: u16) -> Option<String> {
        let value = self.find(fixed, kind)?;
        Some(String::from_utf8_lossy(value).trim_end_matches('\0').to_owned())
    }
}

pub(crate) fn i32_at(bytes: &[u8], offset: usize) -> Option<i32> {
    bytes.get(offset..offset + 4)?.try_into().ok().map(i32::from_ne_bytes)
}

fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    bytes.get(offset..offset + 2)?.try_into().ok().map(u16::from_ne_bytes)
}

/// Walks over attributes.
pub(crate) struct Attributes<'a>(pub(crate) &'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let length = usize::from(u16_at(self.0, 0)?);
        let kind = u16_at(self.0, 2)? & TYPE_MASK;
        let value = self.0.get(4..length)?;
        self.0 = self.0.get(padded(length)..).unwrap_or(&[]);
        Some((kind, value))
    }
}

/// Cuts one packet into messages.
pub(crate) fn messages(packet: &[u8]) -> impl Iterator<Item = Received> + '_ {
    let mut rest = packet;
    std::iter::from_fn(move || {
        let length = i32_at(rest, 0)? as usize;
        let kind = u16_at(rest, 4)?;
        let body = rest.get(HEADER..length)?.to_vec();
        rest = rest.get(padded(length)..).unwrap_or(&[]);
        Some(Received { kind, body })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_can_be_read() {
        let mut packet = Vec::new();
        Message::new(16, 0, &[7; 16]).text(3, "eth0").nest(18, |inner| inner.u32(1, 9)).write(1, &mut packet);
        Message::new(17, 0, &[]).write(2, &mut packet);
        let found: Vec<Received> = messages(&packet).collect();
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].find_text(16, 3).as_deref(), Some("eth0"));
        let nested = found[0].find(16, 18).expect("nested");
        assert_eq!(Attributes(nested).next(), Some((1, 9u32.to_ne_bytes().as_slice())));
        assert_eq!((found[1].kind, found[1].body.len()), (17, 0));
    }

    #[test]
    fn a_truncated_packet_ends_the_walk() {
        let mut packet = Vec::new();
        Message::new(16, 0, &[7; 16]).write(1, &mut packet);
        assert_eq!(messages(&packet[..20]).count(), 0);
        assert_eq!(Attributes(&[9, 0, 1, 0, 5]).count(), 0);
    }
}
