"""Secrets and personal data: what is found, what is not, what replaces it, and time that stays linear.

Keys of known forms are put together here, so that no scanner takes this file for a leak.
"""

from __future__ import annotations

import string
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codeshell import _C
from codeshell.errors import UserError
from codeshell.randomness import below, draw
from codeshell.scorers import make
from codeshell.scorers.secrets import KINDS, redact

ALPHANUMERIC = string.ascii_letters + string.digits


def word(length: int, alphabet: str = ALPHANUMERIC, salt: int = 0) -> str:
    """A random word, always the same."""
    return "".join(alphabet[below(draw(salt, place, "secret"), len(alphabet))] for place in range(length))


HEX, UPPER = "0123456789abcdef", string.ascii_uppercase + "234567"
BODY = "\n".join(word(64, ALPHANUMERIC + "+/", salt) for salt in range(6))
PEM = f"-----BEGIN RSA PRIVATE {'KEY'}-----\n{BODY}\n-----END RSA PRIVATE {'KEY'}-----\n"
TOKEN = f"eyJ{word(30)}.eyJ{word(60, salt=1)}.{word(43, ALPHANUMERIC + '-_', 2)}"

KEYS = {
    "aws": "AKIA" + word(16, UPPER),
    "github": "ghp_" + word(36),
    "github-fine": "github_pat_" + word(22) + "_" + word(59),
    "gitlab": "glpat-" + word(20),
    "google": "AIza" + word(35, ALPHANUMERIC + "-_"),
    "google-oauth": "GOCSPX-" + word(28),
    "google-token": "ya29." + word(60),
    "slack": "xoxb-" + word(12, string.digits) + "-" + word(24),
    "slack-app": "xapp-1-" + word(30),
    "stripe": "sk_live_" + word(24),
    "stripe-restricted": "rk_test_" + word(24),
    "jwt": TOKEN,
    "openai": "sk-proj-" + word(48),
    "hugging-face": "hf_" + word(34),
    "npm": "npm_" + word(36),
    "pypi": "pypi-AgEIcHlwaS5vcmc" + word(80),
    "send-grid": "SG." + word(22) + "." + word(43, salt=3),
    "twilio": "SK" + word(32, HEX),
    "digital-ocean": "dop_v1_" + word(64, HEX),
}

