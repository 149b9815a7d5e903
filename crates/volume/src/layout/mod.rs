//! Every byte on a disk, and the rows of the MetaStore. docs/on-disk.md shows them.
