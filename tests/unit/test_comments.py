"""The comments of the simulation: reproducible, many, about what they are said to be about."""

from __future__ import annotations

from random import Random

import pytest

from lakehouse.comments import LANGUAGES, NEGATIVE, NEUTRAL, POSITIVE, comment


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("mood", [NEGATIVE, NEUTRAL, POSITIVE])
def test_the_same_seed_writes_the_same_comments_and_they_name_their_word(language: str, mood: int) -> None:
    word = {"en": "tomato bed", "ko": "라이브 공연"}[language]
    texts = [comment(random, language, mood, word) for random in [Random(5)] for _ in range(300)]
    assert texts == [comment(random, language, mood, word) for random in [Random(5)] for _ in range(300)]
    assert sum(word in text for text in texts) > 0.8 * 300  # the others have a typing error in it
    assert len(set(texts)) > (40 if mood == NEUTRAL else 250)


def test_korean_particles_follow_the_words_last_letter() -> None:
    texts = [comment(Random(n), "ko", NEUTRAL, word) for n in range(200) for word in ("기차", "기차역")]
    assert any("기차는" in text for text in texts) and any("기차역은" in text for text in texts)
    assert not any("기차은" in text or "기차역는" in text for text in texts)
