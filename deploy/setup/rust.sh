#!/usr/bin/env bash
# Checks that a Rust toolchain is there and new enough, and says how to get one.
# It installs nothing: a toolchain belongs to the person, not to this project.
set -euo pipefail
wanted=1.85
how="get it with rustup (https://rustup.rs), for all that the project needs:
    rustup toolchain install stable --profile minimal --component rustfmt --component clippy && rustup default stable"
PATH=$PATH:$HOME/.cargo/bin
if ! command -v cargo >/dev/null || ! command -v rustc >/dev/null; then
  printf 'sds needs Rust %s or later and there is none on PATH: %s\n' "$wanted" "$how" >&2
  exit 1
fi
found=$(rustc --version | cut -d' ' -f2)
if [ "$(printf '%s\n%s\n' "$wanted" "$found" | sort -V | head -1)" != "$wanted" ]; then
  printf 'sds needs Rust %s or later and this is %s (%s): %s\n' "$wanted" "$found" "$(command -v rustc)" "$how" >&2
  exit 1
fi
