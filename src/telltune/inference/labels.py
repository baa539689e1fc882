"""Labels of a closed set: whether answers are one, and which label an answer names.

A negated label does not count: "not anatomy", "anything rather than anatomy" and "anatomy is not
it" name no label. A negation extends to the end of its clause, so "No, anatomy" and "not anatomy
but surgery" still name one. A label that is itself a negation ("not spam") is read as that label.
"""

from __future__ import annotations

import math
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import regex

from telltune.data.thinking import without_thinking
from telltune.errors import RecipeError

if TYPE_CHECKING:
    from telltune.data.examples import Example
    from telltune.data.task import TaskData

# Above this number of labels, scoring all of them is no longer faster than generating an answer.
MOST_LABELS = 100
LONGEST_LABEL = 80

UNSPACED = r"[\p{Han}\p{Hiragana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]"
"""Character set, for `regex`, of scripts without spaces between words.

Each character counts as a word. Katakana is not included, since a run of it is one word.
"""
_WORD = regex.compile(
    # Signs and separators are parts of a number: neither -5 nor 3.5 nor 5,000 is 5.
    rf"(?<![\w--{UNSPACED}])[+\-−]?\d+(?:[.,]\d+)+"
    rf"|(?<!\w)[+\-−]\d\w*|[\p{{Katakana}}ー]+|{UNSPACED}\p{{M}}*"
    # C++, C# and A+ are other words than C and A.
    rf"|[\w--[\p{{Katakana}}ー]--{UNSPACED}]+(?:[+#]+(?!\w))?",
    regex.V1,
)
_DECIMAL = regex.compile(r"[+-]?\d+(\.\d+)?")
_INVISIBLE = regex.compile(r"\p{Cf}")
_SEPARATORS = regex.compile(r"(?<=\w)[\s_-]+(?=\w)")
_PUNCTUATION = ".,;:!?\"'`()[]“”‘’"
_CONTRACTED = regex.compile(r"n['’]t\b", regex.IGNORECASE)

_ENDS_CLAUSE = regex.compile(r"[,:()\[\]–—、，：.;!?\n…。；！？]|\s-\s")
_ENDS_SENTENCE = regex.compile(r"[.;!?\n…。；！？]")


def _each(text: str) -> frozenset[str]:
    return frozenset(text.split())


_ENDS_DENIAL = _each(
    "but however although though sondern aber mais sino pero mas bensì но а maar 而 但"
)
_DENIES = _each(
    "not no never nor neither cannot non unlike "  # English
    "nicht kein keine keinen keinem keiner weder niet geen inte ikke ekki "  # Germanic
    "pas ni jamais não nem né niente nunca "  # Romance
    "не ни нет nie değil "
    "不 没 沒 非 未 無 无"
)
# After a negation, these words cancel it: "not only", "no doubt", "非常".
_AFFIRMS = _each(
    "only just merely simply doubt question wonder nur bloß seulement solo sólo só только "
    "仅 僅 但 只 过 過 错 錯 疑 常"
)
_DENIED_BY_TWO = frozenset({("rather", "than"), ("instead", "of"), ("other", "than")})
_VERBS = _each("is are was were does do did can could would will should has ist sind war est es é")
_DENIED_BEHIND = ("ではな", "でな", "じゃな", "ではあり", "じゃあり")
"""Japanese negations, which follow the negated word."""


def words(text: str) -> list[str]:
    """Return the case-folded words of a text.

    In Chinese, Japanese, Thai, Lao, Khmer and Burmese, which have no spaces between words, each
    character counts as a word, and so does each run of Katakana.
    """
    found: list[str] = _WORD.findall(unicodedata.normalize("NFC", text).casefold())
    return found


def same_text(text: str) -> str:
    """Return the case-folded words of a text, joined by spaces, to compare texts."""
    return " ".join(words(text))


