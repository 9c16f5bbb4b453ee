//! The replica of a transcript, its clock and its sessions.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use assent_protocol::durable::Appended;
use assent_protocol::message::{FromClient, FromReplica, Reason, VoterPlace};
use assent_protocol::record::Member;
use assent_protocol::replica::{Config, Input, Limits, Peer, Replica, SessionId, Timer};
use assent_protocol::saga::{self, StepIndex};
use assent_protocol::three_phase::{self, StoreId};
use assent_protocol::{Epoch, Gtid, InstanceId, two_phase};

use crate::client::{Asked, decided, parse, setting};
use crate::log::Log;
use crate::tell;

/// When the first replica starts, in Unix milliseconds.
const START_MS: u64 = 1_800_000_000_000;
/// How long a replica has run when the next line comes: whatever is minted from then on is
/// certainly new.
const SETTLED_MS: u64 = 60_000;

/// See the module.
pub(crate) struct Stage {
    replica: Option<Replica>,
    limits: Limits,
    epoch: Epoch,
    now_ms: u64,
    /// By their numbers in the transcript. Each is minted when it is named first.
    gtids: BTreeMap<u64, Gtid>,
    log: Log,
    sessions: BTreeSet<SessionId>,
    asked: Asked,
    /// The words of each request.
    requests: HashMap<u64, String>,
    is_drained: bool,
}

impl Default for Stage {
    fn default() -> Self {
        Self {
            replica: None,
            limits: Limits::default(),
            epoch: Epoch(0),
            now_ms: START_MS,
            gtids: BTreeMap::new(),
            log: Log::default(),
            sessions: BTreeSet::new(),
            asked: Asked::default(),
            requests: HashMap::new(),
            is_drained: false,
        }
    }
}

impl Stage {
    /// Takes one line, `who: what`, and answers with what the replica does.
    pub(crate) fn take(&mut self, line: &str) -> Result<Vec<String>, String> {
        let (who, what) = line.split_once(':').ok_or("a line is `who: what`")?;
        let words: Vec<&str> = what.split_whitespace().collect();
        let mut done = Vec::new();
        match (who, words.as_slice()) {
            ("coordinator", ["starts", limits @ ..]) => {
                self.limits.open_max = setting(limits, "open", self.limits.open_max)?;
                self.limits.branches_max = setting(limits, "branches", self.limits.branches_max)?;
                self.limits.ended_max = setting(limits, "ended", self.limits.ended_max)?;
                self.start(&mut done);
            }
            ("coordinator", ["dies,", "another", "starts"]) => self.start(&mut done),
            ("coordinator", ["drains"]) => self.handle(Input::Drain)?,
            ("clock", [ms, "ms", "pass"]) => self.now_ms += parse::<u64>(ms)?,
            ("timer", [gtid, timer]) => {
                let gtid = self.gtid(gtid)?;
                let timer = self.timer(gtid, timer)?;
                self.handle(Input::TimerFired { gtid, timer })?;
            }
            ("operator", ["watches", gtid]) => {
                let gtid = self.gtid(gtid)?;
                done.extend(self.replica()?.watch(gtid).as_ref().map(tell::view));
            }
            ("operator", ["looks", "at", gtid]) => {
                let number = gtid;
                let gtid = self.gtid(gtid)?;
                let known = self.replica()?.known(gtid);
                let view = self.replica()?.view(gtid).as_ref().map(tell::view);
                done.push(view.unwrap_or_else(|| format!("{number} is not in memory: {known:?}")));
            }
            ("log", what) => self.log_says(what, &mut done)?,
            (session, what) => {
                let number = session.strip_prefix('s').ok_or("a session is s1, s2 and so on")?;
                let session = SessionId(parse(number)?);
                let input = self.session_says(session, what)?;
                self.handle(input)?;
            }
        }
        self.outputs(&mut done)?;
        let is_silent = matches!(words[..], ["opens", ..] | ["starts", ..] | [_, "ms", "pass"]);
        if done.is_empty() && !is_silent {
            done.push("nothing".into());
        }
        Ok(done.into_iter().map(|line| self.with_numbers(line)).collect())
    }

