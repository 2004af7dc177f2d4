"""Pairs of sentences that differ in whether they are grammatical, in the manner of BLIMP (arXiv:1912.00582).

    python studies/minimal_pairs/make.py      # writes pairs.jsonl beside it, which the harness reads

Twelve phenomena, 100 pairs each, out of templates and plain words of an encyclopaedia that were written for
this project. Both sentences of a pair have the same words but one, or the same words in another order, and
what decides is often not the neighbour of the word that differs.
"""

import json
import random
import sys
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from diffusion.cli.files import write_text
from diffusion.errors import run

EACH = 100  # pairs of a phenomenon

MEN = ["king", "father", "brother", "actor", "prince"]
WOMEN = ["queen", "mother", "sister", "actress", "princess"]
PEOPLE = ["soldier", "writer", "player", "student", "doctor",
          "teacher", "singer", "member", "artist"]  # fmt: skip
THINGS = ["house", "bridge", "castle", "ship", "road", "tower",
          "church", "garden", "school", "river"]  # fmt: skip
WORKS = ["book", "song", "film", "album", "letter", "novel", "game", "story", "poem", "play"]
PLACES = ["town", "city", "village", "island", "valley", "state", "county", "park"]
ADJECTIVES = ["old", "small", "new", "large", "famous", "young"]
ROLES = ["older than the others", "known in the whole country", "very large at that time",
         "important to the state", "not as good as before", "different from the first one"]  # fmt: skip
# past, participle
VERBS = [("wrote", "written"), ("saw", "seen"), ("took", "taken"), ("gave", "given"),
         ("knew", "known"), ("chose", "chosen"), ("began", "begun"), ("stole", "stolen")]  # fmt: skip
TRANSITIVE = ["captured", "built", "destroyed", "visited", "described", "defended"]
INTRANSITIVE = ["arrived", "existed", "fell", "died", "slept", "appeared"]


def many(noun: str) -> str:
    """The plural."""
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + ("es" if noun.endswith(("ch", "s", "x")) else "s")


def number(one: str, others: str, plural: bool) -> tuple[str, str]:
    """The right form and the wrong one."""
    return (others, one) if plural else (one, others)


Pair = tuple[str, str]


def agreement() -> Iterator[Pair]:
    """Of subject and verb, with a noun of the other number between them."""
    for noun, other, plural, role in product(THINGS + PEOPLE, PLACES, (False, True), ROLES):
        subject = many(noun) if plural else noun
        between = other if plural else many(other)
        yield tuple(
            f"The {subject} of the {between} {verb} {role}."
            for verb in number("was", "were", plural)
        )


def agreement_over_a_clause() -> Iterator[Pair]:
    for noun, work, plural, role in product(PEOPLE, WORKS, (False, True), ROLES[1:4]):
        subject = many(noun) if plural else noun
        object_ = work if plural else many(work)
        yield tuple(
            f"The {subject} who made the {object_} {verb} {role}."
            for verb in number("was", "were", plural)
        )


def determiners() -> Iterator[Pair]:
    starts = ["He wrote about", "They had never seen", "She lived near", "Nobody knew"]
    for noun, start, plural, that in product(THINGS + PLACES, starts, (False, True), (False, True)):
        shown = many(noun) if plural else noun
        words = ("that", "those") if that else ("this", "these")
        yield tuple(f"{start} {word} {shown}." for word in number(*words, plural))


def determiners_with_adjective() -> Iterator[Pair]:
    for noun, adjective, plural in product(THINGS + WORKS, ADJECTIVES[:5], (False, True)):
        words = number(noun, many(noun), plural)
        which = "many" if plural else "every"
        yield tuple(f"He remembered {which} {adjective} {word}." for word in words)


def reflexives() -> Iterator[Pair]:
    does = ["saw", "taught", "blamed", "called", "found", "defended"]
    how = ["in the end", "for many years", "after the war", "in the book"]
    for (noun, right, wrong), verb, when in product(
        [(n, "himself", "herself") for n in MEN] + [(n, "herself", "himself") for n in WOMEN],
        does,
        how,
    ):
        yield tuple(f"The {noun} {verb} {word} {when}." for word in (right, wrong))


def reflexives_in_number() -> Iterator[Pair]:
    does = ["saw", "taught", "blamed", "called", "defended"]
    for noun, verb, place in product(PEOPLE, does, PLACES[:4]):
        yield tuple(
            f"The {many(noun)} of the {place} {verb} {word}." for word in ("themselves", "himself")
        )


def participles() -> Iterator[Pair]:
    for (past, participle), noun, thing, has in product(VERBS, PEOPLE, WORKS, (True, False)):
        right, wrong = (participle, past) if has else (past, participle)
        before = "had " if has else ""
        yield tuple(f"The {noun} {before}{form} the {thing}." for form in (right, wrong))


def passives() -> Iterator[Pair]:
    for (past, participle), noun, thing in product(VERBS, PEOPLE, WORKS):
        yield tuple(f"The {thing} was {form} by the {noun}." for form in (participle, past))


def objects() -> Iterator[Pair]:
    """Verbs that take one and verbs that take none."""
    for noun, right, wrong, thing in product(PEOPLE, TRANSITIVE, INTRANSITIVE, THINGS + PLACES):
        yield tuple(f"The {many(noun)} {verb} the {thing}." for verb in (right, wrong))


def negative_polarity() -> Iterator[Pair]:
    ends = ["been to the island", "seen such a thing", "heard of the war", "been that large", "come back"]  # fmt: skip
    for noun, end in product(PEOPLE + THINGS[:3] + MEN + WOMEN, ends):
        yield f"No {noun} has ever {end}.", f"The {noun} has ever {end}."


def existentials() -> Iterator[Pair]:
    for noun, place, how in product(THINGS, PLACES, ("a", "no", "another")):
        wrong = {"a": "each", "no": "every", "another": "every"}[how]
        yield tuple(f"There was {word} {noun} in the {place}." for word in (how, wrong))


def order() -> Iterator[Pair]:
    for adjective, noun, place in product(ADJECTIVES, THINGS, PLACES):
        yield (
            f"The {adjective} {noun} stood near the {place}.",
            f"The {noun} {adjective} stood near the {place}.",
        )


PHENOMENA: dict[str, Callable[[], Iterator[Pair]]] = {
    "subject_verb_agreement": agreement,
    "agreement_over_a_clause": agreement_over_a_clause,
    "determiner_noun_agreement": determiners,
    "noun_after_a_quantifier": determiners_with_adjective,
    "reflexive_gender": reflexives,
    "reflexive_number": reflexives_in_number,
    "past_and_participle": participles,
    "passive_participle": passives,
    "transitivity": objects,
    "negative_polarity": negative_polarity,
    "existential_there": existentials,
    "adjective_noun_order": order,
}


def pairs() -> list[dict]:
    """All of them: ``EACH`` of a phenomenon, drawn from what its templates give."""
    found = []
    for name, make in PHENOMENA.items():
        drawn = random.Random(name).sample(sorted(set(make())), EACH)
        found += [
            {"phenomenon": name, "sentence_good": good, "sentence_bad": bad} for good, bad in drawn
        ]
    return found


def main() -> None:
    target = Path(__file__).with_name("pairs.jsonl")
    write_text(target, "".join(json.dumps(pair) + "\n" for pair in pairs()))
    print(f"saved {target}")


if __name__ == "__main__":
    run(main)
