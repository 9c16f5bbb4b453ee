//! What the operating system tells about this process.

use std::time::Duration;

/// The processor time that all threads of this process have used so far.
pub(crate) fn cpu_time() -> Option<Duration> {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Some(Duration::new(u64::try_from(time.tv_sec).ok()?, u32::try_from(time.tv_nsec).ok()?))
}

/// The memory that this process holds, in bytes; `None` where there is no `/proc`.
pub(super) fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1_024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_costs_something() {
        assert!(cpu_time().expect("a clock").as_nanos() > 0);
        if cfg!(target_os = "linux") {
            assert!(resident_bytes().expect("/proc") > 1_024 * 1_024);
        }
    }
}
