"""What every test may count on, however the tests were started."""

import signal

# a shell ignores Ctrl+C for what it puts into the background, and children inherit that: tests of signals need Python's own
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
