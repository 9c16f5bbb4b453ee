//! A saga between participants with barriers, a log that crashes, and a network that loses, repeats
//! and reorders.
//!
//! The oracle is the participants' own effects and the records that are durable; it knows nothing
//! of the machine's states.

use std::collections::BTreeSet;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::record::{Outcome, SagaPaused, SagaTurned};
use crate::saga::Reply;

/// A message to a participant.
#[derive(Clone, Debug)]
struct Request {
    epoch: u64,
    step: StepIndex,
    compensation: bool,
    attempt: u32,
}

/// A participant's answer on its way back.
#[derive(Clone, Debug)]
struct Answer {
    to: Request,
    result: StepResult,
    is_final: bool,
}

/// One step at its participant: what the barrier and the business tables say.
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    /// The action's effect is there.
    effect: bool,
    /// A compensation came: nothing acts here any more.
    closed: bool,
    /// The last attempt that was finally refused, by epoch and number: none up to it acts here any
    /// more.
    refused_up_to: (u64, u32),
}

/// What a participant does with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mood {
    Obliging,
    Refusing,
    /// Refuses, and makes durable that no attempt up to this one acts.
    FinallyRefusing,
    /// Fails before it does anything.
    Failing,
    /// Does it, and fails to say so.
    Mute,
}

struct World {
    definition: Definition,
    saga: Saga,
    epoch: u64,
    /// Durable records.
    log: Vec<Record>,
    /// Records that wait for the next batch.
    lazy: Vec<Record>,
    /// The forced record in flight, and what it holds back.
    appending: Option<(Record, Vec<Effect>)>,
    timers: BTreeSet<Timer>,
    /// Participants that have a session.
    connected: BTreeSet<Name>,
    requests: Vec<Request>,
    answers: Vec<Answer>,
    answered: Vec<Answer>,
    places: Vec<Place>,
    told: Vec<Reply>,
    transcript: Vec<String>,
}

fn output_of(step: StepIndex) -> Bytes {
    Bytes::from(format!("output of {}", step.0))
}

impl World {
    fn new(definition: Definition) -> Self {
        let (saga, output) =
            Saga::start(gtid(), Epoch(1), definition.clone(), DIGEST, BEGUN_AT_MS, CALLER, Wait::Started);
        invariant::check_begun(&saga, &output).expect("sound");
        let places = vec![Place::default(); definition.steps().len()];
        let connected = definition.steps().iter().map(|step| step.participant.clone()).collect();
        let mut world = Self {
            definition,
            saga,
            epoch: 1,
            log: Vec::new(),
            lazy: Vec::new(),
            appending: None,
            timers: BTreeSet::new(),
            connected,
            requests: Vec::new(),
            answers: Vec::new(),
            answered: Vec::new(),
            places,
            told: Vec::new(),
            transcript: Vec::new(),
        };
        world.take(output);
        world
    }

    fn feed(&mut self, event: Event) {
        self.transcript.push(format!("{:?}: {event:?}", self.saga.stage()));
        let before = self.saga.clone();
        let output = self.saga.handle(event.clone());
        if let Err(violation) = invariant::check(&before, &event, &self.saga, &output) {
            panic!("{violation}\n{}\nbefore: {before:#?}\noutput: {output:?}", self.transcript.join("\n"));
        }
        self.take(output);
    }

    fn take(&mut self, output: Output<Effect>) {
        self.transcript.push(format!("    {output:?}"));
        let forced = output.forced().cloned();
        let effects = output.peek_effects().to_vec();
        self.lazy.extend(output.records().filter(|record| forced.as_ref() != Some(*record)).cloned());
        match forced {
            Some(record) => {
                assert!(self.appending.is_none(), "two forced records in flight");
                self.appending = Some((record, effects));
            }
            None => self.release(effects),
        }
    }

    fn is_logged(&self, is_it: impl Fn(&Record) -> bool) -> bool {
        self.log.iter().any(is_it)
    }

    fn is_ended_in_log(&self) -> Option<Outcome> {
        self.log.iter().find_map(|record| match record {
            Record::Ended(ended) => Some(ended.outcome),
            Record::Decided(_)
            | Record::Delegated(_)
            | Record::Attempted(_)
            | Record::Agreed(_)
            | Record::Voter(_)
            | Record::SagaStarted(_)
            | Record::SagaTurned(_)
            | Record::SagaStep(_)
            | Record::SagaPaused(_) => None,
        })
    }

