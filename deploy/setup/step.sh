#!/usr/bin/env bash
# step.sh NAME CMD...: runs one step of the suite and prints how long it took.
set -euo pipefail
name=$1; shift
echo "== $name"
began=$SECONDS
"$@"
echo "== $name: $((SECONDS - began)) s"
