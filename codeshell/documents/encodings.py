"""Which encoding a text is in that is not UTF-8, and the text in UTF-8.

A file that is not valid UTF-8 is left out, and its reason names what it is in: `encoding_utf16`, `encoding_latin1`,
`encoding_shift_jis` ... (`encoding_` and a name of `CANDIDATES`, or the codec that the file itself declares), or
`bad_utf8` where that cannot be told. With the setting `encoding = "auto"` such a file is read instead.

How an encoding is found, in this order:
    UTF-32, UTF-16   a byte order mark, or zero bytes in every second place; and what comes out is text
    declared         `coding: latin-1` of Python, Ruby and Emacs, `fileencoding=` of Vim, `charset=`, `encoding=`
    damaged UTF-8    more valid characters than invalid bytes: nothing else is tried
    CANDIDATES       each decodes strictly or is out; how much the characters beyond ASCII look like text decides

Code is nearly all ASCII, so there are few characters to judge by. That is why the candidates are few: the encodings
that source code was written in. An encoding is named only if it is plausible by itself and clearly before the next.
"""

# ruff: noqa: RUF001 (signs that look like ASCII are what texts in two bytes have)

from __future__ import annotations

import codecs
import re
import unicodedata
from collections.abc import Callable
from typing import NamedTuple

MODES = ("utf-8", "auto")
"""Values of the setting: read UTF-8 alone, or find out what other files are in and read them, too."""

SAMPLE = 4096
"""Characters beyond ASCII that a candidate is judged by."""

LEAST = 0.5
"""Score that an encoding needs. Right ones have 0.6 to 1."""

MARGIN = 0.1
"""What the best must be before the second of another language."""

