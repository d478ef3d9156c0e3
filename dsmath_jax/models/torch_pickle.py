"""Reads torch .bin shards without torch and without running what is in them.

A shard is a zip archive of `NAME/data.pkl` (a pickled dict of tensors) and `NAME/data/KEY` (the
bytes of each storage, uncompressed). Unpickling runs whatever functions a pickle names, so it is
not unpickled here: a small interpreter knows the few opcodes that a dict of tensors needs, builds
dicts, lists, tuples, numbers and strings, and calls nothing. The three functions and the storage
types that torch's own pickles name are recognised by name; any other name is refused.
"""

from __future__ import annotations

import dataclasses
import pathlib
import pickletools
import struct
import zipfile
import zlib
from typing import Any

from dsmath_jax.models.tensor_file import DTYPES, MappedFile, StoredTensor

_STORAGES = {  # type -> (dtype, bytes an element)
    "BFloat16Storage": ("bfloat16", 2),
    "HalfStorage": ("float16", 2),
    "FloatStorage": ("float32", 4),
    "DoubleStorage": ("float64", 8),
    "LongStorage": ("int64", 8),
    "IntStorage": ("int32", 4),
    "ShortStorage": ("int16", 2),
    "CharStorage": ("int8", 1),
    "ByteStorage": ("uint8", 1),
    "BoolStorage": ("bool", 1),
}
_FUNCTIONS = (
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_parameter",
    "collections.OrderedDict",
)
_LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19"
_MAX_PICKLE = 64 << 20


@dataclasses.dataclass(frozen=True)
class _Global:
    name: str


@dataclasses.dataclass(frozen=True)
class _Storage:
    kind: str
    key: str
    numel: int


@dataclasses.dataclass(frozen=True)
class _Tensor:
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Refused(ValueError):
    pass


def read_torch(path: pathlib.Path) -> dict[str, StoredTensor]:
    """The tensors of a .bin file, by name; none is read yet.

    Raises:
      ValueError: the file is truncated, damaged, of another format, or names anything to run.
    """
    file = MappedFile(path)
    if file.read(0, len(_LEGACY_MAGIC)) == _LEGACY_MAGIC:
        raise ValueError(
            f"{path} is in torch's format from before version 1.6: save it again where torch is "
            "installed, torch.save(torch.load(path, weights_only=True), path)"
        )
    if file.read(0, 4) != b"PK\x03\x04":
        raise ValueError(f"{path} ({file.size} bytes) is not a torch file: it is not a zip archive")
    entries = _zip_entries(file)
    pickles = [n for n in entries if n.count("/") == 1 and n.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise ValueError(f"{path} is not a torch file: it holds {len(pickles)} data.pkl, not one")
    root = pickles[0].removesuffix("data.pkl")
    if root + "byteorder" in entries and file.read(*entries[root + "byteorder"]) != b"little":
        raise ValueError(f"{path} was saved on a big-endian machine, which is not implemented")
    start, size = entries[pickles[0]]
    if size > _MAX_PICKLE:
        raise ValueError(f"{path}: data.pkl has {size} bytes, more than {_MAX_PICKLE}: refused")
    try:
        content = _interpret(file.read(start, size))
        return _tensors(content, file, entries, root)
    except _Refused as e:
        raise ValueError(f"{path}: {e}") from None
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError, struct.error):
        raise ValueError(f"{path} is damaged: its data.pkl does not parse; get it again") from None


def _zip_entries(file: MappedFile) -> dict[str, tuple[int, int]]:
    """(start, size) of each entry's bytes within the file."""
    try:
        with zipfile.ZipFile(file.path) as archive:
            infos = archive.infolist()
    except (
        zipfile.BadZipFile,
        NotImplementedError,
        ValueError,
        OverflowError,
        struct.error,
        zlib.error,
        EOFError,
        OSError,
    ):
        raise ValueError(
            f"{file.path} is truncated or damaged: {file.size} bytes, without the table of "
            "contents that ends a zip archive; get it again"
        ) from None
    entries = {}
    for info in infos:
        header = file.read(info.header_offset, 30) if info.header_offset >= 0 else b""
        if len(header) < 30 or header[:4] != b"PK\x03\x04":
            raise ValueError(
                f"{file.path} is damaged: entry {info.filename!a} is not where it should be; get "
                "the file again"
            )
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
            raise ValueError(
                f"{file.path}: entry {info.filename!a} is compressed or encrypted, which torch "
                "never does; get the file again"
            )
        name_length, extra_length = struct.unpack("<HH", header[26:])
        start = info.header_offset + 30 + name_length + extra_length
        if info.file_size < 0 or start + info.file_size > file.size:
            raise ValueError(
                f"{file.path} is truncated: {file.size} bytes, expected at least "
                f"{start + info.file_size} for entry {info.filename!a}; get it again"
            )
        entries[info.filename] = (start, info.file_size)
    return entries


