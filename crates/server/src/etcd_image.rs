//! An image in the form in which etcd's clients keep a snapshot: filled up to whole blocks, its SHA-256 at the end.
//!
//! etcd's clients take what they were sent for whole if its length is 32 past a multiple of 512, because the file of etcd's
//! own store is made of such blocks. The last two bytes before the sum say how much was filled in.

use std::io::{self, Read, Seek, SeekFrom};

use bytes::Bytes;
use ring::digest::{Context, SHA256, SHA256_OUTPUT_LEN};

/// What the length of an image is filled up to a multiple of.
const BLOCK: u64 = 512;
/// Bytes that tell the length of the filling.
const FILLING_LENGTH: u64 = 2;
/// Bytes read at a time.
const READ_BYTES: usize = 1 << 20;

/// Makes the end of a file from what came before it.
#[derive(Clone)]
pub struct EtcdImage {
    sum: Context,
    length: u64,
}

impl std::fmt::Debug for EtcdImage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EtcdImage").field("length", &self.length).finish_non_exhaustive()
    }
}

impl Default for EtcdImage {
    fn default() -> Self {
        EtcdImage { sum: Context::new(&SHA256), length: 0 }
    }
}

impl EtcdImage {
    /// Takes note of the next bytes of the image.
    pub fn add(&mut self, bytes: &[u8]) {
        self.sum.update(bytes);
        self.length += bytes.len() as u64;
    }

    /// What is to follow the image: the filling, and the sum.
    #[must_use]
    pub fn finish(mut self) -> [Bytes; 2] {
        let filling = BLOCK - (self.length + FILLING_LENGTH) % BLOCK + FILLING_LENGTH;
        let mut bytes = vec![0; filling as usize];
        bytes[(filling - FILLING_LENGTH) as usize..].copy_from_slice(&(filling as u16).to_le_bytes());
        self.sum.update(&bytes);
        [Bytes::from(bytes), Bytes::copy_from_slice(self.sum.finish().as_ref())]
    }

    /// The length of the image at the beginning of `file`: shorter than the file if it has this form. A file that is damaged
    /// is taken for an image as it is, which fails its own checks.
    ///
    /// # Errors
    /// The file's.
    pub fn length_in(file: &mut (impl Read + Seek)) -> io::Result<u64> {
        let whole = file.seek(SeekFrom::End(0))?;
        let sum_length = SHA256_OUTPUT_LEN as u64;
        if whole % BLOCK != sum_length || whole < BLOCK {
            return Ok(whole);
        }
        file.seek(SeekFrom::Start(0))?;
        let mut body = (&mut *file).take(whole - sum_length);
        let mut sum = Context::new(&SHA256);
        let mut piece = vec![0; READ_BYTES];
        loop {
            match body.read(&mut piece)? {
                0 => break,
                read => sum.update(&piece[..read]),
            }
        }
        let mut told = [0; SHA256_OUTPUT_LEN];
        file.read_exact(&mut told)?;
        if sum.finish().as_ref() != told {
            return Ok(whole);
        }
        file.seek(SeekFrom::Start(whole - sum_length - FILLING_LENGTH))?;
        let mut filling = [0; FILLING_LENGTH as usize];
        file.read_exact(&mut filling)?;
        Ok((whole - sum_length).saturating_sub(u16::from_le_bytes(filling).into()))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    fn file_of(image: &[u8]) -> Vec<u8> {
        let mut end = EtcdImage::default();
        image.chunks(100).for_each(|piece| end.add(piece));
        [image.to_vec(), end.finish().concat()].concat()
    }

    #[test]
    fn a_file_is_whole_by_etcds_rule_and_gives_its_image_back() {
        for length in (0..1100).chain([5000]) {
            let image: Vec<u8> = (0..length).map(|byte| byte as u8).collect();
            let file = file_of(&image);
            assert_eq!(file.len() % 512, 32, "an image of {length}");
            assert!(file.len() - image.len() <= 512 + 34, "an image of {length}");
            let sum = ring::digest::digest(&SHA256, &file[..file.len() - 32]);
            assert_eq!(&file[file.len() - 32..], sum.as_ref());
            assert_eq!(EtcdImage::length_in(&mut Cursor::new(&file)).expect("readable"), length as u64);
        }
    }

    #[test]
    fn another_file_is_taken_as_it_is() {
        let mut damaged = file_of(&[7; 700]);
        damaged[3] ^= 1;
        for file in [damaged, vec![7; 700], vec![7; 544], Vec::new(), vec![7; 32]] {
            assert_eq!(EtcdImage::length_in(&mut Cursor::new(&file)).expect("readable"), file.len() as u64);
        }
    }
}
