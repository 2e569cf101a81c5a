"""What is wrong with a byte-level BPE vocabulary, and a repaired one with the same ids.

A *dead* token is one that no text encodes to: its own text encodes to something else. The released CodeShell tokenizer
has 938, because two lists of merges were joined: for some tokens no merge is listed, for others the merges of their
parts come in another order than they were learnt in. Their embedding rows are never trained. It also lacks 42 of the
256 bytes, so some texts cannot be encoded.

`repair` gives such tokens a merge of their own, after all others, and adds the bytes. What cannot be brought
to life leaves the vocabulary, and its id is free for something else. No other id changes, and a text encodes to the
same ids as before unless one of the new merges applies to it.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from dataclasses import dataclass
from typing import Any, NamedTuple

from codeshell.tokenizer.encoder import BYTE_SYMBOLS
from codeshell.tokenizer.rebuild import rebuild
from codeshell.tokenizer.rules import Rule, Rules, from_symbols
from codeshell.tokenizer.tokenizer import Tokenizer
from codeshell.tokenizer.words import Words

NO_MERGE = "no merge makes it"
OTHERWISE = "its parts merge in another way"
CUT = "the pre-tokenizer or normaliser breaks it up"
NO_BYTES = "it is not written in the byte alphabet"


_NEIGHBOURS = ("", "a", "l", "e", "A", "1", " ", "\n", "!", "'", "\u4e2d")
"""What may stand beside a token in a word that holds it: one of each class that pre-tokenizers know, and what follows
in English contractions."""


class Dead(NamedTuple):
    """A token that no text encodes to.

    Attributes:
        pieces: the tokens that its bytes become, where it is not the pre-tokenizer that cuts it.
    """

    id: int
    token: str
    pieces: tuple[str, ...]
    reason: str


@dataclass(frozen=True)
class Findings:
    """What `inspect` found.

    Attributes:
        tokens: how many tokens there are, special ones left out.
        dead: in order of id.
        missing_bytes: bytes without a token.
        idle: merges that never apply; they do no harm, but no reader can tell them from the others.
        late: merges that are listed before the merge that makes one of their parts.
        makes: the one rule that makes each token that is not dead; a single byte has none.
    """

    tokens: int
    dead: list[Dead]
    missing_bytes: bytes
    idle: int
    late: list[Rule]
    makes: dict[str, Rule]

    @property
    def clean(self) -> bool:
        return not (self.dead or self.missing_bytes or self.idle or self.late)

    def to_dict(self) -> dict[str, Any]:
        """For a JSON file: counts, and the dead tokens with what they become."""
        return {
            "tokens": self.tokens,
            "dead": [_told(dead) for dead in self.dead],
            "dead_by_reason": dict(Counter(dead.reason for dead in self.dead)),
            "missing_bytes": list(self.missing_bytes),
            "idle_merges": self.idle,
            "late_merges": len(self.late),
        }


@dataclass(frozen=True)
class Repairs:
    """What `repair` did.

    Attributes:
        revived: id, token and new merge of each dead token that has one now.
        freed: dead tokens that left the vocabulary.
        free_ids: their ids, as far as no byte took one.
        bytes: id of each byte that was missing.
        dropped: merges that never applied and are gone.
        moved: merges that now come after those of their parts.
        uncertain: of these, the ones for which it is not proven that every text keeps its ids.
    """

    revived: list[tuple[int, str, Rule]] = dataclasses.field(default_factory=list)
    freed: list[Dead] = dataclasses.field(default_factory=list)
    free_ids: list[int] = dataclasses.field(default_factory=list)
    bytes: dict[int, int] = dataclasses.field(default_factory=dict)
    dropped: int = 0
    moved: int = 0
    uncertain: list[Rule] = dataclasses.field(default_factory=list)

    def line(self) -> str:
        """What was done, for a terminal."""
        parts = [
            f"{len(self.revived):,} dead tokens have a merge of their own",
            f"{len(self.freed):,} are gone",
            f"{len(self.bytes)} missing bytes have a token",
            f"{self.dropped:,} merges that never applied are gone",
        ]
        if self.uncertain:
            parts.append(f"{len(self.uncertain)} merges were moved, and rare texts may get other ids")
        return "; ".join(parts)

    def to_dict(self) -> dict[str, Any]:
        """For a JSON file."""
        return {
            "revived": [
                {"id": index, "token": shown(token), "parts": [shown(part) for part in rule]}
                for index, token, rule in self.revived
            ],
            "freed": [_told(dead) for dead in self.freed],
            "bytes": {f"0x{byte:02X}": index for byte, index in self.bytes.items()},
            "dropped_merges": self.dropped,
            "moved_merges": self.moved,
            "uncertain_merges": [[shown(part) for part in rule] for rule in self.uncertain],
        }


def inspect(tokenizer: Tokenizer) -> Findings:
    """Find dead tokens, missing bytes and merges that never apply or come too early.

    Tokens that are no whole characters are judged by the merges alone, because no text consists of one.
    """
    core = tokenizer.core()
    rules = Rules.of(core)
    looked_up = bool(core["model"]["ignore_merges"])
    products = {first + second for first, second in rules.order}
    # Added tokens that are text are found before any merge.
    tokens = {name: index for name, index in rules.vocabulary.items() if name not in tokenizer.added_text}
    words = Words(tokenizer)
    makes: dict[str, Rule] = {}
    dead: list[Dead] = []
    for token, index in tokens.items():
        made = rules.apply(token)
        whole = made.pieces == [token]
        if whole and made.last is not None:
            makes[token] = made.last
        if from_symbols(token) is None:
            dead.append(Dead(index, token, (), NO_BYTES))
        elif _is_cut(words, token):
            dead.append(Dead(index, token, tuple(made.pieces), CUT))
        # A tokenizer that looks whole words up finds this one without merging.
        elif not whole and not looked_up:
            dead.append(Dead(index, token, tuple(made.pieces), OTHERWISE if token in products else NO_MERGE))
    dead.sort()
    return Findings(
        tokens=len(tokens),
        dead=dead,
        missing_bytes=tokenizer.missing_bytes,
        idle=len(rules.order) - len(makes),
        late=[rule for rule in makes.values() if _late(rule, rules, makes)],
        makes=makes,
    )


def repair(tokenizer: Tokenizer, findings: Findings | None = None) -> tuple[Tokenizer, Repairs]:
    """The repaired tokenizer, and what was done; see the top of this file. `findings` are those of `inspect`.

    Of the merges those that never apply are dropped, and those that come before the merge of a part are moved after
    it, where they take effect anyway. A dead token gets a merge if its bytes become two tokens, or do so once shorter
    dead tokens have theirs. Bytes take the ids of the tokens that left, then new ones after the highest.
    """
    core = tokenizer.core()
    before = Rules.of(core)
    findings = findings or inspect(tokenizer)
    parts = {part for rule in findings.makes.values() for part in rule}
    places = _places(before, findings.makes)
    order = sorted(findings.makes, key=places.__getitem__)
    rules = Rules(dict(before.vocabulary), [findings.makes[token] for token in order])
    # All 256 bytes, with ids that are set at the end.
    missing = [symbol for symbol, byte in BYTE_SYMBOLS.items() if byte in tokenizer.missing_bytes]
    rules.vocabulary.update(dict.fromkeys(missing, -1))
    revived: list[tuple[int, str, Rule]] = []
    freed: list[Dead] = []
    # Parts before products: shorter tokens first.
    for dead in sorted(findings.dead, key=lambda dead: (len(dead.token), dead.id)):
        pieces = rules.apply(dead.token).pieces
        if dead.reason in (NO_MERGE, OTHERWISE) and len(pieces) == 2 and "".join(pieces) == dead.token:
            rule = (pieces[0], pieces[1])
            rules.append(rule)
            revived.append((dead.id, dead.token, rule))
        # A token that is cut when it stands alone may yet be a step on the way to one that is not; then it stays.
        elif dead.token not in parts:
            freed.append(dead)
            del rules.vocabulary[dead.token]
            rules.remove(dead.token)
    free = sorted(dead.id for dead in freed)
    fresh = [*free, *range(tokenizer.vocab_size, tokenizer.vocab_size + max(0, len(missing) - len(free)))]
    for symbol, index in zip(missing, fresh, strict=False):
        rules.vocabulary[symbol] = index
    result = rebuild(tokenizer, rules.vocabulary, rules.order, tokenizer.specials)
    return result, Repairs(
        revived=sorted(revived),
        freed=sorted(freed),
        free_ids=free[len(missing) :],
        bytes={BYTE_SYMBOLS[symbol]: rules.vocabulary[symbol] for symbol in missing},
        dropped=findings.idle,
        moved=len(findings.late),
        uncertain=[rule for rule in findings.late if not _certain(rule, before, findings.makes)],
    )


def _is_cut(words: Words, token: str) -> bool:
    """Whether no word holds the text of a token whole. Part of a character is no text, so it is not cut."""
    data = from_symbols(token)
    assert data is not None
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return False
    # Nearly every token is a word. Others may be part of one: GPT-2's pattern cuts 'l in two, but not 'll.
    return list(words.split(text)) != [token] and not any(
        _holds(words, before, text, after) for before in _NEIGHBOURS for after in _NEIGHBOURS
    )


def _holds(words: Words, before: str, text: str, after: str) -> bool:
    """Whether a word of `before + text + after` holds `text` whole."""
    first = len(before.encode())
    last = first + len(text.encode())
    begin = 0
    for word in words.split(before + text + after):
        end = begin + len(word)
        if begin <= first and last <= end:
            return True
        begin = end
    return False


def _late(rule: Rule, rules: Rules, makes: dict[str, Rule]) -> bool:
    return any(rules.ranks[makes[part]] > rules.ranks[rule] for part in rule if part in makes)


def _places(rules: Rules, makes: dict[str, Rule]) -> dict[str, tuple[int, ...]]:
    """When the rule of each token takes effect: its rank, or, where a part is made later, that part's place and then
    its rank.

    A rule that waits for a part applies at once when the part is there: before every rule of a rank above its own, and
    after those below it that wait for the same.
    """
    places: dict[str, tuple[int, ...]] = {}
    # A part is shorter than its product, so its place is known by then.
    for token in sorted(makes, key=len):
        rule = makes[token]
        rank = rules.ranks[rule]
        place = max((places[part] for part in rule if part in places), default=())
        while place and place[-1] < rank:
            place = place[:-1]
        places[token] = (*place, rank)
    return places


def _certain(rule: Rule, rules: Rules, makes: dict[str, Rule]) -> bool:
    """Whether moving a late rule after that of its part provably changes no text.

    Before, each place went through both merges at once; now the first merge is done everywhere before the second. Only
    where one place's second merge can take a token from another place can this differ: if its other part is where such
    a place begins, or if it takes its other part on the left, where another place may end. Continuation bytes of
    UTF-8, which all late rules of the released tokenizer add on the right, are neither.
    """
    first, second = rule
    later = makes.get(first)
    waits_on_the_left = later is not None and rules.ranks[later] > rules.ranks[rule]
    waits_on_the_right = second in makes and rules.ranks[makes[second]] > rules.ranks[rule]
    if not waits_on_the_left or waits_on_the_right or later is None:
        return False
    # The added part must not begin another place of the merges on the way, nor be the product of one.
    token = first
    while token in makes:
        if second in (token, makes[token][0]):
            return False
        token = makes[token][0]
    return True


def _told(dead: Dead) -> dict[str, Any]:
    pieces = [shown(piece) for piece in dead.pieces]
    return {"id": dead.id, "token": shown(dead.token), "pieces": pieces, "reason": dead.reason}


def shown(token: str) -> str:
    """A token, given in the byte alphabet, as text, its bytes as escapes where they are no whole characters."""
    data = from_symbols(token)
    return token if data is None else data.decode("utf-8", errors="backslashreplace")