    /// Does what the driver does, and checks against the log that it may be done.
    fn release(&mut self, effects: Vec<Effect>) {
        let is_started = self.is_logged(|record| matches!(record, Record::SagaStarted(_)));
        let is_turned = self.is_logged(|record| matches!(record, Record::SagaTurned(_)));
        for effect in effects {
            match effect {
                Effect::Execute { step, attempt, outputs, .. } => {
                    assert!(is_started && !is_turned, "{}", self.transcript.join("\n"));
                    let expected: Vec<_> = self.definition.step(step).after.iter().map(|dep| output_of(*dep)).collect();
                    assert_eq!(outputs.into_iter().map(|(_, output)| output).collect::<Vec<_>>(), expected);
                    self.send(step, false, attempt);
                }
                Effect::Compensate { step, attempt, output, .. } => {
                    assert!(is_turned, "{}", self.transcript.join("\n"));
                    assert!(output.is_none_or(|output| output == output_of(step)));
                    self.send(step, true, attempt);
                }
                Effect::Reply { reply, .. } => {
                    let is_true = match &reply {
                        Reply::Started => is_started,
                        Reply::Compensating { .. } => is_turned,
                        Reply::Ended { outcome, .. } => self.is_ended_in_log() == Some(*outcome),
                        Reply::PastPivot => self.is_past_pivot(),
                        Reply::KeyReused | Reply::Overruled { .. } => false,
                    };
                    assert!(is_true, "{reply:?}\n{}", self.transcript.join("\n"));
                    self.told.push(reply);
                }
                Effect::SetTimer { timer, .. } => {
                    self.timers.insert(timer);
                }
                Effect::CancelTimer { timer } => {
                    self.timers.remove(&timer);
                }
            }
        }
    }

    /// Hands a request to the participant's session, or finds none; the machine is told at once,
    /// amid its own effects.
    fn send(&mut self, step: StepIndex, compensation: bool, attempt: u32) {
        if self.connected.contains(&self.definition.step(step).participant) {
            self.requests.push(Request { epoch: self.epoch, step, compensation, attempt });
            self.feed(Event::Sent { step, compensation, attempt, instance: InstanceId(1) });
        } else {
            self.feed(Event::Undeliverable { step, compensation, attempt });
        }
    }

    /// A participant's session breaks, or comes back. Its requests may have arrived all the same;
    /// its answers have not.
    fn toggle(&mut self, participant: Name) {
        if self.connected.remove(&participant) {
            let definition = &self.definition;
            self.answers.retain(|answer| definition.step(answer.to.step).participant != participant);
            self.feed(Event::Left { participant, instance: InstanceId(1) });
        } else {
            self.connected.insert(participant.clone());
            self.feed(Event::Joined { participant });
        }
    }

    fn is_past_pivot(&self) -> bool {
        self.definition.steps().iter().zip(&self.places).any(|(step, place)| step.pivot && place.effect)
    }

    /// A participant receives a request.
    fn receive(&mut self, to: Request, mood: Mood) {
        let index = usize::from(to.step.0);
        let place = self.places[index];
        let story = || format!("{to:?} {mood:?}\n{}", self.transcript.join("\n"));
        let is_refused_by_now = (to.epoch, to.attempt) <= place.refused_up_to;
        let mut is_final = false;
        let result = match (to.compensation, mood) {
            (_, Mood::Failing) => StepResult::Unknown("fell over".into()),
            (true, Mood::Refusing | Mood::FinallyRefusing) => StepResult::Refused("cannot".into()),
            (true, Mood::Obliging | Mood::Mute) => {
                let behind = |step: &StepDefinition| step.after.contains(&to.step);
                let early =
                    self.definition.steps().iter().zip(&self.places).any(|(step, at)| behind(step) && at.effect);
                assert!(!early, "compensated before what depends on it: {}", story());
                self.places[index] = Place { effect: false, closed: true, ..place };
                StepResult::Done(Bytes::new())
            }
            (false, _) if place.closed => StepResult::Refused("compensated before".into()),
            (false, _) if place.effect => StepResult::Done(output_of(to.step)),
            (false, Mood::Refusing) => StepResult::Refused("no".into()),
            (false, Mood::FinallyRefusing) => {
                is_final = true;
                self.places[index].refused_up_to = place.refused_up_to.max((to.epoch, to.attempt));
                StepResult::Refused("no".into())
            }
            (false, _) if is_refused_by_now => {
                is_final = true;
                StepResult::Refused("refused before".into())
            }
            (false, Mood::Obliging | Mood::Mute) => {
                let before = &self.definition.step(to.step).after;
                assert!(before.iter().all(|dep| self.places[usize::from(dep.0)].effect), "too early: {}", story());
                self.places[index].effect = true;
                StepResult::Done(output_of(to.step))
            }
        };
        self.transcript.push(format!("  {to:?} {mood:?} -> {result:?}"));
        if mood != Mood::Mute {
            self.answers.push(Answer { to, result, is_final });
        }
    }

