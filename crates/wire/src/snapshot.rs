//! The bytes of a state image: what a leader streams to a node that is behind its log, and what a backup file holds.
//!
//! An image is a magic number, a header frame, frames of rows and then of records, both in rising order, a trailer frame.
//! Every frame carries its
//! length and a checksum, and the trailer a checksum over all: a cut, mixed or doubled stream does not pass.
//!
//! Frame layout: kind (1 byte), body length (4 bytes, little endian), xxh3-64 of the body (8 bytes, little endian), body.

use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};
use prost::Message;
use quorate_kv::{Digest, Record, RecordKey, Revision, Row, Table};
use quorate_proto::quorate::log::v1 as pb;
use quorate_raft::{LogIndex, SnapshotMeta};
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use crate::bounds::{from_index, from_term};
use crate::identity::{check_version, from_id_bytes, to_id_bytes};
use crate::membership::{from_membership, to_membership};
use crate::{DecodeError, WRITTEN_VERSION};

const WHAT: &str = "snapshot image";
const MAGIC: [u8; 8] = *b"QUORSNAP";
const FRAME_HEAD_BYTES: usize = 13;

/// A frame's body is at most this large; a longer one is refused from its head alone.
pub const MAX_BODY_BYTES: usize = 64 << 20;

/// Records, and rows, are gathered into one frame up to about this size; a larger single one has a frame of its own.
pub const RECORDS_TARGET_BYTES: usize = 1 << 20;

/// What an image holds, said before its records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Version of the image.
    pub format_version: u32,
    /// Cluster it was taken from.
    pub cluster_id: u128,
    /// Log position and configuration.
    pub meta: SnapshotMeta,
    /// Revision of the store.
    pub revision: Revision,
    /// Compact revision of the store.
    pub compact_revision: Revision,
    /// State hash at the log position.
    pub digest: Digest,
}

impl Header {
    /// The header of an image written by this build.
    pub fn new(
        cluster_id: u128,
        meta: SnapshotMeta,
        revision: Revision,
        compact_revision: Revision,
        digest: Digest,
    ) -> Header {
        Header { format_version: WRITTEN_VERSION, cluster_id, meta, revision, compact_revision, digest }
    }
}

/// One part of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// Always first.
    Header(Box<Header>),
    /// Rows beside the records, rising over the whole image; all come before the first record.
    Rows(Vec<Row>),
    /// Records, rising over the whole image.
    Records(Vec<(RecordKey, Record)>),
    /// Always last: the image is whole and undamaged.
    End {
        /// Records in all.
        records: u64,
    },
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Header = 1,
    Records = 2,
    Trailer = 3,
    Rows = 4,
}

/// Place of a row among all rows.
type RowPlace = (Table, Bytes);

/// Writes an image, part by part.
pub struct ImageEncoder {
    sum: Xxh3,
    rows: u64,
    last_row: Option<RowPlace>,
    records: u64,
    last: Option<RecordKey>,
}

impl ImageEncoder {
    /// Starts an image: the encoder and the image's first bytes.
    pub fn start(header: &Header) -> (ImageEncoder, Bytes) {
        let mut encoder = ImageEncoder { sum: Xxh3::new(), rows: 0, last_row: None, records: 0, last: None };
        let body = pb::SnapshotHeader {
            format_version: header.format_version,
            cluster_id: to_id_bytes(header.cluster_id),
            index: header.meta.index.0,
            term: header.meta.term.0,
            membership: Some(to_membership(&header.meta.membership)),
            membership_index: header.meta.membership_index.0,
            revision: header.revision.0,
            compact_revision: header.compact_revision.0,
            digest: to_id_bytes(header.digest.0),
        };
        let mut out = BytesMut::from(&MAGIC[..]);
        encoder.frame(Kind::Header, &body, &mut out);
        (encoder, out.freeze())
    }

    /// Records written so far.
    pub fn record_count(&self) -> u64 {
        self.records
    }

    /// One frame with these rows. Gather about [`RECORDS_TARGET_BYTES`].
    ///
    /// # Panics
    /// If the rows do not rise, within the frame and over the image, or come after a record.
    pub fn rows(&mut self, rows: &[Row]) -> Bytes {
        assert!(self.last.is_none(), "an image's rows come before its records");
        for row in rows {
            let place = (row.table, row.key.clone());
            assert!(self.last_row.as_ref().is_none_or(|last| *last < place), "an image's rows rise, {row:?} does not");
            self.last_row = Some(place);
        }
        self.rows += rows.len() as u64;
        let to_row = |row: &Row| pb::SnapshotRow {
            table: u32::from(row.table.number()),
            key: row.key.clone(),
            value: row.value.clone(),
        };
        let body = pb::SnapshotRows { rows: rows.iter().map(to_row).collect() };
        let mut out = BytesMut::with_capacity(FRAME_HEAD_BYTES + body.encoded_len());
        self.frame(Kind::Rows, &body, &mut out);
        out.freeze()
    }