SIMPLIFIED = frozenset(
    "的一是不了在人有我他这个们中来上大为和国地到以说时要就出会可也你对生能而子那得于着下自之年过发后作里用道行所然"
    "家种事成方多经么去法学如都同现当没动面起看定天分还进好小部其些主样理心她本前开但因只从想实日军者意无力它与长把"
    "机十民第公此已工使情明性知全三又关点正业外将两高间由问很最重并物手应战向头文体政美相见被利什二等产或新己制身果"
    "加西斯月话合回特代内信表化老给世位次度门任常先海通教儿原东声提立及比员解水名真论处走义各入几口认条平系气题活尔"
    "更别打女变四神总何电数安少报才结反受目太量再感建务做接必场件计管期市直德资命山金指克许统区保至队形社便空决治展"
    "马科司五基眼书非则听白却界达光放强即像难且权思王象完设式色路记南品住告类求据程北边死张该交规万取拉格望觉术领共"
    "确传师观清今切院让识候带导争运返函参值量字符串列型配置读写初始错误检查调试执循环输返默认添删除修改创请求注释单项"
    "组键缓存线锁连接口码编辑显示按钮窗图标签链数据库选择模块包径夹启停止败功步骤例详描述若否则空首尾排序搜索网址"
)
TRADITIONAL = frozenset(
    "的一是不了在人有我他這個們中來上大為和國地到以說時要就出會可也你對生能而子那得於著下自之年過發後作裡用道行所然"
    "家種事成方多經麼去法學如都同現當沒動面起看定天分還進好小部其些主樣理心她本前開但因只從想實日軍者意無力它與長把"
    "機十民第公此已工使情明性知全三又關點正業外將兩高間由問很最重並物手應戰向頭文體政美相見被利什二等產或新己制身果"
    "加西斯月話合回特代內信表化老給世位次度門任常先海通教兒原東聲提立及比員解水名真論處走義各入幾口認條平系氣題活爾"
    "更別打女變四神總何電數安少報才結反受目太量再感建務做接必場件計管期市直德資命山金指克許統區保至隊形社便空決治展"
    "馬科司五基眼書非則聽白卻界達光放強即像難且權思王象完設式色路記南品住告類求據程北邊死張該交規萬取拉格望覺術領共"
    "確傳師觀清今切院讓識候帶導爭運返函參值字符串列型配置讀寫初始錯誤檢查調試執循環輸預設添刪除修改創請註釋單項組鍵"
    "緩存線鎖連碼編輯顯示按鈕窗圖標籤鏈庫選擇模塊套件徑夾啟停止敗功步驟例詳描述若否則首尾排序搜尋網址檔案程式變數"
)
KANJI = frozenset(
    "日一国会人年大十二本中長出三同時政事自行社見月分議後前民生連五発間対上部東者党地合市業内相方四定今回新場金員九"
    "入選立開手米力学問高代明実円関決子動京全目表戦経通外最言氏現理調体化田当八六約主題下首意法不来作性的要用制治度"
    "務強気小七成期公野協取都和統以機平総加山思家話世受区領多県続進正安設保改数記院女初北午指権心界支第産結百派点教"
    "報済書府活原先共得解名交資予川向際査勝面委告軍文反元重近千考判認画海参売利組知案道信策集在件団別物側任引使求所"
    "次水半品昨論計死官増係感特情投示変打男基私各始島直両朝革価式確村提運終挙果西勢減台広容必応演電歳住争談能無再位"
    "置真流格有口過局少放検常料状工建語営空職証急止送供可役構割身費付切由説転比難防補車優研収断何違消境番規術展態導"
    "備配副算視条独究起万着残想線率声質待試象域助例然早張映限額監環験追商義伝形落担好準辺造英被技低復仕失移差個門写"
    "末守極種影命含量非核観察整段横型白深字答製音申様財識注呼達値列型返戻処削除追加読込書関数変数引数配列文字列初期"
    "化設定条件繰返表示更新保存画面選択入出力開閉終了開始失敗成功確認検索接続実行対象指定"
)
SYLLABLES = frozenset(
    "이다는에의고을가하지은한를로도서사자기어으인시대있나아리해수일보라정그들과제부여만전게적장구면상주동성원우경까세된"
    "요했무안국공것할신오연유실때중비같없선미소개내거생조화마치음용물분관회말며등문방행교계통모위양진당입출력파열함변호"
    "설값반환코드메뉴표현추삭검색목록저읽쓰트스터레명령예외처클래객체본글복줄타페키창크호작업료패확결번임니합습되않간단"
    "영못더또각및와데버바재바식별속위치심르려류형태활질문답류점필른든김새로운길짜달년월"
)
CYRILLIC = ("оеаинтсрвлкмдпуяыьгзбчйхжшюцщэфъё", "оанивтерсілкудмпязьбгйчхїжцющшєфґ")
GREEK = ("αοιετσνηυρπκμςλωόίάήέγδχθφύβώξζψϊϋ",)
WESTERN = ("éèàùâêîôûçëïœ", "äöüß", "áéíóúñü", "ãõáéíóúâêôàç", "àèéìòù", "åäöæøé", "éëïöü", "àçèéíïòóúü", "áðéíóúýþæö")
CENTRAL = ("ąćęłńóśźż", "áčďéěíňóřšťúůýž", "áéíóöőúüű", "čćđšž", "áäčďéíĺľňóôŕšťúýž")
TURKISH = ("çğıöşü",)
"""The letters of a language beyond ASCII, lower-case; of an alphabet of its own in the order of how often they are."""

ALONE = frozenset("àáâèéíóôúýåö")
"""Letters that are words."""

MARKS = frozenset("«»¿¡§©®°±·×÷µ£€–—‘’“”„…•™²³½ªº\u00a0")
"""Signs beyond letters that texts in single bytes have."""

WIDE_MARKS = frozenset(
    "　、。，．・：；？！「」『』（）【】〈〉《》“”‘’…—～・ー〜→←↑↓○●◎△▲□■◇◆★☆※×÷％＝＋－／＊＜＞＠＃"
)
"""The same of texts in two bytes."""


class Encoding(NamedTuple):
    """What a text is in."""

    name: str
    """The reason shows it after `encoding_`."""
    codec: str
    """Python's codec that decodes it. Some have more characters than the standard of the name: what people write is
    Microsoft's variant."""


class Candidate(NamedTuple):
    """An encoding, and how much a text in it looks like one of its languages: 1 is surely, below 0 surely not."""

    encoding: Encoding
    score: Callable[[str, str], float]
    """Called with (the text around the characters beyond ASCII, the codec)."""


def reason(data: bytes) -> str:
    """Why a text that is not valid UTF-8 is left out: `encoding_NAME`, or `bad_utf8` if it cannot be told."""
    found = detect(data)
    return f"encoding_{found.name}" if found else "bad_utf8"


