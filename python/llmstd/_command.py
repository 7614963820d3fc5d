"""The command ``llmstd``."""

import signal
import sys


def main() -> "NoReturn":  # noqa: F821
    """Runs the command line of this process, and ends it with its status."""
    from . import _llmstd

    # Python turns Ctrl-C into an exception that native code never sees; the command line waits for
    # signals itself. What started this process may have it ignore them, which stays so.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    sys.exit(_llmstd.main(["llmstd", *sys.argv[1:]]))
