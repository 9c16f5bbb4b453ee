//! Swarm testing (Groce et al., *Swarm Testing*, 2012): each seed draws its own rates of faults, and some of them are zero.
//!
//! A run has a phase with faults, in which nothing may be broken, and a phase without, in which everything has to end. One seed is one trace.
//!
//! `ASSENT_SEEDS=100000 cargo test -p simulation --release -- --nocapture swarm` runs so many, and as many more as `ASSENT_HOURS` allows;
//! `cargo run -p integration-tests --bin replay -- SEED` steps through one of them.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::hash::{DefaultHasher, Hash, Hasher};
#[cfg(test)]
use std::{env, panic, time::Instant};

#[cfg(test)]
use crate::proof::{self, Row};

/// What an action needs: it cannot happen while that is cut off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Needs {
    /// A replica that works.
    pub(crate) replica: Option<usize>,
    /// A way from one process to another: replicas come first, then the participants.
    pub(crate) way: Option<(usize, usize)>,
    /// The log.
    pub(crate) log: bool,
    /// It brings a message.
    pub(crate) is_delivery: bool,
}

/// A world to run under the swarm.
pub(crate) trait Swarm: Clone + Debug {
    type Setup: Debug;
    type Action: Copy + Debug;
    const NAME: &'static str;
    /// Every kind of fault that it has of its own, beside those of this file.
    #[cfg(test)]
    const FAULTS: &'static [&'static str];

    fn draw(random: &mut Random) -> Self::Setup;
    fn begin(setup: &Self::Setup) -> Self;
    /// What happens without faults.
    fn progress(&self, setup: &Self::Setup) -> Vec<Self::Action>;
    fn faults(&self, setup: &Self::Setup) -> Vec<Self::Action>;
    /// What time brings when nothing else can happen.
    fn idle(&self, _setup: &Self::Setup) -> Vec<Self::Action> {
        Vec::new()
    }
    fn step(&mut self, setup: &Self::Setup, action: Self::Action);
    /// Faults stop, and it has to end; `tell` hears of every step.
    fn calm(&self, setup: &Self::Setup, tell: &mut dyn FnMut(&Self, Self::Action)) -> Result<(), String>;
    fn broken(&self) -> Option<String>;
    /// The fault that an action is, by its name in [`FAULTS`](Self::FAULTS).
    fn fault(action: Self::Action) -> Option<&'static str>;
    fn needs(&self, action: Self::Action) -> Needs;
    /// The message that a delivery brings does not come again, or is lost before it came.
    fn drop_message(&mut self, action: Self::Action);
    fn take_over(&self, setup: &Self::Setup) -> Option<Self::Action>;
    /// Two processes between which there is a way, by chance.
    fn link(setup: &Self::Setup, random: &mut Random) -> (usize, usize);
    /// How long an action takes at most, by the clock of the world.
    fn takes_ms(action: Self::Action) -> usize;
    /// Whose action it is, and what it is, in words.
    fn words(&self, action: Self::Action) -> (String, String);
    /// How everybody stands, in words.
    fn parts(&self) -> Vec<(String, String)>;
}

/// SplitMix64 (Steele, Lea, Flood 2014): the same numbers everywhere.
#[derive(Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound.max(1) as u64).expect("below the bound")
    }

    /// Up to `bound`, and zero half of the time.
    pub(crate) fn rate(&mut self, bound: u8) -> u8 {
        if self.below(2) == 0 { 0 } else { 1 + self.below(usize::from(bound)) as u8 }
    }

    fn percent(&mut self, rate: u8) -> bool {
        self.below(100) < usize::from(rate)
    }
}

/// In percent of the steps.
#[derive(Debug)]
struct Rates {
    faults: u8,
    loss: u8,
    duplication: u8,
    delay: u8,
    partition: u8,
    one_way: u8,
    pause: u8,
    slow_log: u8,
    log_outage: u8,
}

const LOSS: &str = "message lost";
const DUPLICATION: &str = "message repeated";
const DELAY: &str = "message delayed";
const PARTITION: &str = "symmetric partition";
const ONE_WAY: &str = "one-way partition";
const PAUSE: &str = "pause past the lease";
const SLOW_LOG: &str = "slow log";
const LOG_OUTAGE: &str = "log outage";
#[cfg(test)]
const COMMON: [&str; 8] = [LOSS, DUPLICATION, DELAY, PARTITION, ONE_WAY, PAUSE, SLOW_LOG, LOG_OUTAGE];

/// What is cut off, and until which step.
#[derive(Debug, Default)]
struct Cuts {
    ways: Vec<((usize, usize), usize)>,
    replica: Option<(usize, usize)>,
    log: usize,
}

impl Cuts {
    fn allow(&self, needs: Needs, now: usize) -> bool {
        let way = self.ways.iter().all(|(cut, until)| Some(*cut) != needs.way || *until <= now);
        let replica = self.replica.is_none_or(|(cut, until)| Some(cut) != needs.replica || until <= now);
        way && replica && (!needs.log || self.log <= now)
    }
}

