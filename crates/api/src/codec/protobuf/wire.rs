//! The bare wire format: numbered fields, no types.

/// The content of one field.
#[derive(Debug, Clone, Copy)]
pub(super) enum Datum<'a> {
    Varint(u64),
    Fixed64(u64),
    Fixed32,
    Bytes(&'a [u8]),
}

impl<'a> Datum<'a> {
    pub(super) fn bytes(self) -> Result<&'a [u8], String> {
        if let Self::Bytes(bytes) = self { Ok(bytes) } else { Err(self.unexpected()) }
    }

    pub(super) fn varint(self) -> Result<u64, String> {
        if let Self::Varint(number) = self { Ok(number) } else { Err(self.unexpected()) }
    }

    pub(super) fn fixed64(self) -> Result<u64, String> {
        if let Self::Fixed64(number) = self { Ok(number) } else { Err(self.unexpected()) }
    }

    fn unexpected(self) -> String {
        let wire_type = match self {
            Self::Varint(_) => 0,
            Self::Fixed64(_) => 1,
            Self::Bytes(_) => 2,
            Self::Fixed32 => 5,
        };
        format!("proto: wrong wireType = {wire_type}")
    }
}

/// The fields of a message in their order.
pub(super) struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    pub(super) fn new(message: &'a [u8]) -> Self {
        Self { rest: message }
    }

    fn read(&mut self) -> Result<(u32, Datum<'a>), String> {
        let tag = varint(&mut self.rest)?;
        let number = u32::try_from(tag >> 3).ok().filter(|n| *n != 0);
        let number = number.ok_or_else(|| format!("proto: illegal tag {}", tag >> 3))?;
        let datum = match tag & 7 {
            0 => Datum::Varint(varint(&mut self.rest)?),
            1 => Datum::Fixed64(u64::from_le_bytes(take(&mut self.rest, 8)?.try_into().map_err(|_| EOF)?)),
            2 => {
                let length = usize::try_from(varint(&mut self.rest)?).map_err(|_| EOF)?;
                Datum::Bytes(take(&mut self.rest, length)?)
            }
            5 => {
                take(&mut self.rest, 4)?;
                Datum::Fixed32
            }
            other => return Err(format!("proto: illegal wireType {other}")),
        };
        Ok((number, datum))
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u32, Datum<'a>), String>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let read = self.read();
        if read.is_err() {
            self.rest = &[];
        }
        Some(read)
    }
}

const EOF: &str = "unexpected EOF";

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Result<&'a [u8], String> {
    let (head, tail) = rest.split_at_checked(length).ok_or(EOF)?;
    *rest = tail;
    Ok(head)
}

/// Reads a number of up to ten bytes.
pub(super) fn varint(rest: &mut &[u8]) -> Result<u64, String> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (first, tail) = rest.split_first().ok_or(EOF)?;
        *rest = tail;
        value |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err("proto: integer overflow".to_owned())
}
