#!/usr/bin/env bash
# Makes .venv and installs the project in it, editable, with its Rust module built for release.
#
#   venv.sh run|test     test adds what the tests need
#
# The installation is repeated only when pyproject.toml has changed, the build every time:
# cargo knows what is new. Build products stay outside the clone, in CARGO_TARGET_DIR.
set -euo pipefail
cd "$(dirname "$0")/../.."
what=${1:-run}
case $what in
  run) extras=() ;;
  test) extras=(--extras test) ;;
  *) echo "venv.sh: say run or test" >&2; exit 2 ;;
esac
export PATH=$PATH:$HOME/.cargo/bin
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$HOME/.cache/sds/target}
export VIRTUAL_ENV=$PWD/.venv
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
[ -x .venv/bin/python ] || python3 -m venv .venv
sum=$(sha256sum pyproject.toml | cut -d' ' -f1)
stamp=.venv/installed
installed=$(cat "$stamp" 2>/dev/null || true)
if [ "$installed" = "$sum test" ] || [ "$installed" = "$sum $what" ]; then
  exec .venv/bin/maturin develop --release --quiet --skip-install
fi
.venv/bin/python -m pip install -q 'maturin>=1.7,<2'
.venv/bin/maturin develop --release "${extras[@]}"
echo "$sum $what" > "$stamp"
