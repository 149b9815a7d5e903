"""`python -m sds.tiering`: the tiering process."""

import sys

from sds.config import from_arguments
from sds.process import run_child
from sds.tiering.loop import main

if __name__ == "__main__":
    sys.exit(run_child("tiering", from_arguments("sds.tiering"), main))
