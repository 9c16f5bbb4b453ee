//! Log URLs.

use std::path::PathBuf;
use std::str::FromStr;

use sqlx::postgres::PgConnectOptions;

use super::OpenError;

/// Which log a URL names.
pub(super) enum Target {
    /// A file.
    Sqlite(PathBuf),
    /// A server; boxed, because the options are large.
    Postgres(Box<PgConnectOptions>),
}

impl Target {
    /// Reads a URL.
    pub(super) fn parse(url: &str) -> Result<Self, OpenError> {
        let refuse = |problem: String| OpenError::Url { url: redacted(url), problem };
        if let Some(path) = url.strip_prefix("sqlite:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            if path.is_empty() {
                return Err(refuse("the path is missing".to_owned()));
            }
            if path.starts_with(":memory:") || path.contains('?') {
                return Err(refuse("a log is a plain file, without parameters".to_owned()));
            }
            return Ok(Self::Sqlite(PathBuf::from(path)));
        }
        if url.starts_with("postgres://") || url.starts_with("postgresql://") {
            let options = PgConnectOptions::from_str(url).map_err(|error| refuse(error.to_string()))?;
            if options.get_database().is_none_or(str::is_empty) {
                return Err(refuse("the database is missing".to_owned()));
            }
            return Ok(Self::Postgres(Box::new(options)));
        }
        Err(refuse("it starts with neither sqlite: nor postgres://".to_owned()))
    }
}

/// The URL without its password.
pub(super) fn redacted(url: &str) -> String {
    if url.starts_with("sqlite:") {
        return url.to_owned();
    }
    // One that forgets the slashes is refused, and shown with what is wrong.
    let scheme = url.split_once("://").filter(|(scheme, _)| !scheme.contains([':', '@']));
    let (scheme, rest) = scheme.map_or(("", url), |(scheme, _)| url.split_at(scheme.len() + 3));
    // Where it was not escaped, a password holds `@`, `/` and `?`: what follows the last `@` of all
    // is not it.
    let rest = match rest.rsplit_once('@') {
        Some((login, host)) => format!("{}@{host}", login.split(':').next().unwrap_or_default()),
        None => rest.to_owned(),
    };
    let Some((address, parameters)) = rest.split_once('?') else { return format!("{scheme}{rest}") };
    let kept: Vec<&str> = parameters.split('&').filter(|p| !p.to_ascii_lowercase().contains("password")).collect();
    let parameters = if kept.is_empty() { String::new() } else { format!("?{}", kept.join("&")) };
    format!("{scheme}{address}{parameters}")
}

/// Where a Postgres is, for messages.
pub(super) fn describe(options: &PgConnectOptions) -> String {
    let database = options.get_database().unwrap_or_default();
    match options.get_socket() {
        Some(socket) => format!("postgres database {database} at {}:{}", socket.display(), options.get_port()),
        None => format!("postgres database {database} at {}:{}", options.get_host(), options.get_port()),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn a_password_is_never_shown() {
        for url in [
            "postgres://me:hush@db:5432/assent",
            "postgres://me:hush@hush@db/assent?password=hush",
            "postgres://me:hu%40sh/hush@db/assent?sslmode=disable&password=hush",
            "mysql://me:hush@db/x",
            "postgres://me:hush?hush@db/x",
            "me:hush://me@db/x",
            "postgres://me:a#hush/?password=hush@db/x",
            "me:hush@db/x",
        ] {
            let shown = redacted(url);
            assert!(!shown.contains("hush") && !shown.contains("hu%40sh") && shown.contains("me@db"), "{shown}");
        }
        // Found by fuzzing: the slashes are missing, and come later.
        assert_eq!(redacted("postgres:me:hush://me@db/x"), "postgres@db/x");
    }

    #[test]
    fn a_wrong_url_says_which_ones_are_right() {
        for url in
            ["", "mysql://db/x", "sqlite:", "sqlite::memory:", "postgres://db:notaport/x", "postgres://me:hush@db/"]
        {
            let error = Target::parse(url).err().expect(url).to_string();
            assert!(error.contains("use sqlite:PATH or postgres://") && !error.contains("hush"), "{error}");
        }
    }

    #[test]
    fn paths_are_taken_as_they_are() {
        for (url, path) in [("sqlite:a.db", "a.db"), ("sqlite:///var/a.db", "/var/a.db"), ("sqlite:/a b.db", "/a b.db")]
        {
            assert!(matches!(Target::parse(url), Ok(Target::Sqlite(found)) if found == Path::new(path)), "{url}");
        }
    }
}
