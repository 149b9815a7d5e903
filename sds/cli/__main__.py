"""`python -m sds.cli`: the `sds` command."""

from sds.cli.main import main

if __name__ == "__main__":
    main()
