"""Reads a pickle from the internet that holds built-in containers and values, and nothing else.

The unpickler knows no class and no function: a downloaded file cannot run code. It is the one of the standard library
written in Python, because the one in C sets aside memory for a memo number it has merely read. Keys are text, so that
no key takes long to hash. Strings of Python 2 are taken as latin-1.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

from l2l_ray.errors import DataError


def plain_records(path: Path) -> Sequence[Any]:
    """Return the unchecked items of a pickled list that holds built-in values only.

    Raises:
        DataError: If the pickle is damaged, asks for anything but built-in values, or is no list.
    """
    try:
        records = _PlainUnpickler(io.BytesIO(path.read_bytes()), encoding="latin-1").load()
    # A damaged pickle can raise almost anything, says the documentation of pickle.
    except Exception as error:
        raise DataError(
            f"{path} cannot be read as a plain pickle: {error}; expected a list of dicts of str, bytes, int, "
            "float, bool and None; download it again, or rewrite it with built-in types only"
        ) from error
    if not isinstance(records, list | tuple):
        raise DataError(f"{path} must hold a list of refs, got {type(records).__name__}; download it again")
    return records


# Everything else builds sets or objects, or calls something. Names and outside objects are let through to the two
# methods below, which refuse them by name.
_PLAIN_OPCODES = b"".join(
    (
        *(pickle.PROTO, pickle.FRAME, pickle.STOP, pickle.MARK, pickle.POP, pickle.POP_MARK, pickle.DUP),
        *(pickle.NONE, pickle.NEWTRUE, pickle.NEWFALSE, pickle.FLOAT, pickle.BINFLOAT),
        *(pickle.INT, pickle.BININT, pickle.BININT1, pickle.BININT2, pickle.LONG, pickle.LONG1, pickle.LONG4),
        *(pickle.STRING, pickle.BINSTRING, pickle.SHORT_BINSTRING),
        *(pickle.UNICODE, pickle.BINUNICODE, pickle.SHORT_BINUNICODE, pickle.BINUNICODE8),
        *(pickle.BINBYTES, pickle.SHORT_BINBYTES, pickle.BINBYTES8),
        *(pickle.EMPTY_LIST, pickle.LIST, pickle.APPEND, pickle.APPENDS),
        *(pickle.EMPTY_TUPLE, pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3),
        *(pickle.EMPTY_DICT, pickle.DICT, pickle.SETITEM, pickle.SETITEMS),
        *(pickle.GET, pickle.BINGET, pickle.LONG_BINGET),
        *(pickle.PUT, pickle.BINPUT, pickle.LONG_BINPUT, pickle.MEMOIZE),
        *(pickle.GLOBAL, pickle.STACK_GLOBAL, pickle.PERSID, pickle.BINPERSID),
    )
)


_LOADERS: dict[int, Callable[[Any], None]] = pickle._Unpickler.dispatch


class _PlainUnpickler(pickle._Unpickler):
    """Builds built-in containers and values only; a pickle that names any class or function is refused."""

    stack: list[Any]

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which could run code")

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("it refers to an object outside the file")

    def _refuse(self) -> None:
        raise pickle.UnpicklingError("it builds sets or objects")

    def _set_item(self) -> None:
        self._require_text(self.stack[-2:-1])
        _LOADERS[pickle.SETITEM[0]](self)

    def _set_items(self) -> None:
        self._require_text(self.stack[::2])
        _LOADERS[pickle.SETITEMS[0]](self)

    def _dict(self) -> None:
        self._require_text(self.stack[::2])
        _LOADERS[pickle.DICT[0]](self)

    def _require_text(self, keys: list[Any]) -> None:
        # Nested tuples that share their parts, and integers chosen to collide, take time without bound as keys.
        if not all(isinstance(key, str | bytes) for key in keys):
            raise pickle.UnpicklingError("a dict has a key that is not text")

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = {
        **dict.fromkeys(range(256), _refuse),
        **{opcode: _LOADERS[opcode] for opcode in _PLAIN_OPCODES},
        pickle.SETITEM[0]: _set_item,
        pickle.SETITEMS[0]: _set_items,
        pickle.DICT[0]: _dict,
    }