def label_key(text: str) -> str:
    """Return a key that is the same for labels that differ only in spelling.

    The key ignores case, white space, invisible characters (such as the zero-width space), Unicode
    composition, punctuation around a label, hyphens and underscores between words, and the spelling
    of a decimal number (`1` and `1.0`). Meaningful signs are kept: `A+` and `A-`, `C` and `C#`, `1`
    and `-1` have different keys.
    """
    visible = _INVISIBLE.sub("", unicodedata.normalize("NFKC", text))
    plain = " ".join(visible.casefold().split())
    if _DECIMAL.fullmatch(plain):
        return f"{float(plain):g}" if len(plain) < 15 else plain
    bare = _SEPARATORS.sub(" ", plain.strip(_PUNCTUATION + " "))
    return bare or plain


def names(text: str, name: str) -> bool:
    """Return whether a text contains a name as whole words; False for a name without words."""
    found = same_text(name)
    return bool(found) and f" {found} " in f" {same_text(text)} "


def read_label(answer: str, labels: Sequence[str]) -> str | None:
    """Return the only label that an answer names without negating it, or None.

    Args:
        answer: Answer of a model, which may contain other text.
        labels: Labels of the closed set. A label that is the whole answer may have no words.
    """
    if answer.strip() in labels:
        return answer.strip()
    read = _Read.of(answer)
    places = {label: read.places(label) for label in labels}
    # "heart" within "heart surgery" is part of that label and not a separate label.
    covered = {
        (start, stop)
        for some in places.values()
        for start, stop in some
        if any(
            a <= start and stop <= b and b - a > stop - start
            for others in places.values()
            for a, b in others
        )
    }
    named = [
        label
        for label, some in places.items()
        if any(place not in covered and not read.denies(*place) for place in some)
    ]
    # If named labels contain one another, take the longest: "Heart surgery, since the heart is
    # ill" names "heart surgery".
    longest = [a for a in named if not any(a != b and names(b, a) for b in named)]
    return longest[0] if len(longest) == 1 else None


@dataclass(frozen=True)
class _Read:
    """An answer split into words.

    Attributes:
        words: Case-folded words; `n't` is the word `not`.
        clauses: Number of the clause of each word.
        sentences: Number of the sentence of each word.
        articles: Positions of lowercase letters before another word of their clause: "a virus".
    """

    words: list[str]
    clauses: list[int]
    sentences: list[int]
    articles: frozenset[int]

    @classmethod
    def of(cls, text: str) -> _Read:
        """Split a text."""
        text = _plain(text)
        found, clauses, sentences, end = [], [0], [0], 0
        for match in _WORD.finditer(text):
            between = text[end : match.start()]
            clauses.append(clauses[-1] + bool(_ENDS_CLAUSE.search(between)))
            sentences.append(sentences[-1] + bool(_ENDS_SENTENCE.search(between)))
            found.append(match.group())
            end = match.end()
        clauses, sentences = clauses[1:], sentences[1:]
        articles = frozenset(
            i
            for i, (word, clause) in enumerate(zip(found, clauses[1:], strict=False))
            if len(word) == 1 and word.islower() and clause == clauses[i]
        )
        return cls([word.casefold() for word in found], clauses, sentences, articles)

    def places(self, label: str) -> list[tuple[int, int]]:
        """Return the positions of a label's words: the first, and one past the last."""
        own = words(_plain(label))
        starts = range(len(self.words) - len(own) + 1) if own else ()
        return [
            (i, i + len(own))
            for i in starts
            if self.words[i : i + len(own)] == own
            and not (i in self.articles and len(own) == 1 and label.isupper())
        ]

    def denies(self, start: int, stop: int) -> bool:
        """Return whether the words from `start` to before `stop` are negated."""
        return self._denied_before(start) or self._denied_behind(stop)

    def _denied_before(self, start: int) -> bool:
        for i in range(start - 1, -1, -1):
            if self.sentences[i] != self.sentences[start] or self.words[i] in _ENDS_DENIAL:
                return False
            # The negation of "neither a, b nor c" extends beyond the comma.
            same = self.clauses[i] == self.clauses[start] or self.words[i] in ("neither", "weder")
            following = self.words[i + 1]
            if same and (
                (self.words[i] in _DENIES and following not in _AFFIRMS)
                or (self.words[i], following) in _DENIED_BY_TWO
            ):
                return True
        return False

    def _denied_behind(self, stop: int) -> bool:
        clause = self.clauses[stop - 1]
        after = [
            word
            for word, number in zip(self.words[stop:], self.clauses[stop:], strict=True)
            if number == clause
        ]
        if "".join(after[:4]).startswith(_DENIED_BEHIND):
            return True
        verb, denial, following = (*after, "", "", "")[:3]
        if verb in ("cannot", "değil"):
            return True
        return verb in _VERBS and denial in _DENIES and following not in _AFFIRMS


