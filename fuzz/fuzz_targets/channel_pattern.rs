//! See `src/channel_pattern.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| fanfare_fuzz::channel_pattern::check(input));
