//! The file of an image on its way in: one name in the directory, and who has it.
//!
//! An image that is given up gives its room back at once, which votes and entries of the log may need. By then the name may be
//! that of the next image, which takes it without waiting, or of the next state that is opened in the directory.
//!
//! Invariant: a file is removed by whoever took the name last, and by nobody once the state that it was meant for is closed.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::database::Database;
use crate::disk::{Disk, STATE_FILE, STATE_FILE_NEW, remove_if_present};
use crate::error::{OpenError, WriteError};

/// The name, beside one opened state.
#[derive(Debug)]
pub(crate) struct ImageName {
    disk: Arc<dyn Disk>,
    /// Counts those that took the name. Held while the name changes.
    holder: Mutex<u64>,
}

impl ImageName {
    pub(crate) fn new(disk: Arc<dyn Disk>) -> Arc<Self> {
        Arc::new(Self { disk, holder: Mutex::default() })
    }

    /// Makes an empty database under the name, in place of what has it.
    pub(crate) fn take(self: &Arc<Self>, cache_bytes: usize) -> Result<(Database, ImageFile), OpenError> {
        let mut holder = self.holder();
        *holder += 1;
        let number = *holder;
        let made = Database::create(&*self.disk, STATE_FILE_NEW, STATE_FILE, cache_bytes);
        drop(holder);
        // What could not be made whole goes with this.
        let file = ImageFile { name: Arc::clone(self), number };
        Ok((made?, file))
    }

    /// The directory is somebody else's from now on: whoever still has the name leaves the file to them.
    pub(crate) fn give_away(&self) {
        *self.holder() += 1;
    }

    fn holder(&self) -> MutexGuard<'_, u64> {
        self.holder.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The file under the name; removed with this, unless it was published.
#[derive(Debug)]
pub(crate) struct ImageFile {
    name: Arc<ImageName>,
    number: u64,
}

impl ImageFile {
    pub(crate) fn disk(&self) -> &dyn Disk {
        &*self.name.disk
    }

    /// Gives the image the state file's name, durably.
    ///
    /// # Panics
    /// If another image has been begun meanwhile: the file is no more, and the name is the other's.
    pub(crate) fn publish(&self, database: &Database) -> Result<(), WriteError> {
        let holder = self.name.holder();
        assert_eq!(*holder, self.number, "an image is installed, and another has taken its name meanwhile");
        database.publish(self.disk(), STATE_FILE_NEW)
    }
}

impl Drop for ImageFile {
    fn drop(&mut self) {
        let holder = self.name.holder();
        if *holder != self.number {
            return;
        }
        // One that was published has this name no more. The removal need not be durable: the next start removes what is there.
        if let Err(error) = remove_if_present(self.disk(), STATE_FILE_NEW) {
            tracing::warn!(%error, "the image that was given up cannot be removed; the next one or the next start does so");
        }
    }
}
