"""`python -m sds.cli`."""

from sds.cli import main

main()
