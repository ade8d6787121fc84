"""Text of people as plain text: no sentence may become a special token of a tokenizer that reads it.

Tokenizers and processors find their special tokens by their spelling, wherever the text comes from: `<|image_pad|>` in
a sentence would stand for a picture that is not there, `[SEP]` would end it. So such a spelling is broken by a space
after its first character, `< |image_pad|>`: every tokenizer knows the space, and the words stay readable. The switch of
the tokenizers for this, `split_special_tokens`, is not enough: it cannot be used where a chat template puts special
tokens around the sentence, processors expand picture tokens before any tokenizer is asked, and Unigram vocabularies
hold the special tokens as pieces.

A text without such spellings is returned as it is.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from typing import Any

_MARKUP = re.compile(r"[<\[{|].*[>\]}|]", re.DOTALL)


class PlainText:
    """Turn sentences into plain text for one tokenizer.

    Example: `PlainText(tokenizer)("the [SEP] sign")` is `"the [ SEP] sign"` for a tokenizer of BERT.
    """

    def __init__(self, tokenizer: Any, others: Iterable[str] = ()) -> None:
        """Collect the spellings.

        Args:
            tokenizer: A tokenizer of transformers. Its special tokens count, and of its other added tokens those that
                look like markup (`<think>`); added words do not.
            others: What else has a meaning, to a processor around the tokenizer.
        """
        exact = {text for text in (*tokenizer.all_special_tokens, *others) if text}
        folded: set[str] = set()  # the tokenizer looks for these in the normalised text
        for token in tokenizer.added_tokens_decoder.values():
            if token.special or _MARKUP.fullmatch(token.content):
                (folded if token.normalized else exact).add(token.content)
        self._exact = _pattern(exact)
        self._folded = _pattern(folded, re.IGNORECASE)

    def __call__(self, text: str) -> str:
        """Return the text with every spelling broken, and half characters (lone surrogates) replaced by U+FFFD."""
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        if self._folded.search(unicodedata.normalize("NFKC", text)):
            text = unicodedata.normalize("NFKC", text)
        for pattern in (self._exact, self._folded):
            while pattern.search(text):
                text = pattern.sub(lambda match: f"{match[0][0]} {match[0][1:]}", text)
        return text


def _pattern(spellings: set[str], flags: int = 0) -> re.Pattern[str]:
    """Match any of the spellings, longest first; one of a single character cannot be broken and is left."""
    ordered = sorted((text for text in spellings if len(text.strip()) > 1), key=lambda text: (-len(text), text))
    return re.compile("|".join(map(re.escape, ordered)) or r"(?!)", flags)
