"""The rule-based program behind the demo endpoint: it reads, looks and computes.

It must never look an answer up: nothing here knows a question, an index or a
picture of the demo's data. What no rule settles gets a sentence that says so.

Its known limits, most of which cost it a part of the demo's data:

Pictures
- Shapes of one colour that touch or overlap are seen as one shape.
- A shape is told by how much of its bounding box it fills, so a square that
  stands on its corner passes for a triangle.
- It names colours by their hue alone; brown passes for red.
- It knows where shapes are, but has no rule for which are close to each other.

Word problems
- No percentages, no fractions but a half, and no number words, such as dozen.
- No conversion of units: minutes are taken for hours.
- It reads a story forwards only; what was there "at first" it cannot work out.
- It multiplies by what "each" one has, even where buses of so many seats are asked for.
- It takes every number of a story for a part of the sum, needed or not.

Science
- It knows no facts, only what can be computed from the question itself.
- No negative numbers: the sign of -5 °C is lost.
- No conversion of units: 500 g are more than 2 kg.
"""

from __future__ import annotations

import re
from typing import Any

from evalshim.demo import arithmetic, pictures, science

# The refusals hold no digit, no capital A to D and no option's text: upstream would take
# any of these for an answer.
_NO_RULE = "Sorry, this is a rule-based demo, not a model, and none of its rules settles this."
_NO_PICTURE = "Sorry, this is a rule-based demo, not a model, and it cannot see the picture: {}."


def answer(messages: list[dict[str, Any]]) -> str:
    """The reply to the last user message of a chat in OpenAI's form."""
    user = [message for message in messages if message.get("role") == "user"]
    message = user[-1] if user else {}
    question, options = _read(text_of(message))
    urls = _picture_urls(message)
    try:
        if urls and not options:
            true = pictures.answers(question, urls[-1])
            return true.pop() if len(true) == 1 else _NO_RULE
        if urls:
            fitting = pictures.fitting(question, options, urls[-1])
        elif options:
            fitting = science.fitting(question, options)
        else:
            return arithmetic.solve(question) or _NO_RULE
    except pictures.UnreadableError as reason:
        return _NO_PICTURE.format(reason)
    return _say(fitting[0], options) if len(fitting) == 1 else _NO_RULE


def text_of(message: dict[str, Any]) -> str:
    """The text of a message, whose content is a string or a list of parts."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    texts = [part.get("text") for part in _parts(message)]
    return "\n".join(text for text in texts if isinstance(text, str))


def _parts(message: dict[str, Any]) -> list[dict[str, Any]]:
    content = message.get("content")
    return [part for part in content if isinstance(part, dict)] if isinstance(content, list) else []


def _picture_urls(message: dict[str, Any]) -> list[str]:
    images = [part.get("image_url") for part in _parts(message) if part.get("type") == "image_url"]
    return [str(image.get("url") if isinstance(image, dict) else image) for image in images]


def _read(text: str) -> tuple[str, dict[str, str]]:
    """The question of a prompt, on one line, and its options by letter."""
    # In a few-shot prompt without turns, the question to answer is the last one.
    text = text.rpartition("Question:")[2]
    options = dict(re.findall(r"^\s*([A-H])[.)] *(.*\S)", text, re.MULTILINE))
    question = re.split(r"\n\s*(?:Options:|A[.)] |Answer:|Let's think|Please )", text)[0]
    return " ".join(question.split()), options


def _say(letter: str, options: dict[str, str]) -> str:
    text = options[letter]
    # Upstream's exact matching gives up on a second lone capital, and takes a
    # leading "A" for an article where more than two words follow.
    if len(text.split()) > 2 or re.search(r"\b[A-Z]\b", text):
        return letter
    return f"{letter}. {text}"
