//! SPDY/3.1 framing: the eight-byte heads and the compressed header blocks.
//!
//! Facts from the SPDY protocol draft 3.1. Header blocks of one direction share one zlib stream, primed with the draft's dictionary.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use crate::Error;

const DICTIONARY: &[u8] = include_bytes!("../spdy3.dict");
const VERSION: u16 = 3;
const FIN: u8 = 1;
/// A header block may not unpack to more than this.
const HEADER_LIMIT: usize = 64 << 10;
/// A data frame longer than this is not accepted; kubectl sends 32 KiB at most.
const FRAME_LIMIT: usize = 1 << 20;
pub(super) const HEAD: usize = 8;

/// The reason for resetting a stream: the sender no longer wants it.
pub(super) const CANCEL: u32 = 5;

/// A frame that came in.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Frame {
    /// The peer opens a stream.
    Open { stream: u32, headers: Vec<(String, String)>, fin: bool },
    /// The peer grants a stream of ours.
    Reply { stream: u32 },
    /// Bytes.
    Data { stream: u32, bytes: Bytes, fin: bool },
    /// The peer cancels a stream.
    Reset { stream: u32 },
    /// To be echoed.
    Ping { id: u32 },
    /// The peer opens nothing more.
    GoAway,
    /// Settings, window updates and headers: nothing here depends on them. kubectl sends no window updates, so windows are not kept.
    Other,
}

/// Takes frames out of a byte stream; keeps the decompression state of its direction.
pub(super) struct Decoder {
    inflate: Decompress,
}

impl Decoder {
    pub(super) fn new() -> Self {
        Self { inflate: Decompress::new(true) }
    }

    /// The next whole frame in `buffer`, or `None` when more bytes are needed.
    pub(super) fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Frame>, Error> {
        if buffer.len() < HEAD {
            return Ok(None);
        }
        let first = u32::from_be_bytes([buffer[0], buffer[1], buffer[2], buffer[3]]);
        let flags = buffer[4];
        let length = usize::from(buffer[5]) << 16 | usize::from(buffer[6]) << 8 | usize::from(buffer[7]);
        if length > FRAME_LIMIT {
            return Err(broken("a frame is too long"));
        }
        if buffer.len() < HEAD + length {
            return Ok(None);
        }
        buffer.advance(HEAD);
        let payload = buffer.split_to(length).freeze();
        if first >> 31 == 0 {
            return Ok(Some(Frame::Data { stream: first, bytes: payload, fin: flags & FIN != 0 }));
        }
        self.control((first & 0xffff) as u16, flags, payload).map(Some)
    }

    fn control(&mut self, kind: u16, flags: u8, mut payload: Bytes) -> Result<Frame, Error> {
        let word = |payload: &mut Bytes| {
            if payload.len() < 4 { Err(broken("a control frame is too short")) } else { Ok(payload.get_u32()) }
        };
        match kind {
            1 => {
                let stream = word(&mut payload)? & 0x7fff_ffff;
                if payload.len() < 6 {
                    return Err(broken("a SYN_STREAM frame is too short"));
                }
                payload.advance(6);
                let headers = self.headers(&payload)?;
                Ok(Frame::Open { stream, headers, fin: flags & FIN != 0 })
            }
            2 => {
                let stream = word(&mut payload)? & 0x7fff_ffff;
                self.headers(&payload)?;
                Ok(Frame::Reply { stream })
            }
            3 => Ok(Frame::Reset { stream: word(&mut payload)? & 0x7fff_ffff }),
            6 => Ok(Frame::Ping { id: word(&mut payload)? }),
            7 => Ok(Frame::GoAway),
            8 => {
                word(&mut payload)?;
                // The block must pass through the decompressor even when nobody reads it: the next one builds on it.
                self.headers(&payload)?;
                Ok(Frame::Other)
            }
            _ => Ok(Frame::Other),
        }
    }

    fn headers(&mut self, block: &[u8]) -> Result<Vec<(String, String)>, Error> {
        let plain = self.inflate(block)?;
        parse_headers(&plain)
    }

    fn inflate(&mut self, mut input: &[u8]) -> Result<Vec<u8>, Error> {
        let mut plain = Vec::with_capacity(1024);
        while !input.is_empty() {
            if plain.len() > HEADER_LIMIT {
                return Err(broken("a header block is too long"));
            }
            plain.reserve(1024);
            let before = (self.inflate.total_in(), plain.len());
            let result = self.inflate.decompress_vec(input, &mut plain, FlushDecompress::Sync);
            let used = usize::try_from(self.inflate.total_in() - before.0).unwrap_or(usize::MAX);
            input = input.get(used..).unwrap_or_default();
            match result {
                Ok(Status::StreamEnd) => break,
                Ok(_) if used == 0 && plain.len() == before.1 => return Err(broken("a header block is cut off")),
                Ok(_) => {}
                Err(error) if error.needs_dictionary().is_some() => {
                    self.inflate.set_dictionary(DICTIONARY).map_err(|e| Error::failed("reading SPDY headers", e))?;
                }
                Err(error) => return Err(Error::failed("reading SPDY headers", error)),
            }
        }
        Ok(plain)
    }
}

fn parse_headers(mut plain: &[u8]) -> Result<Vec<(String, String)>, Error> {
    let count = take_u32(&mut plain)?;
    let mut headers = Vec::new();
    for _ in 0..count {
        let name = take_text(&mut plain)?;
        headers.push((name, take_text(&mut plain)?));
    }
    Ok(headers)
}

fn take_u32(input: &mut &[u8]) -> Result<u32, Error> {
    if input.len() < 4 { Err(broken("a header block is cut off")) } else { Ok(input.get_u32()) }
}

