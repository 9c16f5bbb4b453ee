//! The figures of a benchmark.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::plan::Protocol;
use super::postgres::Baseline;
use super::{Bench, Moment};
use crate::cli::{Failure, Format, Output};
use crate::log::Durability;

/// Where what has to survive is kept, and on which settings that rests.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Storage {
    /// The log's; null where the coordinator was there before and its log was not named.
    pub(super) log: Option<Durability>,
    /// Where the participants' voters have their files; null where there are none.
    pub(super) voters: Option<Place>,
}

/// A directory, and what it is on.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Place {
    directory: PathBuf,
    /// Such as `ext4`, or `tmpfs`, where nothing is ever forced to a disk; null where that cannot be seen.
    file_system: Option<String>,
}

impl Place {
    /// Looks what the directory is on.
    pub(super) fn of(directory: PathBuf) -> Self {
        let real = std::fs::canonicalize(&directory).unwrap_or_else(|_| directory.clone());
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let file_system = file_system(&real, &mounts).map(str::to_owned);
        Self { directory, file_system }
    }
}

/// The kind of the file system that a path is on, from the lines of `/proc/self/mounts`: the deepest mount counts, and of several at one
/// place the last.
fn file_system<'a>(path: &Path, mounts: &'a str) -> Option<&'a str> {
    let mounted = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ').skip(1);
        // A space in a path is written so.
        let at = PathBuf::from(words.next()?.replace("\\040", " "));
        let kind = words.next()?;
        path.starts_with(&at).then_some((at.components().count(), kind))
    });
    mounted.max_by_key(|(depth, _)| *depth).map(|(_, kind)| kind)
}

/// What is printed; the names are the keys of the JSON object.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Report {
    protocol: Protocol,
    participants: u16,
    steps: Option<u16>,
    concurrency: u32,
    payload_bytes: u32,
    /// Whether the run had an authority of its own, and every connection to the coordinator was encrypted and named.
    tls: bool,
    /// Of those that committed, or completed. What aborted or failed is counted below, and is no throughput.
    tx_per_s: f64,
    latency_ms: LatencyMs,
    forced_writes_per_tx: f64,
    messages_per_tx: f64,
    cpu_us_per_tx: CpuUs,
    batch_size_mean: f64,
    log_flush_us: f64,
    committed: u64,
    aborted: u64,
    in_doubt: u64,
    errors: u64,
    storage: Storage,
    #[serde(skip_serializing_if = "Option::is_none")]
    baseline: Option<Baseline>,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct LatencyMs {
    p50: f64,
    p95: f64,
    p99: f64,
    max: f64,
}

/// Processor time of each process for one transaction; null where it cannot be seen.
#[derive(Clone, Copy, Debug, Serialize)]
struct CpuUs {
    coordinator: Option<f64>,
    participants: Option<f64>,
    load: Option<f64>,
    postgres: Option<f64>,
    /// The sum of those that can be seen.
    total: f64,
}

impl Report {
    pub(super) fn of(
        bench: &Bench,
        before: &Moment,
        after: &Moment,
        baseline: Option<Baseline>,
        storage: Storage,
    ) -> Self {
        let load = &after.load;
        let ended = (load.committed + load.aborted + load.in_doubt).max(1) as f64;
        let tx_per_s = load.committed as f64 / (load.elapsed_us.max(1) as f64 / 1e6);
        let counted = |which: fn(&assent_proto::v1::Statistics) -> u64| {
            let of = |moment: &Moment| moment.coordinator.statistics.as_ref().map_or(0, which);
            of(after).saturating_sub(of(before)) as f64
        };
        let appends = counted(|statistics| statistics.appends);
        let messages = counted(|statistics| statistics.messages_in + statistics.messages_out);
        let share = |before: Option<u64>, after: Option<u64>| Some(after?.saturating_sub(before?) as f64 / ended);
        let coordinator = share(before.coordinator.cpu_us, after.coordinator.cpu_us);
        let participants = share(before.participants.cpu_us, after.participants.cpu_us);
        let of_load = share(before.load.cpu_us, after.load.cpu_us);
        let postgres = share(before.postgres_cpu_us, after.postgres_cpu_us);
        let total = [coordinator, participants, of_load, postgres].into_iter().flatten().sum();
        let ms = |us: u64| us as f64 / 1_000.0;
        Self {
            protocol: bench.protocol,
            participants: bench.participants,
            steps: (bench.protocol == Protocol::Saga).then_some(bench.steps),
            concurrency: bench.concurrency,
            payload_bytes: bench.payload_bytes,
            tls: bench.tls,
            tx_per_s,
            latency_ms: LatencyMs {
                p50: ms(load.latency_us.p50),
                p95: ms(load.latency_us.p95),
                p99: ms(load.latency_us.p99),
                max: ms(load.latency_us.max),
            },
            forced_writes_per_tx: appends / ended,
            messages_per_tx: messages / ended,
            cpu_us_per_tx: CpuUs { coordinator, participants, load: of_load, postgres, total },
            batch_size_mean: counted(|statistics| statistics.forced_records) / appends.max(1.0),
            log_flush_us: counted(|statistics| statistics.append_us) / appends.max(1.0),
            committed: load.committed,
            aborted: load.aborted,
            in_doubt: load.in_doubt,
            errors: load.errors,
            storage,
            baseline: baseline.map(|baseline| Baseline {
                ratio: tx_per_s / baseline.inserts_per_s,
                prepared_ratio: baseline.prepared_tx_per_s.map(|bare| tx_per_s / bare),
                ..baseline
            }),
        }
    }

