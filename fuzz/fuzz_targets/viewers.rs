//! See `src/viewers.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| fanfare_fuzz::viewers::check(input));
