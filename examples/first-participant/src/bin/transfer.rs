//! Moves money from alice at bank-a to bob at bank-b: `transfer CENTS`.

use assent_sdk::{Assent, BoxError, Outcome};
use serde_json::json;

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let cents: i64 = std::env::args().nth(1).ok_or("usage: transfer CENTS")?.parse()?;
    let coordinator = std::env::var("ASSENT_ENDPOINT").unwrap_or_else(|_| "http://127.0.0.1:7420".to_owned());
    let assent = Assent::dial(coordinator).connect().await?;
    let outcome = assent
        .transaction()
        .branch_json("bank-a", &json!({ "account": "alice", "cents": -cents }))
        .branch_json("bank-b", &json!({ "account": "bob", "cents": cents }))
        .commit()
        .await?;
    match outcome {
        Outcome::Committed => println!("done"),
        Outcome::Aborted(reason) => println!("nothing has changed: {reason}"),
        Outcome::InDoubt { gtid } => println!("not known yet; ask again with: assent tx show {gtid}"),
    }
    Ok(())
}
