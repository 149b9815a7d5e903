"""`sds upgrade`: a data folder of an older format becomes one of this program's.

In the order in which a folder meets them:

| module | what it holds |
|---|---|
| `trees` | copies of folders: durable, verified, or with links to files that never change |
| `steps` | one function for each change of format |
| `checking` | whether every row and document can be read |
| `switching` | the new tree takes the place of the old one |
| `run` | the command as a whole |

The steps work on a copy (DIR/upgrading/new), which a crash makes worthless and the next run makes anew; so a step need
not care for crashes. The old tree stays as it was until the copy is complete, checked and durable and a backup was
made; then it is moved away and the copy is moved in, by renames. The first of them decides: before it the folder is of
the old format, after it only `sds upgrade` takes it, and finishes. The price is room for a backup and for a copy of
what RocksDB may change in place; its tables, which it never changes, are linked.
"""
