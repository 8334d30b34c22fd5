"""Log lines become templates while they pass, and templates that are new or come in bursts are found.

A line is masked (numbers, addresses, paths, ... by one list for all systems) and cut into words and separators. What
remains decides in two steps, both online, so that the batch that trains, the evaluation and the stream run one miner:

1. *Match*: a tree of the known templates, constant words before gaps, as Drain's (He et al., ICWS 2017), but over the
   separators too and without a similarity: a line belongs to a template or it makes a new one.
2. *Second look* at each new template: leave one word out, or all values of ``key=value``; if as many as ``VALUES``
   templates are then the same, what was left out is a value, and they become one template with a gap (Brain, Yu et al.,
   TSC 2023, so counts the distinct words below a node). Old ids lead to the merged one (:meth:`Miner.resolve`).

Why not Drain's similarity: it joins what differs in any part of its words, and its published thresholds differ by
system. Why not Brain: it needs all lines of a file at once, and delimiters and a threshold for each system. Leaving a
word out is a look into an index, and the result hardly depends on the order of lines. Memory is bound by ``capacity``
(about 10 kB a template of a dozen words): the least recently seen template leaves first. A template's id is a hash of
its words and gaps: whoever learns it gives it the same id.
"""

from __future__ import annotations

import math
import re
from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, field
from functools import lru_cache, reduce
from hashlib import blake2b
from typing import Any, Literal, NamedTuple

GAP = "<*>"
VALUES = 5
"""So many distinct words in one place of otherwise equal templates are values. Mean grouping accuracy on the eight
given systems of loghub: .968 for 3, .992 for 4, .998 for 5 and 6, .950 from 7 on."""
FIRST_VALUES = 20
"""As ``VALUES``, for the first word that is no value by its form: it seldom is one at all (Drain's assumption)."""
MAX_CHARACTERS, MAX_TOKENS, MAX_WORDS = 4096, 256, 64
"""What of a line is looked at; only its first words may turn out to be values."""

_GAP = "\x00"  # one character for ``GAP`` inside
_MASKED = re.compile(
    r"""
      (?<=://)[^\s,;"'<>()\[\]]+                                                            # URL, after its scheme
    | (?<![\w\x00:])                                                                        # MAC or IPv6 address
      (?:(?:[\da-fA-F]{1,4}:){5,7}|(?=[\da-fA-F:]*\d)[\da-fA-F:]*::)[\da-fA-F]{1,4}(?![\w\x00:])
    | (?<![\w\x00.-])(?=[\w-]*[\d.])[A-Za-z\d][\w-]*(?:\.[\w-]+)*(?=:\d|/\d+\.\d+\.)        # host before port
    | (?<![\w\x00.])\d{1,3}(?:\.\d{1,3}){3}(?![\w.]*[\w\x00])                               # IPv4 address
    | (?<![\w\x00.:/])(?:[A-Za-z]:)?(?:[/\\][\w.@+~%$#=*-]+){2,}/?(?<!\.)(?:\?[^\s"',;)]*)?  # path
    | (?<![\w\x00])[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}(?![\w\x00])         # UUID
    | (?<![\w\x00])(?=[a-fA-F]*\d)[0-9a-fA-F]{6,}(?![\w\x00])                               # hexadecimal
    | (?<![A-Za-z\d\x00])[+-]?\d(?:\d*(?=(?:ns|us|ms|s|sec)(?![\w\x00]))|\w*)               # from a digit on
    """,
    re.VERBOSE,
)
_SPANS = re.compile(
    r"""
      (?<=\ )[/\x00][^\s"]*\ HTTP/\x00(?:\.\x00)?                                           # target of a request
    | (?<==")[^"]+(?=")                                                                     # quoted value
    | (?<![\w\x00])(?:(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)[a-z]*,?\ +)?
      (?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)[a-z]*\ +\x00(?:,?\ +\x00)?        # date
    | \x00(?:,?\x00)+                                                                       # list without blanks
    """,
    re.VERBOSE,
)
_REPEATED = re.compile(r"(?<!\S)(\S{0,40}\x00\S{0,40}(?: \S{1,40}){0,3}?)(?<![:=])(?:[,;]? \1)+(?!\S)")
_UNIT = r"(?:[kKMGTP]?i?B|[kKMGT]?[Bb]ytes?|%|(?:[num]|micro|milli|nano)?s(?:ec(?:ond)?s?)?|min(?:ute)?s?|hours?|days?)"
_TOKENS = re.compile(
    rf"""\s+|<?\x00(?:\.\x00)?\ ?{_UNIT}(?![\w\x00])|\x00(?::\x00){{1,2}}(?![\w:\x00])"""
    r"""|[=:,;()\[\]{}"'|<>]|[^\s=:,;()\[\]{}"'|<>]+"""
)
_SEPARATORS = frozenset(" =:,;()[]{}\"'|<>")
_VALUE = re.compile(r".*[\x00\d].*|true|false|null", re.IGNORECASE | re.DOTALL)
_NAME = re.compile(r"(?:[\w$/@-]+\.){2,}[\w$/@-]+")  # of a host or a class
_DIGITS = re.compile(r"[+-]?\d+")


