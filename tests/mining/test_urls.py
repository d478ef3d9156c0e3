"""Normal forms of addresses, by hand and by what must never change them."""

import random

import pytest

from dsmath_jax.mining.urls import host, normal_form, path_group, url_hash


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (
            "HTTP://www.Example.COM:80/a/../b/index.html?b=2&a=1#top",
            "https://example.com/b?a=1&b=2",
        ),
        ("https://example.com:443", "https://example.com/"),
        ("http://example.com:8080/", "https://example.com:8080/"),
        ("example.com/a//b/./c/", "https://example.com/a/b/c"),
        ("//example.com./x", "https://example.com/x"),
        ("http://user:secret@example.com/", "https://example.com/"),
        ("http://example.com/?", "https://example.com/"),
        ("http://example.com/Path?Q=V", "https://example.com/Path?Q=V"),
        ("http://example.com/%7Euser/%e4%b8%80", "https://example.com/~user/%E4%B8%80"),
        ("http://example.com/一", "https://example.com/%E4%B8%80"),
        ("http://example.com/a%2Fb/100%", "https://example.com/a%2Fb/100%25"),
        ("http://example.com/%2E%2E/a b", "https://example.com/a%20b"),
        ("http://bücher.example/", "https://xn--bcher-kva.example/"),
        ("http://例子.测试/", "https://xn--fsqu00a.xn--0zwm56d/"),
        ("http://h.org/x?utm_source=a&id=3&fbclid=b&PHPSESSID=c", "https://h.org/x?id=3"),
        ("http://h.org/x;jsessionid=1A2B?q=a+b", "https://h.org/x?q=a%20b"),
        ("http://h.org/x?q=%2B&q=%26", "https://h.org/x?q=%2B&q=%26"),
        ("http://h.org/x?b=1&a=2&a=1", "https://h.org/x?a=2&a=1&b=1"),
        ("http://h.org/default.aspx", "https://h.org/"),
        ("http://h.org/index.php?title=Index.html", "https://h.org/?title=Index.html"),
        ("http://www.com/", "https://www.com/"),
        ("http://[2001:DB8::1]:99/x", "https://[2001:db8::1]:99/x"),
        ("http://h.org:99999/", "http://h.org:99999/"),  # no port: left as it is
        ("mailto:a@h.org", "mailto:a@h.org"),
        ("javascript:void(0)", "javascript:void(0)"),
        ("ftp://h.org/x", "ftp://h.org/x"),
        (" ", ""),
    ],
)
def test_normal_form_by_hand(url, expected):
    assert normal_form(url) == expected


def test_different_pages_stay_different():
    urls = ["http://h.org/a", "http://h.org/A", "http://h.org/a?p=1", "http://h.org/a?p=2"]
    urls += ["http://m.h.org/a", "http://h.org:81/a", "http://h.org/a%2Fb", "http://h.org/a/b"]
    urls += ["http://h.org/index", "http://h.org/"]
    assert len({url_hash(url) for url in urls}) == len(urls)


def test_a_normal_form_is_its_own():
    rng = random.Random(1)
    parts = ["http", "://", "//", ":", "www.", "a.com", "é", "/", "%2e", "%", "%2F", "..", "."]
    parts += ["index.html", "?", "&", "=", "+", "#", "utm_x", "a", " ", ";jsessionid=1", "1", "@"]
    parts += ["[", "]", "xn--", "\ud800", "\\"]
    for _ in range(20_000):
        url = rng.choice(["", "http://h.com/"]) + "".join(rng.choices(parts, k=rng.randint(1, 9)))
        form = normal_form(url)
        assert normal_form(form) == form, repr(url)
        assert url_hash(url) == url_hash(form)
        assert host(url) == host(form)


def test_hash_is_64_bits_and_never_changes():
    assert url_hash("http://www.example.com/index.html") == url_hash("https://example.com")
    assert url_hash("https://example.com/b?a=1&b=2") == 15071560400516085167
    rng = random.Random(0)
    hashes = [url_hash(f"http://h.org/{rng.random()}") for _ in range(500)]
    assert max(hashes) > 2**63 > min(hashes) >= 0


def test_host():
    assert host("http://www.Math.Example.org:8080/x") == "math.example.org"
    assert host("mailto:a@h.org") == ""
    assert host("") == ""


@pytest.mark.parametrize(
    ("depth", "expected"), [(1, "/questions"), (2, "/questions/#"), (9, "/questions/#/v#")]
)
def test_path_group(depth, expected):
    assert path_group("https://h.org/questions/12345/v2/how-to?tab=1", depth) == expected


def test_path_group_of_pages_beside_the_root():
    assert path_group("https://h.org/", 2) == "/"
    assert path_group("https://h.org/about.html", 2) == "/"
    assert path_group("mailto:a@h.org", 1) == "/"
