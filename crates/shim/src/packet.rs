//! Messages as packets with descriptors beside them: both sides' halves of the socket.

use std::io::{self, IoSlice, IoSliceMut, Read, Seek, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::protocol::INLINE_BYTES;

/// More descriptors than any message has.
const MOST_FDS: usize = 4;

/// Sends one message; it is either sent whole or not at all.
pub fn send<T: Serialize>(socket: impl AsFd, message: &T, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let body = serde_json::to_vec(message)?;
    if body.len() <= INLINE_BYTES {
        return send_bytes(socket, &body, fds);
    }
    let mut file = std::fs::File::from(memfd_create("message", MemfdFlags::CLOEXEC)?);
    file.write_all(&body)?;
    let mut all = fds.to_vec();
    all.push(file.as_fd());
    send_bytes(socket, b" ", &all)
}

fn send_bytes(socket: impl AsFd, body: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FDS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    sendmsg(socket, &[IoSlice::new(body)], &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Receives one message; None at the end of the conversation.
pub fn receive<T: DeserializeOwned>(socket: impl AsFd) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let mut body = vec![0; INLINE_BYTES];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FDS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(socket, &mut [IoSliceMut::new(&mut body)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    if received.bytes == 0 {
        return Ok(None);
    }
    body.truncate(received.bytes);
    let mut fds = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    if body == b" " {
        body = read_whole(fds.pop().ok_or(io::ErrorKind::InvalidData)?)?;
    }
    Ok(Some((serde_json::from_slice(&body)?, fds)))
}

fn read_whole(fd: OwnedFd) -> io::Result<Vec<u8>> {
    let mut file = std::fs::File::from(fd);
    file.rewind()?;
    let mut body = Vec::new();
    file.read_to_end(&mut body)?;
    Ok(body)
}

#[cfg(test)]
mod tests {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    use super::*;

    #[test]
    fn small_and_large_messages_arrive_with_their_descriptors() {
        let (a, b) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).expect("socketpair");
        for length in [1, INLINE_BYTES, 3_000_000] {
            let text = "x".repeat(length);
            send(&a, &text, &[a.as_fd(), b.as_fd()]).expect("send");
            let (received, fds) = receive::<String>(&b).expect("receive").expect("a message");
            assert_eq!((received.len(), fds.len()), (length, 2));
        }
        drop(a);
        assert!(receive::<String>(&b).expect("receive").is_none());
    }
}
