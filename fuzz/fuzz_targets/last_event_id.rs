//! See `src/last_event_id.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| fanfare_fuzz::last_event_id::check(input));
