"""Near-duplicates: estimates against sets, the rule of removal, the same for any shards."""

import random
import subprocess
import sys

import numpy as np
import pytest

from dsmath_jax.data.errors import InputError
from dsmath_jax.mining import duplicate_clusters as clusters
from dsmath_jax.mining.near_duplicates import (
    MAX_CHARACTERS,
    bands,
    jaccard,
    shared_band_probability,
    shingles,
    signature,
)
from dsmath_jax.mining.normalize import words
from dsmath_jax.mining.union_find import components
from tests.conftest import REPO

WORDS = [f"{a}{b}" for a in "bcdfghklmnprst" for b in ("a", "e", "i", "o", "u", "ar", "el", "in")]


def text_of(rng, length):
    return " ".join(rng.choice(WORDS) for _ in range(length))


def edited(rng, text, share):
    return " ".join(rng.choice(WORDS) if rng.random() < share else w for w in text.split())


def by_sets(a, b):
    """Jaccard similarity from Python's sets of word 5-grams, sharing nothing with the module."""
    sets = []
    for text in (a, b):
        tokens = words(text)
        sets.append({tuple(tokens[i : i + 5]) for i in range(max(len(tokens) - 4, 1))})
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def run(tmp_path, pages, shard_count=1, parts=1):
    """(url_hash, score, text) of pages through all steps."""
    tmp_path.mkdir(exist_ok=True)
    shards = [tmp_path / f"shard{i}" for i in range(shard_count)]
    for i, shard in enumerate(shards):
        assert clusters.write_shard(pages[i::shard_count], shard) == len(pages[i::shard_count])
    pairs = [tmp_path / f"pairs{i}.npy" for i in range(parts)]
    similar = [tmp_path / f"similar{i}.npy" for i in range(parts)]
    for i in range(parts):
        clusters.write_pairs(shards, i, parts, pairs[i])
    for i in range(parts):
        clusters.write_similar(shards, pairs, i, parts, similar[i])
    return clusters.find_duplicates(shards, similar)


def as_dict(found):
    return dict(zip(found.page.tolist(), found.kept.tolist(), strict=True))


def test_shingles_by_hand():
    assert len(shingles("a b c d e f g")) == 3
    assert len(shingles("a b")) == 1
    assert len(shingles("?!")) == 0
    assert len(shingles("设集合与函数")) == 2  # characters are tokens
    assert np.array_equal(shingles("A b, c d e!"), shingles("a b c d e"))
    assert not np.array_equal(shingles("a b c d e"), shingles("a b c e d"))


def test_text_past_the_cap_does_not_count():
    text = text_of(random.Random(0), 160_000)
    assert len(text) > MAX_CHARACTERS > 400_000
    assert np.array_equal(shingles(text), shingles(text[:MAX_CHARACTERS]))


def test_jaccard_by_hand_and_against_sets():
    assert jaccard(np.array([1, 2, 3]), np.array([2, 3, 4])) == 0.5
    assert jaccard(np.array([1, 9]), np.array([2, 3, 4])) == 0
    assert jaccard(np.zeros(0), np.array([1])) == 0
    rng = random.Random(1)
    for share in (0, 0.01, 0.05, 0.3):
        a = text_of(rng, 400)
        b = edited(rng, a, share)
        assert jaccard(shingles(a), shingles(b)) == pytest.approx(by_sets(a, b), abs=1e-12)


@pytest.mark.parametrize("similarity", [0.6, 0.8, 0.9])
def test_signatures_estimate_similarity_and_bands_meet_as_often_as_they_should(similarity):
    rng = np.random.default_rng(0)
    equal, met = [], []
    for _ in range(400):
        values = rng.permutation(np.unique(rng.integers(0, 2**32, 1500, dtype=np.uint32)))
        size = round(len(values) * (1 + similarity) / 2)
        a, b = signature(values[:size]), signature(values[-size:])
        equal.append(np.mean(a == b))
        met.append(np.any(bands(a) == bands(b)))
    deviation = (similarity * (1 - similarity) / 120) ** 0.5
    assert np.mean(equal) == pytest.approx(similarity, abs=4 * deviation / 20)
    assert np.std(equal) == pytest.approx(deviation, rel=0.2)
    theory = shared_band_probability(similarity)
    assert np.mean(met) == pytest.approx(theory, abs=4 * (theory * (1 - theory) / 400) ** 0.5)


