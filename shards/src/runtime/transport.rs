//! What sessions in and connections out read from and write to.
//!
//! One type for all kinds, chosen by `match`: in the clear nothing is boxed, and nothing is called that the
//! socket would not be called for anyway. Another kind (TLS) is another variant here; its
//! handshake is over before a task gets it, or begins with [`Transport`] taken out and put back (STARTTLS).

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_lite::io::{AsyncRead, AsyncWrite};
use glommio::net::TcpStream;

/// A connection, inbound or outbound.
#[derive(Debug)]
pub(super) enum Transport {
    /// In the clear.
    Plain(TcpStream),
}

impl Transport {
    /// In the clear over an open socket.
    pub(super) fn plain(stream: TcpStream) -> Self {
        // What is written is whole replies, commands and content: waiting for more would only delay them.
        let _ = stream.set_nodelay(true);
        Self::Plain(stream)
    }

    /// The other end and ours.
    pub(super) fn addresses(&self) -> Option<(SocketAddr, SocketAddr)> {
        let Self::Plain(stream) = self;
        Some((stream.peer_addr().ok()?, stream.local_addr().ok()?))
    }

    /// Our address.
    pub(super) fn local_ip(&self) -> Option<IpAddr> {
        let Self::Plain(stream) = self;
        stream.local_addr().ok().map(|local| local.ip())
    }

    /// Version and cipher, as the delivery log names them; empty in the clear.
    pub(super) const fn security(&self) -> &str {
        match self {
            Self::Plain(_) => "",
        }
    }

    /// Octets read into `buffer`, 0 at the end.
    pub(super) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }

    /// Octets of `bytes` taken. They have left only when [`Self::poll_flush`] is through.
    pub(super) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    /// Sends what was taken and held back.
    pub(super) fn poll_flush(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            // The socket holds nothing back.
            Self::Plain(_) => Poll::Ready(Ok(())),
        }
    }

    /// Says goodbye, where the kind has a way to. Dropping it closes the socket.
    pub(super) fn poll_close(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(_) => Poll::Ready(Ok(())),
        }
    }
}
