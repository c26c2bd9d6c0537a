//! A connection from a chosen source address, which glommio has no call for.
#![allow(unsafe_code)]

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{FromRawFd, IntoRawFd};
use std::pin::Pin;

use futures_lite::future::poll_fn;
use futures_lite::io::AsyncWrite;
use glommio::net::TcpStream;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, ipproto, socket_with};

/// Connects to `to` from `source`, any port.
///
/// # Errors
/// As the system says; EADDRNOTAVAIL if `source` is not an address of this host.
pub(crate) async fn connect_from(source: IpAddr, to: SocketAddr) -> io::Result<TcpStream> {
    let family = if to.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let fd = socket_with(family, SocketType::STREAM, flags, Some(ipproto::TCP))?;
    bind(&fd, &SocketAddr::new(source, 0))?;
    match connect(&fd, &to) {
        Ok(()) | Err(rustix::io::Errno::INPROGRESS) => {}
        Err(error) => return Err(error.into()),
    }
    // SAFETY: the descriptor is open, a TCP socket, and given up by `into_raw_fd` to this owner alone.
    let mut stream = unsafe { TcpStream::from_raw_fd(fd.into_raw_fd()) };
    // A connecting socket does not take an empty send until it is established, and then says how the
    // attempt ended.
    poll_fn(|cx| Pin::new(&mut stream).poll_write(cx, &[])).await?;
    Ok(stream)
}
