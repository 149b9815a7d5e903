"""sds: one pool out of many disks, thin volumes over NVMe/TCP and iSCSI."""

__version__ = "0.1.0"
