//! Alarms: what the whole cluster must know of one member, and what it refuses because of it.
//!
//! Owns [`Alarms`]. An alarm is raised and cleared through the log, so that all nodes refuse the same commands.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use crate::auth::Actor;
use crate::error::KvError;
use crate::keyspace::KeySpace;
use crate::records::{ReadRows, WriteRecords};
use crate::requests::{Command, RequestOp, TxnRequest};
use crate::row::{FieldError, RowBytes, RowError, RowFields, RowWriter, Table};

/// Version of an alarm's row.
const VERSION: u8 = 1;

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum AlarmKind {
    /// The member's live data passes the quota: nothing is taken that needs more space.
    NoSpace = 1,
    /// The member's state differs from the others': no write is taken.
    Corrupt = 2,
}

impl AlarmKind {
    /// The kind of a stored or sent number; `None` if a later release made it.
    #[must_use]
    pub fn from_number(number: u32) -> Option<AlarmKind> {
        [AlarmKind::NoSpace, AlarmKind::Corrupt].into_iter().find(|kind| *kind as u32 == number)
    }
}

/// One alarm. A member raises each kind once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Alarm {
    /// What is wrong.
    pub kind: AlarmKind,
    /// With whom, by node id.
    pub member: u64,
}

/// A change of alarms, as the log carries it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AlarmCommand {
    /// Raises it, if it is not.
    Raise(Alarm),
    /// Clears exactly this one, if it is raised.
    Clear(Alarm),
}

/// Who raised an alarm, and so who takes it back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Raised {
    /// A node, by what it measures: it clears it when the cause is gone.
    ByNode = 0,
    /// An administrator, for reasons of their own.
    ByHand = 1,
}

/// Those that are raised.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Alarms(BTreeMap<Alarm, Raised>);

impl Alarms {
    /// All of them, by kind and member.
    pub fn iter(&self) -> impl Iterator<Item = Alarm> + '_ {
        self.0.keys().copied()
    }

    /// Whether any member raised this kind.
    #[must_use]
    pub fn is_raised(&self, kind: AlarmKind) -> bool {
        self.0.keys().any(|alarm| alarm.kind == kind)
    }

    /// Who raised this alarm, if it stands.
    #[must_use]
    pub fn raised(&self, alarm: Alarm) -> Option<Raised> {
        self.0.get(&alarm).copied()
    }

    /// Whether a command is taken while these stand.
    ///
    /// # Errors
    /// [`KvError::NoSpace`] or [`KvError::Corrupt`].
    pub fn admit(&self, command: &Command) -> Result<(), KvError> {
        if self.0.is_empty() {
            return Ok(());
        }
        if self.is_raised(AlarmKind::Corrupt) && touches_data(command) {
            return Err(KvError::Corrupt);
        }
        if self.is_raised(AlarmKind::NoSpace) && needs_space(command) {
            return Err(KvError::NoSpace);
        }
        Ok(())
    }
}

/// Whether a command may need more space than it frees.
#[must_use]
pub fn needs_space(command: &Command) -> bool {
    match command {
        Command::Put(_) | Command::LeaseGrant(_) => true,
        Command::Txn(txn) => puts(txn),
        // Whoever is out of space must be able to get some back: users and alarms are small, and needed for that.
        Command::DeleteRange(_)
        | Command::Compact(_)
        | Command::Clock(_)
        | Command::LeaseRevoke { .. }
        | Command::LeaseRenew { .. }
        | Command::LeaseExpire(_)
        | Command::Auth(_)
        | Command::Alarm(_) => false,
    }
}

fn puts(txn: &TxnRequest) -> bool {
    txn.success.iter().chain(&txn.failure).any(|op| match op {
        RequestOp::Put(_) => true,
        RequestOp::Txn(txn) => puts(txn),
        RequestOp::Range(_) | RequestOp::DeleteRange(_) => false,
    })
}

fn touches_data(command: &Command) -> bool {
    match command {
        Command::Put(_)
        | Command::DeleteRange(_)
        | Command::Txn(_)
        | Command::Compact(_)
        | Command::LeaseGrant(_)
        | Command::LeaseRevoke { .. }
        | Command::LeaseExpire(_) => true,
        Command::LeaseRenew { .. } | Command::Clock(_) | Command::Auth(_) | Command::Alarm(_) => false,
    }
}

impl KeySpace {
    /// The alarms that are raised.
    #[must_use]
    pub fn alarms(&self) -> &Alarms {
        &self.alarms
    }

    /// Raises or clears an alarm. Answers it if it stands now, or stood and was cleared.
    pub(crate) fn change_alarms<W: WriteRecords>(
        &mut self,
        records: &mut W,
        actor: &Actor,
        command: AlarmCommand,
    ) -> Result<Vec<Alarm>, W::Error> {
        let mut rows = RowWriter { records, digest: &mut self.meta.digest };
        match command {
            AlarmCommand::Raise(alarm) => {
                if let Entry::Vacant(place) = self.alarms.0.entry(alarm) {
                    let raised = if *actor == Actor::Node { Raised::ByNode } else { Raised::ByHand };
                    place.insert(raised);
                    rows.put(Table::Alarm, &key(alarm), &RowBytes::value(VERSION).byte(raised as u8))?;
                }
                Ok(vec![alarm])
            }
            AlarmCommand::Clear(alarm) if self.alarms.0.remove(&alarm).is_some() => {
                rows.remove(Table::Alarm, &key(alarm))?;
                Ok(vec![alarm])
            }
            AlarmCommand::Clear(_) => Ok(Vec::new()),
        }
    }

    pub(crate) fn load_alarms<R: ReadRows>(&mut self, rows: &R) -> Result<(), R::Error> {
        rows.scan_rows(Table::Alarm, &mut |key, value| {
            let (alarm, raised) = RowError::name(Table::Alarm, key, read(key, value))?;
            self.alarms.0.insert(alarm, raised);
            Ok(())
        })
    }
}

fn key(alarm: Alarm) -> RowBytes {
    RowBytes::key().byte(alarm.kind as u8).varint(alarm.member)
}

fn read(key: &[u8], value: &[u8]) -> Result<(Alarm, Raised), FieldError> {
    let mut fields = RowFields::key(key);
    let kind = AlarmKind::from_number(fields.byte()?.into()).ok_or(FieldError::Cut)?;
    let member = fields.varint()?;
    fields.end()?;
    let mut fields = RowFields::value(value, VERSION)?;
    let raised = match fields.byte()? {
        0 => Raised::ByNode,
        1 => Raised::ByHand,
        _ => return Err(FieldError::Cut),
    };
    fields.end()?;
    Ok((Alarm { kind, member }, raised))
}
