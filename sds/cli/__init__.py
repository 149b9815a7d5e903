"""The `sds` command: a thin client of REST, and `sds serve` and `sds upgrade`, which are none.

Exit status: 0 done; 1 refused or failed, the message says why; 2 the command line is not understood (typer's);
3 the gateway can't be reached; 4 a confirmation was refused or could not be asked for.
"""

from sds.cli.main import main

__all__ = ["main"]
