use proptest::prelude::*;

use super::*;

const GTID: &str = "01890a5d-ac96-774b-bcce-b302099a8057";

fn context() -> Context {
    Context {
        gtid: GTID.parse().expect("a gtid"),
        coordinator: "http://coordinator-1:7420".into(),
        deadline_unix_ms: Some(1_767_225_600_000),
        epoch: Some(Epoch(7)),
    }
}

fn written() -> HeaderMap {
    let mut headers = HeaderMap::new();
    context().write(&mut headers).expect("a fit context");
    headers
}

fn with(header: HeaderName, value: &[u8]) -> HeaderMap {
    let mut headers = written();
    headers.insert(header, HeaderValue::from_bytes(value).expect("a header value"));
    headers
}

/// The error's text for headers in which one value is unfit.
fn refusal(header: HeaderName, value: &[u8]) -> String {
    let error = Context::read(&with(header.clone(), value)).expect_err("an unfit value");
    assert_eq!(error.header, header);
    assert!(matches!(error.problem, Problem::Unfit { .. }), "{error}");
    error.to_string()
}

#[test]
fn a_context_survives_the_headers() {
    for coordinator in
        ["http://coordinator-1:7420", "https://a.b.c", "localhost:7420", "[::1]:7420", "http://[::1]:7420/"]
    {
        for deadline_unix_ms in [None, Some(0), Some(DEADLINE_UNIX_MS_MAX)] {
            for epoch in [None, Some(Epoch(0)), Some(Epoch(u64::MAX))] {
                let context = Context { coordinator: coordinator.into(), deadline_unix_ms, epoch, ..context() };
                let mut headers = written();
                context.write(&mut headers).expect("a fit context");
                assert_eq!(Context::read(&headers), Ok(Some(context)));
            }
        }
    }
}

#[test]
fn a_context_survives_grpc_metadata() {
    let mut request = tonic::Request::new(());
    context().write(request.metadata_mut().as_mut()).expect("a fit context");
    assert_eq!(request.metadata().get("assent-gtid").expect("a gtid"), GTID);
    assert_eq!(Context::read(request.metadata().as_ref()), Ok(Some(context())));
}

#[test]
fn no_gtid_is_no_transaction() {
    assert_eq!(Context::read(&HeaderMap::new()), Ok(None));
    let mut headers = with(DEADLINE_HEADER, b"soon");
    headers.remove(GTID_HEADER);
    assert_eq!(Context::read(&headers), Ok(None));
}

#[test]
fn writing_replaces_what_was_there() {
    let mut headers = written();
    headers.append(GTID_HEADER, HeaderValue::from_static("another"));
    headers.append(DEADLINE_HEADER, HeaderValue::from_static("1"));
    let endless = Context { deadline_unix_ms: None, ..context() };
    endless.write(&mut headers).expect("a fit context");
    assert_eq!(Context::read(&headers), Ok(Some(endless)));
}

#[test]
fn an_unfit_context_is_not_written() {
    for coordinator in ["", "a b", "a\r\nassent-gtid: x", "café:7420", &"x".repeat(COORDINATOR_BYTES_MAX + 1)] {
        let mut headers = written();
        let error = Context { coordinator: coordinator.into(), ..context() }.write(&mut headers).expect_err("unfit");
        assert_eq!(error.header, COORDINATOR_HEADER);
        assert_eq!(headers, written());
    }
    let late = Context { deadline_unix_ms: Some(DEADLINE_UNIX_MS_MAX + 1), ..context() };
    assert_eq!(late.write(&mut HeaderMap::new()).expect_err("too late").header, DEADLINE_HEADER);
}

