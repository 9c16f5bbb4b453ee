//! The wire between a service and the coordinator, which can be cut in one direction.
//!
//! It listens for the service, and passes on to the coordinator whatever comes, and back. While it is cut, nothing that the service says
//! arrives; what the coordinator says still does. A connection that was made while it was cut stays silent; one that is made later does not.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::failure;
use crate::cli::Failure;

/// A running wire. It ends with this value.
#[derive(Debug)]
pub(super) struct Wire {
    endpoint: String,
    is_cut: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

impl Wire {
    /// Lays a wire to the coordinator at this port of this machine.
    pub(super) async fn lay(coordinator: u16) -> Result<Self, Failure> {
        let listener = TcpListener::bind("127.0.0.1:0").await.map_err(failure)?;
        let endpoint = format!("http://{}", listener.local_addr().map_err(failure)?);
        let is_cut = Arc::new(AtomicBool::new(false));
        let cut = Arc::clone(&is_cut);
        let task = tokio::spawn(async move {
            while let Ok((service, _)) = listener.accept().await {
                // A coordinator that is not there refuses, and so does its wire.
                if let Ok(coordinator) = TcpStream::connect(("127.0.0.1", coordinator)).await {
                    tokio::spawn(carry(service, coordinator, Arc::clone(&cut)));
                }
            }
        });
        Ok(Self { endpoint, is_cut, task })
    }

    /// Where the service dials.
    pub(super) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// From now on nothing that the service says arrives, or all of it does.
    pub(super) fn cut(&self, is_cut: bool) {
        self.is_cut.store(is_cut, Ordering::SeqCst);
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Carries both directions until either side ends.
async fn carry(service: TcpStream, coordinator: TcpStream, is_cut: Arc<AtomicBool>) {
    service.set_nodelay(true).ok();
    coordinator.set_nodelay(true).ok();
    let (mut from_service, mut to_service) = service.into_split();
    let (mut from_coordinator, mut to_coordinator) = coordinator.into_split();
    let upwards = async {
        let mut bytes = [0; 16 * 1024];
        while let Ok(read @ 1..) = from_service.read(&mut bytes).await {
            if is_cut.load(Ordering::SeqCst) {
                // Lost on the way. Nothing of this connection can be understood any more, so nothing follows.
                return std::future::pending().await;
            }
            if to_coordinator.write_all(&bytes[..read]).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = upwards => {}
        _ = tokio::io::copy(&mut from_coordinator, &mut to_service) => {}
    }
}
