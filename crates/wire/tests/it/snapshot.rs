//! Images: whole, cut, damaged, doubled.

use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;
use quorate_kv::{Digest, Record, RecordKey, Revision, Row, Table};
use quorate_raft::{LogIndex, Membership, SnapshotMeta, Term};
use quorate_wire::DecodeError;
use quorate_wire::snapshot::{Header, ImageDecoder, ImageEncoder, MAX_BODY_BYTES, Part};

use crate::samples;

fn header(membership: Membership) -> Header {
    let meta = SnapshotMeta {
        index: LogIndex(9),
        term: Term(2),
        membership: Arc::new(membership),
        membership_index: LogIndex(4),
    };
    Header::new(7, meta, Revision(5), Revision(-1), Digest(11))
}

fn image(header: &Header, batches: &[&[(RecordKey, Record)]]) -> Vec<u8> {
    image_with_rows(header, &[], batches)
}

fn image_with_rows(header: &Header, rows: &[&[Row]], batches: &[&[(RecordKey, Record)]]) -> Vec<u8> {
    let (mut encoder, first) = ImageEncoder::start(header);
    let mut out = first.to_vec();
    for batch in rows {
        out.extend_from_slice(&encoder.rows(batch));
    }
    for batch in batches {
        out.extend_from_slice(&encoder.records(batch));
    }
    out.extend_from_slice(&encoder.finish());
    out
}

fn read(image: &[u8], chunk: usize) -> Result<(Vec<Part>, bool), DecodeError> {
    let mut decoder = ImageDecoder::new();
    let mut parts = Vec::new();
    for chunk in image.chunks(chunk) {
        decoder.push(chunk)?;
        while let Some(part) = decoder.next_part()? {
            parts.push(part);
        }
    }
    Ok((parts, decoder.ended()))
}

proptest! {
    #[test]
    fn images_survive_their_bytes_however_they_are_cut(
        membership in samples::membership(), records in samples::records(), rows in samples::rows(),
        chunk in 1_usize..300,
    ) {
        let header = header(membership);
        let (first, second) = records.split_at(records.len() / 2);
        let bytes = image_with_rows(&header, &[&rows], &[first, second]);
        let (parts, ended) = read(&bytes, chunk).expect("sound");
        prop_assert!(ended);
        let expected = vec![
            Part::Header(Box::new(header)),
            Part::Rows(rows),
            Part::Records(first.to_vec()),
            Part::Records(second.to_vec()),
            Part::End { records: records.len() as u64 },
        ];
        prop_assert_eq!(parts, expected);
    }

    #[test]
    fn no_flipped_bit_passes(records in samples::records(), at: prop::sample::Index, bit in 0..8_u8) {
        let mut bytes = image(&header(Membership::default()), &[&records]);
        let at = at.index(bytes.len());
        bytes[at] ^= 1_u8 << bit;
        // A flipped length may also leave the reader waiting for more.
        prop_assert!(!matches!(read(&bytes, 64), Ok((_, true))));
    }

    #[test]
    fn a_cut_image_never_ends(records in samples::records(), at: prop::sample::Index) {
        let bytes = image(&header(Membership::default()), &[&records]);
        let cut = &bytes[..at.index(bytes.len())];
        prop_assert!(matches!(read(cut, 64), Ok((_, false))));
    }
}

fn record(revision: i64) -> (RecordKey, Record) {
    (RecordKey { revision, sub: 0 }, Record::tombstone(Bytes::from_static(b"k")))
}

#[test]
fn frames_that_are_dropped_or_doubled_are_noticed() {
    let (mut encoder, first) = ImageEncoder::start(&header(Membership::default()));
    let one = encoder.records(&[record(1)]);
    let two = encoder.records(&[record(2)]);
    let last = encoder.finish();
    let whole = [&first, &one, &two, &last].map(|part| part.to_vec()).concat();
    assert!(matches!(read(&whole, 7), Ok((_, true))));
    let without = [&first, &two, &last].map(|part| part.to_vec()).concat();
    assert_eq!(read(&without, 7), Err(DecodeError::Damaged { what: "snapshot image" }));
    let doubled = [&first, &one, &one, &two, &last].map(|part| part.to_vec()).concat();
    assert!(matches!(read(&doubled, 7), Err(DecodeError::Malformed { .. })));
    let after = [&first, &one, &two, &last, &last].map(|part| part.to_vec()).concat();
    assert!(read(&after, 7).is_err());
}

#[test]
fn rows_that_come_late_are_dropped_or_doubled_are_noticed() {
    let row = |key: &'static str| Row { table: Table::User, key: key.into(), value: Bytes::from_static(b"v") };
    let (mut encoder, first) = ImageEncoder::start(&header(Membership::default()));
    let (one, two) = (encoder.rows(&[row("a")]), encoder.rows(&[row("b")]));
    let records = encoder.records(&[record(1)]);
    let last = encoder.finish();
    let read = |parts: &[&Bytes]| read(&parts.iter().map(|part| part.to_vec()).collect::<Vec<_>>().concat(), 7);
    assert!(matches!(read(&[&first, &one, &two, &records, &last]), Ok((_, true))));
    assert_eq!(read(&[&first, &two, &records, &last]), Err(DecodeError::Damaged { what: "snapshot image" }));
    for odd in [[&first, &two, &one, &records, &last], [&first, &one, &records, &two, &last]] {
        assert!(matches!(read(&odd), Err(DecodeError::Malformed { .. })));
    }
}

#[test]
fn an_image_of_a_term_or_index_that_no_run_reaches_is_refused() {
    let begins = |index: u64, term: u64| {
        let meta = SnapshotMeta { index: LogIndex(index), term: Term(term), ..header(Membership::default()).meta };
        let header = Header::new(7, meta, Revision(5), Revision(-1), Digest(11));
        read(&image(&header, &[]), 64)
    };
    let (max_index, max_term) = (u64::MAX / 2 - 1, 1 << 62);
    for (index, term) in [(max_index - 1, max_term - 1), (max_index, max_term)] {
        assert!(matches!(begins(index, term), Ok((_, true))));
    }
    for (index, term) in [(max_index + 1, max_term), (max_index, max_term + 1), (u64::MAX, 2), (9, u64::MAX)] {
        assert!(matches!(begins(index, term), Err(DecodeError::Malformed { .. })), "index {index}, term {term}");
    }
}

#[test]
fn an_announced_size_is_refused_before_it_is_waited_for() {
    let mut bytes = image(&header(Membership::default()), &[]);
    bytes[9..13].copy_from_slice(&u32::MAX.to_le_bytes());
    let error = read(&bytes[..30], 64).expect_err("too large");
    assert_eq!(error, DecodeError::TooLarge { what: "snapshot image", size: u32::MAX as usize, limit: MAX_BODY_BYTES });
}

#[test]
#[should_panic(expected = "records rise")]
fn records_out_of_order_are_a_bug_of_the_writer() {
    let (mut encoder, _) = ImageEncoder::start(&header(Membership::default()));
    encoder.records(&[record(2), record(1)]);
}