FOUND: list[tuple[str, str, str]] = [
    # (text, what is replaced, by what)
    *((f'client = Client("{key}")', key, "<KEY>") for key in KEYS.values()),
    *((f"KEY={key}\n", key, "<KEY>") for key in KEYS.values()),
    (PEM, BODY, "<KEY>"),
    (PEM.replace("\n", "\\n"), f"\\n{BODY}\n".replace("\n", "\\n"), "<KEY>"),
    (f"-----BEGIN OPENSSH PRIVATE {'KEY'}-----\n{BODY}", BODY, "<KEY>"),
    ('password = "Tr0ub4dor&3"', "Tr0ub4dor&3", "<PASSWORD>"),
    ("'db_password': 'kx9!vQ2p',", "kx9!vQ2p", "<PASSWORD>"),
    ('String dbPassword = "Winter2019!";', "Winter2019!", "<PASSWORD>"),
    ('config["passwd"] = "qwe45RTY"', "qwe45RTY", "<PASSWORD>"),
    ('password: str = "hUn7er-two"', "hUn7er-two", "<PASSWORD>"),
    ('pwd := "p4ssphr4s3!"', "p4ssphr4s3!", "<PASSWORD>"),
    ('"password" => "s3cr3tAdm1n!"', "s3cr3tAdm1n!", "<PASSWORD>"),
    ('if password == "let-M3-1n":', "let-M3-1n", "<PASSWORD>"),
    (f'API_KEY = "{word(32, HEX)}"', word(32, HEX), "<PASSWORD>"),
    (f"apiKey: '{word(40)}',", word(40), "<PASSWORD>"),
    (f'aws_secret_access_key = "{word(40, ALPHANUMERIC + "/+")}"', word(40, ALPHANUMERIC + "/+"), "<PASSWORD>"),
    (f'client_secret = b"{word(24)}"', word(24), "<PASSWORD>"),
    (f"SECRET_TOKEN={word(32)}\n", word(32), "<PASSWORD>"),
    (f"  token: {word(32)}\n", word(32), "<PASSWORD>"),
    ("postgres://admin:aV3ryL0ng!@db.internal:5432/x", "aV3ryL0ng!", "<PASSWORD>"),
    ("# Jane Doe <jane.doe+x@mail.corp-site.co.uk>", "jane.doe+x@mail.corp-site.co.uk", "<EMAIL>"),
    ("@author j_smith@uni-bonn.de.", "j_smith@uni-bonn.de", "<EMAIL>"),
    ("mailto:a1@b2.io?subject=x", "a1@b2.io", "<EMAIL>"),
    ("ä.müller@web.de", "ller@web.de", "<EMAIL>"),  # letters beyond ASCII end a name
    ('host = "93.184.216.34"', "93.184.216.34", "<IP_ADDRESS>"),
    ("http://52.95.110.1:8080/x", "52.95.110.1", "<IP_ADDRESS>"),
    ("ssh root@81.2.69.142.", "81.2.69.142", "<IP_ADDRESS>"),
    ("allow 151.101.1.69/24", "151.101.1.69", "<IP_ADDRESS>"),
    ("dns 2a00:1450:4001:81b::200e ok", "2a00:1450:4001:81b::200e", "<IP_ADDRESS>"),
    ("[2606:4700:4700:0:0:0:0:1111]:53", "2606:4700:4700:0:0:0:0:1111", "<IP_ADDRESS>"),
]

HARMLESS = [
    # Documentation, placeholders, and code that speaks of secrets.
    "AKIAIOSFODNN7EXAMPLE",
    "ghp_" + "x" * 36,
    "AKIA" + word(17, UPPER),
    word(3) + "AKIA" + word(16, UPPER),
    "sk-spinner-three-bounce-container-large-size",
    'if "-----BEGIN RSA PRIVATE ' + 'KEY-----" in text: raise',
    'password = "password123"',
    'password = "changeme"',
    'password = "your-password-here"',
    'password = "${DB_PASSWORD}"',
    'password = "<PASSWORD>"',
    'password = ""',
    'password = os.environ["DB_PASSWORD"]',
    "password = getpass.getpass()",
    'PASSWORD_FIELD = "new_password"',
    'label = "Password"',
    "password: 'Das Passwort ist falsch'",
    'password_regex = "^[a-z]{8,32}$1"',
    "'password' => 'required|string|min:8|confirmed',",
    'token = "IDENTIFIER_EXPRESSION"',
    'token = tokens2[index_of_token123]',
    "secret: SecretManagerServiceClient2v1 = make()",
    f'sha256 = "{word(64, HEX)}"',
    f'"integrity": "sha512-{word(86)}=="',
    f"commit {word(40, HEX)}",
    # No addresses.
    "@property\ndef x(self): pass",
    "import x from '@angular/core'",
    "git clone git@github.com:owner/name.git",
    "y = a@b.T + q@k.transpose(0, 1) + x@w.to(device)",
    "icon@2x.png react@18.2.0 user@localhost me@example.com you@mail.example.org",
    "127.0.0.1 10.1.2.3 192.168.1.20 172.16.0.9 169.254.169.254 203.0.113.7 198.51.100.3 255.255.255.255 0.0.0.0",
    "8.8.8.8 1.1.1.1 224.0.0.251 100.64.1.1",
    'version = "1.24.3.17"',
    "AssemblyVersion: 4.12.8.11",
    "requests==2.31.0.4",
    "1.3.6.1.4.1.311 and 1.2.3.4.5 and v1.12.3.5 and 300.12.13.14 and 1.2.3 and 01.22.33.44",
    "file-5.12.13.14-x86.tar",
    "$Id: lapi.c,v 2.55.11.5 2008/07/04 and section 13.2.4.21 and 2.5.4.65, 2.5.29.19 and ^1.2 for 1.2.1.2",
    "https://user:password@gitlab.com/a/b",
    "password='$_POST[new_password1]' and password='\".$_POST['pw1'].\"'",
    "Version=2.0.0.0, PublicKeyToken=b77a5c561934e089",
    "std::vector<int>::iterator a::b 12:34:56 2021:10:11 deadbeef::cafe 2001:db8::1 fe80::1 ::1 00:1b:44:11:3a:b7",
    "",
]  # fmt: skip


