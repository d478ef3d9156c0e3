"""The text of a page's bytes, also where its label is wrong or missing.

Labels are those of the WHATWG Encoding Standard, which browsers follow: "gb2312" means GB18030,
"iso-8859-1" windows-1252. A label is believed when the bytes agree with it: they decode, and what
they decode to looks like text in a language that the encoding is for. The look is the share of
characters outside ASCII that are frequent ones (hanzi, kana, hangul) or go with them
(punctuation).
"""

from __future__ import annotations

import codecs
import contextlib
import re

# The most frequent characters of Chinese (both scripts) and syllables of Korean: in running text
# they make up well over half of the characters; in text decoded wrongly about a tenth.
FREQUENT = set(
    "的一是不了在人有我他这个们中来上大为和国地到以说时要就出会可也你对生能而子那得于着下自之年过发后作"
    "里用道行所然家种事成方多经么去法学如都同现当没动面起看定天分还进好小部其些主样理心她本前开但因只从"
    "想实日军者意无力它与长把机十民第公此已工使情明性知全三又关点正业外将两高间由问很最重并物手应战向头"
    "文体政美相见被利什二等产或新己制身果加西斯月话合回特代内信表化老给世位次度门任常先海通教儿原东声提"
    "立及比员解水名真论处走义各入几口认条平系气题活尔更别打女变四神总何电数安少报才结反受目太量再感建务"
    "做接必场件计管期市直德资命山金指克许统区保至队形社便空决治展马科司五基眼书非则听白却界达光放强即像"
    "难且权思王象完设式色路记南品住告类求据程北边死张该交规万取拉格望觉术领共确传师观清今切院让识候带导"
    "争运证明函积微线角圆质素概率组矩阵集映射级极限值域几何代若设令"
    "這個們來為國說時會對過發後裡裏經學現當沒動還進樣開從實軍無與長機關點業將兩間問戰應頭體見產話給員處"
    "義幾條係氣題爾變總電數報結務場計資許區隊則聽達強難權設記類據邊張該規萬覺術領確傳師觀讓識帶導爭運證"
    "積線圓質組陣極網頁請車書號單節習樂東聲教區歡迎覽類標語選"
    "이다는에의가을를은하고지로사기대리한도인서자어그수나해시일아정부전보있제장스상것들주라구공위원과동여조"
    "성소관유경국게면년신문비만발안오까세치용교우무생선었않으며와했되할된습니저미마분방실개중출요내각점당행"
    "氏見出来会本事会社検索対応用学込円語読書話図値"
)
# CJK punctuation, full-width forms, and the dashes and quotes of East Asian text.
COMPANIONS = re.compile("[\u3001-\u301f\uff01-\uff5e“”‘’…—·×÷≤≥]")
KANA = re.compile("[\u3041-\u30ff]")
NOT_TEXT = re.compile("[\x80-\x9f\ue000-\uf8ff\uff61-\uff9f\ufffd]")
LATIN = re.compile("[a-zA-Z][À-ÖØ-öø-ÿšžœŠŽŒ]|[À-ÖØ-öø-ÿšžœŠŽŒ][a-z]|[\xa0«»°±²³·×–—‘’“”…€£§©®™•]")
OUTSIDE_ASCII = re.compile(r"[^\x00-\x7f]+")
HIGH_BYTES = re.compile(rb"[\x80-\xff]+")
META = re.compile(
    rb"<(?:meta|\?xml)[^>]{0,500}?(?:charset|encoding)\s*=\s*[\"']?\s*([\w:.-]+)", re.IGNORECASE
)

MULTIBYTE = ("gb18030", "big5hkscs", "cp932", "euc_jp", "cp949")
SAMPLE_BYTES = 30_000
SAMPLE_CHARACTERS = 2000  # outside ASCII
LABELS = {
    "gb18030": "gb2312 gbk gb18030 chinese csgb2312 csiso58gb231280 gb_2312 gb_2312-80 x-gbk "
    "cp936 ms936",
    "big5hkscs": "big5 big5-hkscs cn-big5 csbig5 x-x-big5 cp950",
    "cp932": "shift_jis shift-jis sjis ms_kanji csshiftjis windows-31j x-sjis ms932 cp932",
    "euc_jp": "euc-jp eucjp cseucpkdfmtjapanese x-euc-jp",
    "iso2022_jp": "iso-2022-jp csiso2022jp",
    "cp949": "euc-kr cseuckr korean ks_c_5601-1987 ks_c_5601-1989 ksc5601 ksc_5601 windows-949 "
    "cp949",
    "cp1252": "iso-8859-1 iso8859-1 iso_8859-1 latin1 latin-1 l1 ascii us-ascii windows-1252 "
    "cp1252 x-cp1252 ansi",
    "cp1254": "iso-8859-9 iso8859-9 latin5 windows-1254 cp1254",
    "cp874": "tis-620 iso-8859-11 windows-874",
    "utf-8": "utf-8 utf8 unicode-1-1-utf-8 x-unicode20utf8 utf-8mb4",
    "utf-16-le": "utf-16 utf-16le unicode ucs-2 csunicode",
    "utf-16-be": "utf-16be unicodefffe",
}
ALIASES = {label: codec for codec, labels in LABELS.items() for label in labels.split()}


