//! A server in a container, through testcontainers.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context as _, bail};
use testcontainers::bollard::Docker;
use testcontainers::bollard::query_parameters::{
    InspectContainerOptions, KillContainerOptionsBuilder, ListContainersOptionsBuilder, RemoveContainerOptionsBuilder,
    StartContainerOptions,
};
use testcontainers::core::IntoContainerPort as _;
use testcontainers::core::client::docker_client_instance;
use testcontainers::runners::AsyncRunner as _;
use testcontainers::{ContainerAsync, ImageExt as _};
use testcontainers_modules::postgres::Postgres as Image;
use tokio::sync::Mutex;

use super::server::{Origin, USER};
use super::wire::Control;
use crate::shared_directory;

/// Whose container it is: the identity of a keeper.
const ORIGIN_LABEL: &str = "dev.assent.tests.origin";
/// Where that keeper's lock lies: host and directory. Others who use the same engine are none of our business.
const PLACE_LABEL: &str = "dev.assent.tests.place";

/// The port inside of the container.
const PORT: u16 = 5432;

/// From the container's start to the ready line, with `initdb` in between.
const START_MAX: Duration = Duration::from_secs(120);

/// How long a server may take to end after a signal; a fast shutdown writes a checkpoint.
const END_MAX: Duration = Duration::from_secs(300);

/// A server in a container.
pub(super) struct Container {
    /// Taken when it is removed. A container that is dropped without that removes itself.
    container: Mutex<Option<ContainerAsync<Image>>>,
    id: String,
    host: String,
    docker: Docker,
}

impl Container {
    /// Creates and starts the container and returns when the server has said that it is ready.
    pub(super) async fn launch(
        name: &str,
        tag: &str,
        origin: &Origin,
        host_port: u16,
        password: &str,
        arguments: &[String],
    ) -> anyhow::Result<Self> {
        let container = Image::default()
            .with_user(USER)
            .with_password(password)
            .with_db_name("postgres")
            .with_name(name)
            .with_tag(tag)
            // The password as it is, over a network inside of this machine: a challenge would cost each of the tests' many
            // connections thousands of rounds of hashing.
            .with_env_var("POSTGRES_HOST_AUTH_METHOD", "password")
            // Without it initdb compares the machine's time zone with every one that it knows, for seconds.
            .with_env_var("TZ", "UTC")
            // Only the empty data are not flushed; the server flushes what it writes.
            .with_env_var("POSTGRES_INITDB_ARGS", "--no-sync")
            // Also replaces the module's fsync=off: these tests are about durability.
            .with_cmd(arguments.iter().cloned())
            // A port that the engine picks would be another one after a restart.
            .with_mapped_port(host_port, PORT.tcp())
            .with_label(ORIGIN_LABEL, origin.id())
            .with_label(PLACE_LABEL, place())
            .with_startup_timeout(START_MAX)
            .start()
            .await?;
        let host = match container.get_host().await?.to_string().as_str() {
            // The engine publishes on IPv4 always, on IPv6 if the machine has it.
            "localhost" => "127.0.0.1".to_owned(),
            host => host.to_owned(),
        };
        let docker = docker_client_instance().await?;
        Ok(Self { id: container.id().to_owned(), container: Mutex::new(Some(container)), host, docker })
    }

    /// Where its port is published.
    pub(super) fn host(&self) -> &str {
        &self.host
    }

    pub(super) async fn control(&self, control: Control) -> anyhow::Result<()> {
        match control {
            Control::Kill => self.end("SIGKILL").await,
            // Not the engine's stop: its signal depends on the image, and on Postgres' default signal the server waits for
            // its clients to leave.
            Control::Stop => self.end("SIGINT").await,
            Control::Start => {
                if self.running().await? {
                    bail!("the server runs");
                }
                Ok(self.docker.start_container(&self.id, None::<StartContainerOptions>).await?)
            }
            Control::Pause => Ok(self.docker.pause_container(&self.id).await?),
            Control::Resume => Ok(self.docker.unpause_container(&self.id).await?),
        }
    }

    /// Removes the container and its volume.
    pub(super) async fn remove(&self) -> anyhow::Result<()> {
        match self.container.lock().await.take() {
            Some(container) => Ok(container.rm().await?),
            None => Ok(()),
        }
    }

    async fn end(&self, signal: &str) -> anyhow::Result<()> {
        self.docker
            .kill_container(&self.id, Some(KillContainerOptionsBuilder::new().signal(signal).build()))
            .await
            .with_context(|| format!("cannot send {signal}"))?;
        let ended = async {
            while self.running().await? {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            anyhow::Ok(())
        };
        tokio::time::timeout(END_MAX, ended).await.with_context(|| format!("still runs long after {signal}"))?
    }

    async fn running(&self) -> anyhow::Result<bool> {
        let container = self.docker.inspect_container(&self.id, None::<InspectContainerOptions>).await?;
        Ok(container.state.and_then(|state| state.running).unwrap_or(false))
    }
}

/// Removes the containers of keepers of this place that are not among the living.
pub(super) async fn remove_stale(alive: &[String]) -> anyhow::Result<()> {
    let docker = docker_client_instance().await?;
    let filters = HashMap::from([("label".to_owned(), vec![format!("{PLACE_LABEL}={}", place())])]);
    let options = ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
    for container in docker.list_containers(Some(options)).await? {
        let labels = container.labels.unwrap_or_default();
        let (Some(id), Some(origin)) = (container.id, labels.get(ORIGIN_LABEL)) else { continue };
        if !alive.contains(origin) {
            let options = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
            docker.remove_container(&id, Some(options)).await?;
        }
    }
    Ok(())
}

fn place() -> String {
    let system = rustix::system::uname();
    format!("{}:{}", system.nodename().to_string_lossy(), shared_directory().display())
}
