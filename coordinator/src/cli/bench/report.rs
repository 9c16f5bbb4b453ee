//! The figures of a benchmark.

use serde::Serialize;

use super::plan::Protocol;
use super::postgres::Baseline;
use super::{Bench, Moment};
use crate::cli::{Failure, Format, Output};

/// What is printed; the names are the keys of the JSON object.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Report {
    protocol: Protocol,
    participants: u16,
    steps: Option<u16>,
    concurrency: u32,
    payload_bytes: u32,
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
    pub(super) fn of(bench: &Bench, before: &Moment, after: &Moment, baseline: Option<Baseline>) -> Self {
        let load = &after.load;
        let ended = (load.committed + load.aborted + load.in_doubt).max(1) as f64;
        let tx_per_s = (load.committed + load.aborted) as f64 / (load.elapsed_us.max(1) as f64 / 1e6);
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
        let cpu = |us: Option<f64>| us.map_or_else(|| "-".to_owned(), |us| format!("{us:.1}"));
        let mut rows = vec![
            ("transactions per second", format!("{:.0}", self.tx_per_s)),
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
        if let Some(baseline) = &self.baseline {
            rows.push(("one-row inserts per second, 32 connections", format!("{:.0}", baseline.inserts_per_s)));
            rows.push(("one-row insert alone, p50", format!("{:.2} ms", baseline.insert_p50_ms)));
            rows.push(("transactions over inserts", format!("{:.2}", baseline.ratio)));
            if let (Some(bare), Some(ratio)) = (baseline.prepared_tx_per_s, baseline.prepared_ratio) {
                rows.push(("the same statements without a coordinator", format!("{bare:.0} per second")));
                rows.push(("transactions over those", format!("{ratio:.2}")));
            }
        }
        for (name, value) in rows {
            output.line(&format!("{name:<44}{value}"))?;
        }
        Ok(())
    }
}
