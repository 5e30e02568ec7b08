"""The engine: machines, turns, narrators and the journal. It knows nothing of HTTP."""

import atexit
import gc

# msgspec's Meta objects can crash the interpreter when a collection at its very end frees them
# (github.com/msgspec/msgspec, issue 717): frozen objects are passed over by that collection.
atexit.register(gc.freeze)
