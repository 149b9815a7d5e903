"""`python -m sds.engine`: the engine process."""

import sys

from sds.config import from_arguments
from sds.engine.engine import main
from sds.process import run_child

if __name__ == "__main__":
    sys.exit(run_child("engine", from_arguments("sds.engine"), main))