@lru_cache(maxsize=1 << 16)
def _mask_known(word: str) -> str:
    return _MASKED.sub(_GAP, word)


def _mask_words(line: str) -> str:
    return " ".join([_mask_known(word) if len(word) < 64 else _MASKED.sub(_GAP, word) for word in line.split(" ")])


def _begin(line: str) -> str:
    line = line[:MAX_CHARACTERS].replace(_GAP, " ").replace(GAP, _GAP)
    return _mask_words(line.strip().partition("\n")[0].rstrip())


def _finish(masked: str) -> str:
    before, masked = "", masked.encode(errors="replace").decode()  # a lone surrogate is no JSON
    while masked != before:
        before, masked = masked, _mask_words(_REPEATED.sub(r"\1", _SPANS.sub(_GAP, masked)))
    return masked


def mask(line: str) -> str:
    """The first line of a message with ``<*>`` for what is a value by its form; masking again changes nothing."""
    return _finish(_begin(line)).replace(_GAP, GAP)


def _parse(masked: str) -> tuple[tuple[str, ...], list[str]]:
    """Words and separators of a masked line, values as gaps; and the text of each, as long."""
    key: list[str] = []
    text: list[str] = []
    tokens = _TOKENS.findall(masked)[:MAX_TOKENS]
    after = [*tokens[1:], "", "", ""]
    for i, token in enumerate(tokens):
        if token.isspace():
            key.append(" ")
        elif token in _SEPARATORS:
            key.append(token)
        # Numbers and what holds one, dotted names, "for user ann": in these the words themselves decide nothing.
        elif _VALUE.fullmatch(token) or (key and _NAME.fullmatch(token)) or key[-4:] == ["for", " ", "user", " "]:
            key.append(_GAP)
        else:
            key.append(token)
        text.append(token)
        following = after[i]
        # An empty value is a value: "ruser= rhost=a", "connect from 10.0.0.1 ()".
        nothing = (
            not following or following in ",;)]}" or (following.isspace() and after[i + 2 : i + 3] in (["="], [""]))
        )
        if (token == "=" and nothing) or token + following in ("()", "[]", "{}"):
            key.append(_GAP)
            text.append("")
    return tuple(key), text


def _widen(one: str, other: str) -> str:
    """What two texts of one place have in common."""
    if one == other or one.isspace():
        return one
    digits = _DIGITS.sub(_GAP, one)
    return digits if digits == _DIGITS.sub(_GAP, other) else _GAP


@dataclass(slots=True)
class Template:
    """What a group of lines has in common: ``key`` decides who belongs to it, ``text`` is what is shown."""

    key: tuple[str, ...]
    text: list[str]
    lines: int = 0
    absorbed: list[str] = field(default_factory=list)
    """The ids that were merged into it."""
    id: str = field(init=False)

    def __post_init__(self) -> None:
        self.id = blake2b("\x01".join(self.key).encode(), digest_size=6).hexdigest()

    def __str__(self) -> str:
        return "".join(self.text).replace(_GAP, GAP)

    def widen(self, text: Sequence[str]) -> None:
        """Show only what it has in common with this text too."""
        self.text = [_widen(one, other) for one, other in zip(self.text, text, strict=True)]

    def contexts(self) -> Iterator[tuple[tuple[int, ...], int]]:
        """The places that may hold values, alone or all that follow ``=``, with a hash of all that is around them."""
        words = [i for i, word in enumerate(self.key) if word not in _SEPARATORS][:MAX_WORDS]
        fields = tuple(i for i in words if i and self.key[i - 1] == "=")
        for i in words:
            yield (i,), hash((i, self.key[:i], self.key[i + 1 :]))
        if len(fields) > 1:
            yield fields, hash((fields, *(word for i, word in enumerate(self.key) if i not in fields)))