/// What one seed, or many, came to.
#[derive(Debug, Default)]
struct Figures {
    faults: BTreeMap<&'static str, u64>,
    time_ms: u64,
}

impl Figures {
    fn count(&mut self, fault: &'static str) {
        *self.faults.entry(fault).or_default() += 1;
    }
}

/// One step of a seed, in words.
pub(crate) struct Told {
    pub(crate) time_ms: u64,
    pub(crate) who: String,
    pub(crate) what: String,
    /// How everybody stands afterwards.
    pub(crate) parts: Vec<(String, String)>,
}

/// One seed.
pub(crate) struct Run {
    pub(crate) trace: u64,
    pub(crate) setup: String,
    pub(crate) story: Vec<Told>,
    pub(crate) outcome: Result<(), String>,
}

/// The clock, the trace, and the story if somebody wants it.
struct Notes {
    clock: Random,
    time_ms: u64,
    hasher: DefaultHasher,
    story: Option<Vec<Told>>,
}

impl Notes {
    fn passes(&mut self, takes_ms: usize) {
        self.time_ms += 1 + self.clock.below(takes_ms) as u64;
    }

    fn tell<W: Swarm>(&mut self, world: &W, (who, what): (String, String)) {
        if let Some(story) = &mut self.story {
            story.push(Told { time_ms: self.time_ms, who, what, parts: world.parts() });
        }
    }

    fn acted<W: Swarm>(&mut self, before: Option<&W>, after: &W, action: W::Action) {
        self.passes(W::takes_ms(action));
        format!("{action:?}").hash(&mut self.hasher);
        if self.story.is_some() {
            self.tell(after, before.unwrap_or(after).words(action));
        }
    }
}

/// Runs one seed, with its story if it `tells`.
pub(crate) fn replay<W: Swarm>(seed: u64) -> Run {
    run::<W>(seed, &mut Figures::default(), true)
}

fn run<W: Swarm>(seed: u64, figures: &mut Figures, tells: bool) -> Run {
    let mut random = Random::new(seed);
    let setup = W::draw(&mut random);
    let rates = Rates {
        faults: random.rate(40),
        loss: random.rate(20),
        duplication: random.rate(50),
        delay: random.rate(20),
        partition: random.rate(5),
        one_way: random.rate(5),
        pause: random.rate(3),
        slow_log: random.rate(10),
        log_outage: random.rate(3),
    };
    let mut world = W::begin(&setup);
    let mut cuts = Cuts::default();
    let mut notes =
        Notes { clock: Random::new(!seed), time_ms: 0, hasher: DefaultHasher::new(), story: tells.then(Vec::new) };
    let begun = if tells { format!("{setup:?}\n{rates:?}") } else { String::new() };
    notes.tell(&world, (W::NAME.to_owned(), "begins".to_owned()));
    let mut outcome = Ok(());
    for now in 0..20 + random.below(140) {
        for cut in cut::<W>(&setup, &rates, &mut random, &mut cuts, now) {
            figures.count(cut);
            notes.tell(&world, ("fault".to_owned(), cut.to_owned()));
        }
        // The home replica stands still, its lease lapses, another takes over, and it goes on as if nothing had happened.
        if random.percent(rates.pause)
            && let Some(action) = world.take_over(&setup)
        {
            figures.count(PAUSE);
            let before = tells.then(|| world.clone());
            world.step(&setup, action);
            notes.acted(before.as_ref(), &world, action);
            cuts.replica = Some((0, now + 5 + random.below(30)));
        }
        let (mut among, mut is_fault) = (world.progress(&setup), false);
        if random.percent(rates.faults) {
            let faults = world.faults(&setup);
            if !faults.is_empty() {
                (among, is_fault) = (faults, true);
            }
        }
        among.retain(|action| cuts.allow(world.needs(*action), now));
        if among.is_empty() {
            among = world.idle(&setup);
            among.retain(|action| cuts.allow(world.needs(*action), now));
        }
        if among.is_empty() {
            notes.passes(100);
            continue;
        }
        let action = among[random.below(among.len())];
        let is_delivery = world.needs(action).is_delivery;
        if is_delivery && random.percent(rates.loss) {
            figures.count(LOSS);
            ("lost", action).hash_into(&mut notes.hasher);
            if tells {
                let (who, what) = world.words(action);
                notes.tell(&world, (who, format!("never: lost on its way: {what}")));
            }
            world.drop_message(action);
            continue;
        }
        if let Some(fault) = W::fault(action)
            && is_fault
        {
            figures.count(fault);
        }
        let before = tells.then(|| world.clone());
        world.step(&setup, action);
        notes.acted(before.as_ref(), &world, action);
        if is_delivery {
            if random.percent(rates.duplication) {
                figures.count(DUPLICATION);
            } else {
                world.drop_message(action);
            }
        }
        if let Some(problem) = world.broken() {
            outcome = Err(problem);
            break;
        }
    }
    if outcome.is_ok() {
        notes.tell(&world, (W::NAME.to_owned(), "faults stop".to_owned()));
        outcome = world.calm(&setup, &mut |after, action| notes.acted(None, after, action));
    }
    figures.time_ms += notes.time_ms;
    world.parts().hash(&mut notes.hasher);
    Run { trace: notes.hasher.finish(), setup: begun, story: notes.story.unwrap_or_default(), outcome }
}

