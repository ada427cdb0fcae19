# SPDX-License-Identifier: Apache-2.0
"""A reader of Python pickles as data: it imports nothing and calls nothing that the pickle names.

A pickle is a program for a small stack machine, two of whose instructions look up a global and call it.
Here a looked-up global is only a name (``Global``), and a call is looked up in a table that the caller gives
(which maps the few names that tensors need to functions of porter's own); every other call is kept as a
``Stub``: what would have been called, and with what. So there is nothing that a hostile file could choose to
run, whatever the table of dangerous names (``danger``) says; that table only serves to tell the user.

Work and memory are bounded by the size of the file and by ``MAX_STEPS``. The instruction set is the one of
CPython's ``pickletools`` (protocols 0 to 5).
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Callable, Mapping
from typing import Any

#: Instructions in one pickle. A training checkpoint of 10,000 tensors with its optimizer takes 1 million.
MAX_STEPS = 10_000_000
#: Dictionary keys and set members that are not text, bytes or small integers. Hashes of others can be chosen
#: so that they collide, which makes a dictionary quadratic.
MAX_ODD_KEYS = 10_000
#: Letters of a global's name.
MAX_NAME = 4096


class Damaged(Exception):
    """The bytes are not what their format requires."""


class Excessive(Exception):
    """The bytes declare more than they hold, or more work than any honest file takes."""


class Global:
    """A name that the pickle refers to. Never imported."""

    __slots__ = ("path",)

    def __init__(self, path: str) -> None:
        self.path = path


class Stub:
    """An object whose class or function is not in the table: its name, and the data it was made of."""

    __slots__ = ("args", "items", "pairs", "path", "state")

    def __init__(self, path: str, args: tuple[Any, ...]) -> None:
        self.path = path
        self.args = args
        self.state: Any = None
        self.items: list[Any] = []
        self.pairs: dict[Any, Any] = {}

    def set_state(self, state: Any) -> None:
        self.state = state


class Ordered(dict[Any, Any]):
    """A dictionary with attributes: an OrderedDict, or another subclass of dict."""

    def __init__(self, pairs: Mapping[Any, Any] | None = None) -> None:
        super().__init__(pairs or {})
        self.state: Any = None

    def set_state(self, state: Any) -> None:
        self.state = state


Builder = Callable[[tuple[Any, ...]], Any]

_MARK = object()
_SIZED = (str, bytes, list, tuple, dict, set, frozenset)


class Reader:
    """Reads the pickles that lie one after the other in ``data``.

    Args:
        data: the bytes, or a read-only map of a file.
        builders: global name → a function of porter's that makes the value of a call with these arguments.
        persistent: makes the value of a persistent id (torch's storages).
        on_global: told of each name that is looked up; it may raise.

    Attributes:
        globals: the names looked up, in the order of their first appearance.
    """

    def __init__(
        self,
        data: bytes | mmap.mmap,
        builders: Mapping[str, Builder],
        persistent: Callable[[Any], Any] | None = None,
        on_global: Callable[[str], None] | None = None,
    ) -> None:
        self._data = data
        self._builders = builders
        self._persistent = persistent
        self._on_global = on_global
        self._pos = 0
        self._end = len(data)
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._odd_keys = 0
        self._work = 0
        self.globals: dict[str, Global] = {}

    def load(self, start: int = 0, end: int | None = None) -> tuple[Any, int]:
        """The value of the pickle at ``start``, and the offset after it.

        Raises:
            Damaged: it is not a pickle, or ends before its STOP, or does what no pickler does.
            Excessive: it has more instructions than MAX_STEPS.
        """
        self._pos = start
        self._end = len(self._data) if end is None else min(end, len(self._data))
        self._stack = []
        self._memo = {}
        stop = ord(".")
        for _ in range(MAX_STEPS):
            if self._pos >= self._end:
                raise Damaged("the pickle ends before its end mark")
            code = self._data[self._pos]
            self._pos += 1
            if code == stop:
                return self._pop(), self._pos
            step = _STEPS[code]
            if step is None:
                raise Damaged(f"0x{code:02x} is not an instruction of a pickle")
            step(self)
        raise Excessive(f"the pickle has more than {MAX_STEPS} instructions")

    # ---- reading
    def _take(self, count: int) -> bytes:
        after = self._pos + count
        if count < 0 or after > self._end:
            raise Damaged("the pickle ends inside a value")
        piece = self._data[self._pos : after]
        self._pos = after
        return piece

    def _number(self, layout: str) -> int:
        value: int = struct.unpack(layout, self._take(struct.calcsize(layout)))[0]
        return value

    def _line(self) -> bytes:
        at = self._data.find(b"\n", self._pos, self._end)
        if at < 0:
            raise Damaged("the pickle ends inside a line")
        line = self._data[self._pos : at]
        self._pos = at + 1
        return line

    # ---- the stack
    def _pop(self) -> Any:
        if not self._stack or self._stack[-1] is _MARK:
            raise Damaged("the pickle takes a value from an empty stack")
        return self._stack.pop()

    def _top(self) -> Any:
        if not self._stack or self._stack[-1] is _MARK:
            raise Damaged("the pickle refers to a value on an empty stack")
        return self._stack[-1]

    def _to_mark(self) -> list[Any]:
        stack = self._stack
        at = len(stack) - 1
        while at >= 0 and stack[at] is not _MARK:
            at -= 1
        if at < 0:
            raise Damaged("the pickle lacks a mark")
        items = stack[at + 1 :]
        del stack[at:]
        return items

    def _push_text(self, raw: bytes) -> None:
        try:
            self._stack.append(raw.decode("utf-8", "surrogatepass"))
        except UnicodeDecodeError as error:
            raise Damaged("text in the pickle is not UTF-8") from error

    # ---- names and calls
    def _look_up(self, module: str, name: str) -> None:
        if len(module) + len(name) > MAX_NAME:
            raise Damaged("a name in the pickle has thousands of letters")
        path = f"{module}.{name}"
        found = self.globals.get(path)
        if found is None:
            if self._on_global is not None:
                self._on_global(path)
            found = self.globals[path] = Global(path)
        self._stack.append(found)

    def _call(self, function: Any, args: Any) -> Any:
        if not isinstance(args, tuple):
            raise Damaged("a call in the pickle has no tuple of arguments")
        if isinstance(function, Global):
            build = self._builders.get(function.path)
            if build is None:
                return Stub(function.path, args)
            # A builder may copy its arguments, and the pickle may pass the same large one again and again.
            self._work += sum(len(part) for part in args if isinstance(part, _SIZED))
            if self._work > 64 * len(self._data):
                raise Excessive("the pickle passes large values to calls again and again")
            return build(args)
        if isinstance(function, Stub):  # such as the result of getattr
            return Stub(function.path, (function, *args))
        raise Damaged("the pickle calls something that is not a name")

    def _global_line(self) -> tuple[str, str]:
        try:
            return self._line().decode("utf-8"), self._line().decode("utf-8")
        except UnicodeDecodeError as error:
            raise Damaged("a name in the pickle is not UTF-8") from error

    # ---- containers
    def _key(self, key: Any) -> Any:
        if isinstance(key, (str, bytes)) or key is None:
            return key
        if isinstance(key, int) and -(1 << 60) < key < (1 << 60):
            return key
        self._odd_keys += 1
        if self._odd_keys > MAX_ODD_KEYS:
            raise Excessive(f"the pickle has more than {MAX_ODD_KEYS} unusual dictionary keys")
        if isinstance(key, (tuple, frozenset)):
            # The hash of a tuple visits every path to a leaf: 2^100 of them in (t, t) nested 100 times.
            waiting, seen = [key], 0
            while waiting:
                part = waiting.pop()
                seen += 1
                if seen > 1000:
                    raise Excessive("a dictionary key in the pickle is nested too much")
                if isinstance(part, (tuple, frozenset)):
                    waiting.extend(part)
                else:
                    self._check_hashable(part)
        else:
            self._check_hashable(key)
        return key

    @staticmethod
    def _check_hashable(key: Any) -> None:
        if isinstance(key, (list, dict, set, bytearray)):
            raise Damaged("a dictionary key in the pickle is not hashable")
        if isinstance(key, int) and key.bit_length() > 1024:  # the hash of an int is not kept
            raise Excessive("a dictionary key in the pickle is an integer of thousands of digits")

    def _set_items(self, target: Any, items: list[Any]) -> None:
        if isinstance(target, Stub):
            target = target.pairs
        if not isinstance(target, dict) or len(items) % 2:
            raise Damaged("the pickle sets items of something that is not a dictionary")
        for at in range(0, len(items), 2):
            target[self._key(items[at])] = items[at + 1]

    def _append(self, target: Any, items: list[Any]) -> None:
        if isinstance(target, Stub):
            target = target.items
        if isinstance(target, set):
            target.update(self._key(item) for item in items)
        elif isinstance(target, list):
            target.extend(items)
        else:
            raise Damaged("the pickle appends to something that is not a list")

    # ---- the instructions, by the names of pickletools
    def mark(self) -> None:
        self._stack.append(_MARK)

    def pop(self) -> None:
        if not self._stack:
            raise Damaged("the pickle takes a value from an empty stack")
        self._stack.pop()

    def pop_mark(self) -> None:
        self._to_mark()

    def dup(self) -> None:
        self._stack.append(self._top())

    def proto(self) -> None:
        if self._number("<B") > 5:
            raise Damaged("the pickle has a protocol newer than 5")

    def frame(self) -> None:
        self._take(8)  # its length helps a reader that prefetches; this one does not

    def none(self) -> None:
        self._stack.append(None)

    def true(self) -> None:
        self._stack.append(True)

    def false(self) -> None:
        self._stack.append(False)

    def int_line(self) -> None:
        line = self._line()
        if line in (b"00", b"01"):
            self._stack.append(line == b"01")
        else:
            self._stack.append(self._decimal(line))

    def long_line(self) -> None:
        self._stack.append(self._decimal(self._line().removesuffix(b"L")))

    @staticmethod
    def _decimal(line: bytes) -> int:
        if len(line) > 4000:  # decimal text takes quadratic time
            raise Excessive("an integer in the pickle has thousands of digits")
        try:
            return int(line)
        except ValueError as error:
            raise Damaged("a number in the pickle is not one") from error

    def binint(self) -> None:
        self._stack.append(self._number("<i"))

    def binint1(self) -> None:
        self._stack.append(self._number("<B"))

    def binint2(self) -> None:
        self._stack.append(self._number("<H"))

    def long1(self) -> None:
        self._stack.append(int.from_bytes(self._take(self._number("<B")), "little", signed=True))

    def long4(self) -> None:
        self._stack.append(int.from_bytes(self._take(self._number("<i")), "little", signed=True))

    def float_line(self) -> None:
        try:
            self._stack.append(float(self._line()))
        except ValueError as error:
            raise Damaged("a number in the pickle is not one") from error

    def binfloat(self) -> None:
        self._stack.append(struct.unpack(">d", self._take(8))[0])

    def string_line(self) -> None:
        line = self._line().strip()
        if len(line) < 2 or line[:1] != line[-1:] or line[:1] not in (b"'", b'"'):
            raise Damaged("a string in the pickle lacks its quotes")
        try:
            # Python 2's text was bytes; latin-1 keeps each of them, so that array data survives.
            self._stack.append(line[1:-1].decode("unicode_escape"))
        except UnicodeDecodeError as error:
            raise Damaged("a string in the pickle has a bad escape") from error

    def binstring(self) -> None:
        self._stack.append(self._take(self._number("<i")).decode("latin-1"))

    def short_binstring(self) -> None:
        self._stack.append(self._take(self._number("<B")).decode("latin-1"))

    def unicode_line(self) -> None:
        try:
            self._stack.append(self._line().decode("raw_unicode_escape"))
        except UnicodeDecodeError as error:
            raise Damaged("text in the pickle has a bad escape") from error

    def short_binunicode(self) -> None:
        self._push_text(self._take(self._number("<B")))

    def binunicode(self) -> None:
        self._push_text(self._take(self._number("<I")))

    def binunicode8(self) -> None:
        self._push_text(self._take(self._number("<Q")))

    def short_binbytes(self) -> None:
        self._stack.append(self._take(self._number("<B")))

    def binbytes(self) -> None:
        self._stack.append(self._take(self._number("<I")))

    def binbytes8(self) -> None:
        self._stack.append(self._take(self._number("<Q")))

    def bytearray8(self) -> None:
        self._stack.append(self._take(self._number("<Q")))

    def next_buffer(self) -> None:
        raise Damaged("the pickle keeps data out of band, in a buffer that is not in the file")

    def readonly_buffer(self) -> None:
        self._top()

    def empty_list(self) -> None:
        self._stack.append([])

    def empty_dict(self) -> None:
        self._stack.append({})

    def empty_set(self) -> None:
        self._stack.append(set())

    def empty_tuple(self) -> None:
        self._stack.append(())

    def list_(self) -> None:
        self._stack.append(self._to_mark())

    def tuple_(self) -> None:
        self._stack.append(tuple(self._to_mark()))

    def dict_(self) -> None:
        items = self._to_mark()
        made: dict[Any, Any] = {}
        self._set_items(made, items)
        self._stack.append(made)

    def frozenset_(self) -> None:
        self._stack.append(frozenset(self._key(item) for item in self._to_mark()))

    def tuple1(self) -> None:
        self._stack.append((self._pop(),))

    def tuple2(self) -> None:
        last = self._pop()
        self._stack.append((self._pop(), last))

    def tuple3(self) -> None:
        last, middle = self._pop(), self._pop()
        self._stack.append((self._pop(), middle, last))

    def append(self) -> None:
        item = self._pop()
        self._append(self._top(), [item])

    def appends(self) -> None:
        items = self._to_mark()
        self._append(self._top(), items)

    def setitem(self) -> None:
        value, key = self._pop(), self._pop()
        self._set_items(self._top(), [key, value])

    def setitems(self) -> None:
        items = self._to_mark()
        self._set_items(self._top(), items)

    def put(self) -> None:
        index = self._decimal(self._line())
        if not 0 <= index < 1 << 32:
            raise Damaged("the pickle stores a value under an index that no pickler uses")
        self._memo[index] = self._top()

    def binput(self) -> None:
        self._memo[self._number("<B")] = self._top()

    def long_binput(self) -> None:
        self._memo[self._number("<I")] = self._top()

    def memoize(self) -> None:
        self._memo[len(self._memo)] = self._top()

    def _recall(self, index: int) -> None:
        if index not in self._memo:
            raise Damaged("the pickle refers to a value that it has not stored")
        self._stack.append(self._memo[index])

    def get(self) -> None:
        self._recall(self._decimal(self._line()))

    def binget(self) -> None:
        self._recall(self._number("<B"))

    def long_binget(self) -> None:
        self._recall(self._number("<I"))

    def persid(self) -> None:
        self._persist(self._line().decode("latin-1"))

    def binpersid(self) -> None:
        self._persist(self._pop())

    def _persist(self, key: Any) -> None:
        if self._persistent is None:
            raise Damaged("the pickle refers to a storage that the file cannot have")
        self._stack.append(self._persistent(key))

    def global_(self) -> None:
        self._look_up(*self._global_line())

    def stack_global(self) -> None:
        name, module = self._pop(), self._pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise Damaged("a name in the pickle is not text")
        self._look_up(module, name)

    def ext1(self) -> None:
        self._look_up("copyreg", f"extension_{self._number('<B')}")

    def ext2(self) -> None:
        self._look_up("copyreg", f"extension_{self._number('<H')}")

    def ext4(self) -> None:
        self._look_up("copyreg", f"extension_{self._number('<i')}")

    def inst(self) -> None:
        self._look_up(*self._global_line())
        function = self._pop()
        self._stack.append(self._call(function, tuple(self._to_mark())))

    def obj(self) -> None:
        items = self._to_mark()
        if not items:
            raise Damaged("the pickle makes an object of nothing")
        self._stack.append(self._call(items[0], tuple(items[1:])))

    def reduce(self) -> None:
        args = self._pop()
        self._stack.append(self._call(self._pop(), args))

    def newobj_ex(self) -> None:
        keywords, args = self._pop(), self._pop()
        function = self._pop()
        if not isinstance(keywords, dict):
            raise Damaged("a call in the pickle has no dictionary of keywords")
        made = self._call(function, args)
        if isinstance(made, Stub):
            made.pairs = keywords
        self._stack.append(made)

    def build(self) -> None:
        state = self._pop()
        target = self._top()
        if hasattr(target, "set_state"):
            target.set_state(state)
        elif isinstance(target, (Global, type(None), bool, int, float, str, bytes, tuple, list, dict, set)):
            raise Damaged("the pickle gives a state to a plain value")


def _steps() -> list[Callable[[Reader], None] | None]:
    table: dict[int, Callable[[Reader], None]] = {
        ord("("): Reader.mark, ord("0"): Reader.pop, ord("1"): Reader.pop_mark, ord("2"): Reader.dup,
        ord("F"): Reader.float_line, ord("I"): Reader.int_line, ord("J"): Reader.binint,
        ord("K"): Reader.binint1, ord("L"): Reader.long_line, ord("M"): Reader.binint2, ord("N"): Reader.none,
        ord("P"): Reader.persid, ord("Q"): Reader.binpersid, ord("R"): Reader.reduce,
        ord("S"): Reader.string_line, ord("T"): Reader.binstring, ord("U"): Reader.short_binstring,
        ord("V"): Reader.unicode_line, ord("X"): Reader.binunicode, ord("a"): Reader.append,
        ord("b"): Reader.build, ord("c"): Reader.global_, ord("d"): Reader.dict_, ord("}"): Reader.empty_dict,
        ord("e"): Reader.appends, ord("g"): Reader.get, ord("h"): Reader.binget, ord("i"): Reader.inst,
        ord("j"): Reader.long_binget, ord("l"): Reader.list_, ord("]"): Reader.empty_list,
        ord("o"): Reader.obj, ord("p"): Reader.put, ord("q"): Reader.binput, ord("r"): Reader.long_binput,
        ord("s"): Reader.setitem, ord("t"): Reader.tuple_, ord(")"): Reader.empty_tuple,
        ord("u"): Reader.setitems, ord("G"): Reader.binfloat, ord("B"): Reader.binbytes,
        ord("C"): Reader.short_binbytes,
        0x80: Reader.proto, 0x81: Reader.reduce, 0x82: Reader.ext1, 0x83: Reader.ext2, 0x84: Reader.ext4,
        0x85: Reader.tuple1, 0x86: Reader.tuple2, 0x87: Reader.tuple3, 0x88: Reader.true, 0x89: Reader.false,
        0x8A: Reader.long1, 0x8B: Reader.long4, 0x8C: Reader.short_binunicode, 0x8D: Reader.binunicode8,
        0x8E: Reader.binbytes8, 0x8F: Reader.empty_set, 0x90: Reader.appends, 0x91: Reader.frozenset_,
        0x92: Reader.newobj_ex, 0x93: Reader.stack_global, 0x94: Reader.memoize, 0x95: Reader.frame,
        0x96: Reader.bytearray8, 0x97: Reader.next_buffer, 0x98: Reader.readonly_buffer,
    }  # fmt: skip
    return [table.get(code) for code in range(256)]


_STEPS = _steps()

# Modules that no set of weights refers to, and through which a pickle runs commands, imports or opens files.
_DANGEROUS_MODULES = frozenset(
    (
        "os", "posix", "nt", "subprocess", "sys", "importlib", "imp", "runpy", "socket", "shutil",
        "ctypes", "pty", "commands", "popen2", "webbrowser", "code", "codeop", "pdb", "bdb",
        "timeit", "cProfile", "profile", "trace", "pickle", "_pickle", "cPickle", "marshal",
        "shelve", "nturl2path", "smtplib", "ftplib", "telnetlib", "urllib", "urllib2", "http",
        "requests", "httpx", "aiohttp", "pip",
    )
)  # fmt: skip
_DANGEROUS_ANYWHERE = frozenset(
    (
        "os", "posix", "nt", "subprocess", "sys", "builtins", "__builtin__", "importlib", "ctypes",
    )
)  # fmt: skip
_DANGEROUS_BUILTINS = frozenset(
    (
        "eval", "exec", "execfile", "compile", "__import__", "open", "input", "raw_input",
        "breakpoint", "apply", "globals", "locals", "setattr", "delattr", "exit", "quit", "help",
        "file", "reload",
    )
)  # fmt: skip
_DANGEROUS_NAMES = (
    "io.open", "_io.open", "io.FileIO", "_io.FileIO", "codecs.open", "types.FunctionType", "types.CodeType",
    "types.LambdaType", "numpy.f2py", "numpy.testing", "numpy.load", "numpy.distutils",
    "numpy.fromfile", "numpy.memmap", "torch.load", "torch.hub", "torch.jit.load",
    "torch.serialization.load", "torch.utils.cpp_extension", "torch.utils.collect_env", "torch._inductor",
    "torch.ops.load_library", "torch.classes.load_library", "torch.storage._load_from_file",
)  # fmt: skip


def danger(path: str) -> bool:
    """Whether a global lets the pickle run commands, import modules or open files when it is called.

    Names that are not known (a project's own classes) are not dangerous by this test: what they do when they
    are called cannot be known from the file.
    """
    parts = path.split(".")
    if parts[0] == "__torch__":  # TorchScript's own types, which no Python module has
        return False
    if parts[0] in ("builtins", "__builtin__"):
        return len(parts) < 2 or parts[1] in _DANGEROUS_BUILTINS or parts[1].startswith("__")
    if parts[0] in _DANGEROUS_MODULES or _DANGEROUS_ANYWHERE.intersection(parts[1:]):
        return True
    return any(path == name or path.startswith(f"{name}.") for name in _DANGEROUS_NAMES)
