//! How the text of a setting is read.

use std::time::Duration;

use assent_protocol::Name;

/// A duration with its unit, such as `30s`, `1h 30m` or `7d`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    if text.parse::<f64>().is_ok() && text != "0" {
        return Err(format!("{text:?} has no unit: write {text}s for seconds, or {text}ms, {text}m, {text}h, {text}d"));
    }
    humantime::parse_duration(text)
        .map_err(|error| format!("{text:?} is no duration ({error}): write such as 500ms, 30s, 5m, 24h or 7d"))
}

/// A duration of at least one millisecond and at most ten years, so that arithmetic with it cannot overflow.
pub(super) fn positive_duration(text: &str) -> Result<Duration, String> {
    const MAX: Duration = Duration::from_secs(10 * 365 * 24 * 3_600);
    match duration(text)? {
        short if short < Duration::from_millis(1) => Err(format!("{text:?} is too short: at least 1ms")),
        long if long > MAX => Err(format!("{text:?} is too long: at most 10 years")),
        fit => Ok(fit),
    }
}

/// The same in whole milliseconds.
pub(super) fn milliseconds(text: &str) -> Result<u64, String> {
    positive_duration(text).map(|duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

/// A number of bytes: `1048576`, `512KiB`, `1MiB`, `2GiB`; `kB`, `MB` and `GB` count in thousands.
pub(super) fn bytes(text: &str) -> Result<usize, String> {
    let wrong = || format!("{text:?} is no size: write a number of bytes, or such as 64KiB, 1MiB or 2GiB");
    let trimmed = text.trim();
    let digits = trimmed.find(|c: char| !c.is_ascii_digit() && c != '_').unwrap_or(trimmed.len());
    let number: usize = trimmed[..digits].replace('_', "").parse().map_err(|_| wrong())?;
    let unit: usize = match trimmed[digits..].trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        _ => return Err(wrong()),
    };
    number.checked_mul(unit).ok_or_else(|| format!("{text:?} is more than this machine can address"))
}

/// A whole number within bounds.
pub(super) fn count(text: &str, min: usize, max: usize) -> Result<usize, String> {
    let number: usize = text
        .trim()
        .replace('_', "")
        .parse()
        .map_err(|_| format!("{text:?} is no whole number: write one of {min} to {max}"))?;
    if (min..=max).contains(&number) { Ok(number) } else { Err(format!("{number} is out of bounds: {min} to {max}")) }
}

/// An address to listen at.
pub(super) fn listen(text: &str) -> Result<String, String> {
    let wrong = || format!("{text:?} is no address: write HOST:PORT, such as 127.0.0.1:7420 or [::]:7420");
    let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    let is_bare_v6 = host.contains(':') && !(host.starts_with('[') && host.ends_with(']'));
    if host.is_empty() || is_bare_v6 || host.contains(['/', ' ']) || port.parse::<u16>().is_err() {
        return Err(wrong());
    }
    Ok(text.to_owned())
}

/// The URL of a log. That it names one, not that the log is there.
pub(super) fn log(text: &str) -> Result<String, String> {
    crate::log::check_url(text).map_err(|error| error.to_string())?;
    self::text(text)
}

/// A replica's name.
pub(super) fn name(text: &str) -> Result<Name, String> {
    Name::new(text).map_err(|error| error.to_string())
}

/// A URL of http or https.
pub(super) fn http_url(text: &str) -> Result<String, String> {
    let is_fit = ["http://", "https://"]
        .iter()
        .any(|scheme| text.strip_prefix(scheme).is_some_and(|rest| !rest.is_empty() && !rest.starts_with('/')));
    if is_fit && text.parse::<tonic::transport::Uri>().is_ok() {
        Ok(text.to_owned())
    } else {
        Err(format!("{text:?} is no URL: write such as http://collector:4317"))
    }
}

/// A text that has something in it.
pub(super) fn text(text: &str) -> Result<String, String> {
    if text.trim().is_empty() {
        Err("it is empty; leave it out to have the default".to_owned())
    } else {
        Ok(text.to_owned())
    }
}
