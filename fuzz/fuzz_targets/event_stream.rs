//! See `src/event_stream.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| fanfare_fuzz::event_stream::check(input));