def test_signatures_never_change():
    """Shards written by one version and another must agree."""
    found = signature(shingles("the quick brown fox jumps over the lazy dog"))
    assert found[:3].tolist() == [1824568611, 679065339, 1157364898]
    assert bands(found)[:2].tolist() == [6809047604790636052, 5421313804679870221]


def test_components_against_a_search():
    rng = np.random.default_rng(3)
    for count, edges in [(1, 0), (50, 20), (300, 160), (300, 600)]:
        left, right = rng.integers(0, count, (2, edges))
        neighbours = {i: set() for i in range(count)}
        for a, b in zip(left.tolist(), right.tolist(), strict=True):
            neighbours[a].add(b)
            neighbours[b].add(a)
        expected = [-1] * count
        for node in range(count):
            stack = [node] if expected[node] < 0 else []
            while stack:
                at = stack.pop()
                if expected[at] < 0:
                    expected[at] = node
                    stack += neighbours[at]
        assert components(count, left, right).tolist() == expected
    chain = np.arange(9999)
    assert not components(10_000, chain + 1, chain).any()


def test_kept_page_is_the_best_then_the_longest_then_the_smallest_hash(tmp_path):
    text = text_of(random.Random(2), 200)
    longer = text + " !"
    assert as_dict(run(tmp_path / "a", [(5, 0.1, text), (7, 0.9, text)])) == {5: 7}
    assert as_dict(run(tmp_path / "b", [(5, 0.5, text), (7, 0.5, longer)])) == {5: 7}
    found = run(tmp_path / "c", [(5, 0.5, text), (7, 0.5, text), (2**64 - 1, 0.5, text)])
    assert as_dict(found) == {7: 5, 2**64 - 1: 5}
    assert found.similarity.tolist() == [1, 1]
    assert found.sizes() == {3: 1}


def test_a_chain_removes_only_what_is_like_a_kept_page(tmp_path):
    """A like B, B like C, but A unlike C: by rank A stays, B goes for A, and C stays."""
    tokens = [f"w{i}" for i in range(260)]
    a, b, c = (" ".join(tokens[i : i + 200]) for i in (0, 20, 40))
    assert by_sets(a, b) > 0.8 > by_sets(a, c)
    assert as_dict(run(tmp_path / "a", [(1, 3, a), (2, 2, b), (3, 1, c)])) == {2: 1}
    # With the middle page best, both others go.
    assert as_dict(run(tmp_path / "b", [(1, 2, a), (2, 3, b), (3, 1, c)])) == {1: 2, 3: 2}
    # C stays after B went, and what is like C goes for C.
    found = run(tmp_path / "c", [(1, 4, a), (2, 3, b), (3, 2, c), (4, 1, c + " more")])
    assert as_dict(found) == {2: 1, 4: 3}


def test_one_giant_page_merges_no_others(tmp_path):
    rng = random.Random(5)
    texts = [text_of(rng, 150) for _ in range(200)]
    pages = [(i + 10, 0.5, text) for i, text in enumerate(texts)]
    giant = (1, 1.0, " ".join(texts))
    assert as_dict(run(tmp_path, [*pages, giant, (2, 0.1, texts[7])])) == {2: 17}


def test_one_crowded_bucket_costs_no_square(tmp_path):
    text = text_of(random.Random(6), 50)
    count = 3000
    shard = tmp_path / "shard"
    clusters.write_shard([(i, 0.0, text) for i in range(count)], shard)
    pairs = clusters.write_pairs([shard], 0, 1, tmp_path / "pairs.npy")
    assert count - 1 <= pairs <= 8 * count
    clusters.write_similar([shard], [tmp_path / "pairs.npy"], 0, 1, tmp_path / "similar.npy")
    found = clusters.find_duplicates([shard], [tmp_path / "similar.npy"])
    assert as_dict(found) == {i: 0 for i in range(1, count)}