def to_utf8(data: bytes) -> tuple[bytes, str]:
    """The text in UTF-8, without a byte order mark, and the reason to leave it out if it cannot be read whole."""
    found = detect(data)
    if found is None:
        return data, "bad_utf8"
    try:
        return data.decode(found.codec).removeprefix("\ufeff").encode(), ""
    except UnicodeError:  # a file that was cut in the middle of a character
        return data, f"encoding_{found.name}"


def is_wide(data: bytes) -> Encoding | None:
    """The encoding of a text whose units have two or four bytes: most of it has zero bytes, and is no binary file."""
    for mark, name, codec in (
        (codecs.BOM_UTF32_LE, "utf32", "utf-32"),
        (codecs.BOM_UTF32_BE, "utf32", "utf-32"),
        (codecs.BOM_UTF16_LE, "utf16", "utf-16"),
        (codecs.BOM_UTF16_BE, "utf16", "utf-16"),
    ):
        if data.startswith(mark) and _is_text(data, codec):
            return Encoding(name, codec)
    # Without a mark: (share of zero bytes at each place in four), for texts that are mostly ASCII.
    head = data[:8192]
    if len(head) < 8 or b"\0" not in head:
        return None
    zeros = [head[place::4].count(0) / len(head[place::4]) for place in range(4)]
    for codec, places in (
        ("utf-32-le", (1, 2, 3)),
        ("utf-32-be", (0, 1, 2)),
        ("utf-16-le", (1, 3)),
        ("utf-16-be", (0, 2)),
    ):
        enough = 0.9 if len(places) == 3 else 0.3
        fits = all((zeros[place] >= enough) if place in places else (zeros[place] <= 0.02) for place in range(4))
        if fits and _is_text(data, codec):
            return Encoding(codec[:6].replace("-", ""), codec)
    return None


def detect(data: bytes) -> Encoding | None:
    """The encoding of a text that is not valid UTF-8, or None if it cannot be told."""
    if wide := is_wide(data):
        return wide
    # Lone surrogates are damage of UTF-8, and control characters are no text in any encoding.
    if not data or _decodes(data, "utf-8", "surrogatepass") or _controls(data):
        return None
    if found := _declared(data):
        return found
    return None if _is_damaged(data) else _best(data)


DECLARED = re.compile(
    rb"(?:(?:coding|charset|fenc)[ \t]*[:=]|scriptencoding[ \t])[ \t]*[\"']?([\w.-]{3,20})", re.IGNORECASE
)
_KNOWN = re.compile(r"(?:iso-?8859|latin|l\d|cp|windows|koi8|euc|ujis|shift|s-?jis|ms932|gb|big5|mac|tis|viscii)", re.I)
_BEYOND = re.compile(r"[^\x00-\x7f]+")
_HIGH = re.compile(rb"[^\x00-\x7f]")
_CONTROLS = re.compile(rb"[\x00-\x06\x0e-\x1a\x1c-\x1f]")


def _declared(data: bytes) -> Encoding | None:
    """The encoding that the first lines of a file name, if the file decodes in it."""
    for word in DECLARED.findall(b"\n".join(data[:2048].split(b"\n", 10)[:10])):
        name = word.decode("ascii", "replace").replace("_", "-").lower()
        name = re.sub(r"-(?:unix|dos|mac)$", "", name)
        # Python's other codecs (unicode_escape, punycode) are no encodings of files.
        if not _KNOWN.match(name):
            continue
        try:
            codec = codecs.lookup(name).name
        except LookupError:
            continue
        # The names of ours come first: a file that says gb2312 is often in GBK.
        near = next((one.encoding for one in CANDIDATES if codec in _FAMILY.get(one.encoding.name, ())), None)
        for found in (near, Encoding(codec.replace("-", "_"), codec)):
            if found and _is_text(data, found.codec):
                return found
    return None