    /// The coordinator receives an answer; one of another epoch is dropped.
    fn answer(&mut self, answer: Answer) {
        if answer.to.epoch != self.epoch {
            return;
        }
        let Request { step, compensation, attempt, .. } = answer.to;
        let (result, is_final) = (answer.result.clone(), answer.is_final);
        self.answered.push(answer);
        self.feed(Event::StepAnswered { step, compensation, attempt, instance: InstanceId(1), result, is_final });
    }

    fn append(&mut self) {
        self.log.append(&mut self.lazy);
        if let Some((record, effects)) = self.appending.take() {
            self.log.push(record);
            self.release(effects);
            self.feed(durable());
        }
    }

    /// The coordinator dies and another one takes over. `fate` says which records were saved in
    /// time.
    fn crash(&mut self, fate: usize) {
        self.transcript.push(format!("crash {fate}"));
        let lazy = std::mem::take(&mut self.lazy);
        self.log
            .extend(lazy.into_iter().enumerate().filter(|(i, _)| fate >> (i % 8) & 1 == 1).map(|(_, record)| record));
        if let Some((record, _)) = self.appending.take()
            && fate >> 8 & 1 == 1
        {
            self.log.push(record);
        }
        self.timers.clear();
        self.epoch += 1;
        let Some(kept) = self.kept() else {
            if self.is_ended_in_log().is_none() {
                // Never started: the caller asks again.
                let (saga, output) = Saga::start(
                    gtid(),
                    Epoch(self.epoch),
                    self.definition.clone(),
                    DIGEST,
                    BEGUN_AT_MS,
                    CALLER,
                    Wait::Started,
                );
                self.saga = saga;
                self.take(output);
            }
            return;
        };
        let (saga, output) = Saga::recover(Epoch(self.epoch), kept).expect("recoverable");
        if let Err(violation) = invariant::check_begun(&saga, &output) {
            panic!("{violation}\n{}\nrecovered: {saga:#?}", self.transcript.join("\n"));
        }
        self.saga = saga;
        self.take(output);
    }

    /// What the log has of a saga that is open.
    fn kept(&self) -> Option<Kept> {
        if self.is_ended_in_log().is_some() {
            return None;
        }
        let mut found = None;
        let mut kept = Kept { turned: None, steps: Vec::new(), paused: None, ..kept(vec![step("none", &[])]) };
        for record in &self.log {
            match record {
                Record::SagaStarted(started) => found = Some(started.clone()),
                Record::SagaTurned(SagaTurned { reason, .. }) => kept.turned = Some(reason.clone()),
                Record::SagaStep(step) => kept.steps.push(step.clone()),
                Record::SagaPaused(SagaPaused { remedy, .. }) => kept.paused = remedy.clone(),
                Record::Decided(_)
                | Record::Delegated(_)
                | Record::Attempted(_)
                | Record::Agreed(_)
                | Record::Voter(_)
                | Record::Ended(_) => {}
            }
        }
        found.map(|started| Kept { started, ..kept })
    }

    /// One thing goes its way, or wrong.
    fn act(&mut self, action: u8, pick: usize) {
        let take = |count: usize| pick % count;
        if self.is_ended_in_log().is_some() && self.saga.gtid() == gtid() && self.saga.is_ended() && action < 28 {
            // Only what is still on its way to participants matters.
            if !self.requests.is_empty() {
                let request = self.requests.remove(take(self.requests.len()));
                self.receive(request, mood(pick >> 8));
            }
            return;
        }
        match action {
            0..=6 if !self.requests.is_empty() => {
                let request = self.requests.remove(take(self.requests.len()));
                self.receive(request, mood(pick >> 8));
            }
            7..=12 if !self.answers.is_empty() => {
                let answer = self.answers.remove(take(self.answers.len()));
                self.answer(answer);
            }
            13 if !self.requests.is_empty() => {
                self.requests.remove(take(self.requests.len()));
            }
            14 if !self.answers.is_empty() => {
                self.answers.remove(take(self.answers.len()));
            }
            15 if !self.answered.is_empty() => {
                let again = self.answered[take(self.answered.len())].clone();
                self.answer(again);
            }
            16..=18 if !self.timers.is_empty() => {
                let timer = *self.timers.iter().nth(take(self.timers.len())).expect("there are as many");
                self.timers.remove(&timer);
                self.feed(Event::TimerFired(timer));
            }
            19..=22 => self.append(),
            23 => self.log.append(&mut self.lazy),
            24 if pick & 3 == 0 => self.crash(pick >> 2),
            25 | 26 => self.toggle(self.definition.steps()[take(self.places.len())].participant.clone()),
            27 => match pick % 8 {
                0 => self.feed(Event::PauseRequested { reason: "a look".into() }),
                1..=3 => self.feed(Event::ResumeRequested),
                4 => self.feed(Event::CompensateRequested { reason: "enough".into(), caller: CALLER }),
                5 => self.feed(Event::WaitRequested { caller: CALLER, wait: Wait::Ended }),
                6 => self.feed(Event::StartRequested { digest: DIGEST, caller: CALLER, wait: Wait::Started }),
                _ => self.feed(Event::CallerLeft { session: CALLER.session }),
            },
            _ => {}
        }
    }

