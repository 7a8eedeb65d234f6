"""The ``lstmx`` command.

It stands beside the package so that an error of ``import lstmx`` is a line, not a traceback: an LSTMX_ENGINE or
LSTMX_ISA that there is not, or a package that is missing.
"""

import sys


def main():
    """Entry point; returns the exit status."""
    try:
        from lstmx import cli
    except ImportError as error:
        print(f"lstmx: {error}", file=sys.stderr)
        return 1
    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
