//! Non-blocking TCP sockets: what a connection needs, and no more.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::sockopt;
use rustix::net::{RecvAncillaryBuffer, RecvFlags, SendAncillaryBuffer, SendFlags};

/// Connections that wait to be accepted; hosts reconnect all at once after a restart.
const BACKLOG_CONNECTIONS: i32 = 1024;
/// A silent peer is probed after this long...
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
/// ...this often...
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// ...and given up after as many probes.
const KEEPALIVE_PROBES: u32 = 6;

/// What came of a try to move bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moved {
    /// This many; more may be possible.
    Bytes(usize),
    /// None now: the socket becomes ready later.
    WouldBlock,
    /// The peer sends no more.
    End,
}

fn moved(result: Result<usize, Errno>) -> io::Result<Moved> {
    match result {
        Ok(bytes) => Ok(Moved::Bytes(bytes)),
        Err(Errno::AGAIN) => Ok(Moved::WouldBlock),
        Err(errno) => Err(errno.into()),
    }
}

fn again<T>(mut call: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            other => return other,
        }
    }
}

/// A connected socket.
#[derive(Debug)]
pub struct Socket {
    stream: TcpStream,
    peer: SocketAddr,
}

impl Socket {
    fn new(stream: TcpStream, peer: SocketAddr) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        sockopt::set_socket_keepalive(&stream, true)?;
        sockopt::set_tcp_keepidle(&stream, KEEPALIVE_IDLE)?;
        sockopt::set_tcp_keepintvl(&stream, KEEPALIVE_INTERVAL)?;
        sockopt::set_tcp_keepcnt(&stream, KEEPALIVE_PROBES)?;
        Ok(Self { stream, peer })
    }

    /// Connects to `address`; blocks while it does.
    ///
    /// # Errors
    /// The system's.
    pub fn connect(address: SocketAddr) -> io::Result<Self> {
        Self::new(TcpStream::connect(address)?, address)
    }

    /// The other end.
    #[must_use]
    pub const fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// This end.
    ///
    /// # Errors
    /// The system's.
    pub fn local(&self) -> io::Result<SocketAddr> {
        self.stream.local_addr()
    }

    /// Receives into `first` and then into `second`: a payload's place and what follows it, with one call.
    ///
    /// # Errors
    /// The system's: the connection is broken.
    pub fn receive(&self, first: &mut [u8], second: &mut [u8]) -> io::Result<Moved> {
        let received = if first.is_empty() {
            again(|| rustix::net::recv(&self.stream, &mut *second, RecvFlags::empty()).map(|(bytes, _)| bytes))
        } else {
            again(|| {
                let mut parts = [IoSliceMut::new(first), IoSliceMut::new(second)];
                let mut none = RecvAncillaryBuffer::new(&mut []);
                rustix::net::recvmsg(&self.stream, &mut parts, &mut none, RecvFlags::empty()).map(|got| got.bytes)
            })
        };
        Ok(match moved(received)? {
            Moved::Bytes(0) => Moved::End,
            other => other,
        })
    }

    /// Sends from `parts`, in order.
    ///
    /// # Errors
    /// The system's: the connection is broken.
    pub fn send(&self, parts: &[IoSlice<'_>]) -> io::Result<Moved> {
        let mut space: [MaybeUninit<u8>; 0] = [];
        moved(again(|| {
            let mut none = SendAncillaryBuffer::new(&mut space);
            rustix::net::sendmsg(&self.stream, parts, &mut none, SendFlags::NOSIGNAL)
        }))
    }

    /// Says that nothing more is sent; the peer's bytes are still received.
    pub fn finish_sending(&self) {
        // It fails only if the connection is already broken.
        let _ = self.stream.shutdown(std::net::Shutdown::Write);
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

/// A listening socket.
#[derive(Debug)]
pub struct Listener {
    listener: TcpListener,
    address: SocketAddr,
}

impl Listener {
    /// Listens on `address`; port 0 takes a free one.
    ///
    /// # Errors
    /// The system's.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        rustix::net::listen(&listener, BACKLOG_CONNECTIONS)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        Ok(Self { listener, address })
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// The next connection; `None` if there is none now.
    ///
    /// # Errors
    /// The system's: too many open files. A connection that broke before it was taken is passed over.
    pub fn accept(&self) -> io::Result<Option<Socket>> {
        loop {
            match self.listener.accept() {
                Ok((stream, peer)) => match Socket::new(stream, peer) {
                    Ok(socket) => return Ok(Some(socket)),
                    Err(error) => log::debug!("a connection from {peer} broke before it was taken: {error}"),
                },
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted) => {
                }
                Err(error) => return Err(error),
            }
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}