    /// A replica that knows what the log knows. What the one before it knew is lost, and its
    /// sessions with it.
    fn start(&mut self, done: &mut Vec<String>) {
        self.epoch = Epoch(self.epoch.0 + 1);
        self.sessions.clear();
        let known = ["bank-a", "bank-b", "bank-c", "hotel"].map(|name| name.parse().expect("a name"));
        let config = Config {
            shard: 0,
            shards: 1,
            epoch: self.epoch,
            limits: self.limits.clone(),
            known: known.into(),
            log_store: StoreId(1),
        };
        let mut replica = Replica::new(config, self.now_ms);
        for transaction in self.log.recover(self.epoch) {
            done.push(format!("log -> {}: {}", transaction.gtid(), tell::open(&transaction)));
            replica.handle(self.now_ms, Input::Recovered(transaction));
        }
        self.replica = Some(replica);
        self.now_ms += SETTLED_MS;
    }

    fn log_says(&mut self, words: &[&str], done: &mut Vec<String>) -> Result<(), String> {
        let input = match words {
            ["durable"] => Input::Appended(self.log.append(self.now_ms, self.epoch)?),
            ["durable,", "unheard"] => {
                self.log.append(self.now_ms, self.epoch)?;
                return Ok(());
            }
            // `overruled commit bank-a=1.2`: another writer has committed it for this branch.
            ["overruled", decision, members @ ..] => {
                let member = |word: &&str| {
                    let (participant, branch) = word.split_once('=').ok_or("a member is `bank-a=1.2`")?;
                    Ok(Member { participant: parse(participant)?, branch: parse(branch)? })
                };
                let members = members.iter().map(member).collect::<Result<_, String>>()?;
                Input::Appended(self.log.refuse(&Appended::Overruled { decision: decided(decision)?, members })?)
            }
            ["undecided"] => Input::Appended(self.log.refuse(&Appended::Undecided)?),
            ["answers"] => {
                let gtids = self.log.take_question()?;
                let mut found = Vec::new();
                for gtid in &gtids {
                    let what = self.log.find(*gtid);
                    done.push(format!(
                        "log -> {gtid}: {}",
                        what.as_ref().map_or_else(|| "not there".into(), tell::found)
                    ));
                    found.extend(what.map(|what| (*gtid, what)));
                }
                Input::LookedUp { gtids, found: Ok(found) }
            }
            // From a copy that has fallen behind: it has nothing yet.
            ["answers", "from", "before"] => {
                let gtids = self.log.take_question()?;
                done.extend(gtids.iter().map(|gtid| format!("log -> {gtid}: not there")));
                Input::LookedUp { gtids, found: Ok(Vec::new()) }
            }
            ["does", "not", "answer"] => {
                let gtids = self.log.take_question()?;
                Input::LookedUp {
                    gtids,
                    found: Err(Reason::LogUnreachable.refused("the log does not answer; ask again")),
                }
            }
            _ => return Err("the log does not say that".into()),
        };
        self.handle(input)
    }

    fn session_says(&mut self, session: SessionId, words: &[&str]) -> Result<Input, String> {
        match words {
            ["opens"] => Ok(self.session_opens(Peer {
                session,
                participant: None,
                instance: InstanceId(0),
                one_phase: false,
                voter: None,
            })),
            ["opens", "in", "process", instance] => Ok(self.session_opens(Peer {
                session,
                participant: None,
                instance: InstanceId(parse(instance)?),
                one_phase: false,
                voter: None,
            })),
            ["opens", "as", participant, instance, abilities @ ..] => {
                let store = StoreId(u128::from(participant.bytes().map(u64::from).sum::<u64>()));
                let address = format!("http://{participant}:7421").parse().map_err(|_| "no address")?;
                let place = VoterPlace { address, store };
                Ok(self.session_opens(Peer {
                    session,
                    participant: Some(parse(participant)?),
                    instance: InstanceId(parse(instance)?),
                    one_phase: abilities.contains(&"one-phase"),
                    voter: abilities.contains(&"voter").then_some(place),
                }))
            }
            ["retires"] => Ok(Input::SessionRetires(session)),
            ["closes"] => {
                self.sessions.remove(&session);
                Ok(Input::SessionClosed(session))
            }
            [verb, gtid, more @ ..] => {
                let gtid = self.gtid(gtid)?;
                let request_id = self.requests.len() as u64 + 1;
                let message = self.asked.message(session, request_id, (verb, gtid, more))?;
                if matches!(message, FromClient::Request(_)) {
                    self.requests.insert(request_id, words.join(" "));
                }
                Ok(Input::Message { session, message })
            }
            _ => Err("a session says a verb and a gtid".into()),
        }
    }

