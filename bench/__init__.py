"""What the product costs and how fast it is, measured on the machine at hand.

    make bench                                      # a short version of everything, one table
    .venv/bin/python -m bench.first_light           # IOPS and processor time, beside targets that only answer
    .venv/bin/python -m bench.restart --mapped 10T  # from kill -9 to served I/O with large volumes fully mapped
    .venv/bin/python -m bench.journal_loss          # the pause when a disk of the journal fails
    .venv/bin/python -m bench.memory                # memory of idle volumes and connections
    .venv/bin/python -m bench.attack                # what a host has of a node under attack, and the node's memory

Each starts an `sds serve` of its own on loopback with a temporary data folder, measures it over NVMe/TCP, removes what
it made and takes `--json FILE` for all figures and `--help`. They need `make set-up-run`; they build the programs of
bench/load themselves. Results, and what they were measured on, are in docs/BENCHMARKS.md.

| module | what it holds |
|---|---|
| `programs` | the programs of bench/load |
| `node` | an `sds serve` that is started, killed and asked |
| `hostile`, `attacks` | PDUs laid out by hand; what hostile and broken hosts do with them |
| `loops` | a disk that fails and comes back |
| `sparse` | a file that is a disk larger than the machine's own |
| `report` | facts about the machine, tables |
"""
