#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dockerfile::fuzzing::parser(data));