    fn session_opens(&mut self, peer: Peer) -> Input {
        self.sessions.insert(peer.session);
        Input::SessionOpened(peer)
    }

    fn handle(&mut self, input: Input) -> Result<(), String> {
        let now_ms = self.now_ms;
        self.replica()?.handle(now_ms, input);
        Ok(())
    }

    fn replica(&mut self) -> Result<&mut Replica, String> {
        self.replica.as_mut().ok_or_else(|| "begin with `coordinator: starts`".into())
    }

    /// Takes everything that there is to do from the replica, and tells it.
    fn outputs(&mut self, done: &mut Vec<String>) -> Result<(), String> {
        let replica = self.replica.as_mut().ok_or("begin with `coordinator: starts`")?;
        if let Some(batch) = replica.take_batch() {
            done.extend(batch.forced.iter().map(|record| format!("log <- forced: {}", tell::record(record))));
            done.extend(batch.lazy.iter().map(|record| format!("log <- lazy: {}", tell::record(record))));
            self.log.hand_in(batch);
        }
        replica.take_messages(|session, messages| {
            for message in &messages {
                self.asked.note(session, message);
                let asked = match message {
                    FromReplica::Reply { request_id, .. } => self.requests.get(request_id).map_or("", String::as_str),
                    _ => "",
                };
                done.push(format!("s{} <- {}", session.0, tell::message(message, asked, self.now_ms)));
            }
        });
        done.extend(replica.take_timers().map(|change| tell::timer_change(&change)));
        done.extend(replica.take_changes().map(|change| tell::change(&change)));
        if !self.log.is_asked()
            && let Some(gtids) = replica.take_question()
        {
            done.extend(gtids.iter().map(|gtid| format!("log <- what of {gtid}?")));
            self.log.ask(gtids);
        }
        self.sessions.retain(|session| {
            let is_open = replica.is_open(*session);
            if !is_open {
                done.push(format!("s{} is given up", session.0));
            }
            is_open
        });
        if replica.is_drained() && !std::mem::replace(&mut self.is_drained, true) {
            done.push("the coordinator may leave".into());
        }
        Ok(())
    }

    /// A gtid by its number, minted now if it is new.
    fn gtid(&mut self, number: &str) -> Result<Gtid, String> {
        let number: u64 = parse(number)?;
        let mut bytes = [0_u8; 16];
        bytes[..6].copy_from_slice(&self.now_ms.to_be_bytes()[2..]);
        bytes[6] = 0x70;
        bytes[8..].copy_from_slice(&(1 << 63 | number).to_be_bytes());
        let minted = Gtid::from_bytes(&bytes).map_err(|invalid| invalid.to_string())?;
        Ok(*self.gtids.entry(number).or_insert(minted))
    }

    fn with_numbers(&self, line: String) -> String {
        let replace =
            |line: String, (number, gtid): (&u64, &Gtid)| line.replace(&gtid.to_string(), &number.to_string());
        self.gtids.iter().fold(line, replace)
    }

    /// The timer that [`tell::timer`] gives this word, of those that the transaction can have.
    fn timer(&mut self, gtid: Gtid, word: &str) -> Result<Timer, String> {
        let transaction = [two_phase::Timer::Deadline, two_phase::Timer::Absence, two_phase::Timer::Resend];
        let protocol = self.replica()?.view(gtid).ok_or("it is not in memory")?.protocol;
        let timers: Vec<Timer> = match protocol {
            assent_protocol::Protocol::TwoPhase => transaction.map(Timer::TwoPhase).into(),
            assent_protocol::Protocol::ThreePhase => {
                let election = Timer::ThreePhase(three_phase::coordinator::Timer::Election);
                let transaction = transaction.map(three_phase::coordinator::Timer::TwoPhase).map(Timer::ThreePhase);
                transaction.into_iter().chain([election]).collect()
            }
            assent_protocol::Protocol::Saga => {
                let mut timers = Vec::new();
                for (step, attempt) in (0..4).flat_map(|step| (1..4).map(move |attempt| (StepIndex(step), attempt))) {
                    for compensation in [false, true] {
                        timers.push(Timer::Saga(saga::Timer::Attempt { step, compensation, attempt }));
                        timers.push(Timer::Saga(saga::Timer::Retry { step, compensation, attempt }));
                    }
                }
                timers
            }
        };
        timers
            .into_iter()
            .chain([Timer::Initiator])
            .find(|timer| tell::timer(*timer) == word)
            .ok_or_else(|| "no such timer".into())
    }
}
