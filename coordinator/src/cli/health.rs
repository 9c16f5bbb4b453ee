//! `assent health`: whether a coordinator serves, for probes.

use clap::Args;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::{Exit, Failure, Global, Output, Target};

/// Ask a coordinator whether it serves; exit code 0 if it does. It asks for no identity.
#[derive(Debug, Args)]
pub struct Health {
    /// Of which service; of all of them without one.
    #[arg(long, value_name = "NAME", default_value = "")]
    service: String,
}

impl Health {
    /// Asks, and says.
    pub(super) async fn run(self, global: &Global, output: &mut Output) -> Result<(), Failure> {
        let channel = Target::of(global).connect().await?;
        let request = HealthCheckRequest { service: self.service };
        match HealthClient::new(channel).check(request).await?.into_inner().status() {
            ServingStatus::Serving => Ok(output.line("serving")?),
            ServingStatus::NotServing | ServingStatus::Unknown | ServingStatus::ServiceUnknown => {
                let next = "wait until it has taken over what was open, or look at its log lines";
                Err(Failure::new(Exit::Failed, "the coordinator does not serve", next))
            }
        }
    }
}
