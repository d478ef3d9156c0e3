"""Decontamination: the paper's rule by hand and by sets of n-grams, loading, the self-test."""

import dataclasses
import gzip
import json
import random

import numpy as np
import pytest

from dsmath_jax.data.errors import InputError
from dsmath_jax.mining import benchmark_texts
from dsmath_jax.mining.benchmark_texts import Item
from dsmath_jax.mining.decontamination import Hit, Index, self_test, shuffled_pages
from dsmath_jax.mining.normalize import words

TEN = "one of two trains leaves the old station at noon"
NINE = "what is fifteen more than a quarter of 48"


def item(text, question=True, benchmark="bench/test", line="1"):
    return Item(benchmark, line, "question" if question else "answer", text, question)


def index(*texts, question=True):
    return Index.build([item(t, question, line=str(i)) for i, t in enumerate(texts, 1)])


def write(path, *records):
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records), "utf-8")
    return path


# ---- The rule --------------------------------------------------------------------------------


def test_ten_grams_match_anywhere():
    built = index("Why? " + TEN + " and nobody sees it", question=False)
    page = f"Some words before, {TEN.upper()}! And more."
    assert built.find(page) == [Hit("bench/test", "1", "answer", TEN, 3)]
    assert not built.find(page.replace("NOON", "NIGHT"))
    assert not built.find(TEN.rpartition(" ")[0])
    assert not built.find("")


def test_a_shorter_question_matches_as_a_whole():
    built = index(NINE)
    assert built.find(f"Q7. {NINE}?")[0].ngram == NINE
    assert built.find(NINE)[0].position == 0
    assert not built.find(NINE.removesuffix(" 48"))
    assert not built.find(NINE.replace("48", "49"))  # numbers are kept
    assert not index(NINE, question=False).find(NINE)


def test_three_grams_are_the_shortest():
    assert index("find all primes").find("please Find all primes.")
    built = index("find primes")
    assert not built.find("find primes")
    assert built.left_out == {"fewer than 3 tokens": 1}


def test_chinese_counts_in_characters():
    text = "小明有十二个苹果，给了小红三个"
    built = index(text)
    assert built.find("题目：小明有十二个苹果，给了她")[0].ngram == "小 明 有 十 二 个 苹 果 给 了"
    assert not built.find("小明有十二个苹果")
    assert index("求和为多少").find("请求和为多少？")


@pytest.mark.parametrize(
    "formula",
    ["$x^2+y^2=1$", "$$x^{2} + y^{2} = 1$$", r"\(x^2+y^2=1\)", r"\[x^2+y^2=1\]", "x²+y²=1"],
)
def test_formulas_match_whatever_surrounds_them(formula):
    built = index(r"How many points with $x^2+y^2=1$ are there in the plane?")
    assert built.find(f"How many points with {formula} are there in the plane")


def test_letters_and_numbers_alone_are_no_contamination():
    """They are in every list and formula, unlike ten tokens with a word among them."""
    listed = "x_1, x_2, x_3, x_4, x_5, x_6"
    built = index(f"the numbers {listed} are all odd", "1 2 3 4 5 6 7 8 9 10 数")
    assert not built.find(listed)
    assert built.find(f"numbers {listed}")
    assert built.find(f"{listed} are")
    assert not built.find("1 2 3 4 5 6 7 8 9 10")
    assert built.find("2 3 4 5 6 7 8 9 10 数")


def test_letters_and_numbers_count_where_a_text_has_nothing_else():
    digits = "3 + 1 * (4 - 1) + 5 * 9 - 2 + 6 - 5 * 3"
    assert index(digits).find(f"a {digits} b")
    assert index("f(x) = a x + b y + c z + d w").find("f(x): a, x. b*y c z d w")
    for counting in (
        "1 2 3 4 5 6 7 8 9 10 11 12",
        "0 0 0 0 0 0 0 0 0 0 0",
        "0 2 4 6 8 10 12 14 16 18",
    ):
        built = index(counting)
        assert built.left_out == {"nothing but counting": 1}
        assert not built.find(counting)
    built = index("1 2 3 4 5 6 7 8 9 10 20")
    assert not built.find("1 2 3 4 5 6 7 8 9 10")
    assert built.find("2 3 4 5 6 7 8 9 10 20")


