#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| assent::fuzz::login(bytes));