def found(text: str, everything: bool = False) -> list[tuple[str, str]]:
    data = text.encode()
    return [(data[begin:end].decode(), by) for begin, end, by in _C.secrets.find(data, everything)]


@pytest.mark.parametrize(("text", "piece", "by"), FOUND, ids=lambda value: None)
def test_what_is_found(text: str, piece: str, by: str) -> None:
    assert found(text) == [(piece, by)]
    # Among other lines, too, and with the ends of lines of Windows.
    assert found(f"x = 1\r\n{text}\r\ny = [2]\n") == [(piece, by)]


@pytest.mark.parametrize("text", HARMLESS)
def test_what_is_not_found(text: str) -> None:
    assert found(text) == []


def test_what_identifies_nobody_is_found_when_asked() -> None:
    text = "me@example.com 192.168.1.20 127.0.0.1 2001:db8::1:2 fe80::1ff:fe23:4567:890a 8.8.8.8"
    assert found(text) == []
    assert [piece for piece, _ in found(text, everything=True)] == text.split()


def batch(texts: list[str]) -> pa.Table:
    return pa.table({"text": pa.array(texts, pa.large_string())})


def test_the_scorer_counts() -> None:
    texts = [f'a@b.de x@y.fr password="kx9!vQ2p" 93.184.216.34\n{PEM}', "x = 1\n", KEYS["aws"], "me@example.com"]
    scores = make("secrets", {}).score(batch(texts))
    assert {name: values.tolist() for name, values in scores.items()} == {
        "secrets": [2, 0, 1, 0],
        "emails": [2, 0, 0, 0],
        "addresses": [1, 0, 0, 0],
    }
    assert make("secrets", {"everything": True}).score(batch(texts))["emails"].tolist() == [2, 0, 0, 1]
    assert [len(values) for values in make("secrets", {}).score(batch([])).values()] == [0, 0, 0]
    with pytest.raises(UserError, match="everything"):
        make("secrets", {"everything": "yes"})


def test_redact() -> None:
    texts = [f"{PEM}# a@b.de\n", "same\n", 'password = "kx9!vQ2p" # ü\n', "93.184.216.34"]
    result, counts = redact(texts)
    assert result.to_pylist() == [
        f"-----BEGIN RSA PRIVATE {'KEY'}-----\n<KEY>\n-----END RSA PRIVATE {'KEY'}-----\n# <EMAIL>\n",
        "same\n",
        'password = "<PASSWORD>" # ü\n',
        "<IP_ADDRESS>",
    ]
    assert {name: values.tolist() for name, values in counts.items()} == {
        "secrets": [1, 0, 1, 0],
        "emails": [1, 0, 0, 0],
        "addresses": [0, 0, 0, 1],
    }
    result, counts = redact(texts, ["emails"])
    assert result.to_pylist() == [texts[0].replace("a@b.de", "<EMAIL>"), *texts[1:]]
    assert counts["secrets"].tolist() == [0] * 4
    with pytest.raises(ValueError, match="'keys' is not one of secrets"):
        redact(texts, ["keys"])