def test_an_n_gram_of_several_items_names_the_first_of_each_benchmark():
    items = [item(TEN, line="4"), item(TEN, line="9"), item(TEN, benchmark="other/dev", line="2")]
    hits = Index.build(items).find(TEN)
    assert [(h.benchmark, h.item) for h in hits] == [("bench/test", "4"), ("other/dev", "2")]


def test_each_item_is_listed_once_in_the_pages_order():
    second = TEN.replace("trains", "ships") + " and sinks"
    hits = index(TEN + " today", second).find(f"{second} or {NINE} or {TEN} today")
    assert [h.item for h in hits] == ["2", "1"]


def test_equal_hashes_of_unequal_words_are_no_match():
    built = index(TEN, NINE)
    other = built.words.tobytes().replace(b"noon", b"none").replace(b"48", b"84")
    tampered = dataclasses.replace(built, words=np.frombuffer(other, np.uint8))
    assert len(built.find(f"{TEN} {NINE}")) == 2
    assert not tampered.find(f"{TEN} {NINE}")


def by_sets(items, page):
    """The rule with Python's sets: the benchmarks that a page holds something of."""
    tokens = words(page)
    grams = {
        n: {tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)} for n in range(3, 11)
    }
    found = set()
    for one in items:
        text = tuple(words(one.text))
        if len(text) >= 10:
            grams_of_text = [text[i : i + 10] for i in range(len(text) - 9)]
            wordy = [g for g in grams_of_text if {"so", "if", "数", "集"} & set(g)]
            if any(g in grams[10] for g in wordy or grams_of_text):
                found.add(one.benchmark)
        elif len(text) >= 3 and one.question and text in grams[len(text)]:
            found.add(one.benchmark)
    return found


def test_random_texts_against_sets():
    """Few different words, so that n-grams of all lengths meet by chance."""
    rng = random.Random(0)
    vocabulary = ["so", "if", "x", "7", "12", "数", "集"]

    def text(length):
        return " ".join(rng.choices(vocabulary, (9, 3, 1, 1, 1, 1, 1), k=length))

    items = [
        item(text(rng.randint(0, 25)), rng.random() < 0.5, f"b{rng.randint(0, 9)}/test", str(i))
        for i in range(120)
    ]
    built = Index.build(items)
    sizes = []
    for _ in range(600):
        page = text(rng.randint(0, 40))
        found = {hit.benchmark for hit in built.find(page)}
        assert found == by_sets(items, page), page
        sizes.append(len(found))
    assert 0 in sizes
    assert max(sizes) > 3


def test_a_saved_index_finds_the_same(tmp_path):
    built = index(TEN, NINE, "数学集合", "72")
    built.save(tmp_path / "index")
    built.save(tmp_path / "index")  # over an old one
    loaded = Index.load(tmp_path / "index")
    page = f"{NINE} 数学集合 {TEN}"
    assert loaded.find(page) == built.find(page)
    assert len(built.find(page)) == 3
    assert loaded.left_out == built.left_out
    with pytest.raises(InputError, match="no decontamination index"):
        Index.load(tmp_path)


def test_no_items(tmp_path):
    Index.build([]).save(tmp_path / "index")
    assert Index.load(tmp_path / "index").find(TEN) == []


# ---- Benchmarks' files -----------------------------------------------------------------------


def texts(items):
    return {(i.item, i.part): (i.text, i.question) for i in items}


def test_fields_by_name(tmp_path):
    path = write(
        tmp_path / "quiz" / "test.jsonl",
        {
            "id": "q1",
            "question": "Which?",
            "options": ["A", "B"],
            "answer": "B",
            "level": "Level 1",
        },
        {"problem": "P", "solution": "S <<1+1=2>>2", "year": 2020, "hint": None},
        {"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": ""}]},
        {"other": {"Question": "nested", "source": "somewhere"}},
    )
    items = benchmark_texts.load([path])
    assert {i.benchmark for i in items} == {"quiz/test"}
    assert texts(items) == {
        ("1", "question"): ("Which?", True),
        ("1", "options"): ("A\nB", False),
        ("1", "answer"): ("B", False),
        ("1", "question and options"): ("\nWhich?\nA\nB", True),
        ("2", "problem"): ("P", True),
        ("2", "solution"): ("S <<1+1=2>>2", False),
        ("2", "solution without <<>>"): ("S 2", False),
        ("3", "messages.content"): ("Q", True),
        ("4", "other.Question"): ("nested", True),
    }


