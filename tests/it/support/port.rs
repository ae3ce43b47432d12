//! A port of loopback that is kept: nobody listens there, and nobody else is given it.

use std::net::SocketAddr;
use tokio::net::TcpSocket;

/// Kept as long as this lives. Who is told its number may listen there, if they set SO_REUSEADDR.
pub struct Port {
    pub address: SocketAddr,
    _socket: TcpSocket,
}

impl Port {
    pub fn kept() -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
        Self { address: socket.local_addr().unwrap(), _socket: socket }
    }
}