    /// Faults stop: everything arrives, everybody obliges, a human resumes. The saga has to end.
    fn settle(&mut self) -> Outcome {
        for step in self.definition.clone().steps() {
            if !self.connected.contains(&step.participant) {
                self.toggle(step.participant.clone());
            }
        }
        for _ in 0..1_000 {
            self.append();
            if let Some(outcome) = self.is_ended_in_log() {
                return outcome;
            }
            if self.saga.is_paused() {
                self.feed(Event::ResumeRequested);
            } else if !self.requests.is_empty() {
                let request = self.requests.remove(0);
                self.receive(request, Mood::Obliging);
            } else if !self.answers.is_empty() {
                let answer = self.answers.remove(0);
                self.answer(answer);
            } else if let Some(timer) = self.timers.pop_first() {
                self.feed(Event::TimerFired(timer));
            } else if self.appending.is_none() {
                panic!("nothing is pending\n{}\n{:#?}", self.transcript.join("\n"), self.saga);
            }
        }
        panic!("it does not end\n{}\n{:#?}", self.transcript.join("\n"), self.saga);
    }
}

fn mood(pick: usize) -> Mood {
    match pick % 16 {
        0 | 1 => Mood::Refusing,
        5 => Mood::FinallyRefusing,
        2 | 3 => Mood::Failing,
        4 => Mood::Mute,
        _ => Mood::Obliging,
    }
}

fn dag() -> impl Strategy<Value = Definition> {
    let shape = (any::<u8>(), 0..6_u8, 0..5_u8, 0..4_u32, 0..3_u32);
    prop::collection::vec(shape, 1..7).prop_map(|steps| {
        let steps =
            steps.into_iter().enumerate().map(|(position, (after, pivot, durable, attempts, undo_attempts))| {
                let after: Vec<u16> = (0..position as u16).filter(|bit| after >> bit & 1 == 1).collect();
                let mut made = step(&format!("s{position}"), &after);
                made.participant = name(["bank", "shop"][position % 2]);
                made.pivot = pivot == 0;
                made.durable = durable == 0;
                made.retry.attempts_max = attempts;
                made.compensation_retry.attempts_max = undo_attempts;
                made
            });
        definition(steps.collect())
    })
}

proptest! {
    // A failing case is kept in `proptest-regressions` and replayed first by the next run.
    // `PROPTEST_CASES` asks for more.
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases.max(3_000), ..ProptestConfig::default() })]

    /// Whatever is lost, repeated, reordered or killed: the saga ends, every step's net effect is 0
    /// or 1 and agrees with the outcome, and everybody was told that outcome and no other.
    #[test]
    fn the_net_effect_of_every_step_agrees_with_the_outcome(
        definition in dag(),
        actions in prop::collection::vec((0..28_u8, any::<u16>()), 0..150),
    ) {
        let mut world = World::new(definition);
        for (action, pick) in actions {
            world.act(action, usize::from(pick));
        }
        let outcome = world.settle();
        // Whatever is still under way arrives late, and changes nothing.
        for request in std::mem::take(&mut world.requests) {
            world.receive(request, Mood::Obliging);
        }
        let expected = outcome == Outcome::Completed;
        let story = world.transcript.join("\n");
        prop_assert!(world.places.iter().all(|place| place.effect == expected), "{outcome}: {:?}\n{story}", world.places);
        let pivots = world.definition.steps().iter().any(|step| step.pivot);
        for reply in &world.told {
            match reply {
                Reply::Ended { outcome: told, .. } => prop_assert_eq!(*told, outcome),
                Reply::Compensating { .. } => prop_assert_eq!(outcome, Outcome::Compensated),
                Reply::PastPivot => prop_assert!(pivots && expected),
                Reply::Started | Reply::KeyReused | Reply::Overruled { .. } => {}
            }
        }
    }
}