def test_unknown_field_names_are_questions(tmp_path):
    path = write(
        tmp_path / "b" / "x.jsonl", {"id": "7", "puzzle": "find all primes", "answer": "two"}
    )
    assert texts(benchmark_texts.load([path])) == {
        ("1", "puzzle"): ("find all primes", True),
        ("1", "answer"): ("two", False),
    }


def test_folders_gzip_and_text_files(tmp_path):
    write(tmp_path / "b" / "one.jsonl", {"question": TEN})
    (tmp_path / "b" / "two.jsonl.gz").write_bytes(gzip.compress(b'{"question": "zip"}\n\n'))
    (tmp_path / "b" / "prompts").mkdir()
    (tmp_path / "b" / "prompts" / "three.txt").write_text(NINE)
    (tmp_path / "b" / "LICENSE").write_text("free")
    items = benchmark_texts.load([tmp_path, tmp_path / "b" / "one.jsonl"])
    assert [(i.benchmark, i.text) for i in items] == [
        ("b/one", TEN),
        ("prompts/three", NINE),
        ("b/two", "zip"),
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"question": "x"}\n{', "line 2 is no JSON"),
        ("a.jsonl", b'["x"]', "line 1 is no JSON object"),
        ("a.jsonl", b'{"id": "x"}', "holds no text"),
        ("a.jsonl", b'{"question": "\xff"}', "cannot be read"),
        ("a.jsonl.gz", b"no gzip", "cannot be read"),
        ("a.csv", b"x", "convert it"),
    ],
)
def test_bad_files(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        benchmark_texts.load([tmp_path / name])


def test_missing_files(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        benchmark_texts.load([tmp_path / "none.jsonl"])
    with pytest.raises(InputError, match="holds no"):
        benchmark_texts.load([tmp_path])


# ---- The self-test ---------------------------------------------------------------------------


def test_self_test_plants_every_text():
    items = [item(TEN), item(NINE, line="2"), item("72", False), item("a b c d", False)]
    report = self_test(Index.build(items), items, ["nothing here", f"but {NINE} is", "no"])
    assert report.texts == 2
    assert report.left_out == {"fewer than 3 tokens": 1, "answers under 10 tokens": 1}
    assert report.clean_pages == 3
    assert report.false_removal_rate == pytest.approx(1 / 3)
    assert report.ngrams == {NINE: 1}


@pytest.mark.parametrize("count", [1, 30])
def test_self_test_refuses_an_index_that_lacks_an_item(count):
    items = [item(f"{TEN} {i} {i * i} times", line=str(i)) for i in range(count)]
    last = item("a text that only this benchmark has, about ships and the sea", benchmark="b/c")
    with pytest.raises(InputError, match="does not find b/c item 1"):
        self_test(Index.build(items), [*items, last])
    same = item(items[0].text, benchmark="b/c")  # found, but not as b/c
    with pytest.raises(InputError, match="does not find b/c item 1"):
        self_test(Index.build(items), [*items, same])


def test_shuffled_pages_hold_the_words_of_the_items():
    pages = list(shuffled_pages([item(TEN), item(NINE)], count=3, length=50))
    assert [len(words(p)) for p in pages] == [50] * 3
    assert set(words(pages[0])) <= set(words(f"{TEN} {NINE}"))
    assert pages == list(shuffled_pages([item(TEN), item(NINE)], count=3, length=50))
    assert not list(shuffled_pages([]))


@pytest.mark.parametrize("name", ["cmath", "mgsm_zh", "agieval", "sat", "ocw", "humaneval"])
def test_real_benchmarks_are_found_in_full(data_dir, name):
    items = benchmark_texts.load([data_dir / "benchmarks" / name])
    report = self_test(Index.build(items), items)
    covered = {(i.benchmark, i.item) for i in items if len(words(i.text)) >= 10}
    assert report.texts >= len(covered) > 30 - (name == "sat")
    assert report.removed <= 2


@pytest.mark.slow
def test_all_real_benchmarks_are_found_in_full(data_dir, tmp_path):
    items = benchmark_texts.load([data_dir / "benchmarks"])
    Index.build(items).save(tmp_path / "index")
    loaded = Index.load(tmp_path / "index")
    assert self_test(loaded, items).texts > 100_000
    indexed = {(benchmark, line) for benchmark, line, _ in loaded.items}
    assert {(i.benchmark, i.item) for i in items} == indexed  # each item by one text at least
