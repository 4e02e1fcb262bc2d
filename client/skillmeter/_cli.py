"""The console script `skillmeter`: the daemon's command line, or a line on what to install to have it."""

import sys


def main() -> None:
    """Run the command line. Exits 2 if the packages of the daemon are not installed, 130 after Ctrl-C."""
    try:
        from skillmeterd.cli import main as run

        run()
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing in ("", "skillmeter", "skillmeterd"):  # ours: they are in every install, so this is a bug
            raise
        print(
            f"skillmeter: the command line needs more than the client ({missing} is missing):"
            " pip install 'skillmeter[daemon]'",
            file=sys.stderr,
        )
        sys.exit(2)
    except KeyboardInterrupt:  # while modules are loaded; afterwards the command line's frame sees to it
        print(file=sys.stderr)
        sys.exit(130)
