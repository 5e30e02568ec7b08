"""The engine: machines, turns, narrators and the journal. It knows nothing of HTTP."""

import atexit
import ctypes

import msgspec


def _keep(kind: type) -> None:
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(kind))
    subclasses: list[type] = kind.__subclasses__()
    for each in subclasses:
        _keep(each)


# msgspec can crash Python when the very last collection clears Struct types that name each other
# (in StructMeta_clear, seen with 0.20 to 0.22): one reference more keeps them out of it.
atexit.register(_keep, msgspec.Struct)
