"""Checksums of a directory: what was changed is named."""

import json

import pytest

from dsmath_jax.models.checksums import NAME, damage, write_checksums


@pytest.fixture
def directory(tmp_path):
    for name in ("meta/metadata", "state/ocdbt.process_1/d/one", "state/ocdbt.process_1/d/two"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode() * 1000)
    return tmp_path


def test_nothing_changed(directory):
    write_checksums(directory)
    assert damage(directory) == ""
    known = json.loads((directory / NAME).read_text())
    assert known["meta/metadata"] == [
        13_000,
        "89a367d3ac820202da36609b8f2fe0196e7b7f940c44a0500e3715530833bfd7",
    ]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda p: p.write_bytes(p.read_bytes()[:-1]), "has 26999 bytes, not the 27000"),
        (lambda p: p.write_bytes(b"x" + p.read_bytes()[1:]), "differs from what was written"),
        (lambda p: p.unlink(), "is missing"),
    ],
    ids=["cut", "changed", "missing"],
)
def test_a_damaged_file_is_named_by_the_process_whose_share_it_is(directory, change, said):
    write_checksums(directory)
    change(directory / "state/ocdbt.process_1/d/two")
    assert said in damage(directory)
    assert damage(directory).startswith("state/ocdbt.process_1/d/two ")
    assert [bool(damage(directory, share=(i, 3))) for i in range(3)] == [False, False, True]


@pytest.mark.parametrize("text", [None, "", "{", "[]", '{"a": 1}'])
def test_without_readable_checksums_nothing_is_sound(directory, text):
    write_checksums(directory)
    (directory / NAME).unlink() if text is None else (directory / NAME).write_text(text)
    assert NAME in damage(directory)


def test_parts_hashed_apart_are_merged_and_not_read_again(directory):
    write_checksums(directory)
    whole = (directory / NAME).read_bytes()
    (directory / NAME).unlink()
    write_checksums(directory, "state/ocdbt.process_1")
    (directory / "state/ocdbt.process_1/d/two").write_bytes(b"changed after it was hashed")
    write_checksums(directory)
    assert (directory / NAME).read_bytes() == whole
    assert "two has 27 bytes" in damage(directory)