trait HashInto {
    fn hash_into(&self, hasher: &mut DefaultHasher);
}

impl<T: Debug> HashInto for T {
    fn hash_into(&self, hasher: &mut DefaultHasher) {
        format!("{self:?}").hash(hasher);
    }
}

/// Cuts something off for a while, and says what.
fn cut<W: Swarm>(
    setup: &W::Setup,
    rates: &Rates,
    random: &mut Random,
    cuts: &mut Cuts,
    now: usize,
) -> Vec<&'static str> {
    let mut made = Vec::new();
    let (here, there) = W::link(setup, random);
    let one_way = if random.below(2) == 0 { (here, there) } else { (there, here) };
    if random.percent(rates.delay) {
        made.push(DELAY);
        cuts.ways.push((one_way, now + 1 + random.below(5)));
    }
    if random.percent(rates.one_way) {
        made.push(ONE_WAY);
        cuts.ways.push((one_way, now + 10 + random.below(30)));
    }
    if random.percent(rates.partition) {
        made.push(PARTITION);
        let until = now + 10 + random.below(30);
        cuts.ways.extend([((here, there), until), ((there, here), until)]);
    }
    if random.percent(rates.slow_log) {
        made.push(SLOW_LOG);
        cuts.log = cuts.log.max(now + 1 + random.below(5));
    }
    if random.percent(rates.log_outage) {
        made.push(LOG_OUTAGE);
        cuts.log = cuts.log.max(now + 10 + random.below(30));
    }
    made
}

/// Runs a budget of seeds: so many, or as the environment says.
///
/// # Panics
/// If one of them breaks something, or if a kind of fault never happened.
#[cfg(test)]
pub(crate) fn swarm<W: Swarm>(seeds: u64) {
    let seeds_min = number("ASSENT_SEEDS").unwrap_or(seeds as f64) as u64;
    // Models and mutants have the rest.
    let seconds = number("ASSENT_HOURS").filter(|_| crate::shared::is_deep()).unwrap_or_default() * 3_600.0 / 4.0;
    let first = number("ASSENT_SEED_FIRST").unwrap_or_default() as u64;
    let (started, mut figures, mut seed) = (Instant::now(), Figures::default(), first);
    while seed < first + seeds_min || (seed % 64 != 0 || started.elapsed().as_secs_f64() < seconds) && seconds > 0.0 {
        let again = format!("cargo run -p integration-tests --bin replay -- {seed}");
        // A replica checks its own invariants, and panics.
        let run = panic::catch_unwind(panic::AssertUnwindSafe(|| run::<W>(seed, &mut figures, false)));
        match run.map(|run| run.outcome) {
            Ok(Ok(())) => {}
            Ok(Err(problem)) => panic!("{problem}\n\n{again}"),
            Err(panicked) => {
                eprintln!("\n{again}");
                panic::resume_unwind(panicked);
            }
        }
        seed += 1;
    }
    let (seeds, took) = (seed - first, started.elapsed().as_secs_f64());
    let hours = figures.time_ms / 3_600_000;
    println!(
        "swarm {}: seeds={seeds}, violations=0, {:.0} seeds/s, {hours} simulated hours, in {took:.1} s",
        W::NAME,
        seeds as f64 / took
    );
    let mut rows =
        vec![Row::new("seeds", W::NAME, "seeds", seeds, ""), Row::new("hours", W::NAME, "simulated", hours, "")];
    let counts =
        COMMON.iter().chain(W::FAULTS).map(|fault| (fault, figures.faults.get(fault).copied().unwrap_or_default()));
    for (fault, times) in counts.clone() {
        println!("  {fault}: {times}");
        rows.push(Row::new("fault", W::NAME, fault, times, ""));
    }
    proof::record(&rows);
    for (fault, times) in counts {
        assert!(times > 0, "{}: {fault} never happened", W::NAME);
    }
}

#[cfg(test)]
fn number(name: &str) -> Option<f64> {
    env::var(name).ok().and_then(|value| value.parse().ok())
}

/// The same seed twice gives the same trace, and another one another.
#[cfg(test)]
pub(crate) fn one_seed_is_one_trace<W: Swarm>() {
    let trace = |seed| run::<W>(seed, &mut Figures::default(), false).trace;
    let traces: Vec<u64> = (0..200).map(trace).collect();
    assert_eq!(traces, (0..200).map(trace).collect::<Vec<_>>());
    // And whoever looks on changes nothing.
    assert_eq!(traces, (0..200).map(|seed| replay::<W>(seed).trace).collect::<Vec<_>>());
    let distinct: std::collections::BTreeSet<_> = traces.iter().collect();
    // Some draw the same small world, and no fault in it.
    assert!(distinct.len() > 180, "{} traces of 200 seeds", distinct.len());
}