def decode(body: bytes, charset: str = "") -> str:
    """A page's text: never fails; what cannot be decoded becomes U+FFFD.

    Looked at in turn: a byte order mark, whether the bytes are UTF-8, the label of the HTTP header,
    the label in the page, the bytes alone.

    Args:
      charset: the HTTP header's label, "" if it has none.
    """
    for mark, codec in (
        (codecs.BOM_UTF8, "utf-8"),
        (codecs.BOM_UTF16_LE, "utf-16-le"),
        (codecs.BOM_UTF16_BE, "utf-16-be"),
    ):
        if body.startswith(mark):
            return body[len(mark) :].decode(codec, "replace")
    if (wide := _utf16_without_mark(body)) is not None:
        return body.decode(wide, "replace")
    text = None
    with contextlib.suppress(UnicodeDecodeError):
        text = body.decode("utf-8")
    if text is not None:
        if body.isascii():
            return body.decode("iso2022_jp", "replace") if b"\x1b$" in body else text
        # A few bytes of GBK may be UTF-8 by chance; many are not.
        if len(body) - len(text) >= 30:
            return text
    codec = _find_codec(body, charset, is_utf8=text is not None)
    if codec == "cp1252":  # Python leaves five bytes without a meaning, the standard does not
        return body.decode("cp1252", "latin-1-bytes")
    return body.decode(codec, "replace")


def _find_codec(body: bytes, charset: str, is_utf8: bool) -> str:
    labels = [_codec(charset)]
    if match := META.search(body, 0, 4096):
        labels.append(_codec(match[1].decode("ascii", "replace")))
    labels = [x for x in labels if x and not x.startswith("utf-16")]
    sample = _sample(body)
    if is_utf8:
        other = next((x for x in labels if x in MULTIBYTE), "utf-8")
        return other if _score(sample, other) > max(0.5, _score(sample, "utf-8")) else "utf-8"
    broken = _broken_utf8_share(sample)
    if broken < 0.02:
        return "utf-8"
    for codec in labels:
        if codec in MULTIBYTE and _score(sample, codec) > 0.6:
            return codec

    scores = {codec: _score(sample, codec) for codec in MULTIBYTE}
    best = max(scores, key=lambda codec: scores[codec])
    for codec in labels:
        if codec in MULTIBYTE and scores[codec] > max(0.25, scores[best] - 0.15):
            return codec
    if scores[best] > 0.4:
        return best
    single = [x for x in labels if x not in MULTIBYTE and x not in ("utf-8", "iso2022_jp")]
    if single:
        return single[0]
    if _latin_share(sample) < 0.5:
        if scores[best] > 0.25:
            return best
        if labels:
            return labels[0]
        if broken < 0.3:
            return "utf-8"
    return "cp1252"


def _codec(label: str) -> str:
    """Python's name for a label's encoding; "" for an unknown one."""
    label = label.strip().strip("\"'").lower()
    if label in ALIASES:
        return ALIASES[label]
    try:
        info = codecs.lookup(label)
    except (LookupError, ValueError):
        return ""
    # Registered names that are not text encodings ("hex", "rot13") are not for pages.
    return info.name if info._is_text_encoding and info.name not in UNSAFE else ""


UNSAFE = {"idna", "punycode", "raw-unicode-escape", "unicode-escape", "undefined", "mbcs", "oem"}
UNSAFE |= {"utf-7", "utf-32", "utf-32-le", "utf-32-be", "charmap", "utf-8-sig", "cp037", "cp500"}


def _broken_utf8_share(sample: bytes) -> float:
    """Characters that are damaged, of those outside ASCII; a cut at the end is no damage."""
    text = codecs.getincrementaldecoder("utf-8")("replace").decode(sample)
    text = "".join(OUTSIDE_ASCII.findall(text))
    return text.count("\ufffd") / max(1, len(text))


def _utf16_without_mark(body: bytes) -> str | None:
    start = body[:2000]
    pairs = len(start) // 2
    if pairs < 4 or start.count(0) < pairs * 0.3:
        return None
    high, low = start[1::2].count(0), start[::2].count(0)
    if high > 4 * low:
        return "utf-16-le"
    if low > 4 * high:
        return "utf-16-be"
    return None


def _score(sample: bytes, codec: str) -> float:
    """How much of what is outside ASCII looks like text of the codec's languages, from 0 to 1."""
    text = sample.decode(codec, "replace")
    characters = "".join(OUTSIDE_ASCII.findall(text))[:SAMPLE_CHARACTERS]
    if not characters:
        return 0.0
    good = sum(c in FREQUENT for c in characters) + len(COMPANIONS.findall(characters))
    if codec not in ("gb18030", "big5hkscs", "cp949"):  # they have kana too, where EUC-JP has them
        good += len(KANA.findall(characters))
    bad = len(NOT_TEXT.findall(characters))
    return max(0.0, (good - 2 * bad) / len(characters))


def _latin_share(sample: bytes) -> float:
    """Of the high bytes, those that as windows-1252 are letters in words, or punctuation."""
    text = sample.decode("cp1252", "replace")
    high = sum(map(len, OUTSIDE_ASCII.findall(text)))
    return len(LATIN.findall(text)) / max(1, high)


def _sample(body: bytes) -> bytes:
    """A part of the page from its first byte outside ASCII on, cut where no character is."""
    first = HIGH_BYTES.search(body)
    start = max(0, first.start() - 1) if first else 0
    end = start + SAMPLE_BYTES
    if end < len(body) and (cut := body.rfind(b"<", start, end)) > 0:
        end = cut
    return body[start:end]


def _byte_as_latin1(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return error.object[error.start : error.end].decode("latin-1"), error.end


codecs.register_error("latin-1-bytes", _byte_as_latin1)
