"""What users of the simulated service comment, in English and Korean, with the sentiment they mean.

A comment is a frame with a topic and an opinion in it, now and then with a negation, an intensity word, a clause that
says the contrary first, a closing remark, an emoticon or a typing error: some 10^5 different ones per language and
mood. The model of sentiments knows nothing of this file: it is what that model is tested on.
"""

from __future__ import annotations

from random import Random

NEGATIVE, NEUTRAL, POSITIVE = range(3)
LANGUAGES = ("en", "ko")

NEGATED, CONTRASTED, CLOSED, EMOTICON, TYPO = 0.2, 0.06, 0.3, 0.12, 0.12
"""Shares of the comments with an opinion that have each of these; of the neutral ones, the last alone."""

# -- English ---------------------------------------------------------------------------------------------------------

_EN_FRAMES = (
    "the {w} was {o}",
    "this {w} is {o}",
    "honestly the {w} felt {o}",
    "I found the {w} {o}",
    "{o}, that {w}",
    "tried the {w} today and it was {o}",
    "for me the {w} is {o}",
    "my friends say the {w} is {o}, and so do I",
    "{w}: {o}",
    "just saw the {w}, {o}",
)
_EN_VERB_FRAMES = ("I {v} this {w}", "we {v} the {w}", "we all {v} your {w}", "I {v} every part of the {w}")
_EN_OPINIONS = {
    POSITIVE: (
        *("great", "excellent", "wonderful", "amazing", "fantastic", "lovely", "brilliant", "superb", "beautiful"),
        *("delightful", "impressive", "charming", "fun", "helpful", "perfect", "inspiring", "well made", "fresh"),
        *("awesome", "worth every minute", "a pleasure", "the best I have seen", "clever", "enjoyable", "a gem"),
        *("moving", "good", "clear and useful", "stunning", "my favourite of the year"),
    ),
    NEGATIVE: (
        *("terrible", "awful", "boring", "disappointing", "horrible", "dull", "ugly", "useless", "annoying", "messy"),
        *("overrated", "dreadful", "poor", "bland", "confusing", "tedious", "pointless", "badly made", "a mess"),
        *("a waste of time", "the worst I have seen", "frustrating", "lazy", "a letdown", "painful", "bad", "rubbish"),
        *("too slow and too long", "broken", "mediocre"),
    ),
}
_EN_NEGATABLE = {
    POSITIVE: ("good", "great", "fun", "helpful", "interesting", "worth it", "impressive", "useful", "enjoyable"),
    NEGATIVE: ("bad", "boring", "disappointing", "confusing", "terrible", "ugly"),
}
_EN_NEGATIONS = ("not {o}", "not {o} at all", "not really {o}", "never {o}", "not that {o}", "anything but {o}")
_EN_VERBS = {
    POSITIVE: ("love", "loved", "enjoyed", "adore", "liked", "can only recommend", "appreciate"),
    NEGATIVE: ("hate", "hated", "regret", "dislike", "can't stand", "didn't like", "don't recommend"),
}
_EN_INTENSITY = ("", "", "", "very ", "really ", "so ", "sooo ", "truly ", "just ", "quite ")
_EN_CLOSING = {
    POSITIVE: (
        *("thank you so much!", "made my day", "would do it again", "two thumbs up", "highly recommended"),
        *("can't wait for more", "well done", "keep it up"),
    ),
    NEGATIVE: (
        *("what a shame", "never again", "I want my hour back", "such a letdown", "please do better"),
        *("not worth it", "I gave up halfway", "avoid"),
    ),
}
_EN_CONTRAST = "I thought the {w} would be {other}, but it was {o}"
_EN_NEUTRAL = (
    *("is the {w} still on?", "saw the {w} today", "where did you find the {w}", "when does the {w} start?"),
    *("which {w} did you use?", "I read about the {w} yesterday", "how long does the {w} take?"),
    *("is there a second part of the {w}?", "my brother asked about the {w}", "posting this for the {w} group"),
    *("does anyone have the link to the {w}?", "there was a {w} on tuesday", "two questions about the {w}"),
    *("the {w} is at seven", "any {w} near the station?", "first {w} of the year", "which page is the {w} on?"),
    *("the {w} moved to room 4", "comparing this {w} with the old one", "here is my list for the {w}"),
    *("did they change the {w} this week?", "the next {w} is in march", "I am at the {w} with my sister"),
)
_EN_EMOTICONS = {POSITIVE: (":)", "❤", "👍", ":D"), NEGATIVE: (":(", "👎", "😡", ":/")}

# -- Korean ----------------------------------------------------------------------------------------------------------


def _hada(noun: str) -> tuple[str, ...]:
    return (f"{noun}하지", f"{noun}해요", f"{noun}하네요", f"{noun}했어요", f"{noun}합니다", f"{noun}하더라고요")


