//! Customers: `load [ORDERS]` places so many orders and preorders, eight at a time, and counts the answers. Where one fails, the
//! customer orders again a moment later.

use std::time::Duration;

use assent_sdk::BoxError;
use futures::StreamExt as _;
use shop::http::HttpClient;
use shop::{Order, Placed, setting};

/// How many customers there are at a time.
const AT_ONCE: usize = 8;
/// How long a customer waits after a failure.
const PAUSE: Duration = Duration::from_millis(200);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Answer {
    Placed,
    OnItsWay,
    Refused,
}

/// One customer: its answer, and how often it failed before.
async fn place(orders: &HttpClient, number: usize) -> (Answer, u32) {
    let mut failed = 0;
    loop {
        if let Some(answer) = try_to_place(orders, number).await {
            return (answer, failed);
        }
        failed += 1;
        tokio::time::sleep(PAUSE).await;
    }
}

async fn try_to_place(orders: &HttpClient, number: usize) -> Option<Answer> {
    let path = if number.is_multiple_of(2) { "/orders" } else { "/preorders" };
    // Bob runs out of money, and the lamps run out.
    let account = if number.is_multiple_of(5) { "bob" } else { "alice" };
    let item = if number.is_multiple_of(3) { "lamp" } else { "book" };
    let order = Order { item: item.to_owned(), quantity: 1, account: account.to_owned() };
    match orders.post(path, &order).await {
        Ok((status, body)) if status.is_success() => match serde_json::from_str::<Placed>(&body) {
            Ok(Placed { is_placed: true, .. }) => Some(Answer::Placed),
            Ok(_) => Some(Answer::OnItsWay),
            Err(_) => None,
        },
        Ok((http::StatusCode::CONFLICT, _)) => Some(Answer::Refused),
        Ok(_) | Err(_) => None,
    }
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let count: usize = std::env::args().nth(1).map_or(Ok(100), |count| count.parse())?;
    let orders = HttpClient::new(setting("ORDERS_URL", "http://127.0.0.1:8080"));
    let customers = futures::stream::iter(0..count).map(|number| place(&orders, number));
    let answers: Vec<(Answer, u32)> = customers.buffer_unordered(AT_ONCE).collect().await;
    let of = |answer| answers.iter().filter(|(given, _)| *given == answer).count();
    let failed: u32 = answers.iter().map(|(_, failed)| failed).sum();
    println!(
        "placed {}, on their way {}, refused {}, failed before {failed}",
        of(Answer::Placed),
        of(Answer::OnItsWay),
        of(Answer::Refused)
    );
    Ok(())
}
