//! Which volume is seen under which name, and by whom.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, PoisonError, RwLock};

/// Names a volume for ever: "pool/volume", as UUIDs. The engine's word; hosts never see it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VolumeKey(pub String);

/// Over which protocol an export is seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// NVMe/TCP.
    Nvme,
    /// iSCSI.
    Iscsi,
}

/// Who may see an export.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// Every host that reaches the port.
    AnyHost,
    /// These hosts, by NQN or IQN.
    Hosts(HashSet<String>),
}

impl Access {
    /// Whether the host of that name may. iSCSI names are compared in lower case (RFC 3722), NQNs as they are.
    #[must_use]
    pub fn allows(&self, host: &str) -> bool {
        match self {
            Self::AnyHost => true,
            Self::Hosts(hosts) => hosts.contains(host),
        }
    }
}

/// A volume seen by hosts over one protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Export {
    /// Over which protocol.
    pub protocol: Protocol,
    /// The subsystem's NQN or the target's IQN.
    pub name: String,
    /// NSID (from 1) or LUN.
    pub unit: u32,
    /// What is seen.
    pub volume: VolumeKey,
    /// Who may see it.
    pub access: Access,
    /// The serial number that hosts see; the same on all paths.
    pub serial: String,
}

/// All exports of the node. Replaced as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExportTable {
    exports: Vec<Export>,
    by_name: HashMap<(Protocol, String), Vec<usize>>,
    generation: u64,
}

impl ExportTable {
    /// The table of `exports`, whose host names of iSCSI are put in lower case. `generation` grows with every change.
    #[must_use]
    pub fn new(mut exports: Vec<Export>, generation: u64) -> Self {
        exports.sort_by(|a, b| (a.protocol, &a.name, a.unit).cmp(&(b.protocol, &b.name, b.unit)));
        let mut by_name: HashMap<(Protocol, String), Vec<usize>> = HashMap::new();
        for (index, export) in exports.iter_mut().enumerate() {
            if export.protocol == Protocol::Iscsi {
                export.name.make_ascii_lowercase();
                if let Access::Hosts(hosts) = &mut export.access {
                    *hosts = hosts.iter().map(|host| host.to_ascii_lowercase()).collect();
                }
            }
            by_name.entry((export.protocol, export.name.clone())).or_default().push(index);
        }
        Self { exports, by_name, generation }
    }

    /// The exports of the subsystem or target `name`, by unit.
    pub fn of_name<'a>(&'a self, protocol: Protocol, name: &str) -> impl Iterator<Item = &'a Export> + use<'a> {
        let indexes = self.by_name.get(&(protocol, name.to_owned())).map_or(&[][..], Vec::as_slice);
        indexes.iter().map(|index| &self.exports[*index])
    }

    /// What `host` may see over `protocol`, by name and unit.
    pub fn seen_by<'a>(&'a self, protocol: Protocol, host: &'a str) -> impl Iterator<Item = &'a Export> {
        self.exports.iter().filter(move |export| export.protocol == protocol && export.access.allows(host))
    }

    /// How often the table has changed.
    #[must_use]
    pub const fn generation(&self) -> u64 {
        self.generation
    }

    /// All of them, by protocol, name and unit.
    #[must_use]
    pub fn all(&self) -> &[Export] {
        &self.exports
    }
}

/// The present table, shared by all cores; read at connects and admin commands, never by an I/O.
#[derive(Debug, Default)]
pub(crate) struct Exports(RwLock<Arc<ExportTable>>);

impl Exports {
    pub(crate) fn table(&self) -> Arc<ExportTable> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Sets the exports; the new table.
    pub(crate) fn set(&self, exports: Vec<Export>) -> Arc<ExportTable> {
        let mut table = self.0.write().unwrap_or_else(PoisonError::into_inner);
        *table = Arc::new(ExportTable::new(exports, table.generation + 1));
        Arc::clone(&table)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn export(protocol: Protocol, name: &str, unit: u32, hosts: Option<&[&str]>) -> Export {
        Export {
            protocol,
            name: name.to_owned(),
            unit,
            volume: VolumeKey(format!("pool/{name}-{unit}")),
            access: hosts
                .map_or(Access::AnyHost, |hosts| Access::Hosts(hosts.iter().map(ToString::to_string).collect())),
            serial: "1".to_owned(),
        }
    }

    #[test]
    fn a_host_that_is_not_named_sees_nothing() {
        let table = ExportTable::new(
            vec![
                export(Protocol::Nvme, "nqn.b", 2, Some(&["nqn.host"])),
                export(Protocol::Nvme, "nqn.b", 1, None),
                export(Protocol::Iscsi, "iqn.A", 0, Some(&["iqn.Host"])),
            ],
            7,
        );
        let seen = |protocol, host| table.seen_by(protocol, host).map(|export| export.unit).collect::<Vec<_>>();
        assert_eq!(seen(Protocol::Nvme, "nqn.host"), vec![1, 2]);
        assert_eq!(seen(Protocol::Nvme, "nqn.HOST"), vec![1], "NQNs are compared as they are");
        assert_eq!(seen(Protocol::Iscsi, "iqn.host"), vec![0], "iSCSI names are compared in lower case");
        assert!(seen(Protocol::Iscsi, "iqn.other").is_empty());
        assert_eq!(table.of_name(Protocol::Iscsi, "iqn.a").count(), 1);
        assert_eq!(table.of_name(Protocol::Nvme, "nqn.b").map(|export| export.unit).collect::<Vec<_>>(), vec![1, 2]);
        assert_eq!(table.of_name(Protocol::Iscsi, "nqn.b").count(), 0);
    }
}