    /// One frame with these records. Gather about [`RECORDS_TARGET_BYTES`].
    ///
    /// # Panics
    /// If the records do not rise, within the frame and over the image.
    pub fn records(&mut self, records: &[(RecordKey, Record)]) -> Bytes {
        for (at, _) in records {
            assert!(self.last.is_none_or(|last| last < *at), "an image's records rise, {at} does not");
            self.last = Some(*at);
        }
        self.records += records.len() as u64;
        let body = pb::SnapshotRecords { records: records.iter().map(to_record).collect() };
        let mut out = BytesMut::with_capacity(FRAME_HEAD_BYTES + body.encoded_len());
        self.frame(Kind::Records, &body, &mut out);
        out.freeze()
    }

    /// The last bytes of the image.
    pub fn finish(mut self) -> Bytes {
        let checksum = to_id_bytes(self.sum.digest128());
        let body = pb::SnapshotTrailer { records: self.records, checksum, rows: self.rows };
        let mut out = BytesMut::new();
        self.frame(Kind::Trailer, &body, &mut out);
        out.freeze()
    }

    fn frame(&mut self, kind: Kind, body: &impl Message, out: &mut BytesMut) {
        let start = out.len();
        out.extend_from_slice(&[0; FRAME_HEAD_BYTES]);
        body.encode(out).expect("a buffer grows");
        let body = &out[start + FRAME_HEAD_BYTES..];
        assert!(body.len() <= MAX_BODY_BYTES, "a frame of {} bytes cannot be read back", body.len());
        let length = body.len() as u32;
        let checksum = xxh3_64(body);
        self.sum.update(body);
        let head = &mut out[start..start + FRAME_HEAD_BYTES];
        head[0] = kind as u8;
        head[1..5].copy_from_slice(&length.to_le_bytes());
        head[5..].copy_from_slice(&checksum.to_le_bytes());
    }
}

/// Reads an image from chunks cut anywhere. Feed [`push`](ImageDecoder::push), drain [`next_part`](ImageDecoder::next_part).
///
/// Holds at most one frame beyond what was pushed. After an error it is of no more use.
pub struct ImageDecoder {
    buffer: BytesMut,
    sum: Xxh3,
    rows: u64,
    last_row: Option<RowPlace>,
    records: u64,
    last: Option<RecordKey>,
    stage: Stage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Magic,
    Header,
    Records,
    Ended,
}

impl Default for ImageDecoder {
    fn default() -> ImageDecoder {
        ImageDecoder::new()
    }
}

impl ImageDecoder {
    /// At the start of an image.
    pub fn new() -> ImageDecoder {
        ImageDecoder {
            buffer: BytesMut::new(),
            sum: Xxh3::new(),
            rows: 0,
            last_row: None,
            records: 0,
            last: None,
            stage: Stage::Magic,
        }
    }

    /// Takes the next bytes of the stream.
    ///
    /// # Errors
    /// [`DecodeError::TooLarge`] if parts are pushed and never drained.
    pub fn push(&mut self, chunk: &[u8]) -> Result<(), DecodeError> {
        let size = self.buffer.len() + chunk.len();
        let limit = 2 * MAX_BODY_BYTES;
        if size > limit {
            return Err(DecodeError::TooLarge { what: WHAT, size, limit });
        }
        self.buffer.extend_from_slice(chunk);
        Ok(())
    }

    /// The next whole part; None = more bytes are needed, or the image has ended.
    ///
    /// # Errors
    /// Any [`DecodeError`]; the image is to be thrown away.
    pub fn next_part(&mut self) -> Result<Option<Part>, DecodeError> {
        if self.stage == Stage::Magic {
            if self.buffer.len() < MAGIC.len() {
                return Ok(None);
            }
            if self.buffer[..MAGIC.len()] != MAGIC {
                return Err(DecodeError::malformed(WHAT, "it does not start like one"));
            }
            self.buffer.advance(MAGIC.len());
            self.stage = Stage::Header;
        }
        if self.stage == Stage::Ended && !self.buffer.is_empty() {
            return Err(DecodeError::malformed(WHAT, "bytes after its end"));
        }
        let Some((kind, body)) = self.next_frame()? else { return Ok(None) };
        match (self.stage, kind) {
            (Stage::Header, Kind::Header) => self.header(body).map(Some),
            (Stage::Records, Kind::Rows) if self.last.is_none() => self.table_rows(body).map(Some),
            (Stage::Records, Kind::Records) => self.batch(body).map(Some),
            (Stage::Records, Kind::Trailer) => self.trailer(body).map(Some),
            _ => Err(DecodeError::malformed(WHAT, "its parts are out of order")),
        }
    }

    /// Whether the trailer was read and fits.
    pub fn ended(&self) -> bool {
        self.stage == Stage::Ended
    }

