"""The reader of torch .bin files: what torch writes is read; nothing that a pickle names is run."""

import builtins
import collections
import os
import pickle
import random
import struct
import zipfile

import numpy as np
import pytest
from make_random_checkpoint import text, torch_pickle, write_torch

from dsmath_jax.models.torch_pickle import read_torch


def save(path, data_pkl, entries=(), root="archive"):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{root}/data.pkl", data_pkl)
        for name, content in dict(entries).items():
            archive.writestr(f"{root}/{name}", content)
    return path


@pytest.fixture
def path(tmp_path):
    return tmp_path / "pytorch_model.bin"


def one_tensor(**changes):
    """A pickle of {"w": float32 [2, 3]} with pieces of it replaced."""
    data = torch_pickle({"w": (2, 3)}, "float32")
    for old, new in changes.values():
        assert old in data
        data = data.replace(old, new)
    return data


SIX_FLOATS = {"data/0": np.arange(6, dtype=np.float32).tobytes()}


def test_a_tensor_by_hand(path):
    tensors = read_torch(save(path, one_tensor(), SIX_FLOATS))
    assert tensors["w"].array().tolist() == [[0, 1, 2], [3, 4, 5]]


# ---- Files that torch wrote ---------------------------------------------------------------------


@pytest.fixture
def torch():
    return pytest.importorskip("torch", reason="needs torch: pip install -e '.[parity]'")


def test_torch_reads_what_make_random_checkpoint_writes(path, torch):
    rng = np.random.default_rng(0)
    write_torch(path, {"a": (3, 5), "b": (7,)}, "bfloat16", rng)
    theirs, ours = torch.load(path, weights_only=True), read_torch(path)
    assert theirs.keys() == ours.keys()
    for name, tensor in theirs.items():
        assert (tensor.view(torch.int16).numpy() == ours[name].array().view(np.int16)).all()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_state_dict_of_each_dtype_and_protocol(path, torch, dtype, protocol):
    model = torch.nn.Linear(5, 3).to(getattr(torch, dtype))
    torch.save(model.state_dict(), path, pickle_protocol=protocol)
    tensors = read_torch(path)
    for name, value in model.state_dict().items():
        assert tensors[name].dtype == dtype
        np.testing.assert_array_equal(tensors[name].array().astype(np.float32), value.float())


def test_views_and_shared_storages(path, torch):
    base = torch.arange(24, dtype=torch.float32)
    views = {
        "all": base.view(4, 6),
        "transposed": base.view(4, 6).T,
        "part": base.view(4, 6)[1:3, 2:5],
        "every_other": base[1::2],
        "expanded": base[3:4].expand(2, 2),
        "parameter": torch.nn.Parameter(base.view(2, 12)),
    }
    torch.save(views, path)
    tensors = read_torch(path)
    for name, value in views.items():
        assert (tensors[name].array() == value.detach().numpy()).all(), name
    out = np.zeros((2, 4), np.float32)
    tensors["transposed"].read(out, (slice(1, 3), slice(0, 4)))
    assert (out == views["transposed"][1:3].numpy()).all()


def test_other_dtypes_are_named_when_read(path, torch):
    torch.save({"w": torch.zeros(2, dtype=torch.float64), "ok": torch.zeros(2)}, path)
    tensors = read_torch(path)
    assert tensors["ok"].array().tolist() == [0, 0]
    with pytest.raises(
        ValueError, match=r"tensor w in .*pytorch_model\.bin has dtype torch\.float64"
    ):
        tensors["w"].array()


def test_the_old_format_says_how_to_save_again(path, torch):
    torch.save({"w": torch.zeros(2)}, path, _use_new_zipfile_serialization=False)
    with pytest.raises(ValueError, match=r"pytorch_model\.bin is in torch's format from before"):
        read_torch(path)


def test_a_whole_module_or_optimizer_state_is_refused(path, torch):
    torch.save(torch.nn.Linear(2, 2), path)
    with pytest.raises(ValueError, match=r"names 'torch\.nn\.modules\.linear\.Linear'"):
        read_torch(path)
    torch.save({"step": 3, "w": torch.zeros(2)}, path)
    with pytest.raises(ValueError, match="entry 'step' is not a tensor"):
        read_torch(path)
    torch.save([torch.zeros(2)], path)
    with pytest.raises(ValueError, match="not a dict of tensors"):
        read_torch(path)


# ---- Hostile files ------------------------------------------------------------------------------

ran = []


class Reduce:
    def __init__(self, function, *args):
        self.function, self.args = function, args

    def __reduce__(self):
        return self.function, self.args


class State:
    def __setstate__(self, state):
        ran.append(state)


def stack_global(module, name):
    return b"\x8c" + bytes([len(module)]) + module + b"\x8c" + bytes([len(name)]) + name + b"\x93"


REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"
HOSTILE = {
    "os.system": pickle.dumps(Reduce(os.system, "touch HACKED")),
    "os.system, protocol 0": pickle.dumps(Reduce(os.system, "touch HACKED"), 0),
    "eval": pickle.dumps(Reduce(builtins.eval, "ran.append(1)")),
    "in a tensor's place": pickle.dumps({"w": Reduce(os.system, "touch HACKED")}, 2),
    "as a key": pickle.dumps({Reduce(tuple, [1]): 1}, 2),
    "as hooks": one_tensor(hooks=(b"\x89ccollections\nOrderedDict\n", b"\x89cos\ngetcwd\n")),
    "stack_global": b"\x80\x04" + stack_global(b"os", b"system") + b"\x8c\x01x\x85R.",
    "dotted name": b"\x80\x04" + stack_global(b"collections", b"OrderedDict.fromkeys") + b")R.",
    "allowed module": b"\x80\x02ctorch._utils\nimport_module\n" + text("os") + b"\x85R.",
    "storage as function": b"\x80\x02ctorch\nFloatStorage\n" + text("x") + b"\x85R.",
    "call of a result": b"\x80\x02" + REBUILD + REBUILD + b"\x85R)R.",
    "nested calls": b"\x80\x02ccollections\nOrderedDict\n(" + REBUILD + b")RtR.",
    "ordered dict of anything": b"\x80\x02" + 2 * b"ccollections\nOrderedDict\n" + b"\x85R.",
    "setstate": pickle.dumps(State(), 2),
    "build on a function": b"\x80\x02" + REBUILD + b"}" + text("__code__") + b"K\x01sb.",
    "build on a class": b"\x80\x02ccollections\nOrderedDict\n}b.",
    "newobj": b"\x80\x02ccollections\nOrderedDict\n)\x81.",
    "obj": b"\x80\x02(ccollections\nOrderedDict\no.",
    "inst": b"\x80\x02(ios\nsystem\n.",
    "extension": b"\x80\x02\x82\x01.",
    "persistent id of protocol 0": b"Pos\n.",
    "persistent id": b"\x80\x02" + text("os.system") + b"Q.",
    "buffer": b"\x80\x05\x97.",
    "memo far away": b"\x80\x02}r\xff\xff\xff\xffu.",
    "long string": b"\x80\x04\x8d" + struct.pack("<Q", 1 << 60) + b"x.",
    "long bytes": b"\x80\x05\x96" + struct.pack("<Q", 1 << 40) + b"x.",
    "empty": b"",
    "stop alone": b".",
    "underflow": b"\x80\x02u.",
    "negative offset": one_tensor(offset=(b"QJ\0\0\0\0", b"QJ\xff\xff\xff\xff")),
    "negative stride": one_tensor(stride=(b"(J\3\0\0\0", b"(J\xff\xff\xff\xff")),
    "beyond the data": one_tensor(offset=(b"QJ\0\0\0\0", b"QJ\1\0\0\0")),
    "large shape": one_tensor(shape=(b"(J\2\0\0\0J\3\0\0\0t", b"(J\xff\xff\xff\x7fJ\3\0\0\0t")),
    "boolean size": one_tensor(shape=(b"(J\2\0\0\0J\3\0\0\0t", b"(\x88J\3\0\0\0t")),
    "other storage": one_tensor(key=(text("0"), text("../version"))),
    "more elements than bytes": one_tensor(numel=(b"J\6\0\0\0tQ", b"J\7\0\0\0tQ")),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_pickles_run_nothing(name, path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = os.listdir()
    with pytest.raises(ValueError, match=r"pytorch_model\.bin"):
        read_torch(save(path, HOSTILE[name], SIX_FLOATS))
    assert sorted(os.listdir()) == sorted([*before, path.name])
    assert not ran


def test_refused_names_are_said(path):
    with pytest.raises(ValueError, match=r"pytorch_model\.bin: its pickle names 'posix\.system'"):
        read_torch(save(path, HOSTILE["os.system"]))


def test_nested_shared_tuples_do_not_take_forever(path):
    # Each level doubles: hashing or printing it would take 2^64 steps.
    bomb = b"\x80\x02)" + b"q\x00h\x00\x86" * 64
    for data in (b"\x80\x02}" + bomb[2:] + b"K\x01s.", bomb + b"."):
        with pytest.raises(ValueError, match="pytorch_model"):
            read_torch(save(path, data))


def test_a_big_endian_file_is_refused(path):
    with pytest.raises(ValueError, match="big-endian"):
        read_torch(save(path, one_tensor(), SIX_FLOATS | {"byteorder": "big"}))


def test_a_compressed_entry_is_refused(path):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", one_tensor())
    with pytest.raises(ValueError, match=r"entry 'archive/data\.pkl' is compressed"):
        read_torch(path)


def test_not_a_zip_and_empty(path):
    for content in (b"", b"hello", b"<html>404</html>"):
        path.write_bytes(content)
        with pytest.raises(
            ValueError, match=r"pytorch_model\.bin \(\d+ bytes\) is not a torch file"
        ):
            read_torch(path)


def damaged_copies(data, rng):
    yield from (data[:n] for n in range(0, len(data), 7))
    for _ in range(700):
        copy = bytearray(data)
        for _ in range(rng.choice([1, 1, 1, 4])):
            copy[rng.randrange(len(copy))] ^= 1 << rng.randrange(8)
        yield bytes(copy)


def test_damaged_files_are_value_errors_or_read(path):
    write_torch(path, {"model.a": (3, 5), "b": (7,)}, "bfloat16", np.random.default_rng(0))
    data = path.read_bytes()
    good = collections.Counter()
    for copy in damaged_copies(data, random.Random(0)):
        path.write_bytes(copy)
        try:
            for tensor in read_torch(path).values():
                tensor.read(np.empty(tensor.shape, np.float32), tuple(map(slice, tensor.shape)))
            good[True] += 1
        except ValueError as e:
            assert "pytorch_model.bin" in str(e)
            good[False] += 1
    assert good[False] > 300
