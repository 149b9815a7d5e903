"""`python -m sds.gateway`: the gateway process."""

import sys

from sds.config import from_arguments
from sds.gateway.app import main
from sds.process import run_child

if __name__ == "__main__":
    sys.exit(run_child("gateway", from_arguments("sds.gateway"), main))
