#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| machinery_fuzz::patches(data));