def web(seed, count):
    """Pages with copies of 0.5 to 1 similarity, chains of edits, and Chinese."""
    rng = random.Random(seed)
    texts = []
    for _ in range(count):
        kind = rng.random()
        if texts and kind < 0.5:
            texts.append(edited(rng, rng.choice(texts), rng.choice([0, 0.005, 0.01, 0.03, 0.08])))
        elif kind < 0.6:
            texts.append("".join(rng.choice("数学集合函数方程几何证明求解") for _ in range(120)))
        else:
            texts.append(text_of(rng, rng.choice([3, 60, 200])))
    hashes = [rng.getrandbits(64) for _ in range(count)]
    return [(h, rng.choice([0.1, 0.5, 0.9]), t) for h, t in zip(hashes, texts, strict=True)]


def test_same_pages_removed_for_any_shards_order_and_parts(tmp_path):
    pages = web(1, 300)
    expected = run(tmp_path / "one", pages)
    assert len(expected.page) > 60
    for i, (shards, parts) in enumerate([(1, 5), (4, 1), (7, 3), (300, 2)]):
        random.Random(i).shuffle(pages)
        found = run(tmp_path / str(i), pages, shards, parts)
        for name in ("page", "kept", "similarity"):
            assert np.array_equal(getattr(found, name), getattr(expected, name)), (shards, parts)


FEW_FILES = """
import pathlib, resource, sys
import numpy as np
from dsmath_jax.mining import duplicate_clusters as clusters

resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
folder = pathlib.Path(sys.argv[1])
shards = [folder / f"shard{i}" for i in range(300)]
clusters.write_pairs(shards, 0, 1, folder / "pairs.npy")
clusters.write_similar(shards, [folder / "pairs.npy"], 0, 1, folder / "similar.npy")
found = clusters.find_duplicates(shards, [folder / "similar.npy"])
np.savez(folder / "found.npz", page=found.page, kept=found.kept)
"""


def test_more_shards_than_files_that_may_be_open(tmp_path):
    expected = run(tmp_path, web(3, 300), 300)
    command = [sys.executable, "-c", FEW_FILES, str(tmp_path)]
    subprocess.run(command, check=True, cwd=REPO)
    with np.load(tmp_path / "found.npz") as found:
        assert len(found["page"]) > 60
        assert np.array_equal(found["page"], expected.page)
        assert np.array_equal(found["kept"], expected.kept)


def test_removals_against_all_pairs(tmp_path):
    """The rule by brute force: best first, a page goes if it is like one that stayed. What is
    removed is right for certain; what is missed is as rare as the bands let it be."""
    pages = web(2, 250)
    found = run(tmp_path, pages)
    texts = {h: t for h, _, t in pages}
    removed = as_dict(found)
    assert not set(removed) & set(removed.values())
    for page, kept, similarity in zip(
        found.page.tolist(), found.kept.tolist(), found.similarity.tolist(), strict=True
    ):
        assert similarity == pytest.approx(by_sets(texts[page], texts[kept]), abs=1e-6)
        assert similarity >= 0.8
    stayed, expected = [], set()
    for h, _, text in sorted(pages, key=lambda p: (-p[1], -len(p[2]), p[0])):
        if any(by_sets(text, other) >= 0.8 for other in stayed):
            expected.add(h)
        else:
            stayed.append(text)
    assert len(set(removed) ^ expected) <= 1
    assert len(expected) > 50


def test_pages_without_words_and_no_pages(tmp_path):
    assert as_dict(run(tmp_path / "a", [(1, 1, ""), (2, 1, "..."), (3, 1, "")])) == {}
    assert as_dict(run(tmp_path / "b", [], 2, 2)) == {}
    assert as_dict(run(tmp_path / "c", [(1, 1, "hello"), (2, 1, "Hello!"), (3, 1, "")])) == {1: 2}


def test_a_shard_is_replaced_whole(tmp_path):
    text = text_of(random.Random(2), 80)
    shard = tmp_path / "shard0"
    clusters.write_shard([(1, 0.0, text), (2, 0.0, text)], shard)
    clusters.write_shard([(1, 0.0, text)], shard)
    assert len(clusters.Shards([shard])) == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["shard0"]


def test_same_url_twice(tmp_path):
    text = text_of(random.Random(2), 80)
    with pytest.raises(InputError, match="same URL hash"):
        run(tmp_path, [(1, 0.0, text), (1, 0.5, text)])