def _plain(text: str) -> str:
    plain: str = _CONTRACTED.sub(" not", unicodedata.normalize("NFC", text))
    return plain


def labels_of(task: TaskData, examples: Iterable[Example]) -> tuple[str, ...]:
    """Return the labels that the recipe lists, or else the closed set of the examples' answers."""
    return tuple(task.labels) or closed_set(example.completion for example in examples)


def closed_set(answers: Iterable[str], most: int = MOST_LABELS) -> tuple[str, ...]:
    """Return the labels of a closed set of answers; () if the answers are not a closed set.

    Answers are a closed set of labels if all of these conditions hold:

    - Each is one line of at most 80 characters.
    - There are at most `most` different answers, counted by `label_key`.
    - Each occurs at least 1.5 times on average, and there are at least four answers. If most labels
      are numbers, each of d labels must occur twice, and d / 2 times, on average, because results
      of calculations repeat by chance. Ten ratings therefore need fifty examples.
    - At most two thirds of them (or two) occur only once. A frequent "none" among many unique
      answers does not make them labels.

    Args:
        answers: Completions of a task. Empty ones are ignored, and so is thinking at their start.
        most: Maximum number of labels.

    Returns:
        The different answers without thinking, sorted. White space around an answer makes it no
        other label; each is spelled as it is most often.
    """
    given = list(answers)
    if why_no_labels(given, most):
        return ()
    counts = Counter(_answered(given))
    spelled = {text.strip(): text for text in sorted(counts, key=lambda text: (counts[text], text))}
    return tuple(spelled[label] for label in sorted(spelled))


def why_no_labels(answers: Iterable[str], most: int = MOST_LABELS) -> str:
    """Return why answers are not a closed set of labels, with numbers; "" if they are one."""
    seen = _answered(answers)
    counts = Counter(map(label_key, seen))
    different, once = len(counts), sum(count == 1 for count in counts.values())
    numbers = 2 * sum(map(_is_number, counts)) > different
    least = max(4, math.ceil((max(2.0, different / 2) if numbers else 1.5) * different))
    long = sum(len(text) > LONGEST_LABEL or "\n" in text for text in map(str.strip, seen))
    if different > most:
        return f"there are {different:,} different answers, and at most {most} may be labels"
    if long:
        return (
            f"{long:,} of {len(seen):,} answers have several lines or more than {LONGEST_LABEL} "
            "characters"
        )
    if once > max(2, 2 * different // 3):
        return f"{once:,} of {different:,} different answers occur only once"
    if len(seen) < least:
        kind = ", most of them numbers," if numbers else ""
        return (
            f"{different:,} different answers{kind} need at least {least:,} examples, and there "
            f"are {len(seen):,}"
        )
    return ""


def need_labels(
    labels: Sequence[str], what: str, instead: str, answers: Sequence[str] = ()
) -> None:
    """Raise an error if there are no labels to choose from.

    The message names `what` needs them, and says why the training `answers` are not a closed set.
    It advises to list the labels, or what to do `instead`, in the imperative.

    Raises:
        RecipeError: There are no labels.
    """
    if not labels:
        reason = why_no_labels(answers) if answers else ""
        raise RecipeError(
            f"{what} chooses among labels, but the answers of the training data are not a closed "
            f"set of labels{f': {reason}' if reason else ''}; {instead}, or list all labels in "
            "`task.labels`."
        )


def _answered(answers: Iterable[str]) -> list[str]:
    """Return the answers without thinking, except empty ones."""
    return [answer for answer in map(without_thinking, answers) if answer.strip()]


def _is_number(text: str) -> bool:
    return any(map(str.isdigit, text)) and not any(map(str.isalpha, text))