    pub(super) fn print(&self, output: &mut Output) -> Result<(), Failure> {
        if output.format() != Format::Table {
            return Ok(output.value(self)?);
        }
        for (name, value) in self.rows() {
            output.line(&format!("{name:<44}{value}"))?;
        }
        Ok(())
    }

    fn rows(&self) -> Vec<(&'static str, String)> {
        let cpu = |us: Option<f64>| us.map_or_else(|| "-".to_owned(), |us| format!("{us:.1}"));
        let mut rows = vec![
            ("commits per second", format!("{:.0}", self.tx_per_s)),
            (
                "latency p50 / p95 / p99 / max",
                format!(
                    "{:.2} / {:.2} / {:.2} / {:.2} ms",
                    self.latency_ms.p50, self.latency_ms.p95, self.latency_ms.p99, self.latency_ms.max
                ),
            ),
            ("forced log writes per transaction", format!("{:.3}", self.forced_writes_per_tx)),
            ("messages per transaction", format!("{:.1}", self.messages_per_tx)),
            ("processor per transaction", format!("{:.1} us", self.cpu_us_per_tx.total)),
            ("  coordinator", cpu(self.cpu_us_per_tx.coordinator)),
            ("  participants", cpu(self.cpu_us_per_tx.participants)),
            ("  load", cpu(self.cpu_us_per_tx.load)),
            ("  postgres", cpu(self.cpu_us_per_tx.postgres)),
            ("forced records per log flush", format!("{:.1}", self.batch_size_mean)),
            ("time of a log flush", format!("{:.0} us", self.log_flush_us)),
            (
                "committed / aborted / in doubt / errors",
                format!("{} / {} / {} / {}", self.committed, self.aborted, self.in_doubt, self.errors),
            ),
        ];
        match &self.storage.log {
            None => rows.push(("the log's settings", "not known: name it with --log".to_owned())),
            Some(Durability::Sqlite { synchronous }) => rows.push(("the log's synchronous", synchronous.clone())),
            Some(Durability::Postgres { fsync, synchronous_commit, appends_synchronous_commit }) => {
                rows.push(("fsync", fsync.clone()));
                rows.push(("synchronous_commit, of the log's appends", appends_synchronous_commit.clone()));
                rows.push(("synchronous_commit, of all else", synchronous_commit.clone()));
            }
        }
        if let Some(Place { directory, file_system }) = &self.storage.voters {
            let kind = file_system.as_deref().unwrap_or("an unknown file system");
            rows.push(("the voters' files", format!("{} ({kind})", directory.display())));
        }
        if let Some(baseline) = &self.baseline {
            rows.push(("one-row inserts per second, 32 connections", format!("{:.0}", baseline.inserts_per_s)));
            rows.push(("one-row insert alone, p50", format!("{:.2} ms", baseline.insert_p50_ms)));
            rows.push(("transactions over inserts", format!("{:.2}", baseline.ratio)));
            if let (Some(bare), Some(ratio)) = (baseline.prepared_tx_per_s, baseline.prepared_ratio) {
                rows.push(("the same statements without a coordinator", format!("{bare:.0} per second")));
                rows.push(("transactions over those", format!("{ratio:.2}")));
            }
        }
        rows
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::plan::Mark;
    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        bench: Bench,
    }

    fn moment(load: Mark) -> Moment {
        Moment { coordinator: Default::default(), participants: Mark::default(), load, postgres_cpu_us: None }
    }