    fn next_frame(&mut self) -> Result<Option<(Kind, Bytes)>, DecodeError> {
        if self.buffer.len() < FRAME_HEAD_BYTES {
            return Ok(None);
        }
        let mut head = &self.buffer[..FRAME_HEAD_BYTES];
        let kind = match head.get_u8() {
            1 => Kind::Header,
            2 => Kind::Records,
            3 => Kind::Trailer,
            4 => Kind::Rows,
            other => return Err(DecodeError::malformed(WHAT, format_args!("a part of kind {other}"))),
        };
        let size = head.get_u32_le() as usize;
        let checksum = head.get_u64_le();
        if size > MAX_BODY_BYTES {
            return Err(DecodeError::TooLarge { what: WHAT, size, limit: MAX_BODY_BYTES });
        }
        if self.buffer.len() < FRAME_HEAD_BYTES + size {
            return Ok(None);
        }
        self.buffer.advance(FRAME_HEAD_BYTES);
        let body = self.buffer.split_to(size).freeze();
        if xxh3_64(&body) != checksum && !mutant!(ImageUnchecked) {
            return Err(DecodeError::Damaged { what: WHAT });
        }
        Ok(Some((kind, body)))
    }

    fn header(&mut self, body: Bytes) -> Result<Part, DecodeError> {
        self.sum.update(&body);
        let header = pb::SnapshotHeader::decode(body).map_err(|error| DecodeError::malformed(WHAT, error))?;
        check_version(WHAT, header.format_version)?;
        let membership = header.membership.ok_or_else(|| DecodeError::missing(WHAT, "the configuration"))?;
        if header.membership_index > header.index {
            return Err(DecodeError::malformed(WHAT, "its configuration is newer than its state"));
        }
        self.stage = Stage::Records;
        Ok(Part::Header(Box::new(Header {
            format_version: header.format_version,
            cluster_id: from_id_bytes(WHAT, &header.cluster_id)?,
            meta: SnapshotMeta {
                index: from_index(WHAT, header.index, 0)?,
                term: from_term(WHAT, header.term)?,
                membership: Arc::new(from_membership(membership)?),
                membership_index: LogIndex(header.membership_index),
            },
            revision: Revision(header.revision),
            compact_revision: Revision(header.compact_revision),
            digest: Digest(from_id_bytes(WHAT, &header.digest)?),
        })))
    }

    fn table_rows(&mut self, body: Bytes) -> Result<Part, DecodeError> {
        self.sum.update(&body);
        let batch = pb::SnapshotRows::decode(body).map_err(|error| DecodeError::malformed(WHAT, error))?;
        let mut rows = Vec::with_capacity(batch.rows.len());
        for pb::SnapshotRow { table, key, value } in batch.rows {
            let unknown = || DecodeError::malformed(WHAT, format_args!("a row of table {table}: run a newer build"));
            let table = u8::try_from(table).ok().and_then(Table::from_number).ok_or_else(unknown)?;
            let place = (table, key.clone());
            if self.last_row.as_ref().is_some_and(|last| *last >= place) {
                return Err(DecodeError::malformed(WHAT, format_args!("row {key:?} of {table:?} is out of order")));
            }
            self.last_row = Some(place);
            rows.push(Row { table, key, value });
        }
        self.rows += rows.len() as u64;
        Ok(Part::Rows(rows))
    }

    fn batch(&mut self, body: Bytes) -> Result<Part, DecodeError> {
        self.sum.update(&body);
        let batch = pb::SnapshotRecords::decode(body).map_err(|error| DecodeError::malformed(WHAT, error))?;
        let mut records = Vec::with_capacity(batch.records.len());
        for record in batch.records {
            let (at, record) = from_record(record)?;
            if self.last.is_some_and(|last| last >= at) {
                return Err(DecodeError::malformed(WHAT, format_args!("record {at} is out of order")));
            }
            self.last = Some(at);
            records.push((at, record));
        }
        self.records += records.len() as u64;
        Ok(Part::Records(records))
    }

    fn trailer(&mut self, body: Bytes) -> Result<Part, DecodeError> {
        let trailer = pb::SnapshotTrailer::decode(body).map_err(|error| DecodeError::malformed(WHAT, error))?;
        let checksum = from_id_bytes(WHAT, &trailer.checksum)?;
        let fits = checksum == self.sum.digest128() || mutant!(ImageUnchecked);
        if !fits || (trailer.records, trailer.rows) != (self.records, self.rows) {
            return Err(DecodeError::Damaged { what: WHAT });
        }
        self.stage = Stage::Ended;
        Ok(Part::End { records: self.records })
    }
}

fn to_record((at, record): &(RecordKey, Record)) -> pb::SnapshotRecord {
    pb::SnapshotRecord {
        revision: at.revision,
        sub: at.sub,
        key: record.key.clone(),
        value: record.value.clone(),
        create_revision: record.create_revision,
        version: record.version,
        lease: record.lease,
        tombstone: record.tombstone,
    }
}

fn from_record(record: pb::SnapshotRecord) -> Result<(RecordKey, Record), DecodeError> {
    if record.revision < 0 || record.key.is_empty() {
        return Err(DecodeError::malformed(WHAT, "a record without a place or a key"));
    }
    let at = RecordKey { revision: record.revision, sub: record.sub };
    let record = Record {
        key: record.key,
        value: record.value,
        create_revision: record.create_revision,
        version: record.version,
        lease: record.lease,
        tombstone: record.tombstone,
    };
    Ok((at, record))
}