def _ida(noun: str, vowel: bool = False) -> tuple[str, ...]:
    ends = ("예요", "네요", "였어요", "입니다") if vowel else ("이에요", "이네요", "이었어요", "입니다")
    return ("", *(noun + end for end in ends))


_KO_FRAMES = (
    "이 {w} {o}",
    "{w}{은} {o}",
    "오늘 본 {w} {o}",
    "{w} 해 봤는데 {o}",
    "저는 {w}{이} {o}",
    "친구랑 {w} 다녀왔는데 {o}",
    "{w}: {o}",
    "이번 {w}{은} 정말로 {o}",
)
# The first form of each goes before 않다; where it is empty there is none.
_KO_OPINIONS: dict[int, tuple[tuple[str, ...], ...]] = {
    POSITIVE: (
        ("좋지", "좋아요", "좋네요", "좋았어요", "좋습니다", "좋더라고요"),
        ("재미있지", "재미있어요", "재밌네요", "재미있었어요", "재밌습니다"),
        ("멋지지", "멋져요", "멋지네요", "멋졌어요", "멋집니다"),
        ("예쁘지", "예뻐요", "예쁘네요", "예뻤어요"),
        ("즐겁지", "즐거워요", "즐거웠어요", "즐겁네요"),
        ("만족스럽지", "만족스러워요", "만족스럽네요", "만족스러웠어요"),
        ("", "마음에 들어요", "마음에 드네요", "마음에 쏙 들었어요"),
        ("", "감동이에요", "감동적이었어요", "감동받았어요"),
        ("", "기대 이상이에요", "기대 이상이었어요"),
        ("", "사랑해요", "추천해요", "강추합니다", "또 보고 싶어요"),
        *(_hada(noun) for noun in ("훌륭", "완벽", "유익", "친절", "깔끔", "대단", "행복", "편리")),
        *(_ida(noun, vowel) for noun, vowel in (("최고", True), ("대박", False), ("명작", False))),
    ),
    NEGATIVE: (
        ("나쁘지", "나빠요", "나쁘네요", "나빴어요"),
        ("실망스럽지", "실망스러워요", "실망스럽네요", "실망스러웠어요", "실망했어요"),
        ("", "재미없어요", "재미없네요", "재미없었어요", "노잼이에요"),
        ("", "형편없어요", "형편없네요", "형편없었어요"),
        ("아쉽지", "아쉬워요", "아쉽네요", "아쉬웠어요"),
        ("", "짜증나요", "짜증났어요", "화가 나요"),
        ("", "시간 낭비예요", "시간이 아까워요", "돈이 아까웠어요"),
        ("", "싫어요", "싫네요", "싫었어요"),
        ("어렵지", "어려워요", "어렵네요", "어려웠어요"),
        ("", "이해가 안 돼요", "너무 느려요", "후회돼요"),
        *(_hada(noun) for noun in ("지루", "답답", "불편", "한심", "시시", "불친절", "허접")),
        *(_ida(noun, vowel) for noun, vowel in (("최악", False), ("별로", True), ("엉망", False), ("쓰레기", True))),
    ),
}
_KO_NEGATIONS = ("않아요", "않네요", "않았어요", "않습니다", "못해요")
_KO_INTENSITY = ("", "", "", "너무 ", "정말 ", "진짜 ", "아주 ", "너무너무 ", "매우 ", "꽤 ")
_KO_CLOSING = {
    POSITIVE: (
        "감사합니다",
        "고마워요!",
        "덕분에 웃었어요",
        "또 올게요",
        "응원합니다",
        "다음 편도 기대돼요",
        "추천합니다",
    ),
    NEGATIVE: ("다시는 안 볼래요", "비추합니다", "환불받고 싶어요", "개선이 필요해요", "기대했는데 실망", "그만둘래요"),
}
_KO_CONTRAST = "{other}라는 글을 봤는데 {w}{은} {o}"
_KO_NEUTRAL = (
    *("{w} 어디에서 볼 수 있나요?", "오늘 {w} 봤어요", "{w} 언제 시작하나요", "{w} 링크 있는 분 계신가요?"),
    *("어제 {w} 글을 읽었어요", "{w}{은} 몇 시부터인가요?", "{w} 두 번째 글은 언제 올라오나요?", "{w} 자료 공유합니다"),
    *(
        "동생이 {w}{을} 물어봤어요",
        "화요일에 {w}{이} 있었어요",
        "{w} 장소가 4층으로 바뀌었습니다",
        "다음 {w}{은} 3월입니다",
    ),
    *("{w} 준비물 목록입니다", "역 근처에 {w} 있나요?", "지금 {w} 보는 중이에요", "{w} 관련 질문 두 개 있습니다"),
    *("예전 {w}{과} 비교해 봅니다", "이번 주 {w} 일정 알려 주세요", "{w} 처음 해 봅니다", "어떤 {w}{을} 쓰셨어요?"),
)
_KO_EMOTICONS = {POSITIVE: ("ㅎㅎ", "^^", "👍", "❤"), NEGATIVE: ("ㅠㅠ", "ㅡㅡ", "👎", "에휴")}