    fn report(load: Mark, storage: Storage) -> Report {
        let bench = Line::parse_from(["bench"]).bench;
        let baseline = Baseline {
            inserts_per_s: 50.0,
            insert_p50_ms: 1.0,
            ratio: 0.0,
            prepared_tx_per_s: Some(200.0),
            prepared_ratio: None,
        };
        Report::of(&bench, &moment(Mark::default()), &moment(load), Some(baseline), storage)
    }

    const NOWHERE: Storage = Storage { log: None, voters: None };

    #[test]
    fn what_did_not_commit_is_no_throughput() {
        let load = Mark {
            elapsed_us: 2_000_000,
            committed: 200,
            aborted: 900,
            in_doubt: 30,
            errors: 4,
            cpu_us: Some(1_130),
            ..Mark::default()
        };
        let before = Moment { load: Mark { cpu_us: Some(0), ..Mark::default() }, ..moment(Mark::default()) };
        let report = report(load.clone(), NOWHERE);
        assert_eq!(report.tx_per_s, 100.0);
        let baseline = report.baseline.as_ref().expect("given");
        assert_eq!((baseline.ratio, baseline.prepared_ratio), (2.0, Some(0.5)));
        assert_eq!((report.committed, report.aborted, report.in_doubt, report.errors), (200, 900, 30, 4));
        let row = report.rows().into_iter().find(|(name, _)| name.starts_with("committed / aborted")).expect("a row");
        assert_eq!(row.1, "200 / 900 / 30 / 4");
        // What each one cost is shared by all that ended.
        let bench = Line::parse_from(["bench"]).bench;
        assert_eq!(Report::of(&bench, &before, &moment(load), None, NOWHERE).cpu_us_per_tx.load, Some(1.0));
    }

    #[test]
    fn a_report_says_on_what_its_figures_rest() {
        let log = Durability::Postgres {
            fsync: "off".to_owned(),
            synchronous_commit: "local".to_owned(),
            appends_synchronous_commit: "on".to_owned(),
        };
        let voters = Place { directory: "/somewhere/else".into(), file_system: Some("tmpfs".to_owned()) };
        let on_postgres = report(Mark::default(), Storage { log: Some(log), voters: Some(voters) });
        let shown = serde_json::to_value(&on_postgres).expect("JSON");
        assert_eq!(shown["storage"]["log"]["kind"], "postgres");
        assert_eq!(shown["storage"]["log"]["fsync"], "off");
        assert_eq!(shown["storage"]["log"]["synchronous_commit"], "local");
        assert_eq!(shown["storage"]["log"]["appends_synchronous_commit"], "on");
        assert_eq!(shown["storage"]["voters"]["directory"], "/somewhere/else");
        let rows = on_postgres.rows();
        for expected in [
            ("fsync", "off"),
            ("synchronous_commit, of the log's appends", "on"),
            ("synchronous_commit, of all else", "local"),
            ("the voters' files", "/somewhere/else (tmpfs)"),
        ] {
            assert!(rows.iter().any(|(name, value)| (*name, value.as_str()) == expected), "{expected:?}: {rows:?}");
        }
        let log = Durability::Sqlite { synchronous: "full".to_owned() };
        let on_sqlite = report(Mark::default(), Storage { log: Some(log), voters: None });
        assert_eq!(serde_json::to_value(&on_sqlite).expect("JSON")["storage"]["log"]["synchronous"], "full");
        assert!(on_sqlite.rows().contains(&("the log's synchronous", "full".to_owned())));
        let unknown = report(Mark::default(), NOWHERE);
        assert!(unknown.rows().iter().any(|(name, value)| *name == "the log's settings" && value.contains("--log")));
    }

    #[test]
    fn the_deepest_mount_tells_the_file_system() {
        let mounts = "overlay / overlay rw 0 0\nproc /proc proc rw 0 0\ntmpfs /tmp tmpfs rw 0 0\n\
                      /dev/sda /tmp/a\\040b ext4 rw 0 0\n/dev/sdb /tmp/a\\040b xfs rw 0 0\nbroken\n";
        for (path, expected) in [
            ("/home/me", Some("overlay")),
            ("/tmp", Some("tmpfs")),
            ("/tmpfiles/x", Some("overlay")),
            ("/tmp/x", Some("tmpfs")),
            ("/tmp/a b/voters", Some("xfs")),
        ] {
            assert_eq!(file_system(Path::new(path), mounts), expected, "{path}");
        }
        assert_eq!(file_system(Path::new("/home"), ""), None);
    }
}