def _best(data: bytes) -> Encoding | None:
    """The most plausible candidate, if it is plausible and clearly before the others."""
    # Only the surroundings of characters beyond ASCII are judged: lines that have them, up to a limit. In Shift-JIS
    # and GBK the second byte of a character may be an ASCII letter, but never a line's end.
    lines: list[bytes] = []
    size = 0
    for line in data.splitlines():
        if _HIGH.search(line):
            lines.append(line[:2000] if len(line) > 2000 and not lines else line)
            size += len(line)
        if size > 4 * SAMPLE:
            break
    sample = b"\n".join(lines)[: 8 * SAMPLE]
    scores: list[tuple[float, Encoding]] = []
    for candidate in CANDIDATES:
        codec = candidate.encoding.codec
        # The sample may be cut within a character; the whole may not be wrong.
        text = sample.decode(codec, "ignore")
        score = candidate.score(text, codec)
        if score >= LEAST - MARGIN and _decodes(data, codec):
            scores.append((score, candidate.encoding))
    scores.sort(key=lambda one: -one[0])
    if not scores or scores[0][0] < LEAST:
        return None
    near = [encoding for score, encoding in scores if scores[0][0] - score < MARGIN]
    # Those that read the same are one answer. Latin-1 is by far the usual one of those that differ in a few letters,
    # except where these are Turkish.
    best = min(near, key=lambda encoding: encoding.name != "latin1")
    text = sample.decode(best.codec, "ignore")
    differ = [other.name for other in near if sample.decode(other.codec, "ignore") != text]
    return None if differ and (best.name != "latin1" or "cp1254" in differ) else best


def _wide_score(
    common: frozenset[str], script: Callable[[str], bool] | None, level: Callable[[bytes], bool]
) -> Callable[[str, str], float]:
    """A score for texts in Chinese, Japanese or Korean.

    Args:
        common: characters that make up most of a text.
        script: what only this language has (kana, syllables).
        level: whether the bytes of a character are in the first level of its standard, which holds the usual ones.
    """

    def score(text: str, codec: str) -> float:
        total, count = 0.0, 0
        for char in "".join(_BEYOND.findall(text))[:SAMPLE]:
            count += 1
            if char in common:
                total += 1
            elif char in WIDE_MARKS:
                total += 0.3
            elif script and script(char):
                total += 1 if level(char.encode(codec)) else -0.5
            elif "\u4e00" <= char <= "\u9fff":
                total += 0.2 if level(char.encode(codec)) else -0.6
            elif "\uff01" <= char <= "\uff5e" or "\u2460" <= char <= "\u24ff":
                total += 0.1
            else:
                total -= 1
        return total / count if count else 0.0

    return score


def _narrow_score(alphabets: tuple[str, ...], *, own_words: bool) -> Callable[[str, str], float]:
    """A score for texts in alphabets, each letter of which is a byte.

    Args:
        alphabets: of one language each.
        own_words: words have letters of the alphabet alone; else they are ASCII with some of these letters.
    """
    # In an alphabet of its own, twelve letters make up three quarters of a text: the others weigh less.
    weights = [
        {letter: 0.6 if own_words and rank >= 12 else 1.0 for rank, letter in enumerate(letters)}
        for letters in alphabets
    ]
    # Authors' names and examples bring letters of a second language.
    if not own_words:
        weights.append(dict.fromkeys("".join(alphabets), 0.75))

    def score(text: str, codec: str) -> float:
        values = [0.0] * len(weights)
        count = 0
        for found in _BEYOND.finditer(text):
            run = found[0]
            before = text[found.start() - 1 : found.start()]
            after = text[found.end() : found.end() + 1]
            inside = before.isalpha() or after.isalpha()
            for place, char in enumerate(run[:64]):
                count += 1
                left, right = (run[place - 1] if place else before), (run[place + 1 : place + 2] or after)
                # No quote and no superscript is in the middle of a word.
                if char in MARKS and not (right.isalpha() and ((left.isalpha() and char != "’") or char in "²³±ªº")):
                    # Signs are alike in many encodings: they are no sign of an alphabet of its own.
                    values = [
                        value + (0.0 if own_words else 0.9 if len(run) == 1 else 0.4 if len(run) == 2 else -0.3)
                        for value in values
                    ]
                    count -= own_words
                    continue
                lower = char.lower()
                # In the middle of a word of small letters, no capital.
                odd = char != lower and left.islower()
                if own_words:
                    fits = 0.2 if len(run) == 1 else 0.7 if char != lower and left.isupper() else 1.0
                    fits = -1.0 if odd or (before.isascii() and before.isalpha()) or after.isalpha() else fits
                else:
                    # A letter alone is a word (à, é, ó); several in a row are a sign of another script.
                    fits = 1.0 if inside and len(run) <= 2 else -0.5 if len(run) > 1 else 0.6 if lower in ALONE else 0.2
                    fits = -1.0 if odd else fits
                values = [
                    value + (fits * letters[lower] if lower in letters else -1)
                    for value, letters in zip(values, weights, strict=True)
                ]
            if count >= SAMPLE:
                break
        # A short word may be anything.
        return max(values) / max(count, 6 * own_words) if count else 0.0

    return score