fn take_text(input: &mut &[u8]) -> Result<String, Error> {
    let length = take_u32(input)? as usize;
    if input.len() < length {
        return Err(broken("a header block is cut off"));
    }
    let text = String::from_utf8_lossy(&input[..length]).into_owned();
    input.advance(length);
    Ok(text)
}

fn broken(what: &str) -> Error {
    Error::failed("reading SPDY frames", what)
}

/// Writes frames; keeps the compression state of its direction.
pub(super) struct Encoder {
    deflate: Compress,
}

impl Encoder {
    pub(super) fn new() -> Result<Self, Error> {
        let mut deflate = Compress::new(Compression::fast(), true);
        deflate.set_dictionary(DICTIONARY).map_err(|e| Error::failed("preparing SPDY headers", e))?;
        Ok(Self { deflate })
    }

    /// A grant of a stream that the peer opened, with no headers of its own.
    pub(super) fn reply(&mut self, stream: u32, out: &mut BytesMut) -> Result<(), Error> {
        let block = self.block(&[])?;
        control(2, 0, 4 + block.len(), out);
        out.put_u32(stream);
        out.put_slice(&block);
        Ok(())
    }

    /// Opens a stream.
    #[cfg(test)]
    pub(super) fn open(&mut self, stream: u32, headers: &[(&str, &str)], out: &mut BytesMut) -> Result<(), Error> {
        let block = self.block(headers)?;
        control(1, 0, 10 + block.len(), out);
        out.put_u32(stream);
        out.put_u32(0);
        out.put_u16(0);
        out.put_slice(&block);
        Ok(())
    }

    fn block(&mut self, headers: &[(&str, &str)]) -> Result<Vec<u8>, Error> {
        let mut plain = Vec::new();
        plain.put_u32(u32::try_from(headers.len()).unwrap_or(0));
        for text in headers.iter().flat_map(|(name, value)| [name, value]) {
            plain.put_u32(u32::try_from(text.len()).unwrap_or(0));
            plain.put_slice(text.as_bytes());
        }
        let mut packed = Vec::with_capacity(plain.len() + 128);
        let mut input = &plain[..];
        loop {
            let before = self.deflate.total_in();
            self.deflate
                .compress_vec(input, &mut packed, FlushCompress::Sync)
                .map_err(|e| Error::failed("writing SPDY headers", e))?;
            input = &input[usize::try_from(self.deflate.total_in() - before).unwrap_or(0)..];
            if input.is_empty() && packed.len() < packed.capacity() {
                return Ok(packed);
            }
            packed.reserve(256);
        }
    }
}

pub(super) fn data(stream: u32, bytes: &[u8], fin: bool, out: &mut BytesMut) {
    out.put_u32(stream & 0x7fff_ffff);
    put_length(u8::from(fin) * FIN, bytes.len(), out);
    out.put_slice(bytes);
}

pub(super) fn reset(stream: u32, out: &mut BytesMut) {
    control(3, 0, 8, out);
    out.put_u32(stream);
    out.put_u32(CANCEL);
}

pub(super) fn ping(id: u32, out: &mut BytesMut) {
    control(6, 0, 4, out);
    out.put_u32(id);
}

pub(super) fn go_away(last: u32, out: &mut BytesMut) {
    control(7, 0, 8, out);
    out.put_u32(last);
    out.put_u32(0);
}

fn control(kind: u16, flags: u8, length: usize, out: &mut BytesMut) {
    out.put_u16(0x8000 | VERSION);
    out.put_u16(kind);
    put_length(flags, length, out);
}

fn put_length(flags: u8, length: usize, out: &mut BytesMut) {
    out.put_u32(u32::from(flags) << 24 | u32::try_from(length).unwrap_or(u32::MAX) & 0x00ff_ffff);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn header_blocks_share_one_stream() {
        let (mut encoder, mut decoder) = (Encoder::new().unwrap(), Decoder::new());
        let mut wire = BytesMut::new();
        for (id, kind) in [(1, "error"), (3, "stdin"), (5, "stdout")] {
            encoder.open(id, &[("streamtype", kind)], &mut wire).unwrap();
        }
        for (id, kind) in [(1, "error"), (3, "stdin"), (5, "stdout")] {
            let headers = vec![("streamtype".to_owned(), kind.to_owned())];
            let expected = Frame::Open { stream: id, headers, fin: false };
            assert_eq!(decoder.decode(&mut wire).unwrap(), Some(expected));
        }
        assert_eq!(decoder.decode(&mut wire).unwrap(), None);
    }

    #[test]
    fn a_frame_may_come_byte_by_byte() {
        let mut wire = BytesMut::new();
        data(7, b"hello", true, &mut wire);
        let (mut decoder, mut buffer, whole) = (Decoder::new(), BytesMut::new(), wire.freeze());
        for byte in &whole[..whole.len() - 1] {
            buffer.put_u8(*byte);
            assert_eq!(decoder.decode(&mut buffer).unwrap(), None);
        }
        buffer.put_u8(whole[whole.len() - 1]);
        let expected = Frame::Data { stream: 7, bytes: Bytes::from_static(b"hello"), fin: true };
        assert_eq!(decoder.decode(&mut buffer).unwrap(), Some(expected));
    }

    proptest! {
        #[test]
        fn hostile_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let (mut decoder, mut buffer) = (Decoder::new(), BytesMut::from(&bytes[..]));
            while let Ok(Some(_)) = decoder.decode(&mut buffer) {}
        }

        #[test]
        fn hostile_header_blocks_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut wire = BytesMut::new();
            control(1, 0, 10 + bytes.len(), &mut wire);
            wire.put_slice(&[0; 10]);
            wire.put_slice(&bytes);
            let mut decoder = Decoder::new();
            let _ = decoder.decode(&mut wire);
        }
    }
}