def _are_values(places: Sequence[int], like: Sequence[Template]) -> bool:
    """Whether the words are values in which templates differ that are otherwise like."""
    key, place = like[0].key, places[0]
    if not _has_constant(key[:place]):
        return len(like) >= FIRST_VALUES and _has_constant(key[place + 1 :])
    # A gap beside words: what was a number (or so) there was a value, hence the words are, too.
    return len(like) >= VALUES or (len(places) == 1 and any(template.key[place] == _GAP for template in like))


def _has_constant(key: Sequence[str]) -> bool:
    return not _SEPARATORS.union(_GAP).issuperset(key)


class Miner:
    """Learns templates from lines, one at a time.

    Args:
        capacity: so many templates at most, of which the least recently seen is forgotten, and twice as many masked
            lines.
    """

    def __init__(self, capacity: int = 10_000) -> None:
        self._capacity = capacity
        self._templates: OrderedDict[str, Template] = OrderedDict()
        self._tree: dict[str, Any] = {}
        self._around: dict[int, dict[str, None]] = {}
        self._merged: dict[str, str] = {}
        self._known: dict[str, str] = {}

    def add(self, line: str) -> str:
        """The id of the line's template, which may be merged into another later (:meth:`resolve`)."""
        masked = _begin(line)
        template = self._templates.get(self.resolve(self._known.get(masked, "")))
        if template is None:
            key, text = _parse(_finish(masked))
            template = self._find(key)
            if template is None:
                template = self._second_look(self._insert(Template(key, text)))
            else:
                template.widen(text)
            if len(self._known) >= 2 * self._capacity:
                self._known.clear()
            self._known[masked] = template.id
        template.lines += 1
        self._templates.move_to_end(template.id)
        return template.id

    def match(self, line: str) -> str | None:
        """The id of the line's template, without learning; None if there is none."""
        template = self._find(_parse(_finish(_begin(line)))[0])
        return template.id if template else None

    def resolve(self, template_id: str) -> str:
        """The id that stands for this one by now."""
        return self._merged.get(template_id, template_id)

    @property
    def merged(self) -> Mapping[str, str]:
        """Ids that others stand for by now, with those."""
        return self._merged

    def templates(self) -> dict[str, Template]:
        """The templates by id, the least recently seen first."""
        return dict(self._templates)

    def state(self) -> dict[str, Any]:
        """All that is learnt, as JSON can hold it, for a champion's manifest."""
        return {
            "capacity": self._capacity,
            "templates": [
                {
                    "key": [word.replace(_GAP, GAP) for word in template.key],
                    "text": [word.replace(_GAP, GAP) for word in template.text],
                    "lines": template.lines,
                    "absorbed": template.absorbed,
                }
                for template in self._templates.values()
            ],
        }

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> Miner:
        """The miner that a state was taken from."""
        miner = cls(state["capacity"])
        for kept in state["templates"]:
            key, text = ([word.replace(GAP, _GAP) for word in kept[part]] for part in ("key", "text"))
            template = miner._insert(Template(tuple(key), text, kept["lines"], list(kept["absorbed"])))
            miner._merged.update(dict.fromkeys(template.absorbed, template.id))
        return miner

    def _find(self, key: Sequence[str]) -> Template | None:
        """The template of a line; of several, the one with the longest constant beginning."""
        left = [(self._tree, 0)]
        while left:
            node, i = left.pop()
            if i == len(key):
                if "" in node:
                    return self._templates[node[""]]
                continue
            if _GAP in node and key[i] not in _SEPARATORS:
                left.append((node[_GAP], i + 1))
            if key[i] != _GAP and key[i] in node:
                left.append((node[key[i]], i + 1))
        return None

    def _insert(self, template: Template) -> Template:
        if len(self._templates) >= self._capacity:
            self._remove(next(iter(self._templates.values())))
        node = self._tree
        for word in template.key:
            node = node.setdefault(word, {})
        node[""] = template.id
        for _, around in template.contexts():
            self._around.setdefault(around, {})[template.id] = None
        self._templates[template.id] = template
        self._merged.pop(template.id, None)
        return template

    def _remove(self, template: Template) -> None:
        path = [self._tree]
        for word in template.key:
            path.append(path[-1][word])
        for node, word in zip(reversed(path), ("", *reversed(template.key)), strict=True):
            del node[word]
            if node:
                break
        for _, around in template.contexts():
            ids = self._around[around]
            ids.pop(template.id, None)
            if not ids:
                del self._around[around]
        for old in template.absorbed:
            if self._merged.get(old) == template.id:
                del self._merged[old]
        del self._templates[template.id]

    def _second_look(self, template: Template) -> Template:
        """The template, or what it is merged into with those that differ from it in a value only."""
        for places, around in template.contexts():
            like = [self._templates[known] for known in self._around[around]]
            if len(like) > 1 and _are_values(places, like):
                return self._merge(like, places)
        return template

    def _merge(self, like: Sequence[Template], places: Sequence[int]) -> Template:
        key = list(like[0].key)
        for i in places:
            if len({template.key[i] for template in like}) > 1:
                key[i] = _GAP
        text = [reduce(_widen, texts) for texts in zip(*(template.text for template in like), strict=True)]
        whole = Template(tuple(key), text)
        known = self._templates.get(whole.id)
        for template in like:
            if template is not known:
                whole.lines += template.lines
                whole.absorbed += [*template.absorbed, template.id]
                self._remove(template)
        if known:
            known.widen(text)
            known.lines += whole.lines
            known.absorbed += whole.absorbed
        else:
            self._insert(whole)
        self._merged.update(dict.fromkeys(whole.absorbed, whole.id))
        return known or self._second_look(whole)