def _tensors(
    content: Any, file: MappedFile, entries: dict[str, tuple[int, int]], root: str
) -> dict[str, StoredTensor]:
    if not isinstance(content, dict):
        raise _Refused("its content is not a dict of tensors; save model.state_dict()")
    tensors = {}
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, _Tensor):
            raise _Refused(f"entry {name!a} is not a tensor; save model.state_dict() alone")
        storage = value.storage
        dtype, itemsize = _STORAGES[storage.kind]
        entry = f"{root}data/{storage.key}"
        start, size = entries.get(entry, (0, -1))
        if size != storage.numel * itemsize:
            found = f"{size} bytes" if size >= 0 else "missing"
            raise _Refused(
                f"tensor {name} is truncated: its data {storage.key!a} should have "
                f"{storage.numel * itemsize} bytes, and is {found}; get the file again"
            )
        last = value.offset + sum(
            (n - 1) * s for n, s in zip(value.shape, value.strides, strict=True)
        )
        if all(value.shape) and last >= storage.numel:
            raise _Refused(f"tensor {name} reaches beyond its data; get the file again")
        tensors[name] = StoredTensor(
            name,
            file,
            dtype if dtype in DTYPES else f"torch.{dtype}",
            value.shape,
            start + value.offset * itemsize,
            tuple(s * itemsize for s in value.strides),
        )
    return tensors


_MARK = object()
_CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "MARK": _MARK}
_LITERALS = frozenset(
    ("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE")
)


def _interpret(data: bytes) -> Any:
    """What a pickle holds, of the kinds this module knows."""
    stack: list[Any] = []
    memo: dict[Any, Any] = {}
    arg: Any

    def to_mark() -> list[Any]:
        at = len(stack) - 1
        while stack[at] is not _MARK:  # IndexError when there is none
            at -= 1
        items = stack[at + 1 :]
        del stack[at:]
        return items

    for opcode, arg, _ in pickletools.genops(data):
        name: str = opcode.name
        if name in ("PROTO", "FRAME"):
            continue
        if name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _LITERALS:
            stack.append(arg)
        elif name in ("BINPUT", "LONG_BINPUT"):
            memo[arg] = stack[-1]
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[arg])
        elif name == "EMPTY_DICT":
            stack.append({})
        elif name == "EMPTY_LIST":
            stack.append([])
        elif name == "EMPTY_TUPLE":
            stack.append(())
        elif name == "TUPLE":
            stack.append(tuple(to_mark()))
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            items = [stack.pop() for _ in range(int(name[-1]))]
            stack.append(tuple(reversed(items)))
        elif name in ("APPEND", "APPENDS"):
            items = to_mark() if name == "APPENDS" else [stack.pop()]
            _expect(stack[-1], list).extend(items)
        elif name in ("SETITEM", "SETITEMS"):
            items = to_mark() if name == "SETITEMS" else [stack.pop(-2), stack.pop()]
            target = _expect(stack[-1], dict)
            for key, value in zip(items[::2], items[1::2], strict=True):
                # Nested tuples of shared tuples would take forever to hash.
                target[_expect(key, str, int)] = value
        elif name == "GLOBAL":
            stack.append(_global(*arg.split(" ", 1)))
        elif name == "STACK_GLOBAL":
            attribute, module = _expect(stack.pop(), str), _expect(stack.pop(), str)
            stack.append(_global(module, attribute))
        elif name == "BINPERSID":
            stack.append(_storage(stack.pop()))
        elif name == "REDUCE":
            args, function = _expect(stack.pop(), tuple), _expect(stack.pop(), _Global)
            stack.append(_rebuild(function.name, args))
        elif name == "BUILD":  # an OrderedDict's attributes: state_dict()'s version numbers
            stack.pop()
            _expect(stack[-1], dict)
        elif name == "STOP":
            return stack.pop()
        else:
            raise _Refused(f"its pickle uses {name}, which no dict of tensors needs: refused")
    raise ValueError("no STOP")


def _expect(value: Any, *kinds: type) -> Any:
    if type(value) not in kinds:
        raise TypeError
    return value


def _global(module: str, attribute: str) -> _Global:
    name = f"{module}.{attribute}"
    if name in _FUNCTIONS or (module == "torch" and attribute in _STORAGES):
        return _Global(name)
    raise _Refused(f"its pickle names {name!a}, which a dict of tensors does not need: refused")


def _storage(pid: Any) -> _Storage:
    tag, kind, key, _, numel = _expect(pid, tuple)
    kind = _expect(kind, _Global).name.removeprefix("torch.")
    if tag != "storage" or kind not in _STORAGES or _expect(numel, int) < 0:
        raise ValueError
    return _Storage(kind, _expect(key, str), numel)


def _rebuild(function: str, args: tuple[Any, ...]) -> Any:
    if function == "torch._utils._rebuild_tensor_v2":
        storage, offset, shape, strides, *_ = args
        numbers = (_expect(offset, int), *_expect(shape, tuple), *_expect(strides, tuple))
        if any(_expect(n, int) < 0 for n in numbers) or len(shape) != len(strides):
            raise ValueError
        return _Tensor(_expect(storage, _Storage), offset, shape, strides)
    if function == "torch._utils._rebuild_parameter":
        return _expect(args[0], _Tensor)
    if function == "collections.OrderedDict" and not args:
        return {}
    raise _Refused(f"its pickle calls {function} as no dict of tensors does: refused")
