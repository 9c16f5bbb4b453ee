//! `assent whoami`: who the coordinator takes this program for.

use assent_proto::v1::{WhoAmIRequest, WhoAmIResponse};
use clap::Args;
use serde::Serialize;

use super::{Failure, Format, Global, Output, Target};

/// Ask the coordinator who it takes this program for, and what that may do.
#[derive(Debug, Args)]
pub struct WhoAmI {}

/// The answer, as JSON shows it.
#[derive(Debug, Serialize)]
struct Answer {
    identities: Vec<String>,
    rights: Vec<String>,
    proof: String,
    encrypted: bool,
    insecure: bool,
}

impl WhoAmI {
    /// Asks, and says.
    pub(super) async fn run(self, global: &Global, output: &mut Output) -> Result<(), Failure> {
        let answer = Target::of(global).admin().await?.who_am_i(WhoAmIRequest {}).await?.into_inner();
        let WhoAmIResponse { identities, rights, proof, encrypted, insecure } = answer;
        if output.format() != Format::Table {
            return Ok(output.value(&Answer { identities, rights, proof, encrypted, insecure })?);
        }
        let or = |list: &[String], none: &str| if list.is_empty() { none.to_owned() } else { list.join(", ") };
        output.line(&format!("identity   {}", or(&identities, "anyone: this coordinator asks for none")))?;
        output.line(&format!("rights     {}", or(&rights, "none")))?;
        output.line(&format!("proved by  {proof}"))?;
        output.line(&format!("encrypted  {}", if encrypted { "yes" } else { "no" }))?;
        if insecure {
            output.line("insecure   yes: the coordinator is open to a network without TLS or authentication")?;
        }
        Ok(())
    }
}