THRESHOLD = 0.9
"""From this score on, a template is unusual: for a burst one chance in a million a minute, for a new one in ten."""
RATE_MINUTES, NEW_MINUTES = 120.0, 1440.0
"""How far back a template's rate, and how often a service has new templates, are remembered (the mean age of what
counts): two hours follow the course of a day, a day covers its jobs."""
CLUMPED, CLUMPED_LINES = 2.0, 10.0
"""Before a template's own lines tell, its counts vary twice as much as Poisson's, with the weight of ten lines: what is
rare in logs comes in clumps."""


class Unusual(NamedTuple):
    """A template that is ``new`` to its service, or comes in a ``burst``: more lines in a minute than it is wont to.

    ``score`` in [0, 1]; ``expected`` lines of the minute.
    """

    kind: Literal["new", "burst"]
    minute: int
    service: str
    template: str
    lines: int
    expected: float
    score: float


@dataclass(slots=True)
class _Rate:
    """Discounted sums over a template's minutes up to ``minute``; those without a line are added when one comes."""

    minute: int
    lines: float = 0.0
    minutes: float = 0.0
    expected: float = 0.0
    squares: float = 0.0

    @property
    def mean(self) -> float:
        """Lines a minute: that of Gamma(lines + 1/2, minutes), what Jeffreys' prior makes of a Poisson history."""
        return (self.lines + 0.5) / max(self.minutes, 1.0)

    @property
    def dispersion(self) -> float:
        """Variance of a minute's lines over their mean: Poisson's at least, and what the mean itself is unsure by."""
        own = (self.squares + CLUMPED * CLUMPED_LINES) / (self.expected + CLUMPED_LINES)
        return max(own, 1.0) + 1 / max(self.minutes, 1.0)

    def pass_to(self, minute: int) -> None:
        """Count the minutes before this one, in which it had no line."""
        silent, mean = minute - self.minute - 1, self.mean
        left = math.exp(-silent / RATE_MINUTES)
        self._add(left, (1 - left) * RATE_MINUTES, 0.0, mean, mean * mean)
        self.minute = minute

    def score(self, lines: int) -> float:
        """How unlikely so many lines are, by Chernoff's bound of the negative binomial's tail: 1 - P^(1/6)."""
        mean = self.mean
        size = mean / (self.dispersion - 1)
        if lines <= mean:
            return 0.0
        nats = lines * math.log(lines / mean) - (lines + size) * math.log((lines + size) / (mean + size))
        return 1 - math.exp(-nats / 6)

    def learn(self, lines: int) -> None:
        """Count this minute, a burst as four deviations at most, so that it does not hide the next one."""
        if not self.minutes:
            self.lines, self.minutes = lines, 1.0
            return
        mean = self.mean
        seen = min(lines, mean + 4 * math.sqrt(self.dispersion * mean) + 1)
        self._add(math.exp(-1 / RATE_MINUTES), 1.0, seen, mean, (seen - mean) ** 2)

    def _add(self, left: float, minutes: float, lines: float, expected: float, squares: float) -> None:
        self.lines = left * self.lines + lines
        self.minutes = left * self.minutes + minutes
        self.expected = left * self.expected + minutes * expected
        self.squares = left * self.squares + minutes * squares


