"""`python -m trio_isolates`: the command line."""

from trio_isolates._cli import main

if __name__ == "__main__":
    raise SystemExit(main())