def _first_level(low: int, high: int) -> Callable[[bytes], bool]:
    return lambda code: low <= code[0] <= high


def _is_korean(code: bytes) -> bool:
    # The syllables of the standard; the others are Microsoft's, and Chinese characters are from 0xca on.
    return 0xB0 <= code[0] <= 0xC8 and code[1] >= 0xA1


def _is_kana(char: str) -> bool:
    return "\u3041" <= char <= "\u30fe"


def _is_syllable(char: str) -> bool:
    return "\uac00" <= char <= "\ud7a3"


CANDIDATES = (
    Candidate(Encoding("latin1", "cp1252"), _narrow_score(WESTERN, own_words=False)),
    Candidate(Encoding("gbk", "gb18030"), _wide_score(SIMPLIFIED, None, _first_level(0xB0, 0xD7))),
    Candidate(Encoding("big5", "cp950"), _wide_score(TRADITIONAL, None, _first_level(0xA4, 0xC6))),
    Candidate(Encoding("shift_jis", "cp932"), _wide_score(KANJI, _is_kana, _first_level(0x81, 0x97))),
    Candidate(Encoding("euc_jp", "euc_jp"), _wide_score(KANJI, _is_kana, _first_level(0xA1, 0xCF))),
    Candidate(Encoding("euc_kr", "cp949"), _wide_score(SYLLABLES, _is_syllable, _is_korean)),
    Candidate(Encoding("cp1251", "cp1251"), _narrow_score(CYRILLIC, own_words=True)),
    Candidate(Encoding("koi8_r", "koi8_u"), _narrow_score(CYRILLIC, own_words=True)),
    Candidate(Encoding("cp866", "cp866"), _narrow_score(CYRILLIC, own_words=True)),
    Candidate(Encoding("latin2", "iso8859_2"), _narrow_score(CENTRAL, own_words=False)),
    Candidate(Encoding("cp1250", "cp1250"), _narrow_score(CENTRAL, own_words=False)),
    Candidate(Encoding("cp1254", "cp1254"), _narrow_score(TURKISH, own_words=False)),
    Candidate(Encoding("cp1253", "cp1253"), _narrow_score(GREEK, own_words=True)),
)
"""The encodings that are tried, with the languages that are written in them."""

_FAMILY = {
    "latin1": ("iso8859-1", "cp1252"),
    "gbk": ("gb2312", "gbk", "gb18030"),
    "big5": ("big5", "cp950"),
    "shift_jis": ("shift_jis", "cp932"),
    "euc_jp": ("euc_jp",),
    "euc_kr": ("euc_kr", "cp949"),
    "koi8_r": ("koi8-r", "koi8-u"),
}
"""Codecs that count as one of ours."""


def _decodes(data: bytes, codec: str, errors: str = "strict") -> bool:
    try:
        data.decode(codec, errors)
    except UnicodeError:
        return False
    return True


def _is_damaged(data: bytes) -> bool:
    """Whether a text is in UTF-8 but for some bad bytes, lines or its end."""
    lossy = data.decode("utf-8", "replace")
    bad = lossy.count("\ufffd")
    # Half of the characters of EUC-JP's kana are characters of UTF-8 by chance.
    if sum(map(len, _BEYOND.findall(lossy))) - bad > 3 * bad:
        return True
    wrong = [("\ufffd" in line) for line in lossy.splitlines() if not line.isascii()]
    return 2 * wrong.count(False) >= wrong.count(True)


def _controls(data: bytes) -> bool:
    """Whether there are more control characters than a text has: form feeds and escapes are in some."""
    return 100 * len(_CONTROLS.findall(data)) > len(data)


def _is_text(data: bytes, codec: str) -> bool:
    """Whether what the codec makes of the data is text: no control characters, nothing that is no character.

    The end may be cut within a character. Such a file is in this encoding, though it cannot be read whole.
    """
    try:
        text = codecs.getincrementaldecoder(codec)().decode(data, final=False)
    except UnicodeError:
        return False
    head = text[:SAMPLE]
    odd = sum(unicodedata.category(char) in ("Cc", "Cn", "Co", "Cs") for char in set(head) - set("\t\n\v\f\r\x1b\x85"))
    # Some code points of a young script may be unknown to this Python; binary data has them by the dozen.
    return bool(head) and odd * 20 <= len(set(head))