def test_redact_takes_every_form_of_texts_and_copies_only_what_changes() -> None:
    texts = ["a@b.de", "x", "93.184.216.34", ""]
    wanted = ["<EMAIL>", "x", "<IP_ADDRESS>", ""]
    chunks = pa.chunked_array([pa.array(texts[:1]), pa.array([], pa.string()), pa.array(texts[1:])])
    for form in (texts, pa.array(texts), pa.array(texts, pa.large_string()), chunks):
        assert redact(form)[0].to_pylist() == wanted
    sliced = pa.array(["no", *texts, "no"], pa.large_string()).slice(1, 4)
    assert redact(sliced)[0].to_pylist() == wanted
    clean = pa.array(["x = 1", "y"], pa.large_string())
    assert redact(clean)[0] is clean
    assert redact([])[0].to_pylist() == []
    # Several pieces of one column, of which some change: 3 x 8 MB.
    long = pa.array(["y = 2\n" * 1_500_000, "a@b.de", "z = 3\n" * 1_500_000, "x = 1\n" * 1_500_000], pa.large_string())
    result, counts = redact(long)
    assert counts["emails"].tolist() == [0, 1, 0, 0] and result[1].as_py() == "<EMAIL>"
    assert result[0] == long[0] and result[2] == long[2] and result[3] == long[3]


pieces = st.sampled_from(
    [text for text, _, _ in FOUND]
    + HARMLESS
    + ["\n", " ", "@", "=", ":", "://", '"', "'", "-----BEGIN ", "é", "\x00", "token", "password", "eyJ", "1.", "2001:"]
)


@settings(max_examples=300, deadline=None)
@given(st.lists(pieces, max_size=12).map("".join), st.booleans())
def test_spans_are_ordered_and_replacing_them_leaves_nothing(text: str, everything: bool) -> None:
    data = text.encode()
    spans = _C.secrets.find(data, everything)
    edges = [edge for begin, end, _ in spans for edge in (begin, end)]
    assert edges == sorted(edges) and all(begin < end for begin, end, _ in spans)
    assert not edges or edges[-1] <= len(data)
    # By hand, from the back.
    wanted = data
    for begin, end, by in reversed(spans):
        wanted = wanted[:begin] + by.encode() + wanted[end:]
    result, counts = redact([text], everything=everything)
    assert result[0].as_py() == wanted.decode()
    assert sum(int(values[0]) for values in counts.values()) == len(spans)


@pytest.mark.parametrize("text", [text for text, _, _ in FOUND])
def test_a_redacted_text_has_nothing_left(text: str) -> None:
    assert redact(redact([text])[0])[0][0] == redact([text])[0][0]
    assert found(redact([text])[0][0].as_py()) == []


@given(st.binary(max_size=400))
def test_any_bytes_are_taken(data: bytes) -> None:
    for begin, end, _ in _C.secrets.find(data):
        assert 0 <= begin < end <= len(data)


HARD = [
    "a@" * 1, "password=", "a.", "1.", "1:", "2001:", "eyJ", "eyJaaaaaaaaa.", "://a:", "-----BEGIN PRIVATE KEY-----",
    "x", "_", 'token="', "SG.aaaaaaaaaaaaaaaaa.", "@a.", "sk-", "fe80:", "password:" + " ", "a-", "token: str = '",
]  # fmt: skip


def test_texts_that_are_made_to_be_slow_are_not() -> None:
    # A megabyte of each takes a second in all; of a rule that is quadratic, the suite's own time limit would tell.
    for unit in HARD:
        _C.secrets.find((unit * (1 << 20))[: 1 << 20].encode(), True)


@pytest.mark.parametrize("offsets", [[0, 9], [-1, 2], [2, 1], [[0, 1]]])
def test_bad_buffers_are_refused(offsets: Any) -> None:
    for call in (_C.secrets.count, lambda data, places: _C.secrets.redact(data, places, 7)):
        with pytest.raises(ValueError, match="offsets"):
            call(b"text", np.array(offsets, np.int64))


def test_the_kinds_are_the_columns() -> None:
    assert tuple(make("secrets", {}).columns.names) == KINDS
