//! Exploring a model, and the line of figures.

use std::collections::BTreeSet;
use std::fmt;
use std::hash::Hash;
use std::time::{Duration, Instant};

use stateright::{Checker, CheckerBuilder, Model};

use crate::proof::{self, Row};

/// Whether this run may take hours.
pub(crate) fn is_deep() -> bool {
    std::env::var_os("ASSENT_DEEP").is_some_and(|value| value == "1")
}

/// How far a model is explored where it is not explored to its end.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Extent {
    /// Every state.
    Exhaustive,
    /// So many states, breadth first; every state in a deep run.
    States(usize),
    /// So many states, breadth first, in every run: for what is found near the start.
    Near(usize),
}

/// How many models a deep run explores, one beside the other.
const MODELS: u64 = 24;

/// How long a deep run may explore one model: half of `ASSENT_HOURS`, one hour by default, is for models.
fn deep_budget() -> Duration {
    let hours = std::env::var("ASSENT_HOURS").ok().and_then(|value| value.parse::<f64>().ok()).unwrap_or(1.0);
    Duration::from_secs_f64(hours * 3_600.0 / 2.0 / MODELS as f64)
}

/// A model that was explored, to its end or not.
pub(crate) struct Explored<C> {
    pub(crate) checker: C,
    pub(crate) is_whole: bool,
}

/// Explores a model, prints its figures, and gives the checker.
pub(crate) fn explore<M>(name: &str, bounds: &str, model: M, extent: Extent) -> Explored<impl Checker<M>>
where
    M: Model + Send + Sync + 'static,
    M::State: Hash + Send + Sync + Clone + PartialEq + fmt::Debug + 'static,
    M::Action: Send + Sync + Clone + PartialEq + fmt::Debug + 'static,
{
    let started = Instant::now();
    let budget = deep_budget();
    let mut builder: CheckerBuilder<M> = model.checker();
    builder = match extent {
        Extent::Exhaustive | Extent::States(_) if is_deep() => builder.threads(2).timeout(budget),
        Extent::States(states) | Extent::Near(states) => builder.target_state_count(states),
        Extent::Exhaustive => builder.threads(2),
    };
    let checker = builder.spawn_bfs().join();
    let is_whole = match extent {
        Extent::Exhaustive | Extent::States(_) if is_deep() => started.elapsed() < budget,
        Extent::States(states) | Extent::Near(states) => checker.state_count() < states,
        Extent::Exhaustive => true,
    };
    let how = if is_whole { "every one within" } else { "breadth first within" };
    let note = format!("{how}: {bounds}; {} deep", checker.max_depth());
    println!(
        "model {name}: states={}, unique={}, {note}, in {:.1} s",
        checker.state_count(),
        checker.unique_state_count(),
        started.elapsed().as_secs_f64(),
    );
    if let Some((protocol, name)) = name.split_once('-') {
        proof::record(&[Row::new("states", protocol, name, checker.unique_state_count() as u64, &note)]);
    }
    Explored { checker, is_whole }
}

/// Explores a sound model.
///
/// # Panics
/// If it finds a violation, or if something that must be possible is not.
pub(crate) fn prove<M>(name: &str, bounds: &str, model: M, extent: Extent)
where
    M: Model + Send + Sync + 'static,
    M::State: Hash + Send + Sync + Clone + PartialEq + fmt::Debug + 'static,
    M::Action: Send + Sync + Clone + PartialEq + fmt::Debug + 'static,
{
    let Explored { checker, is_whole } = explore(name, bounds, model, extent);
    for property in checker.model().properties() {
        match property.expectation {
            stateright::Expectation::Always => checker.assert_no_discovery(property.name),
            // What lies behind the horizon is not missed.
            stateright::Expectation::Sometimes | stateright::Expectation::Eventually if !is_whole => {}
            stateright::Expectation::Sometimes | stateright::Expectation::Eventually => {
                checker.assert_any_discovery(property.name);
            }
        }
    }
}

/// Explores an unsound model, whose mistake has a `name`, and gives the invariants that it breaks, with the shortest way to each.
pub(crate) fn refute<M>(
    protocol: &str,
    name: &str,
    bounds: &str,
    model: M,
    extent: Extent,
) -> Vec<(&'static str, String)>
where
    M: Model + Send + Sync + 'static,
    M::State: Hash + Send + Sync + Clone + PartialEq + fmt::Debug + 'static,
    M::Action: Send + Sync + Clone + PartialEq + fmt::Debug + 'static,
{
    let Explored { checker, .. } = explore(name, bounds, model, extent);
    let always: BTreeSet<_> = checker
        .model()
        .properties()
        .into_iter()
        .filter(|property| matches!(property.expectation, stateright::Expectation::Always))
        .map(|property| property.name)
        .collect();
    let mut broken: Vec<_> = checker
        .discoveries()
        .into_iter()
        .filter(|(name, _)| always.contains(name))
        .map(|(name, path)| {
            let way: String = path.into_actions().iter().map(|action| format!("  {action:?}\n")).collect();
            (name, way)
        })
        .collect();
    broken.sort_unstable();
    proof::record(&[Row::of("planted", protocol, name, u64::from(!broken.is_empty()), 1)]);
    for (name, way) in &broken {
        println!("{name}:\n{way}");
    }
    broken
}
