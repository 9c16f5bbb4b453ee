//! A relay between two processes: what one of them says can be held back, and lost.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// A TCP relay in front of a server.
///
/// Whatever it has read of a side that is held stays with it: released it goes on, in order; cut off it is lost, as on a network that
/// loses the end of a conversation.
#[derive(Debug)]
pub struct Relay {
    address: SocketAddr,
    valves: watch::Sender<Valves>,
    task: JoinHandle<()>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Valves {
    is_client_held: bool,
    is_server_held: bool,
    cuts: u64,
}

impl Relay {
    /// Starts one on a port of its own; the server need not be there yet.
    ///
    /// # Panics
    /// When it cannot listen.
    pub async fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a relay listens");
        Self::between(listener, server, TcpSocket::new_v4)
    }

    /// Starts one between whoever connects to this listener and a server, to which it connects with sockets of the given kind.
    pub(crate) fn between(
        listener: TcpListener,
        server: SocketAddr,
        socket: impl Fn() -> io::Result<TcpSocket> + Send + 'static,
    ) -> Self {
        let address = listener.local_addr().expect("its address");
        let (valves, state) = watch::channel(Valves::default());
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                match socket() {
                    Ok(socket) => drop(connections.spawn(relay(client, socket.connect(server), state.clone()))),
                    Err(error) => eprintln!("a relay has no socket: {error}"),
                }
                while connections.try_join_next().is_some() {}
            }
        });
        Self { address, valves, task }
    }

    /// Where clients connect to.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Holds back what clients say from now on, or lets it go.
    pub fn hold_client(&self, is_held: bool) {
        self.valves.send_modify(|valves| valves.is_client_held = is_held);
    }

    /// Holds back what the server says from now on, or lets it go.
    pub fn hold_server(&self, is_held: bool) {
        self.valves.send_modify(|valves| valves.is_server_held = is_held);
    }

    /// Breaks all connections, and loses what was held. Later ones are not held.
    pub fn cut(&self) {
        self.valves.send_modify(|valves| *valves = Valves { cuts: valves.cuts + 1, ..Valves::default() });
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn relay(
    client: TcpStream,
    server: impl Future<Output = io::Result<TcpStream>>,
    mut valves: watch::Receiver<Valves>,
) {
    let cuts = valves.borrow().cuts;
    let Ok(server) = server.await else { return };
    for side in [&client, &server] {
        side.set_nodelay(true).ok();
    }
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let (client_valve, server_valve) = (valves.clone(), valves.clone());
    // One side that ends, ends both: the connections here are sessions.
    tokio::select! {
        () = pump(from_client, to_server, client_valve, cuts, |valves| valves.is_client_held) => {}
        () = pump(from_server, to_client, server_valve, cuts, |valves| valves.is_server_held) => {}
        () = until(&mut valves, |valves| valves.cuts != cuts) => {}
    }
}

async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut valves: watch::Receiver<Valves>,
    cuts: u64,
    is_held: impl Fn(&Valves) -> bool,
) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let Ok(read @ 1..) = from.read(&mut buffer).await else { return };
        until(&mut valves, |valves| valves.cuts != cuts || !is_held(valves)).await;
        // A cut opens the valves, too: what was held must not get through before the connection is gone.
        if valves.borrow().cuts != cuts || to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}

/// Waits until the valves are so. Once the relay is gone they stay as they are, and so does this.
async fn until(valves: &mut watch::Receiver<Valves>, are_so: impl Fn(&Valves) -> bool) {
    if valves.wait_for(|valves| are_so(valves)).await.is_err() {
        std::future::pending().await
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(10);

    async fn hears(stream: &mut TcpStream) -> u8 {
        tokio::time::timeout(DEADLINE, stream.read_u8()).await.expect("in time").expect("a byte")
    }

    #[tokio::test]
    async fn one_side_is_held_released_and_lost() {
        let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a server");
        let relay = Relay::to(server.local_addr().expect("an address")).await;
        let mut client = TcpStream::connect(relay.address()).await.expect("a client");
        let (mut served, _) = server.accept().await.expect("a connection");
        client.write_u8(1).await.expect("said");
        assert_eq!(hears(&mut served).await, 1);

        relay.hold_client(true);
        client.write_u8(2).await.expect("said");
        served.write_u8(3).await.expect("said");
        assert_eq!(hears(&mut client).await, 3);
        assert_eq!(served.try_read(&mut [0]).expect_err("nothing yet").kind(), std::io::ErrorKind::WouldBlock);
        relay.hold_client(false);
        assert_eq!(hears(&mut served).await, 2);

        relay.hold_server(true);
        served.write_u8(4).await.expect("said");
        client.write_u8(5).await.expect("said");
        assert_eq!(hears(&mut served).await, 5);
        relay.cut();
        let end = tokio::time::timeout(DEADLINE, client.read(&mut [0])).await.expect("in time");
        assert!(!matches!(end, Ok(1..)), "what was held is lost");
    }
}