@dataclass(slots=True)
class _News:
    """Discounted numbers of a service's minutes up to ``minute`` and of those with a new template."""

    minute: int
    minutes: float = 0.0
    with_new: float = 0.0

    def score(self, minute: int) -> float:
        """One less the probability that a minute has a new template (Krichevsky & Trofimov 1981)."""
        self._pass_to(minute - 1)
        return max(0.0, 1 - (self.with_new + 0.5) / (self.minutes + 1))

    def learn(self, minute: int) -> None:
        """Count this minute, which had a new template."""
        self._pass_to(minute)
        self.with_new += 1

    def _pass_to(self, minute: int) -> None:
        left = math.exp(-max(minute - self.minute, 0) / NEW_MINUTES)
        self.minutes = left * self.minutes + (1 - left) * NEW_MINUTES
        self.with_new *= left
        self.minute = max(minute, self.minute)


class TemplateRates:
    """Which templates are new to their service and which come in bursts, minute by minute.

    A template's lines a minute are negative binomial around its own history, which is discounted (West & Harrison
    1997), with a dispersion of its own; a new template is judged by how often its service has new ones, so that a
    service that starts, or that cannot be mined, raises no alarm. Five numbers a template.

    Args:
        capacity: so many templates of services at most; the least recently seen is forgotten (and would be new again).
    """

    def __init__(self, capacity: int = 20_000) -> None:
        self._capacity = capacity
        self._rates: OrderedDict[tuple[str, str], _Rate] = OrderedDict()
        self._news: OrderedDict[str, _News] = OrderedDict()

    def add(
        self, minute: int, lines: Mapping[tuple[str, str], int], merged: Mapping[str, str] | None = None
    ) -> list[Unusual]:
        """Judge a minute by those before it, then learn it.

        Args:
            minute: since 1970. Those without lines may be left out; for a template, what is not later than its last
                minute is neither judged nor learnt.
            lines: of the minute, by service and template id.
            merged: ids that others stand for by now (:attr:`Miner.merged`), to which their histories go over.

        Returns:
            What has a score of ``THRESHOLD`` or more, the highest first.
        """
        counts: Counter[tuple[str, str]] = Counter()
        for (service, template), count in lines.items():
            counts[service, (merged or {}).get(template, template)] += count
        self._hand_over(merged or {})
        found, new = [], set()
        for (service, template), count in counts.items():
            rate = self._rates.get((service, template))
            if rate is None:
                rate = self._rates[service, template] = _Rate(minute - 1)
                news = self._news.setdefault(service, _News(minute - 1))
                found.append(Unusual("new", minute, service, template, count, 0.0, news.score(minute)))
                new.add(service)
            elif rate.minute < minute:
                rate.pass_to(minute)
                found.append(Unusual("burst", minute, service, template, count, rate.mean, rate.score(count)))
            else:
                continue
            rate.minute = minute
            rate.learn(count)
            self._rates.move_to_end((service, template))
        for service in new:
            self._news[service].learn(minute)
            self._news.move_to_end(service)
        for kept in (self._rates, self._news):
            while len(kept) > self._capacity:
                kept.popitem(last=False)
        return sorted((one for one in found if one.score >= THRESHOLD), key=lambda one: -one.score)

    def state(self) -> dict[str, Any]:
        """All that is learnt, as JSON can hold it."""
        return {
            "capacity": self._capacity,
            "rates": [[*key, *astuple(rate)] for key, rate in self._rates.items()],
            "news": [[service, *astuple(news)] for service, news in self._news.items()],
        }

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> TemplateRates:
        """What a state was taken from."""
        rates = cls(state["capacity"])
        rates._rates.update(((service, template), _Rate(*rest)) for service, template, *rest in state["rates"])
        rates._news.update((service, _News(*rest)) for service, *rest in state["news"])
        return rates

    def _hand_over(self, merged: Mapping[str, str]) -> None:
        for service, old in [key for key in self._rates if key[1] in merged]:
            rate = self._rates.pop((service, old))
            into = self._rates.setdefault((service, merged[old]), _Rate(rate.minute))
            into.pass_to(max(into.minute, rate.minute) + 1)
            rate.pass_to(into.minute)
            into.minute -= 1
            into.minutes = max(into.minutes, rate.minutes)
            into.lines, into.expected = into.lines + rate.lines, into.expected + rate.expected
            into.squares += rate.squares