#[test]
fn a_header_that_comes_twice_is_refused() {
    for header in [GTID_HEADER, COORDINATOR_HEADER, DEADLINE_HEADER] {
        let mut headers = written();
        let same = headers[&header].clone();
        headers.append(header.clone(), same.clone());
        headers.append(header.clone(), same);
        let error = Context::read(&headers).expect_err("repeated");
        assert_eq!(error.problem, Problem::Repeated { times: 3 });
        assert!(error.to_string().starts_with(&format!("header {header} is given 3 times")), "{error}");
    }
}

#[test]
fn a_gtid_comes_with_its_coordinator() {
    let mut headers = written();
    headers.remove(COORDINATOR_HEADER);
    let error = Context::read(&headers).expect_err("no coordinator");
    assert_eq!(
        error.to_string(),
        "header assent-coordinator is missing, although assent-gtid is there; it is the home replica's host and port \
         or URL in at most 300 bytes, such as http://coordinator:7420"
    );
}

#[test]
fn an_unfit_gtid_is_named_and_shown() {
    assert_eq!(
        refusal(GTID_HEADER, b"42"),
        "header assent-gtid cannot be \"42\"; it is the transaction's UUID of version 7, such as \
         01890a5d-ac96-774b-bcce-b302099a8057"
    );
    let version_4 = b"f47ac10b-58cc-4372-a567-0e02b2c3d479".as_slice();
    let joined = format!("{GTID}, {GTID}");
    let urn = format!("urn:uuid:{GTID}");
    let braced = format!("{{{GTID}}}");
    let simple = GTID.replace('-', "");
    for unfit in [b"".as_slice(), version_4, joined.as_bytes(), urn.as_bytes(), braced.as_bytes(), simple.as_bytes()] {
        refusal(GTID_HEADER, unfit);
    }
}

#[test]
fn an_unfit_coordinator_is_refused() {
    for unfit in [
        "",
        "two words",
        "a\tb",
        "/path",
        "http://",
        "http://user:secret@host:7420",
        "ftp://host",
        "http://host/path",
        "http://host/?query",
        "http://host#fragment",
        "host:7420, host:7421",
        "*",
    ] {
        refusal(COORDINATOR_HEADER, unfit.as_bytes());
    }
}

#[test]
fn an_unfit_deadline_is_refused() {
    for unfit in ["", "soon", "-1", "+1", "1.5", "1e9", " 1", "1 2", "0x10", "253402300800000", &"9".repeat(40)] {
        refusal(DEADLINE_HEADER, unfit.as_bytes());
    }
}

#[test]
fn a_hostile_value_is_shown_short_and_escaped() {
    for header in [GTID_HEADER, COORDINATOR_HEADER, DEADLINE_HEADER] {
        let long = refusal(header.clone(), &vec![b'x'; 1_000_000]);
        assert!(long.len() < 400, "{} bytes", long.len());
        let foreign = refusal(header.clone(), b"\xff\xfe\x9b\t");
        assert!(foreign.chars().all(|c| !c.is_control()), "{foreign:?}");
        refusal(header, "é".as_bytes());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases.max(2_000), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_sent_is_read_or_refused(
        gtid in proptest::collection::vec(any::<u8>(), 0..60),
        coordinator in proptest::collection::vec(any::<u8>(), 0..60),
        deadline in proptest::collection::vec(any::<u8>(), 0..30),
        has_fit_gtid in any::<bool>(),
    ) {
        let mut headers = written();
        let gtid = if has_fit_gtid { GTID.as_bytes().to_vec() } else { gtid };
        for (header, bytes) in [(GTID_HEADER, gtid), (COORDINATOR_HEADER, coordinator), (DEADLINE_HEADER, deadline)] {
            if let Ok(value) = HeaderValue::from_bytes(&bytes) {
                headers.insert(header, value);
            }
        }
        // What was read can be written, and is then read as the same.
        if let Ok(Some(context)) = Context::read(&headers) {
            let mut again = HeaderMap::new();
            context.write(&mut again).expect("it was read");
            prop_assert_eq!(Context::read(&again), Ok(Some(context)));
        }
    }
}
