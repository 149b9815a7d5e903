#!/usr/bin/env bash
# Builds cargo-fuzz, always the same version, into a folder outside the clone; does nothing if it is there.
set -euo pipefail
version=0.13.2
root=$HOME/.cache/sds/tools
export PATH=$PATH:$HOME/.cargo/bin
found=$("$root/bin/cargo-fuzz" --version 2>/dev/null || true)
[ "$found" = "cargo-fuzz $version" ] || cargo install cargo-fuzz --locked --quiet --version "=$version" --root "$root"
