//! Applies a million puts of 256 B values and says how fast, and how much memory the key index takes for each key.
//!
//! Records are dropped, so what is measured is the index and the digest alone. Linux only: memory is read from `/proc`.
//! `cargo run --release -p quorate-kv --example million_keys -- ordered`, or `scattered`

use std::convert::Infallible;
use std::time::Instant;

use bytes::Bytes;
use quorate_kv::{Command, KeySpace, PutRequest, RangeRequest, ReadRecords, Record, RecordKey, Table, WriteRecords};

const KEYS: u64 = 1_000_000;

/// Takes every record and keeps none.
struct Nowhere;

impl ReadRecords for Nowhere {
    type Error = Infallible;

    fn get(&self, _: RecordKey) -> Result<Option<Record>, Infallible> {
        Ok(None)
    }

    fn scan(&self, _: RecordKey, _: &mut dyn FnMut(RecordKey, Record) -> bool) -> Result<(), Infallible> {
        Ok(())
    }

    fn missing(at: RecordKey) -> Infallible {
        panic!("the record at {at} was dropped")
    }
}

impl WriteRecords for Nowhere {
    fn insert(&mut self, _: RecordKey, _: &Record) -> Result<(), Infallible> {
        Ok(())
    }

    fn remove(&mut self, _: RecordKey) -> Result<(), Infallible> {
        Ok(())
    }

    fn put_row(&mut self, _: Table, _: &[u8], _: &[u8]) -> Result<(), Infallible> {
        Ok(())
    }

    fn remove_row(&mut self, _: Table, _: &[u8]) -> Result<(), Infallible> {
        Ok(())
    }
}

fn main() {
    // One order a process: freed memory of the first would hide what the second takes.
    match std::env::args().nth(1).as_deref() {
        None | Some("ordered") => run("in order", |number| number),
        // An odd factor walks through all numbers below a power of two, out of order.
        Some("scattered") => run("scattered", |number| number.wrapping_mul(0x9E37_79B1) % (1 << 20)),
        Some(other) => eprintln!("{other:?} is neither \"ordered\" nor \"scattered\""),
    }
}

fn run(name: &str, place: impl Fn(u64) -> u64) {
    let before = resident_bytes();
    let mut space = KeySpace::new();
    let value = Bytes::from(vec![b'v'; 256]);
    let puts = |space: &mut KeySpace| {
        let begun = Instant::now();
        for number in 0..KEYS {
            let key = Bytes::from(format!("/registry/pods/{:09}", place(number)));
            let put = PutRequest { key, value: value.clone(), ..PutRequest::default() };
            let Ok(outcome) = space.apply(&mut Nowhere, &Command::Put(put));
            assert!(outcome.result.is_ok());
        }
        KEYS as f64 / begun.elapsed().as_secs_f64()
    };
    let created = puts(&mut space);
    let bytes_per_key = (resident_bytes() - before) as f64 / space.key_count() as f64;
    let begun = Instant::now();
    let image = space.encode_index();
    let encoded = begun.elapsed();
    let begun = Instant::now();
    let decoded = KeySpace::decode_index(&image, &space.meta()).expect("an image just made");
    let decode = begun.elapsed();
    drop(decoded);
    let everything = RangeRequest {
        key: Bytes::from_static(b"\0"),
        range_end: Bytes::from_static(b"\0"),
        count_only: true,
        ..RangeRequest::default()
    };
    let begun = Instant::now();
    let Ok(counted) = space.range(&Nowhere, &everything);
    let count = begun.elapsed();
    assert_eq!(counted.expect("not refused").count, space.key_count() as i64);
    let overwritten = puts(&mut space);
    println!("{name}: {created:.0} creates/s, {bytes_per_key:.0} B a key of 24 B in the index");
    println!(
        "  count of all keys {count:?}; image {} B a key, made in {encoded:?}, read in {decode:?}",
        image.len() as u64 / KEYS
    );
    println!(
        "  then {overwritten:.0} overwrites/s, {:.0} B a key with two versions",
        (resident_bytes() - before) as f64 / space.key_count() as f64
    );
}

fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("every process has a resident size");
    let kilobytes: u64 = line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).expect("a number of kB");
    kilobytes * 1024
}