_PARTICLES = {"은": ("는", "은"), "이": ("가", "이"), "을": ("를", "을"), "과": ("와", "과")}


def _ends_in_consonant(word: str) -> bool:
    return (ord(word[-1]) - 0xAC00) % 28 > 0 if "가" <= word[-1] <= "힣" else False


def _fill(frame: str, word: str, opinion: str = "", other: str = "") -> str:
    particles = {name: pair[_ends_in_consonant(word)] for name, pair in _PARTICLES.items()}
    return frame.format(w=word, o=opinion, v=opinion, other=other, **particles)


def _english(random: Random, mood: int, word: str) -> str:
    if mood == NEUTRAL:
        return _fill(random.choice(_EN_NEUTRAL), word)
    contrary = NEGATIVE + POSITIVE - mood
    draw = random.random()
    if draw < CONTRASTED:
        other, opinion = random.choice(_EN_OPINIONS[contrary]), random.choice(_EN_OPINIONS[mood])
        return _fill(_EN_CONTRAST, word, opinion, other)
    if draw < CONTRASTED + NEGATED:
        opinion = random.choice(_EN_NEGATIONS).format(o=random.choice(_EN_NEGATABLE[contrary]))
        return _fill(random.choice(_EN_FRAMES), word, opinion)
    if draw < CONTRASTED + NEGATED + 0.15:
        return _fill(random.choice(_EN_VERB_FRAMES), word, random.choice(_EN_VERBS[mood]))
    opinion = random.choice(_EN_OPINIONS[mood])
    fits = not opinion.startswith(("a ", "the ", "my ", "too ", "worth"))
    return _fill(random.choice(_EN_FRAMES), word, (random.choice(_EN_INTENSITY) if fits else "") + opinion)


def _korean(random: Random, mood: int, word: str) -> str:
    if mood == NEUTRAL:
        return _fill(random.choice(_KO_NEUTRAL), word)
    contrary = NEGATIVE + POSITIVE - mood
    draw = random.random()
    _, *forms = random.choice(_KO_OPINIONS[mood])
    opinion = random.choice(_KO_INTENSITY) + random.choice(forms)
    if draw < CONTRASTED:
        _, *others = random.choice(_KO_OPINIONS[contrary])
        return _fill(_KO_CONTRAST, word, opinion, random.choice(others))
    if draw < CONTRASTED + NEGATED:
        before, *forms = random.choice([forms for forms in _KO_OPINIONS[contrary] if forms[0]])
        short = random.choice(("안 ", "안", "별로 안 ")) + random.choice(forms)
        # Long negation fits every adjective; the short one only native ones, not those in 하다.
        native = not before.endswith("하지") and len(before) < 4
        opinion = short if native and random.random() < 0.5 else f"{before} {random.choice(_KO_NEGATIONS)}"
    return _fill(random.choice(_KO_FRAMES), word, opinion)


def _mistyped(random: Random, text: str) -> str:
    """One typing error: a lost space or letter, a letter twice, two letters swapped, or 여 for 요."""
    if text.endswith("요") and random.random() < 0.4:
        return text[:-1] + "여"
    at = random.randrange(len(text) - 1)
    if random.random() < 0.3 and " " in text:
        at = random.choice([i for i, letter in enumerate(text) if letter == " "])
        return text[:at] + text[at + 1 :]
    if "가" <= text[at] <= "힣":  # a syllable is a whole word's worth of letters: it is doubled at most
        return text[:at] + text[at] + text[at:]
    pair = text[at : at + 2]
    return text[:at] + random.choice((pair[::-1], pair[0] * 2 + pair[1], pair[1])) + text[at + 2 :]


def comment(random: Random, language: str, mood: int, word: str) -> str:
    """A comment on ``word`` in ``language``, of the mood NEGATIVE, NEUTRAL or POSITIVE."""
    english = language == "en"
    text = (_english if english else _korean)(random, mood, word)
    if mood != NEUTRAL:
        if random.random() < CLOSED:
            text += random.choice((", ", ". ", " ")) + random.choice((_EN_CLOSING if english else _KO_CLOSING)[mood])
        if random.random() < EMOTICON:
            text += " " + random.choice((_EN_EMOTICONS if english else _KO_EMOTICONS)[mood])
    if random.random() < TYPO:
        text = _mistyped(random, text)
    return text
